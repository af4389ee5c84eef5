"""What compaction leaves of a log, and what it never touches."""

import asyncio
import errno
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from ottla_broker.storage import log_compactor, segment_compaction, sqlite
from ottla_broker.storage.compaction_progress import read_progress
from ottla_broker.storage.disk_full import DiskFullError, NoDescriptorError
from ottla_broker.storage.log_compactor import CompactionLimits
from ottla_broker.storage.policy.compaction import CompactionConfig
from ottla_broker.storage.stored_batch import DamagedSegmentError
from ottla_protocol.errors import UnavailableError
from ottla_protocol.record_batch import (
    Compression,
    read_header,
    seal_batch,
    set_log_append_time,
)
from tests.unit.storage.compaction_harness import (
    ALWAYS,
    compact,
    keyed_batch,
    put,
    records_of,
    values_of,
)
from tests.unit.storage.log_harness import read_all, request

ONE_EACH = {"compaction": ALWAYS, "segment_bytes": 1}
"""Every batch gets a segment of its own."""

MANY = {"compaction": ALWAYS, "segment_bytes": 1 << 20}


async def fill(log, *pairs, **fields):
    for number, pair in enumerate(pairs):
        await put(log, pair, timestamp=1_000 + number, **fields)


async def seal(log, key="end"):
    """Begin another segment, as an active one is not compacted."""
    log._appender.roll()
    await put(log, (key, 0))


async def test_the_newest_record_of_each_key_stays_at_its_offset(harness):
    log = await harness.open(**MANY)
    await put(log, ("a", 1), ("b", 1), ("a", 2))
    await put(log, ("c", 1), ("a", 3))
    await put(log, ("b", 2))
    await seal(log)
    before = {record.offset: record for record in await records_of(log)}
    result = await compact(log)
    assert (result.cleaned_to, result.is_complete, result.counts.superseded) == (6, True, 3)
    found = await records_of(log)
    assert [record.offset for record in found] == [3, 4, 5, 6]
    assert found == [before[record.offset] for record in found]
    batches = [(batch.base_offset, batch.last_offset) for batch in await read_all(log)]
    assert batches == [(0, 2), (3, 4), (5, 5), (6, 6)]  # The first one begins a leader epoch.
    assert await compact(log) is None
    log = await harness.reopen(log, **MANY)
    assert await records_of(log) == found
    assert await compact(log) is None


async def test_neighbours_become_one_segment_and_files_do_not_grow_in_number(harness):
    log = await harness.open(**ONE_EACH)
    await fill(log, *(("abc"[number % 3], number) for number in range(30)))
    log.reconfigure(log.config.__class__(**MANY))
    result = await compact(log)
    assert (result.segments_before, result.segments_after) == (29, 1)
    assert result.size_bytes_after < result.size_bytes_before
    assert [name for name in harness.files() if name.endswith("sqlite")] == [
        f"{0:020d}.sqlite",
        f"{29:020d}.sqlite",
    ]
    assert await values_of(log) == [
        (26, "c", "26"), (27, "a", "27"), (28, "b", "28"), (29, "c", "29")
    ]  # fmt: skip
    log = await harness.reopen(log, **MANY)
    assert [offset for offset, _, _ in await values_of(log)] == [26, 27, 28, 29]


async def test_nothing_above_the_high_watermark_or_in_the_active_segment_goes(harness):
    log = await harness.open(**ONE_EACH)
    await fill(log, *(("k", number) for number in range(6)))
    for high_watermark, first in ((0, 0), (3, 2), (4, 3), (6, 4), (99, 4)):
        await compact(log, high_watermark=high_watermark)
        assert [offset for offset, _, _ in await values_of(log)] == list(range(first, 6))


async def test_little_that_is_new_waits_and_what_is_too_old_does_not(harness):
    log = await harness.open(
        segment_bytes=1, compaction=CompactionConfig(min_dirty_ratio=0.9, max_lag_ms=500)
    )
    await fill(log, ("a", 1), ("a", 2), ("a", 3), ("a", 4), ("a", 5))
    assert (await compact(log, now_ms=1_000)).cleaned_to == 4
    await fill(log, ("a", 6), ("a", 7))
    assert await compact(log, now_ms=1_500) is None
    assert (await compact(log, now_ms=1_504)).cleaned_to == 7
    # The active segment was too old as well, and was sealed.
    assert [offset for offset, _, _ in await values_of(log)] == [6]
    assert (await put(log, ("a", 8))).base_offset == 7


async def test_what_is_young_waits(harness):
    log = await harness.open(segment_bytes=1, compaction=ALWAYS._replace(min_lag_ms=100))
    await fill(log, ("a", 1), ("a", 2), ("a", 3), ("a", 4))
    assert await compact(log, now_ms=1_099) is None
    assert (await compact(log, now_ms=1_101)).cleaned_to == 2
    assert [offset for offset, _, _ in await values_of(log)] == [1, 2, 3]


async def test_a_tombstone_stays_for_its_time_and_outlives_merges_and_restarts(harness):
    config = MANY | {"compaction": ALWAYS._replace(delete_retention_ms=100)}
    log = await harness.open(**config)
    await put(log, ("a", 1), ("b", 1), timestamp=5)
    await put(log, ("a", None), ("c", 1), timestamp=7)
    await seal(log)
    await compact(log, now_ms=10_000)
    kept = [(1, "b", "1"), (2, "a", None), (3, "c", "1"), (4, "end", "0")]
    assert await values_of(log) == kept
    assert [record.timestamp for record in await records_of(log)] == [6, 7, 8, 1_000]
    [horizon] = [
        header.delete_horizon_ms
        for header in map(read_header, [batch.data for batch in await read_all(log)])
        if header.delete_horizon_ms is not None
    ]
    assert horizon == 10_100
    await seal(log)
    await compact(log, now_ms=10_050)
    log = await harness.reopen(log, **config)
    assert await compact(log, now_ms=10_099) is None
    assert (2, "a", None) in await values_of(log)
    result = await compact(log, now_ms=10_100)
    assert result.counts.tombstones_removed == 1
    assert [offset for offset, _, _ in await values_of(log)] == [1, 3, 4, 5]
    assert await compact(log, now_ms=1 << 50) is None


async def test_a_tombstone_behind_what_was_looked_at_has_its_time_before_it(harness):
    log = await harness.open(segment_bytes=1, compaction=ALWAYS._replace(delete_retention_ms=0))
    await fill(log, *((f"k{number}", number) for number in range(60)), ("k3", None), ("x", 0))
    # The smallest table: 23 keys.
    small = CompactionLimits(map_bytes=1)
    ends = []
    while (result := await compact(log, now_ms=1, limits=small)) is not None:
        ends.append(result.cleaned_to)
        assert result.is_complete == (result.cleaned_to == 61)
        found = await values_of(log)
        assert ((3, "k3", "3") in found) == (result.cleaned_to < 61)
        assert ((60, "k3", None) in found) == (len(ends) < 4)
    assert ends == [23, 46, 61, 61]


@pytest.mark.parametrize("compression", list(Compression))
async def test_a_compressed_batch_stays_compressed_with_a_right_crc(harness, compression):
    log = await harness.open(**MANY)
    await put(log, ("a", 1), ("b", "x" * 500), ("a", 2), compression=compression)
    await put(log, ("c", 1), ("d", None), ("c", 2), compression=compression)
    await seal(log)
    before = {record.offset: record for record in await records_of(log)}
    await compact(log)
    first, second, _ = await read_all(log)
    assert read_header(first.data).compression is compression
    assert (read_header(first.data).record_count, read_header(second.data).record_count) == (2, 2)
    found = await records_of(log)
    assert [record.offset for record in found] == [1, 2, 4, 5, 6]
    assert found == [before[record.offset] for record in found]


async def test_times_are_those_that_the_records_had(harness):
    log = await harness.open(**MANY)
    await put(log, ("a", 1), ("b", 1), timestamp=9_000)
    await put(log, ("b", 2), ("c", 1), timestamp=4_000)
    batch = keyed_batch([("d", 1), ("e", None), ("d", 2)], timestamp=1)
    set_log_append_time(batch, 7_777)
    log.append_as_leader(batch, read_header(batch), leader_epoch=0, now_ms=0, idempotency=None)
    await put(log, ("a", 2), timestamp=5_000)
    await seal(log)
    await compact(log)
    assert [(record.offset, record.timestamp) for record in await records_of(log)] == [
        (2, 4_000), (3, 4_001), (5, 7_777), (6, 7_777), (7, 5_000), (8, 1_000)
    ]  # fmt: skip
    for timestamp, offset in ((4_001, 2), (4_002, 4), (7_778, None)):
        found = await log.find_timestamp(timestamp, limit=99, offset=2)
        assert (found and found.base_offset) == offset


async def test_producers_and_requests_are_remembered_by_whoever_is_filled_from_it(harness):
    log = await harness.open(**MANY)
    for sequence in range(7):
        await put(log, ("k", sequence), producer=(9, 0, sequence))
    await put(log, ("k", "x"), idempotency=request(1))
    await seal(log, "k")
    await seal(log, "k")
    await compact(log)
    assert await values_of(log) == [(8, "k", "0"), (9, "k", "0")]
    batches = await read_all(log)
    assert [batch.base_offset for batch in batches] == [0, 2, 3, 4, 5, 6, 7, 8, 9]
    follower = await harness.open(harness.root / "follower", **MANY)
    follower.append_as_follower(batches)
    await follower.wait_durable(10)
    for replica in (log, await harness.reopen(log, **MANY), follower):
        for sequence in range(2, 7):
            retry = read_header(keyed_batch([("k", sequence)], producer=(9, 0, sequence)))
            found = replica.find_duplicate(retry, None)
            assert (found.base_offset, found.timestamp) == (sequence, 1_000)
        assert replica.find_duplicate(retry, request(1)).base_offset == 7
        assert replica.leader_epochs.entries[0].start_offset == 0


async def test_the_first_batch_of_an_epoch_stays_for_followers_to_learn_of_it(harness):
    log = await harness.open(**MANY)
    for epoch in (0, 3, 5):
        for _ in range(3):
            await put(log, ("k", epoch), leader_epoch=epoch)
    log._appender.roll()
    await put(log, ("k", 9), leader_epoch=5)
    await compact(log)
    follower = await harness.open(harness.root / "follower", **MANY)
    follower.append_as_follower(await read_all(log))
    assert follower.leader_epochs == log.leader_epochs
    assert [entry.start_offset for entry in log.leader_epochs.entries] == [0, 3, 6]


async def test_no_segment_ends_in_a_gap_and_a_read_in_one_goes_on(harness):
    log = await harness.open(**ONE_EACH)
    await fill(log, *((key, 0) for key in "aaabbbaaacccd"))
    await compact(log)
    for offset in range(13):
        [first, *_] = await log.read(offset, max_bytes=1, limit=99)
        assert first.last_offset >= offset
    ends = [batch.last_offset + 1 for batch in await read_all(log)]
    bases = [int(name[:20]) for name in harness.files() if name.endswith("sqlite")]
    assert set(bases[1:]) <= set(ends)


async def test_what_cannot_be_judged_stays_and_so_do_the_tombstones_above(harness):
    log = await harness.open(**MANY | {"compaction": ALWAYS._replace(delete_retention_ms=0)})
    await put(log, ("t", None))
    broken = keyed_batch([("k", 1)])
    broken[61] = 0xFF
    seal_batch(broken)
    log.append_as_leader(broken, read_header(broken), leader_epoch=0, now_ms=0, idempotency=None)
    await put(log, ("k", None))
    await seal(log, "k")
    await seal(log, "k")
    for now_ms in (1, 2, 3):
        await compact(log, now_ms=now_ms)
    batches = [(batch.base_offset, read_header(batch.data)) for batch in await read_all(log)]
    assert [offset for offset, header in batches if header.record_count] == [1, 3, 4]
    await put(log, ("m", None))
    await seal(log)
    for now_ms in (4, 5, 6):
        await compact(log, now_ms=now_ms)
    offsets = [batch.base_offset for batch in await read_all(log)]
    assert {1, 5} <= set(offsets)


async def test_records_without_key_from_before_the_topic_was_compacted_go(harness):
    log = await harness.open(segment_bytes=1 << 20)
    await put(log, (None, 1), ("a", 1))
    await seal(log)
    assert await compact(log) is None
    log.reconfigure(log.config.__class__(**MANY))
    assert (await compact(log)).counts.without_key == 1
    assert await values_of(log) == [(1, "a", "1"), (2, "end", "0")]


async def test_a_record_that_no_reader_can_decode_stays_as_it_is(harness):
    log = await harness.open(**MANY)
    await put(log, ("a", 1))
    broken = keyed_batch([("a", 2)])
    broken[61] = 0xFF
    seal_batch(broken)
    log.append_as_leader(broken, read_header(broken), leader_epoch=0, now_ms=0, idempotency=None)
    await put(log, ("a", 3))
    await seal(log)
    assert (await compact(log)).counts.undecodable_batches == 2  # It was met twice.
    assert [batch.base_offset for batch in await read_all(log)] == [0, 1, 2, 3]


async def test_damage_stops_the_compaction_and_costs_nothing(harness):
    log = await harness.open(**ONE_EACH)
    await fill(log, *(("k", "x" * 2_000) for number in range(4)))
    path = harness.directory / f"{1:020d}.sqlite"
    await harness.handles.close(path)
    content = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(content.replace(b"x" * 500, b"y" * 500, 1))
    path.chmod(0o400)
    before = harness.files()
    with pytest.raises(DamagedSegmentError, match=r"damaged at offset 1"):
        await compact(log)
    assert harness.files() == before
    assert log.failure is None
    assert len(log.damage) == 1


async def test_a_batch_missing_from_a_compacted_segment_is_damage(harness):
    log = await harness.open(**MANY)
    await put(log, ("a", 1))
    await put(log, ("a", 2))
    await put(log, ("a", 3))
    await put(log, ("b", 1))
    await put(log, ("c", 1))
    await seal(log)
    await compact(log)
    await harness.handles.close(harness.directory / f"{0:020d}.sqlite")
    drop_batch(harness, 0, 3)
    await seal(log)
    with pytest.raises(DamagedSegmentError, match="1 of 4 batches are missing"):
        await compact(log)


async def test_a_compacted_segment_that_lacks_a_batch_is_cut_as_a_whole(harness):
    log = await harness.open(**ONE_EACH)
    await fill(log, ("z", 1), ("a", 1), ("a", 2), ("b", 1), ("c", 1), ("end", 0))
    log.reconfigure(log.config.__class__(**MANY))
    await compact(log)
    await seal(log)
    await harness.handles.close(harness.directory / f"{0:020d}.sqlite")
    drop_batch(harness, 0, 3)
    # The gaps hide it from whoever reads.
    assert [offset for offset, _, _ in await values_of(log)] == [0, 2, 4, 5, 6]
    with pytest.raises(DamagedSegmentError, match="1 of 4 batches are missing"):
        await compact(log)
    await log.cut_at_damage()
    # Which one is missing nobody can tell: all of them are fetched again.
    assert (log.log_start_offset, log.next_offset) == (0, 0)


def drop_batch(harness, segment, base_offset):
    path = harness.directory / f"{segment:020d}.sqlite"
    path.chmod(0o600)
    with closing(sqlite.driver.connect(path, isolation_level=None)) as connection:
        connection.execute("DELETE FROM batches WHERE base_offset = ?", (base_offset,))
    path.chmod(0o400)


async def test_what_a_crash_brings_back_below_the_compacted_part_is_compacted_too(harness):
    """A log's start is durable only by the files that are gone, and a crash may come before."""
    log = await harness.open(**ONE_EACH)
    await fill(log, ("k", 0), ("k", 1), ("x", 0), ("k", 2), ("end", 0))
    log.cleanup.advance_log_start(2)
    await compact(log)
    assert read_progress(harness.directory).cleaned_from == 2
    log = await harness.reopen(log, **ONE_EACH)
    assert log.log_start_offset == 0
    assert [offset for offset, _, _ in await values_of(log)] == [0, 1, 2, 3, 4]
    await compact(log)
    assert [offset for offset, _, _ in await values_of(log)] == [2, 3, 4]
    assert read_progress(harness.directory).cleaned_from == 0


async def test_a_truncation_ends_a_compaction_and_is_forgotten_by_none(harness, monkeypatch):
    log = await harness.open(**ONE_EACH)
    await fill(log, *(("k", number) for number in range(6)))
    await compact(log, high_watermark=4)
    assert read_progress(harness.directory).cleaned_to == 4
    rewrite = segment_compaction.LogCompaction.rewrite
    loop = asyncio.get_running_loop()

    def truncate_first(self, sources):
        written = rewrite(self, sources)
        asyncio.run_coroutine_threadsafe(log.truncate_to(2), loop).result()
        return written

    monkeypatch.setattr(segment_compaction.LogCompaction, "rewrite", truncate_first)
    assert await compact(log) is None
    monkeypatch.undo()
    assert read_progress(harness.directory).cleaned_to == 2
    assert log.next_offset == 2
    await fill(log, ("k", "new"), ("k", "newer"), ("x", 0))
    await compact(log)
    assert await values_of(log) == [(3, "k", "newer"), (4, "x", "0")]
    assert not [name for name in harness.files() if "compacting" in name]


async def test_closing_ends_a_compaction_at_once(harness):
    log = await harness.open(**ONE_EACH)
    await fill(log, *(("k", number) for number in range(8)))
    slow = CompactionLimits(max_bytes_per_s=1)
    running = asyncio.create_task(compact(log, limits=slow))
    await asyncio.sleep(0.05)
    async with asyncio.timeout(5):
        await log.close()
        with pytest.raises(UnavailableError):
            await running
    log = await harness.open(**ONE_EACH)
    assert [offset for offset, _, _ in await values_of(log)] == list(range(8))


async def test_readers_in_the_middle_of_the_log_are_not_torn(harness):
    log = await harness.open(**ONE_EACH)
    await fill(log, *(("abcd"[number % 4], number) for number in range(40)))
    newest = {"abcd"[number % 4]: number for number in range(40)}

    async def follow():
        seen, offset = {}, 0
        while batches := await log.read(offset, max_bytes=1, limit=99):
            assert batches[0].last_offset >= offset
            offset = batches[-1].last_offset + 1
            for batch in batches:
                if read_header(batch.data).record_count:
                    seen["abcd"[batch.base_offset % 4]] = batch.base_offset
            await asyncio.sleep(0)
        return seen, offset

    readers = [asyncio.create_task(follow()) for _ in range(3)]
    await compact(log)
    for reader in readers:
        assert await reader == (newest, 40)


@pytest.mark.parametrize("segment_bytes", [1, 1 << 20])
async def test_a_crash_at_any_point_leaves_old_or_new(harness, monkeypatch, segment_bytes):
    log = await harness.open(**ONE_EACH)
    await fill(log, *(("abc"[number % 3], number) for number in range(12)), ("b", None))
    log.reconfigure(log.config.__class__(compaction=ALWAYS, segment_bytes=segment_bytes))
    old = set(await values_of(log))
    copies = []

    def copying(name):
        original = getattr(Path, name)

        def change(path, *arguments, **keywords):
            if path.parent == harness.directory:
                target = harness.root / f"crash-{len(copies)}"
                shutil.copytree(harness.directory, target)
                copies.append(target)
            return original(path, *arguments, **keywords)

        monkeypatch.setattr(Path, name, change)

    for name in ("replace", "unlink", "chmod"):
        copying(name)
    await compact(log)
    monkeypatch.undo()
    new = await values_of(log)
    assert len(copies) > 12
    newest = {(9, "a", "9"), (11, "c", "11"), (12, "b", None)}
    for copy in copies:
        crashed = await harness.open(copy, compaction=ALWAYS, segment_bytes=segment_bytes)
        found = await values_of(crashed)
        assert newest <= set(found) <= old
        assert len(set(found)) == len(found)
        assert found == sorted(found)
        assert crashed.next_offset == 13
        assert crashed.recovery.damaged_from is None
        assert not [path for path in copy.iterdir() if "sqlite." in path.name]
        await compact(crashed)
        assert await values_of(crashed) == new
        await crashed.close()


async def test_room_is_asked_for_only_where_something_is_compacted(harness):
    log = await harness.open(compaction=CompactionConfig(min_dirty_ratio=0.9), segment_bytes=1)
    asked = []
    full = CompactionLimits(has_room=asked.append)
    assert await compact(log, limits=full) is None
    await fill(log, *(("abc"[number % 3], number) for number in range(10)))
    with pytest.raises(DiskFullError):
        await compact(log, limits=full)
    sealed = log._files.segments[:-1]
    # One file at a time is written, and these are larger than `segment.bytes`.
    assert asked == [max(segment.size_bytes for segment in sealed)]
    assert log.failure is None
    await compact(log)
    await put(log, ("a", 11))
    assert await compact(log, limits=full) is None
    assert len(asked) == 1


async def test_without_a_descriptor_for_the_progress_it_is_tried_again(harness, monkeypatch):
    log = await harness.open(**ONE_EACH)
    await fill(log, *(("abc"[number % 3], number) for number in range(6)))

    def opens_nothing(directory):
        raise OSError(errno.EMFILE, "Too many open files", str(directory))

    with monkeypatch.context() as patched:
        patched.setattr(log_compactor, "read_progress", opens_nothing)
        with pytest.raises(NoDescriptorError):
            await compact(log)
    assert log.failure is None
    assert await compact(log) is not None


async def test_what_has_expired_is_not_joined_with_what_stays(harness, monkeypatch):
    log = await harness.open(**ONE_EACH)
    await fill(log, *(("abc"[number % 3], number) for number in range(9)))
    log.reconfigure(log.config.__class__(**MANY))
    log.cleanup.advance_log_start(3)
    # Expires while it is compacted.
    rewrite = segment_compaction.LogCompaction.rewrite

    def expire_first(compaction, sources):
        log.cleanup.advance_log_start(4)
        return rewrite(compaction, sources)

    monkeypatch.setattr(segment_compaction.LogCompaction, "rewrite", expire_first)
    assert await compact(log) is None
    monkeypatch.undo()
    assert log.log_start_offset == 4
    assert (await compact(log)).segments_before == 4
    removed = await log.cleanup.remove_expired()
    assert removed.count == 4
    log = await harness.reopen(log, **MANY)
    assert log.log_start_offset == 4
    assert [offset for offset, _, _ in await values_of(log)] == [5, 6, 7, 8]
