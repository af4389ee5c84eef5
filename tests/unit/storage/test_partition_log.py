"""Appending, group commit, rolling and reading of one partition's log."""

import asyncio

import pytest

from ottla_broker.storage import segment as segments
from ottla_broker.storage import segment_reader, sqlite
from ottla_broker.storage.stored_batch import RECORD_COUNT
from ottla_broker.storage.tail_cache import TailCache
from ottla_protocol.errors import (
    CorruptMessageError,
    FencedLeaderEpochError,
    MessageTooLargeError,
    OffsetOutOfRangeError,
    Outcome,
    OverloadedError,
    StorageError,
    UnavailableError,
)
from ottla_protocol.record_batch import read_header
from tests.unit.storage.log_harness import (
    UNLIMITED,
    append,
    append_durably,
    make_batch,
    read_all,
    stored_batch,
)


async def count_rows(harness, log):
    async with harness.handles.use(log._files.active) as connection:
        return await connection.run(
            "count", lambda raw: raw.execute("SELECT count(*) FROM batches").fetchall()[0][0]
        )


def epochs_of(log):
    return [(entry.epoch, entry.start_offset) for entry in log.leader_epochs.entries]


async def test_a_new_log_is_empty_and_begins_at_zero(harness):
    log = await harness.open()
    assert (log.log_start_offset, log.log_end_offset, log.next_offset) == (0, 0, 0)
    assert log.last_batch_epoch == -1
    assert await log.read(0, max_bytes=100, limit=UNLIMITED) == ()
    assert harness.files() == ["00000000000000000000.sqlite", "partition.json"]


async def test_appends_get_consecutive_offsets_before_the_disk_has_them(harness):
    log = await harness.open()
    infos = [append(log, records) for records in (1, 3, 2)]
    assert [(info.base_offset, info.last_offset) for info in infos] == [(0, 0), (1, 3), (4, 5)]
    assert (log.log_end_offset, log.next_offset) == (0, 6)
    await log.wait_durable(6)
    assert log.log_end_offset == 6
    assert harness.durable_ends[-1] == 6


async def test_the_batch_is_patched_in_place_with_offset_and_epoch(harness):
    log = await harness.open()
    await append_durably(log, 2)
    batch = make_batch(2, timestamp=5)
    info = log.append_as_leader(batch, read_header(batch), leader_epoch=4, now_ms=0)
    header = read_header(batch)
    assert (header.base_offset, header.leader_epoch) == (2, 4)
    assert info.timestamp == 6
    assert not info.duplicate
    assert log.last_batch_epoch == 4


async def test_what_gathers_while_a_commit_runs_goes_into_the_next(harness):
    log = await harness.open()
    await append_durably(log)
    harness.durable_ends.clear()
    for fill in range(500):
        append(log, fill=fill)
    await log.wait_durable(501)
    assert len(harness.durable_ends) == 1
    assert await count_rows(harness, log) == 501


async def test_each_commit_is_told_with_what_it_held(harness):
    log = await harness.open()
    await append_durably(log, 3)
    first, second = append(log, 2), append(log, 4)
    await log.wait_durable(second.next_offset)
    groups = [group for group, _ in harness.commits]
    assert first.next_offset == 5
    assert [len(group.rows) for group in groups] == [1, 2]
    records = sum(row[RECORD_COUNT] for group in groups for row in group.rows)
    assert (records, groups[-1].end_offset) == (9, 9)
    assert all(0 < seconds < 60 for _, seconds in harness.commits)


async def test_a_group_is_bounded_in_bytes(harness):
    log = await harness.open(group_commit_max_bytes=1_000)
    size = len(make_batch(value_bytes=300))
    assert 2 * size < 1_000 < 3 * size
    for _ in range(6):
        append(log, value_bytes=300)
    append(log, value_bytes=5_000)
    await log.wait_durable(7)
    assert harness.durable_ends == [2, 4, 6, 7]


async def test_a_group_with_more_rows_than_one_statement_takes_is_one_commit(harness):
    log = await harness.open()
    await append_durably(log)
    harness.durable_ends.clear()
    for _ in range(segments.ROWS_PER_INSERT_MAX + 10):
        append(log, value_bytes=1)
    await log.wait_durable(log.next_offset)
    assert len(harness.durable_ends) == 1
    assert await count_rows(harness, log) == segments.ROWS_PER_INSERT_MAX + 11


async def test_a_cancelled_waiter_changes_nothing(harness):
    log = await harness.open()
    info = append(log)
    waiter = asyncio.create_task(log.wait_durable(info.next_offset))
    await asyncio.sleep(0)
    waiter.cancel()
    await asyncio.wait((waiter,))
    await append_durably(log)
    assert log.log_end_offset == 2
    assert len(await read_all(log)) == 2


async def test_waiters_end_in_the_order_of_their_offsets(harness):
    log = await harness.open(group_commit_max_bytes=1)
    ended = []

    async def wait(offset):
        await log.wait_durable(offset)
        ended.append((offset, log.log_end_offset >= offset))

    for _ in range(3):
        append(log)
    await asyncio.gather(wait(3), wait(1), wait(2), wait(0))
    assert ended == [(0, True), (1, True), (2, True), (3, True)]


async def test_too_much_waiting_for_the_disk_refuses_appends(harness):
    log = await harness.open(pending_max_bytes=1_000)
    append(log, value_bytes=2_000)
    with pytest.raises(OverloadedError) as raised:
        append(log)
    assert raised.value.outcome is Outcome.NOT_APPLIED
    await log.wait_durable(1)
    await append_durably(log)
    assert log.pending_bytes == 0


async def test_a_batch_over_the_limit_is_refused(harness):
    log = await harness.open(max_batch_bytes=1_000)
    with pytest.raises(MessageTooLargeError):
        append(log, value_bytes=1_000)
    assert log.next_offset == 0


async def test_an_older_leader_epoch_is_fenced(harness):
    log = await harness.open()
    append(log, leader_epoch=5)
    with pytest.raises(FencedLeaderEpochError):
        append(log, leader_epoch=4)


async def test_a_begun_epoch_is_durable_without_a_batch(harness):
    log = await harness.open()
    await append_durably(log, leader_epoch=1)
    await log.begin_epoch(7)
    assert log.leader_epochs.end_offset_for(1, log.next_offset).end_offset == 1
    log = await harness.open(harness.copy("crashed"))
    assert epochs_of(log) == [(1, 0), (7, 1)]


async def test_an_epoch_that_appended_nothing_is_replaced(harness):
    log = await harness.open()
    await log.begin_epoch(1)
    await log.begin_epoch(2)
    await append_durably(log, leader_epoch=3)
    log = await harness.reopen(log)
    assert epochs_of(log) == [(3, 0)]


# --- segments ---------------------------------------------------------------------------------


async def test_a_full_segment_is_sealed_and_the_next_begins(harness):
    log = await harness.open(segment_bytes=1_000)
    for fill in range(12):
        await append_durably(log, 2, value_bytes=150, fill=fill)
    bases = [
        int(name.removesuffix(".sqlite")) for name in harness.files() if ".sqlite" in name[-7:]
    ]
    assert bases == [0, 4, 8, 12, 16, 20]
    assert [batch.base_offset for batch in await read_all(log)] == list(range(0, 24, 2))
    sealed = harness.directory / f"{0:020d}.sqlite"
    assert sealed.stat().st_mode & 0o777 == 0o400


async def test_a_sealed_segment_is_a_plain_database_with_a_time_index(harness):
    log = await harness.open(segment_bytes=1)
    for _ in range(2):
        await append_durably(log)
    path = harness.directory / f"{0:020d}.sqlite"
    connection = sqlite.driver.connect(f"{path.as_uri()}?mode=ro", uri=True)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert connection.execute("SELECT * FROM time_index").fetchall() == [(1_000, 0)]
    columns = [row[1] for row in connection.execute("PRAGMA table_info(batches)")]
    assert columns[0] == "base_offset"
    assert columns[-1] == "data"
    connection.close()
    assert not list(harness.directory.glob(f"{path.name}-*"))


async def test_many_rolls_queued_at_once_keep_every_batch(harness):
    log = await harness.open(segment_bytes=1_000)
    for fill in range(30):
        append(log, value_bytes=400, fill=fill, leader_epoch=fill // 10)
    await log.wait_durable(30)
    log = await harness.reopen(log)
    batches = await read_all(log)
    assert [batch.base_offset for batch in batches] == list(range(30))
    assert [batch.leader_epoch for batch in batches] == [fill // 10 for fill in range(30)]
    assert epochs_of(log) == [
        (0, 0),
        (1, 10),
        (2, 20),
    ]


async def test_everything_is_there_after_a_restart(harness):
    log = await harness.open(segment_bytes=2_000)
    for fill in range(20):
        append(log, 3, value_bytes=100, fill=fill, leader_epoch=fill // 5)
    before = [bytes(b.data) for b in (await log.read(0, max_bytes=1 << 20, limit=UNLIMITED))]
    log = await harness.reopen(log)
    assert (log.log_start_offset, log.log_end_offset, log.next_offset) == (0, 60, 60)
    assert log.last_batch_epoch == 3
    after = [bytes(batch.data) for batch in await read_all(log)]
    assert after[: len(before)] == before
    assert len(after) == 20
    assert log.recovery.verified_batches == 0
    await log.close()
    assert not list(harness.directory.glob("*-wal"))


async def test_durability_os_keeps_everything_over_a_clean_stop(harness):
    log = await harness.open(durability="os")
    await append_durably(log, 5)
    log = await harness.reopen(log, durability="os")
    assert log.log_end_offset == 5


# --- reading ----------------------------------------------------------------------------------


@pytest.fixture(params=[0, 10_000_000], ids=["from-disk", "from-memory"])
async def log(harness, request):
    """Ten batches of three records over several segments."""
    harness.tail_cache = TailCache(request.param)
    log = await harness.open(segment_bytes=600)
    for fill in range(10):
        await append_durably(log, 3, value_bytes=50, fill=fill)
    return log


async def test_a_read_begins_with_the_batch_that_holds_the_offset(log):
    for offset in range(30):
        batches = await log.read(offset, max_bytes=1, limit=UNLIMITED)
        assert [batch.base_offset for batch in batches] == [offset // 3 * 3]


async def test_a_read_ends_below_the_limit(log):
    assert await log.read(0, max_bytes=1, limit=2) == ()
    assert [b.base_offset for b in await log.read(0, max_bytes=10_000, limit=3)] == [0]
    assert await log.read(30, max_bytes=1, limit=UNLIMITED) == ()
    assert await log.read(9, max_bytes=1, limit=9) == ()


async def test_a_read_outside_the_log_names_its_bounds(log):
    with pytest.raises(OffsetOutOfRangeError) as raised:
        await log.read(31, max_bytes=1, limit=UNLIMITED)
    assert raised.value.members == {"log_start_offset": 0, "log_end_offset": 30}
    with pytest.raises(OffsetOutOfRangeError):
        await log.read(-1, max_bytes=1, limit=UNLIMITED)


async def test_a_read_keeps_to_max_bytes(log):
    size = len((await log.read(0, max_bytes=1, limit=UNLIMITED))[0].data)
    for count in (1, 2):
        batches = await log.read(0, max_bytes=size * count, limit=UNLIMITED)
        assert sum(len(batch.data) for batch in batches) <= size * count


async def test_a_batch_is_found_by_its_timestamp(harness):
    log = await harness.open(segment_bytes=600)
    times = [100, 300, 200, 900, 400, 500]
    for timestamp in times:
        append(log, value_bytes=200, timestamp=timestamp)
    for wanted, expected in ((0, 0), (100, 0), (101, 1), (301, 3), (900, 3)):
        found = await log.find_timestamp(wanted, limit=UNLIMITED)
        assert found.base_offset == expected
    assert await log.find_timestamp(901, limit=UNLIMITED) is None
    assert await log.find_timestamp(900, limit=3) is None
    following = await log.find_timestamp(400, offset=4, limit=UNLIMITED)
    assert following.base_offset == 4
    assert await log.find_timestamp(600, offset=4, limit=UNLIMITED) is None


async def test_a_look_up_by_timestamp_goes_on_where_one_step_ends(harness, monkeypatch):
    monkeypatch.setattr(segment_reader, "SCANNED_BATCHES", 2)
    log = await harness.open(segment_bytes=2_000)
    for timestamp in (5, 1, 2, 3, 4, 9, 6, 10):
        append(log, value_bytes=200, timestamp=timestamp)
    for wanted, expected in ((0, 0), (6, 5), (9, 5), (10, 7)):
        found = await log.find_timestamp(wanted, limit=UNLIMITED)
        assert found.base_offset == expected
    assert await log.find_timestamp(11, limit=UNLIMITED) is None


async def test_large_batches_come_back_whole(harness):
    log = await harness.open(segment_bytes=3_000_000)
    sent = []
    for fill in range(5):
        batch = make_batch(value_bytes=1_000_000 + fill, fill=fill)
        log.append_as_leader(batch, read_header(batch), leader_epoch=0, now_ms=0)
        sent.append(bytes(batch))
    await log.wait_durable(5)
    assert [bytes(batch.data) for batch in await read_all(log)] == sent


async def test_what_is_not_durable_yet_is_readable_without_a_cache(harness):
    log = await harness.open()
    for fill in range(3):
        append(log, fill=fill)
    assert log.log_end_offset == 0
    tail = log.read_tail(1, max_bytes=1 << 20, limit=UNLIMITED)
    assert [batch.base_offset for batch in tail] == [1, 2]
    await log.wait_durable(3)
    assert log.read_tail(1, max_bytes=1 << 20, limit=UNLIMITED) is None
    assert log.read_tail(3, max_bytes=1 << 20, limit=UNLIMITED) == ()


async def test_readers_and_a_rolling_writer_do_not_disturb_each_other(harness):
    log = await harness.open(segment_bytes=1_000)
    await append_durably(log)

    async def follow():
        offset = 0
        while offset < 60:
            batches = await log.read(offset, max_bytes=500, limit=UNLIMITED)
            for batch in batches:
                assert batch.base_offset == offset
                offset = batch.last_offset + 1
            await asyncio.sleep(0)

    async def write():
        for fill in range(59):
            append(log, value_bytes=300, fill=fill)
            await asyncio.sleep(0)

    await asyncio.gather(follow(), follow(), write())
    await log.wait_durable(60)


# --- followers --------------------------------------------------------------------------------


async def test_a_follower_keeps_offsets_epochs_and_idempotency(harness):
    log = await harness.open()
    log.append_as_follower(
        [
            stored_batch(0, 2, leader_epoch=3),
            stored_batch(2, 1, leader_epoch=5, idempotency=bytes(range(32))),
        ]
    )
    await log.wait_durable(3)
    log = await harness.reopen(log)
    batches = await read_all(log)
    assert [(b.base_offset, b.last_offset, b.leader_epoch) for b in batches] == [
        (0, 1, 3),
        (2, 2, 5),
    ]
    assert batches[1].idempotency == bytes(range(32))
    assert epochs_of(log) == [(3, 0), (5, 2)]


async def test_a_follower_takes_gaps_and_readers_step_over_them(harness):
    log = await harness.open(segment_bytes=300)
    for base_offset in (0, 10, 11, 50):
        log.append_as_follower([stored_batch(base_offset, value_bytes=200)])
        await log.wait_durable(log.next_offset)
    log = await harness.reopen(log)
    assert log.next_offset == 51
    assert [batch.base_offset for batch in await read_all(log)] == [0, 10, 11, 50]
    assert [b.base_offset for b in await log.read(12, max_bytes=1, limit=UNLIMITED)] == [50]


async def test_a_read_finds_what_is_queued_above_a_gap(harness):
    log = await harness.open(segment_bytes=1)
    log.append_as_follower([stored_batch(0)])
    await log.wait_durable(1)
    log.append_as_follower([stored_batch(7)])
    for offset in (1, 5, 7):
        batches = await log.read(offset, max_bytes=1, limit=UNLIMITED)
        assert [batch.base_offset for batch in batches] == [7]
    await log.wait_durable(8)


@pytest.mark.parametrize(
    ("batch", "reason"),
    [
        (stored_batch(1, 1, leader_epoch=5), "below the log's end"),
        (stored_batch(2, 1, leader_epoch=4), "leader epoch 4"),
        (stored_batch(2, 1, leader_epoch=5, idempotency=b"short"), "idempotency"),
    ],
)
async def test_a_follower_refuses_what_does_not_follow(harness, batch, reason):
    log = await harness.open()
    log.append_as_follower([stored_batch(0, 2, leader_epoch=5)])
    with pytest.raises(CorruptMessageError, match=reason):
        log.append_as_follower([batch])
    assert log.next_offset == 2


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize(("epoch", "epochs"), [(5, [(5, 0)]), (6, [(5, 0), (6, 2)])])
async def test_who_led_and_appended_nothing_follows_records_of_older_epochs(
    harness, durable, epoch, epochs
):
    log = await harness.open()
    log.append_as_follower([stored_batch(0, 2, leader_epoch=5)])
    log.assign_epoch(7)
    if durable:
        await log.begin_epoch(7)
    log.append_as_follower([stored_batch(2, 1, leader_epoch=epoch)])
    await log.wait_durable(3)
    assert epochs_of(log) == epochs
    log = await harness.reopen(log)
    assert epochs_of(log) == epochs
    assert [(b.base_offset, b.leader_epoch) for b in await read_all(log)] == [(0, 5), (2, epoch)]


async def test_a_follower_checks_the_crc(harness):
    log = await harness.open()
    batch = stored_batch(0, 2)
    data = bytearray(batch.data)
    data[-1] ^= 1
    with pytest.raises(CorruptMessageError, match="CRC"):
        log.append_as_follower([type(batch)(0, 1, 0, data)])


# --- the end ----------------------------------------------------------------------------------


async def test_a_failed_write_ends_every_wait_and_is_told_once(harness, monkeypatch):
    log = await harness.open()
    await append_durably(log)

    def fail(*_, **__):
        raise sqlite.driver.OperationalError("disk I/O error")

    monkeypatch.setattr(segments, "insert", fail)
    append(log)
    append(log)
    results = await asyncio.gather(log.wait_durable(2), log.wait_durable(3), return_exceptions=True)
    assert [type(result) for result in results] == [StorageError, StorageError]
    assert len(harness.failures) == 1
    assert "disk I/O error" in str(harness.failures[0])
    assert log.failure is harness.failures[0]
    assert log.log_end_offset == 1
    for operation in (lambda: append(log), lambda: log.append_as_follower([])):
        with pytest.raises(StorageError):
            operation()
    with pytest.raises(StorageError):
        await log.wait_durable(2)
    with pytest.raises(StorageError):
        await log.close()


async def test_closing_commits_what_is_queued(harness):
    log = await harness.open()
    for fill in range(50):
        append(log, fill=fill)
    log = await harness.reopen(log)
    assert log.log_end_offset == 50


async def test_a_closed_log_takes_nothing(harness):
    log = await harness.open()
    await log.close()
    for operation in (
        lambda: append(log),
        lambda: log.append_as_follower([stored_batch(0)]),
        lambda: log.assign_epoch(3),
    ):
        with pytest.raises(UnavailableError):
            operation()


async def test_a_deleted_log_leaves_nothing(harness):
    log = await harness.open(segment_bytes=1)
    for _ in range(3):
        append(log)
    await log.delete()
    assert not harness.directory.exists()
    assert len(harness.handles) == 0
    log = await harness.open()
    assert log.next_offset == 0
