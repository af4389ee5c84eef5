"""A log is cut, begun anew or opened while the disk has no room: waited out as commits are."""

import errno

import pytest

from ottla_broker.storage import compaction_progress, group_commit, segment, sqlite
from ottla_broker.storage.compaction_progress import (
    PROGRESS_FILE,
    lower_progress,
    read_progress,
    write_progress,
)
from ottla_broker.storage.disk_full import DiskFullError
from ottla_broker.storage.policy.compaction import CompactionProgress
from tests.unit.awaiting import until
from tests.unit.storage.log_harness import append, append_durably, read_all
from tests.unit.storage.test_damage import BATCHES, filled, read_upto_damage, spoil


def _sqlite_full():
    error = sqlite.driver.OperationalError("database or disk is full")
    error.sqlite_errorcode = 13
    return error


class _Disk:
    """Has no room for what is named, until `room` is called."""

    def __init__(self, monkeypatch):
        self._is_full = True
        self._monkeypatch = monkeypatch

    def has_no_room_for(self, module, name):
        real = getattr(module, name)

        def write(*arguments, **keywords):
            if self._is_full:
                if module is segment and name != "delete_from":
                    raise OSError(errno.ENOSPC, "No space left on device")
                raise _sqlite_full()
            return real(*arguments, **keywords)

        self._monkeypatch.setattr(module, name, write)

    def room(self):
        self._is_full = False


@pytest.fixture
def disk(monkeypatch):
    monkeypatch.setattr(group_commit, "RETRY_FULL_DISK_MS", 5)
    return _Disk(monkeypatch)


async def _offsets(log):
    return [batch.base_offset for batch in await read_all(log)]


async def test_a_truncation_without_room_leaves_a_whole_log_and_can_be_asked_again(harness, disk):
    log = await filled(harness)
    disk.has_no_room_for(segment, "delete_from")
    with pytest.raises(DiskFullError):
        await log.truncate_to(12)
    assert log.failure is None
    assert harness.failures == []
    # Whole segments went: the log ends where the one that holds the offset does.
    assert 12 < log.log_end_offset < BATCHES
    assert log.next_offset == log.log_end_offset
    assert await _offsets(log) == list(range(log.log_end_offset))
    disk.room()
    await log.truncate_to(12)
    info = await append_durably(log, leader_epoch=1)
    assert info.base_offset == 12
    reopened = await harness.reopen(log)
    assert reopened.recovery.damaged_from is None
    assert await _offsets(reopened) == list(range(13))


async def test_a_sealed_segment_is_read_as_it_is_until_there_is_room_to_write_it(harness, disk):
    """A held roll is given up: its sealed file is the last one, and is unsealed when written."""
    log = await harness.open(segment_bytes=2_000)
    await append_durably(log, value_bytes=1_500)
    disk.has_no_room_for(segment, "write_file")
    disk.has_no_room_for(sqlite, "connect_active")
    append(log, value_bytes=1_500)
    await until(lambda: log.held is not None)
    assert log._files.active.sealed
    await log.abandon_held()
    assert log.failure is None
    assert log.next_offset == log.log_end_offset == 1
    assert await _offsets(log) == [0]
    info = append(log, value_bytes=10, leader_epoch=2)
    await until(lambda: log.held is not None)
    assert await _offsets(log) == [0, 1]
    await until(lambda: segment.is_sealed(log._files.active.path))
    disk.room()
    await until(lambda: log.held is None)
    await log.wait_durable(info.next_offset)
    reopened = await harness.reopen(log)
    assert reopened.recovery.damaged_from is None
    assert await _offsets(reopened) == [0, 1]


async def test_a_cut_at_damage_without_room_leaves_every_file(harness, disk):
    log = await filled(harness)
    spoil(harness, 7)
    await read_upto_damage(log)
    before = {name: (harness.directory / name).stat().st_mode for name in harness.files()}
    disk.has_no_room_for(segment, "fill_file")
    with pytest.raises(DiskFullError):
        await log.cut_at_damage()
    assert log.failure is None
    kept = {name: (harness.directory / name).stat().st_mode for name in harness.files()}
    assert {name for name in before if name.endswith(".sqlite")} <= set(kept)
    assert all(kept[name] == before[name] for name in kept if name.endswith(".sqlite"))
    assert log.damage.first is not None
    assert log.log_end_offset == BATCHES
    disk.room()
    await log.cut_at_damage()
    assert log.damage.first is None
    assert await _offsets(log) == list(range(7))
    await append_durably(log)


async def test_a_log_that_begins_anew_without_room_gets_its_file_when_it_is_written(harness, disk):
    log = await filled(harness)
    disk.has_no_room_for(segment, "write_file")
    await log.reset_to(500)
    assert (log.log_start_offset, log.next_offset, log.log_end_offset) == (500, 500, 500)
    info = append(log, leader_epoch=3)
    await until(lambda: log.held is not None)
    await log.abandon_held()
    assert (log.next_offset, log.failure) == (500, None)
    await log.truncate_to(500)
    info = append(log, leader_epoch=3)
    await until(lambda: log.held is not None)
    disk.room()
    await until(lambda: log.held is None)
    await log.wait_durable(info.next_offset)
    reopened = await harness.reopen(log)
    assert reopened.log_start_offset == 500
    assert await _offsets(reopened) == [500]


async def test_offsets_are_skipped_once_there_is_room(harness, disk):
    log = await harness.open()
    await append_durably(log, 2)
    disk.has_no_room_for(segment, "write_file")
    with pytest.raises(DiskFullError):
        await log.skip_to(9)
    assert (log.next_offset, log.failure) == (2, None)
    disk.room()
    await log.skip_to(9)
    await append_durably(log)
    reopened = await harness.reopen(log)
    assert reopened.recovery.damaged_from is None
    assert await _offsets(reopened) == [0, 9]


async def test_a_log_opens_without_room_for_the_mark_of_what_was_verified(harness, disk):
    log = await harness.open()
    for _ in range(3):
        await append_durably(log)
    killed = harness.copy("killed")
    disk.has_no_room_for(segment, "mark_verified")
    reopened = await harness.open(killed)
    assert reopened.recovery.damaged_from is None
    assert await _offsets(reopened) == [0, 1, 2]


async def test_a_log_with_a_sealed_end_opens_without_room_and_is_unsealed_later(harness, disk):
    log = await harness.open()
    await append_durably(log, leader_epoch=1)
    await append_durably(log, leader_epoch=2)
    path = log._files.active.path
    async with harness.handles.use(log._files.active) as connection:
        connection.before_close = None
        await connection.run("seal", lambda raw: segment.seal(raw, path, has_gaps=False))
    await harness.handles.close(path)
    killed = harness.copy("killed")
    disk.has_no_room_for(sqlite, "connect_active")
    reopened = await harness.open(killed)
    assert reopened.recovery.damaged_from is None
    assert reopened.leader_epochs.latest_epoch == 2
    assert await _offsets(reopened) == [0, 1]
    info = append(reopened, leader_epoch=2)
    await until(lambda: reopened.held is not None)
    disk.room()
    await until(lambda: reopened.held is None)
    await reopened.wait_durable(info.next_offset)
    assert await _offsets(await harness.reopen(reopened)) == [0, 1, 2]


def test_progress_that_cannot_be_lowered_is_forgotten(tmp_path, monkeypatch):
    write_progress(tmp_path, CompactionProgress(9, 5))

    def no_room(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(compaction_progress, "write_atomically", no_room)
    lower_progress(tmp_path, CompactionProgress(4, 5))
    assert not (tmp_path / PROGRESS_FILE).exists()
    assert read_progress(tmp_path) == CompactionProgress()
