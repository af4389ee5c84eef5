"""Cutting the log's end off after a change of leader."""

import asyncio

import pytest

from ottla_broker.storage import segment as segments
from ottla_broker.storage import sqlite
from ottla_broker.storage.tail_cache import TailCache
from ottla_protocol.errors import OffsetOutOfRangeError, StorageError, UnavailableError
from tests.unit.storage.log_harness import (
    UNLIMITED,
    append,
    append_durably,
    read_all,
    stored_batch,
)


@pytest.fixture(params=[0, 10_000_000], ids=["no-cache", "cache"])
async def log(harness, request):
    """Ten batches of three records, an epoch every second batch, two batches in a segment."""
    harness.tail_cache = TailCache(request.param)
    log = await harness.open(segment_bytes=500)
    for fill in range(10):
        append(log, 3, value_bytes=50, fill=fill, leader_epoch=fill // 2)
    return log


async def bases(log):
    return [batch.base_offset for batch in await read_all(log)]


@pytest.mark.parametrize("offset", range(31))
async def test_every_batch_that_reaches_the_offset_goes(harness, log, offset):
    await log.truncate_to(offset)
    end = offset // 3 * 3
    assert (log.next_offset, log.log_end_offset) == (end, end)
    assert await bases(log) == list(range(0, end, 3))
    expected = [(epoch, epoch * 6) for epoch in range(5) if epoch * 6 < end]
    assert [(e.epoch, e.start_offset) for e in log.leader_epochs.entries] == expected
    assert log.last_batch_epoch == (expected[-1][0] if expected else -1)
    await append_durably(log, 2, leader_epoch=9)
    log = await harness.reopen(log, segment_bytes=500)
    assert log.recovery.damaged_from is None
    assert await bases(log) == [*range(0, end, 3), end]
    assert log.next_offset == end + 2
    assert log.last_batch_epoch == 9


async def test_the_end_is_no_truncation_of_batches_but_of_epochs(harness):
    """A leader that appended nothing must not keep its epoch at the end (KIP-279)."""
    log = await harness.open()
    await append_durably(log, 2, leader_epoch=1)
    await log.begin_epoch(7)
    await log.truncate_to(2)
    assert log.leader_epochs.latest_epoch == 1
    log.append_as_follower([stored_batch(2, leader_epoch=6)])
    log = await harness.reopen(log)
    assert [(e.epoch, e.start_offset) for e in log.leader_epochs.entries] == [(1, 0), (6, 2)]


async def test_above_the_end_nothing_happens(log):
    await log.truncate_to(99)
    assert log.next_offset == 30


async def test_truncation_waits_for_what_is_queued_and_refuses_appends(log):
    truncation = asyncio.create_task(log.truncate_to(6))
    await asyncio.sleep(0)
    with pytest.raises(UnavailableError):
        append(log, leader_epoch=9)
    await truncation
    assert log.next_offset == 6
    append(log, leader_epoch=9)


async def test_readers_during_truncation_see_the_old_or_the_new_log(log):
    await log.wait_durable(30)

    async def read(offset):
        try:
            batches = await log.read(offset, max_bytes=1, limit=UNLIMITED)
        except OffsetOutOfRangeError:
            return offset >= 9
        return [b.base_offset for b in batches] in ([offset // 3 * 3], [])

    reads = [asyncio.create_task(read(offset)) for offset in (0, 5, 9, 20, 29)]
    await log.truncate_to(9)
    assert all(await asyncio.gather(*reads))
    assert all([await read(offset) for offset in (0, 5, 9, 20, 29)])


async def test_the_end_does_not_fall_back_over_a_gap(harness):
    """Offsets 2 to 8 were used and compacted away; nobody may be given them again."""
    log = await harness.open()
    for base_offset in (0, 1, 9):
        log.append_as_follower([stored_batch(base_offset)])
    await log.truncate_to(7)
    assert (log.next_offset, log.log_end_offset) == (7, 7)
    assert await bases(log) == [0, 1]
    log = await harness.reopen(log)
    assert log.next_offset == 7
    assert (await append_durably(log)).base_offset == 7
    assert await bases(log) == [0, 1, 7]


async def test_reset_begins_again_at_any_offset(harness, log):
    await log.reset_to(1_000)
    assert (log.log_start_offset, log.log_end_offset, log.next_offset) == (1_000, 1_000, 1_000)
    assert log.leader_epochs.entries == ()
    assert log.size_bytes == 0
    await append_durably(log, 2, leader_epoch=3)
    log = await harness.reopen(log)
    assert log.log_start_offset == 1_000
    assert await bases(log) == [1_000]
    await log.truncate_to(999)
    assert (log.log_start_offset, log.next_offset) == (999, 999)


async def test_a_start_that_moves_while_a_log_begins_anew_stays_within_it(log, monkeypatch):
    await log.wait_durable(30)
    make_active = log._files._writable_active

    async def make_active_slowly():
        log.cleanup.advance_log_start(25)
        return await make_active()

    monkeypatch.setattr(log._files, "_writable_active", make_active_slowly)
    await log.reset_to(15)
    assert (log.log_start_offset, log.log_end_offset) == (15, 15)


@pytest.mark.parametrize("survivors", range(1, 5))
async def test_a_crash_on_the_way_leaves_a_shorter_log_that_is_whole(
    harness, log, monkeypatch, survivors
):
    await log.wait_durable(30)
    remove = segments.remove_file
    left = [survivors]

    def crash(path):
        if left[0] == 0:
            raise OSError(5, "power loss")
        left[0] -= 1
        remove(path)

    monkeypatch.setattr(segments, "remove_file", crash)
    if survivors < 4:
        with pytest.raises(StorageError):
            await log.truncate_to(3)
        assert len(harness.failures) == 1
    else:
        await log.truncate_to(3)
    await harness.handles.close_all()
    log = await harness.open(harness.copy("crashed"), segment_bytes=500)
    found = await bases(log)
    assert found == list(range(0, log.next_offset, 3))
    assert 3 <= log.next_offset < 30
    assert log.recovery.damaged_from is None


async def test_a_failed_truncation_fails_the_log(log, harness, monkeypatch):
    def fail(*_):
        raise sqlite.driver.OperationalError("disk I/O error")

    monkeypatch.setattr(segments, "delete_from", fail)
    with pytest.raises(StorageError):
        await log.truncate_to(2)
    assert len(harness.failures) == 1
    with pytest.raises(StorageError):
        append(log, leader_epoch=9)


async def test_truncation_lowers_the_verified_mark(harness, log):
    """Otherwise a crash right after it would look like rows lost below the mark."""
    log = await harness.reopen(log, segment_bytes=1 << 20)
    await log.truncate_to(28)
    crashed = await harness.open(await harness.copy_while_writing(log, "crashed"))
    assert crashed.recovery.damaged_from is None
    assert crashed.next_offset == 27
