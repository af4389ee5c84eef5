"""What opening finds after a crash, and after a disk that lied."""

import asyncio
import os
import random
import shutil
import stat
import struct

import pytest

from ottla_broker.storage import recovery, sqlite
from ottla_broker.storage import segment as segments
from ottla_broker.storage.loss_note import forget_loss, is_loss_noted
from ottla_protocol.errors import StorageError
from tests.unit.storage.log_harness import (
    UNLIMITED,
    append,
    append_durably,
    read_all,
    request,
    stored_batch,
)

PAGE = sqlite.PAGE_BYTES
FRAME = PAGE + 24


async def bases(log):
    return [batch.base_offset for batch in await read_all(log)]


def only_segment(directory):
    (path,) = directory.glob("*.sqlite")
    return path


def wal_of(directory):
    (path,) = directory.glob("*.sqlite-wal")
    return path


def flip(path, position, bit=0):
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ (1 << bit)]))


# --- crashes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_was_acknowledged_survives_a_crash_at_any_moment(harness, seed):
    """The files are copied, logs included, at random points while the log runs."""
    rng = random.Random(seed)
    config = {"segment_bytes": rng.choice((1, 2_000, 20_000, 1 << 30))}
    log = await harness.open(**config)
    sent = {}
    crashes = []
    acknowledged = 0

    async def acknowledge(info):
        nonlocal acknowledged
        await log.wait_durable(info.next_offset)
        acknowledged = max(acknowledged, info.next_offset)

    waits = []
    for number in range(60):
        info = append(log, rng.randint(1, 3), value_bytes=rng.randint(1, 4_000), fill=number)
        sent[info.base_offset] = info.last_offset
        waits.append(asyncio.create_task(acknowledge(info)))
        if rng.random() < 0.5:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(rng.choice((0, 0, 0.001)))
        if rng.random() < 0.15:
            promised = acknowledged
            directory = await harness.copy_while_writing(log, f"crash-{number}")
            crashes.append((promised, directory))
    await asyncio.gather(*waits)
    assert crashes
    for promised, directory in crashes:
        crashed = await harness.open(directory, **config)
        assert crashed.recovery.damaged_from is None
        assert crashed.log_end_offset >= promised
        offset = 0
        for batch in await read_all(crashed):
            assert batch.base_offset == offset
            assert batch.last_offset == sent[offset]
            offset = batch.last_offset + 1
        assert offset == crashed.log_end_offset
        await append_durably(crashed)


async def test_after_a_crash_everything_past_the_last_clean_stop_is_verified_once(harness):
    log = await harness.open()
    for _ in range(3):
        await append_durably(log)
    log = await harness.reopen(log)
    assert log.recovery.verified_batches == 0
    for _ in range(4):
        await append_durably(log)
    crashed = await harness.open(harness.copy("crashed"))
    assert crashed.recovery.verified_batches == 4
    again = await harness.open(crashed_copy(harness, crashed))
    assert again.recovery.verified_batches == 0


def crashed_copy(harness, log):
    target = harness.root / f"{log.directory.name}-again"
    shutil.copytree(log.directory, target)
    return target


async def test_a_new_log_costs_few_syncs(harness, monkeypatch):
    """Thousands are made at once, beside the Raft store, which waits behind them."""
    synced = []
    fsync = os.fsync

    def counted(descriptor):
        synced.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    statements = []
    connect_new = sqlite.connect_new

    def traced(path):
        connection = connect_new(path)
        connection.set_trace_callback(statements.append)
        return connection

    monkeypatch.setattr(os, "fsync", counted)
    monkeypatch.setattr(sqlite, "connect_new", traced)
    await harness.open()
    # Its own name, partition.json, and the first segment; each file before its name.
    assert synced == ["directory", "file", "directory", "file", "directory"]
    # SQLite's own sync would come before that of the whole file.
    assert "PRAGMA synchronous=OFF" in statements


async def test_a_half_made_segment_is_removed(harness):
    log = await harness.open()
    await append_durably(log)
    directory = harness.copy("crashed")
    (directory / f"{1:020d}.sqlite.creating").write_bytes(b"SQLite format 3\0" + bytes(100))
    (directory / f"{1:020d}.sqlite-wal").write_bytes(b"orphan")
    log = await harness.open(directory)
    assert await bases(log) == [0]
    names = {path.name for path in directory.iterdir()}
    assert names == {f"{0:020d}.sqlite", f"{0:020d}.sqlite-wal", "partition.json"}


@pytest.mark.parametrize("moment", ["sealed", "created"])
async def test_a_crash_while_rolling_leaves_a_log_that_goes_on(harness, monkeypatch, moment):
    log = await harness.open(segment_bytes=1)
    await append_durably(log)
    copies = []
    create = segments.create_file

    def create_and_copy(*arguments):
        if moment == "sealed":
            copies.append(harness.copy("crashed"))
        create(*arguments)
        if moment == "created":
            copies.append(harness.copy("crashed"))

    monkeypatch.setattr(segments, "create_file", create_and_copy)
    await append_durably(log)
    monkeypatch.undo()
    crashed = await harness.open(copies[0], segment_bytes=1)
    assert crashed.log_end_offset == 1
    assert (await append_durably(crashed)).base_offset == 1
    assert await bases(crashed) == [0, 1]


async def test_epochs_recorded_ahead_of_lost_batches_are_dropped(harness):
    log = await harness.open()
    await append_durably(log, leader_epoch=1)

    def record_early(connection):
        connection.execute("INSERT INTO leader_epochs VALUES (4, 9)")

    async with harness.handles.use(log._files.active) as connection:
        await connection.run("test", record_early)
    crashed = await harness.open(harness.copy("crashed"))
    assert crashed.leader_epochs.latest_epoch == 1
    crashed.append_as_follower([stored_batch(1, 20, leader_epoch=2)])
    again = await harness.reopen(crashed)
    assert [entry.epoch for entry in again.leader_epochs.entries] == [1, 2]


async def test_modes_lost_in_a_copy_are_repaired(harness):
    log = await harness.open(segment_bytes=1)
    for _ in range(3):
        await append_durably(log)
    await log.close()
    for path in harness.directory.glob("*.sqlite"):
        path.chmod(0o644)
    log = await harness.open(segment_bytes=1)
    assert await bases(log) == [0, 1, 2]
    assert (harness.directory / f"{0:020d}.sqlite").stat().st_mode & 0o777 == 0o400


async def test_a_newer_format_is_refused(harness):
    log = await harness.open()
    await log.close()
    connection = sqlite.driver.connect(only_segment(harness.directory))
    connection.execute("UPDATE meta SET value = 99 WHERE name = 'format_version'")
    connection.commit()
    connection.close()
    with pytest.raises(StorageError, match="format version 99"):
        await harness.open()


# --- damage to the write-ahead log ------------------------------------------------------------


async def crashed_with_commits(harness, commits=10):
    """A crashed copy whose write-ahead log holds `commits` transactions of one batch."""
    log = await harness.open()
    for fill in range(commits):
        await append_durably(log, value_bytes=100, fill=fill)
    return harness.copy("crashed")


async def test_a_flipped_bit_among_synced_commits_is_reported(harness):
    """SQLite alone would show a shorter log and say nothing (reference finding 3)."""
    directory = await crashed_with_commits(harness)
    wal = wal_of(directory)
    flip(wal, wal.stat().st_size // 2)
    log = await harness.open(directory)
    assert log.log_end_offset < 10
    assert log.recovery.damaged_from == log.log_end_offset
    assert "write-ahead log" in log.recovery.reason
    assert is_loss_noted(log.directory)
    assert len(await bases(log)) == log.log_end_offset


async def test_any_flipped_bit_in_the_log_is_reported_or_harmless_or_in_the_last_commit(harness):
    directory = await crashed_with_commits(harness)
    size = wal_of(directory).stat().st_size
    rng = random.Random(7)
    outcomes = set()
    for number in range(25):
        damaged = harness.root / f"damaged-{number}"
        shutil.copytree(directory, damaged)
        flip(wal_of(damaged), rng.randrange(size), rng.randrange(8))
        log = await harness.open(damaged)
        report = log.recovery
        if log.log_end_offset < 10:
            assert report.damaged_from is not None or report.suspect_tail
            assert report.damaged_from is not None or log.log_end_offset == 9
        outcomes.add((log.log_end_offset < 10, report.damaged_from is not None))
        await log.close()
    assert (True, True) in outcomes


async def test_a_damaged_log_header_is_reported(harness):
    directory = await crashed_with_commits(harness)
    flip(wal_of(directory), 17)
    log = await harness.open(directory)
    assert log.recovery.damaged_from == log.log_end_offset == 0


async def test_a_damaged_last_commit_is_suspect(harness):
    directory = await crashed_with_commits(harness)
    wal = wal_of(directory)
    flip(wal, wal.stat().st_size - 10)
    log = await harness.open(directory)
    assert log.log_end_offset == 9
    assert log.recovery.suspect_tail
    assert log.recovery.damaged_from is None


async def test_a_commit_cut_short_is_an_ordinary_crash(harness):
    directory = await crashed_with_commits(harness)
    wal = wal_of(directory)
    with wal.open("r+b") as file:
        file.truncate(wal.stat().st_size - PAGE // 2)
    log = await harness.open(directory)
    assert log.log_end_offset == 9
    assert log.recovery.damaged_from is None
    log = await harness.reopen(log)
    assert not log.recovery.suspect_tail


async def test_frames_of_an_earlier_generation_are_no_damage(harness):
    """After a checkpoint SQLite writes the log from its beginning over the old frames."""
    log = await harness.open()
    for fill in range(2):
        await append_durably(log, value_bytes=7_000_000, fill=fill)
    for fill in range(2):
        await append_durably(log, value_bytes=100, fill=fill)
    directory = harness.copy("crashed")
    wal = wal_of(directory)
    header = wal.read_bytes()[:32]
    salts = struct.unpack(">2I", header[16:24])
    with wal.open("rb") as file:
        file.seek(wal.stat().st_size - FRAME)
        assert struct.unpack(">2I", file.read(24)[8:16]) != salts
    crashed = await harness.open(directory)
    assert crashed.log_end_offset == 4
    assert crashed.recovery.damaged_from is None
    assert not crashed.recovery.suspect_tail


# --- damage to the file -----------------------------------------------------------------------


async def checkpointed(harness, batches=40, name="damaged", value_bytes=3_000):
    """A stopped log whose clean mark was forgotten, so that all of it is verified again."""
    log = await harness.open()
    for fill in range(batches):
        await append_durably(
            log,
            value_bytes=value_bytes,
            fill=fill,
            leader_epoch=fill // 10,
            idempotency=request(fill),
        )
    await log.close()
    directory = harness.copy(name)
    connection = sqlite.driver.connect(only_segment(directory), isolation_level=None)
    connection.execute("DELETE FROM meta WHERE name = 'verified_end'")
    connection.execute("PRAGMA journal_mode=DELETE").fetchall()
    connection.close()
    return directory


async def test_a_damaged_batch_cuts_the_log_before_it_and_is_reported(harness):
    directory = await checkpointed(harness)
    path = only_segment(directory)
    content = path.read_bytes()
    position = content.index(bytes([25]) * 2_000)
    flip(path, position + 500)
    log = await harness.open(directory)
    assert log.recovery.damaged_from == 25
    assert "CRC" in log.recovery.reason
    assert (log.log_end_offset, log.next_offset) == (25, 25)
    assert await bases(log) == list(range(25))
    assert [entry.epoch for entry in log.leader_epochs.entries] == [0, 1, 2]
    assert append(log, leader_epoch=5, idempotency=request(24)).duplicate
    assert append(log, leader_epoch=5, idempotency=request(25)).base_offset == 25
    assert segments.quarantine_name(path).read_bytes()[position + 500] != 25
    # The log is sound now, and whoever must know of the loss may not have heard of it.
    log = await harness.reopen(log)
    assert log.recovery.damaged_from == log.log_end_offset == 26
    forget_loss(directory)
    log = await harness.reopen(log)
    assert log.recovery.damaged_from is None


async def test_a_changed_column_is_damage(harness):
    directory = await checkpointed(harness)
    connection = sqlite.driver.connect(only_segment(directory), isolation_level=None)
    connection.execute("UPDATE batches SET max_timestamp = 5 WHERE base_offset = 30")
    connection.close()
    log = await harness.open(directory)
    assert log.recovery.damaged_from == 30
    assert "columns" in log.recovery.reason


async def test_hidden_rows_are_damage(harness):
    directory = await checkpointed(harness)
    connection = sqlite.driver.connect(only_segment(directory), isolation_level=None)
    connection.execute("DELETE FROM batches WHERE base_offset IN (7, 8)")
    connection.close()
    log = await harness.open(directory)
    assert log.recovery.damaged_from == 7


async def test_rows_hidden_before_the_clean_mark_are_damage(harness):
    log = await harness.open()
    for _ in range(10):
        await append_durably(log)
    await log.close()
    connection = sqlite.driver.connect(only_segment(harness.directory), isolation_level=None)
    connection.execute("DELETE FROM batches WHERE base_offset >= 6")
    connection.close()
    log = await harness.open()
    assert log.recovery.damaged_from == 6


async def test_a_destroyed_segment_ends_the_log_where_the_one_before_does(harness):
    log = await harness.open(segment_bytes=3_000)
    for number in range(6):
        await append_durably(
            log, value_bytes=1_000, leader_epoch=number, idempotency=request(number)
        )
    await log.close()
    newest = max(harness.directory.glob("*.sqlite"))
    base_offset = segments.base_offset_of(newest)
    newest.write_bytes(random.Random(1).randbytes(newest.stat().st_size))
    log = await harness.open(segment_bytes=3_000)
    assert 0 < base_offset < 6
    assert log.recovery.damaged_from == base_offset
    assert log.next_offset == base_offset
    assert log.last_batch_epoch == base_offset - 1
    assert append(log, leader_epoch=9, idempotency=request(base_offset - 1)).duplicate
    assert await bases(log) == list(range(base_offset))


async def test_a_log_of_one_destroyed_segment_begins_again(harness):
    log = await harness.open()
    await append_durably(log)
    await log.close()
    only_segment(harness.directory).write_bytes(b"garbage" * 10_000)
    log = await harness.open()
    assert (log.recovery.damaged_from, log.next_offset) == (0, 0)
    await append_durably(log)


@pytest.mark.parametrize("seed", range(3))
async def test_no_flipped_bit_in_the_file_is_ever_served(harness, seed):
    """Whatever bit flips: what is read is what was written, or an error names it."""
    directory = await checkpointed(harness, batches=12, value_bytes=9_000)
    reference = await harness.open(directory)
    expected = {b.base_offset: bytes(b.data) for b in await read_all(reference)}
    assert len(expected) == 12
    await reference.close()
    rng = random.Random(seed)
    shorter = 0
    for number in range(12):
        damaged = harness.root / f"flipped-{number}"
        shutil.copytree(harness.root / "damaged", damaged)
        connection = sqlite.driver.connect(only_segment(damaged), isolation_level=None)
        connection.execute("DELETE FROM meta WHERE name = 'verified_end'")
        connection.close()
        path = only_segment(damaged)
        flip(path, rng.randrange(path.stat().st_size), rng.randrange(8))
        try:
            log = await harness.open(damaged)
        except StorageError:
            continue
        found = {batch.base_offset: bytes(batch.data) for batch in await read_all(log)}
        assert found == {offset: expected[offset] for offset in range(len(found))}
        assert len(found) == 12 or log.recovery.damaged_from == len(found)
        shorter += len(found) < 12
        await log.close()
    assert shorter > 0


async def test_damage_in_a_sealed_segment_is_an_error_for_its_readers(harness):
    log = await harness.open(segment_bytes=3_000)
    for fill in range(9):
        await append_durably(log, value_bytes=1_000, fill=fill)
    log = await harness.reopen(log, segment_bytes=3_000)
    path = harness.directory / f"{0:020d}.sqlite"
    position = path.read_bytes().index(bytes([1]) * 900)
    path.chmod(0o600)
    flip(path, position)
    path.chmod(0o400)
    assert [b.base_offset for b in await log.read(0, max_bytes=1, limit=UNLIMITED)] == [0]
    with pytest.raises(StorageError, match=rf"{path.name}: damaged at offset 1") as raised:
        await log.read(1, max_bytes=1, limit=UNLIMITED)
    assert raised.value.members["offset"] == 1
    assert harness.failures == []


@pytest.mark.parametrize("hidden", [0, 1])
async def test_rows_hidden_in_a_sealed_segment_are_an_error(harness, hidden):
    log = await harness.open(segment_bytes=3_000)
    for fill in range(9):
        await append_durably(log, value_bytes=1_000, fill=fill)
    log = await harness.reopen(log, segment_bytes=3_000)
    path = harness.directory / f"{0:020d}.sqlite"
    assert [b.base_offset for b in await log.read(0, max_bytes=9_999, limit=UNLIMITED)] == [0, 1]
    await harness.handles.close(path)
    path.chmod(0o600)
    connection = sqlite.driver.connect(path, isolation_level=None)
    connection.execute("DELETE FROM batches WHERE base_offset = ?", (hidden,))
    connection.close()
    path.chmod(0o400)
    with pytest.raises(StorageError, match=f"damaged at offset {hidden}: the batch is missing"):
        await log.read(hidden, max_bytes=9_999, limit=UNLIMITED)
    # What comes before is served: it is good.
    if hidden:
        [batch] = await log.read(0, max_bytes=9_999, limit=UNLIMITED)
        assert batch.base_offset == 0


async def test_a_full_disk_is_no_damage(harness, monkeypatch):
    """Recovery must not quarantine a file because something else failed."""
    log = await harness.open()
    await append_durably(log)
    crashed = harness.copy("crashed")

    def fail(*_):
        raise sqlite.driver.OperationalError("database or disk is full")

    monkeypatch.setattr(recovery, "inspect_wal", fail)
    with pytest.raises(StorageError, match="disk is full"):
        await harness.open(crashed)
    monkeypatch.undo()
    assert await bases(await harness.open(crashed)) == [0]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE producer_snapshot SET epoch = epoch + 1",
        "UPDATE producer_snapshot SET last_batches = x'c1'",
        "UPDATE idempotency_snapshot SET base_offset = 0 WHERE position = 1",
        "DELETE FROM idempotency_snapshot WHERE position = 0",
    ],
)
async def test_a_damaged_snapshot_is_rebuilt_from_the_segment_before(harness, change):
    """A wrong sequence or key would answer a new request as a retry, and lose it."""
    log = await harness.open(segment_bytes=3_000)
    for number in range(5):
        await append_durably(
            log,
            value_bytes=1_000,
            producer_id=1,
            producer_epoch=0,
            base_sequence=number,
            idempotency=request(number),
        )
    await log.close()
    newest = max(harness.directory.glob("*.sqlite"))
    base_offset = segments.base_offset_of(newest)
    connection = sqlite.driver.connect(newest, isolation_level=None)
    connection.execute(change)
    connection.close()
    log = await harness.open(segment_bytes=3_000)
    # Its batches have CRCs of their own, and stay.
    assert base_offset < log.recovery.damaged_from == log.next_offset == 5
    assert "snapshot" in log.recovery.reason
    for number in range(5):
        assert append(log, idempotency=request(number)).base_offset == number
    sequenced = {"producer_id": 1, "producer_epoch": 0, "base_sequence": 5}
    assert append(log, **sequenced).base_offset == 5


async def test_epochs_that_contradict_the_batches_are_damage(harness):
    directory = await checkpointed(harness)
    connection = sqlite.driver.connect(only_segment(directory), isolation_level=None)
    connection.execute("UPDATE leader_epochs SET start_offset = 12 WHERE epoch = 1")
    connection.close()
    log = await harness.open(directory)
    assert log.recovery.damaged_from == 10
