"""A log whose disk has no room: what is held, what is told, what is dropped.

SQLite itself says that the disk is full: its own bound on a file's pages stands for the disk's.
"""

import asyncio
import errno

import pytest

from ottla_broker.storage import group_commit, segment, sqlite
from ottla_broker.storage.disk_full import DiskFullError, is_disk_full
from ottla_broker.storage.partition_log import PartitionLog
from ottla_protocol.errors import StorageError
from tests.unit.awaiting import until
from tests.unit.storage.log_harness import append, append_durably, read_all

LARGE = 200_000
BULK = 1 << 20


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(group_commit, "RETRY_FULL_DISK_MS", 5)


async def limit_pages(harness, log, pages):
    """Let the active file grow to `pages`; 0 for as many as it has."""

    def set_limit(raw):
        (has,) = raw.execute("PRAGMA page_count").fetchone()
        raw.execute(f"PRAGMA max_page_count={pages or has}").fetchall()

    async with harness.handles.use(log._files.active) as connection:
        await connection.run("limit", set_limit)


async def held(log):
    await until(lambda: log.held is not None)


async def let_go(log):
    await until(lambda: log.held is None)


@pytest.fixture
async def full(harness):
    """A log with one batch whose disk takes no other."""
    log = await harness.open()
    await append_durably(log, 2)
    await limit_pages(harness, log, 0)
    return log


async def test_nothing_is_acknowledged_and_whoever_waits_hears_at_once(harness, full):
    info = append(full, value_bytes=LARGE)
    with pytest.raises(DiskFullError, match="full"):
        await full.wait_durable(info.next_offset)
    with pytest.raises(DiskFullError):
        await full.wait_durable(info.next_offset)
    assert full.log_end_offset == 2
    assert harness.durable_ends == [2]
    assert full.failure is None
    assert harness.failures == []


async def test_what_is_held_becomes_durable_when_there_is_room(harness, full):
    infos = [append(full, value_bytes=LARGE, fill=n) for n in range(3)]
    await held(full)
    await limit_pages(harness, full, 100_000)
    await let_go(full)
    await full.wait_durable(infos[-1].next_offset)
    assert [batch.base_offset for batch in await read_all(full)] == [0, 2, 3, 4]
    reopened = await harness.reopen(full)
    assert reopened.recovery.damaged_from is None
    assert [batch.base_offset for batch in await read_all(reopened)] == [0, 2, 3, 4]


async def test_what_is_given_up_leaves_the_log_as_it_is_on_disk(harness, full):
    producer = {"producer_id": 7, "producer_epoch": 0}
    append(full, value_bytes=LARGE, base_sequence=0, leader_epoch=3, **producer)
    append(full, value_bytes=LARGE, base_sequence=1, leader_epoch=3, **producer)
    await held(full)
    await full.abandon_held()
    assert (full.next_offset, full.log_end_offset, full.pending_bytes) == (2, 2, 0)
    assert full.last_batch_epoch == 0
    assert full.leader_epochs.latest_epoch == 0
    await limit_pages(harness, full, 100_000)
    # The offsets and the sequence are free for another leader's batches.
    info = await append_durably(full, base_sequence=0, leader_epoch=4, **producer)
    assert (info.base_offset, info.duplicate) == (2, False)
    reopened = await harness.reopen(full)
    assert [(b.base_offset, b.leader_epoch) for b in await read_all(reopened)] == [(0, 0), (2, 4)]


async def test_a_retry_that_finds_room_while_the_rest_is_given_up_stays(harness, full):
    info = append(full, value_bytes=LARGE)
    await held(full)
    await limit_pages(harness, full, 100_000)
    await full.abandon_held()
    assert full.held is None
    assert full.log_end_offset in (2, info.next_offset)
    assert full.next_offset == full.log_end_offset
    assert len(await read_all(full)) == full.log_end_offset - 1


async def test_large_commits_through_the_rollback_journal_are_held_too(harness):
    log = await harness.open()
    for n in range(4):
        await append_durably(log, value_bytes=BULK, fill=n)
    await limit_pages(harness, log, 0)
    info = append(log, value_bytes=BULK, fill=9)
    await held(log)
    await limit_pages(harness, log, 100_000)
    await let_go(log)
    await log.wait_durable(info.next_offset)
    reopened = await harness.reopen(log)
    assert reopened.recovery.damaged_from is None
    assert reopened.log_end_offset == 5
    assert len(await read_all(reopened)) == 5


@pytest.mark.parametrize("gives_up", [False, True])
async def test_a_roll_without_room_is_held_too(harness, monkeypatch, gives_up):
    log = await harness.open(segment_bytes=2_000)
    await append_durably(log, value_bytes=1_500)
    create = segment.write_file

    def no_room(*arguments, **keywords):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(segment, "write_file", no_room)
    info = append(log, value_bytes=1_500)
    await held(log)
    assert harness.files()[-1].startswith("partition.json") or len(log._files) == 1
    monkeypatch.setattr(segment, "write_file", create)
    if gives_up:
        await log.abandon_held()
        if log.next_offset == 1:
            info = append(log, value_bytes=1_500)
    else:
        await let_go(log)
    await log.wait_durable(info.next_offset)
    assert [batch.base_offset for batch in await read_all(log)] == [0, 1]
    reopened = await harness.reopen(log)
    assert reopened.recovery.damaged_from is None
    assert [batch.base_offset for batch in await read_all(reopened)] == [0, 1]


async def test_closing_drops_what_is_held_and_loses_nothing_durable(harness, full):
    append(full, value_bytes=LARGE)
    await held(full)
    reopened = await harness.reopen(full)
    assert reopened.recovery.damaged_from is None
    assert reopened.log_end_offset == 2


async def test_a_write_that_finds_no_room_while_the_log_closes_does_not_hold_it_up(harness, full):
    append(full, value_bytes=LARGE)
    async with asyncio.timeout(10):
        await full.close()


async def test_deleting_a_log_that_is_held_frees_its_room(harness, full):
    append(full, value_bytes=LARGE)
    await held(full)
    await full.delete()
    assert not full.directory.exists()


async def test_retention_of_a_log_that_is_held_does_not_wait_for_room(harness, full):
    append(full, value_bytes=LARGE)
    await held(full)
    async with asyncio.timeout(10):
        with pytest.raises(DiskFullError):
            await full._commits.drain()


async def test_any_other_failure_is_final(harness, monkeypatch):
    log = await harness.open()

    def fail(*arguments, **keywords):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(segment, "insert", fail)
    info = append(log)
    with pytest.raises(StorageError, match="Input/output error") as caught:
        await log.wait_durable(info.next_offset)
    assert not isinstance(caught.value, DiskFullError)
    assert log.held is None
    assert len(harness.failures) == 1


def test_what_says_that_there_is_no_room():
    assert is_disk_full(OSError(errno.ENOSPC, "No space left on device"))
    assert is_disk_full(OSError(errno.EDQUOT, "Disk quota exceeded"))
    assert not is_disk_full(OSError(errno.EIO, "Input/output error"))
    error = sqlite.driver.OperationalError("database or disk is full")
    error.sqlite_errorcode = 13
    assert is_disk_full(error)
    error.sqlite_errorcode = 10 | 4 << 8  # SQLITE_IOERR_FSYNC
    assert not is_disk_full(error)
    assert PartitionLog.held.__doc__
