"""Segments go from a log's beginning, by age and by size, and never one that is needed."""

import asyncio
import os
import struct

import pytest

from ottla_broker.storage import segment
from ottla_broker.storage.log_config import LogConfig, RemovedSegments
from ottla_broker.storage.policy.retention import NEVER
from ottla_protocol.errors import OffsetOutOfRangeError, StorageError, UnavailableError
from ottla_protocol.record_batch import NO_TIMESTAMP, read_header, seal_batch
from tests.unit.storage.log_harness import (
    UNLIMITED,
    append,
    append_durably,
    make_batch,
    read_all,
    request,
)

PER_SEGMENT = 2
SEGMENT_BYTES = PER_SEGMENT * len(make_batch())
CONFIG = {"segment_bytes": SEGMENT_BYTES, "retention_ms": 100}
END = 10
BASE_TIMESTAMP_OFFSET = 27


@pytest.fixture
async def log(harness):
    """Ten records at the times 1,000 to 1,009, two in a segment, five segments."""
    log = await harness.open(**CONFIG)
    for number in range(END):
        await append_durably(log, timestamp=1_000 + number, fill=number)
    return log


def offsets_on_disk(harness):
    return [int(name.removesuffix(".sqlite")) for name in harness.files() if "sqlite" in name[-6:]]


async def enforce(log, *, now_ms=0, high_watermark=END):
    await log.cleanup.enforce_retention(high_watermark=high_watermark, now_ms=now_ms)
    return log.log_start_offset


async def test_segments_go_once_their_newest_record_is_too_old(harness, log):
    for now_ms, expected in ((1_101, 0), (1_102, 2), (1_107, 6), (1_108, 8)):
        assert await enforce(log, now_ms=now_ms) == expected
    assert offsets_on_disk(harness) == [0, 2, 4, 6, 8]
    removed = await log.cleanup.remove_expired()
    assert (removed.count, removed.size_bytes > 0) == (4, True)
    assert offsets_on_disk(harness) == [8]
    assert [batch.base_offset for batch in await read_all(log)] == [8, 9]
    assert await log.cleanup.remove_expired() == RemovedSegments()


async def test_an_old_record_stays_while_a_newer_one_shares_its_segment(harness):
    log = await harness.open(**CONFIG)
    for timestamp in (1_000, 5_000, 1_001, 1_002, 1_003):
        await append_durably(log, timestamp=timestamp)
    assert await enforce(log, now_ms=5_100, high_watermark=5) == 0
    assert await enforce(log, now_ms=5_101, high_watermark=5) == 5


async def test_what_is_older_behind_a_newer_segment_waits_for_it(harness):
    log = await harness.open(**CONFIG)
    for timestamp in (5_000, 5_000, 1_000, 1_000, 5_050):
        await append_durably(log, timestamp=timestamp)
    assert await enforce(log, now_ms=5_100, high_watermark=5) == 0
    assert await enforce(log, now_ms=5_110, high_watermark=5) == 4


async def test_segments_go_by_size(harness, log):
    log.reconfigure(LogConfig(segment_bytes=SEGMENT_BYTES, retention_bytes=1 << 40))
    assert await enforce(log) == 0
    sealed_bytes = (log.size_bytes - SEGMENT_BYTES) // 4
    log.reconfigure(LogConfig(segment_bytes=SEGMENT_BYTES, retention_bytes=2 * sealed_bytes))
    assert await enforce(log) == 4
    log.reconfigure(LogConfig(segment_bytes=SEGMENT_BYTES, retention_bytes=0))
    assert await enforce(log) == 8
    await log.cleanup.remove_expired()
    assert offsets_on_disk(harness) == [8]


async def test_nothing_above_the_high_watermark_goes(log):
    assert await enforce(log, now_ms=9_999, high_watermark=5) == 4
    assert await enforce(log, now_ms=9_999, high_watermark=6) == 6


async def test_an_idle_active_segment_is_sealed_and_goes_too(harness, log):
    assert await enforce(log, now_ms=1_109) == 8
    assert await enforce(log, now_ms=1_110) == END
    await log.cleanup.remove_expired()
    assert offsets_on_disk(harness) == [END]
    assert (log.log_start_offset, log.next_offset) == (END, END)
    assert await enforce(log, now_ms=1 << 50) == END
    info = await append_durably(log, timestamp=2_000)
    assert info.base_offset == END


async def test_an_empty_log_stays_what_it_is(harness):
    log = await harness.open(**CONFIG)
    assert await enforce(log, now_ms=1 << 50, high_watermark=0) == 0
    assert await log.cleanup.remove_expired() == RemovedSegments()
    assert offsets_on_disk(harness) == [0]


async def test_without_bounds_nothing_goes(harness, log):
    log.reconfigure(LogConfig(segment_bytes=SEGMENT_BYTES))
    assert await enforce(log, now_ms=1 << 50) == 0
    assert await log.cleanup.remove_expired() == RemovedSegments()


async def test_records_without_timestamps_age_with_their_file(harness):
    log = await harness.open(segment_bytes=1, retention_ms=100)
    for _ in range(2):
        batch = make_batch()
        struct.pack_into(">qq", batch, BASE_TIMESTAMP_OFFSET, NO_TIMESTAMP, NO_TIMESTAMP)
        seal_batch(batch)
        log.append_as_leader(batch, read_header(batch), leader_epoch=0, now_ms=0)
    await log.wait_durable(2)
    sealed_ms = 1_000_000
    os.utime(harness.directory / f"{0:020d}.sqlite", ns=(0, sealed_ms * 1_000_000))
    assert await enforce(log, now_ms=sealed_ms + 100, high_watermark=2) == 0
    assert await enforce(log, now_ms=sealed_ms + 101, high_watermark=2) == 1


async def test_a_removed_offset_is_out_of_range_before_its_file_is_gone(harness, log):
    log.cleanup.advance_log_start(5)
    with pytest.raises(OffsetOutOfRangeError) as caught:
        await log.read(4, max_bytes=1, limit=UNLIMITED)
    assert caught.value.members == {"log_start_offset": 5, "log_end_offset": END}
    assert (await log.read(5, max_bytes=1, limit=UNLIMITED))[0].base_offset == 5
    await log.cleanup.remove_expired()
    assert offsets_on_disk(harness) == [4, 6, 8]
    assert [batch.base_offset for batch in await read_all(log)] == [5, 6, 7, 8, 9]
    assert (await log.find_timestamp(0, limit=UNLIMITED)).base_offset == 5


async def test_a_start_within_the_active_segment_ends_it(harness):
    """A follower's segments may be cut elsewhere than its leader's."""
    log = await harness.open()
    for _ in range(4):
        await append_durably(log)
    log.cleanup.advance_log_start(2)
    assert await log.cleanup.remove_expired() == RemovedSegments()
    assert offsets_on_disk(harness) == [0, 4]
    await append_durably(log)
    assert await log.cleanup.remove_expired() == RemovedSegments()
    log.cleanup.advance_log_start(4)
    assert (await log.cleanup.remove_expired()).count == 1
    assert offsets_on_disk(harness) == [4]


async def test_the_log_s_start_never_moves_back(log):
    log.cleanup.advance_log_start(6)
    log.cleanup.advance_log_start(3)
    assert log.log_start_offset == 6
    assert await enforce(log, now_ms=0) == 6


async def test_the_files_tell_the_start_after_a_restart(harness, log):
    log.cleanup.advance_log_start(5)
    await log.cleanup.remove_expired()
    log = await harness.reopen(log, **CONFIG)
    assert (log.log_start_offset, log.log_end_offset) == (4, END)
    assert [batch.base_offset for batch in await read_all(log)] == [4, 5, 6, 7, 8, 9]


async def test_a_crash_between_two_files_leaves_a_longer_log_that_is_whole(
    harness, log, monkeypatch
):
    log.cleanup.advance_log_start(8)
    copies = []
    remove = log._files._remove

    async def remove_and_copy(segment):
        await remove(segment)
        copies.append(harness.copy(f"crash-{len(copies)}"))

    monkeypatch.setattr(log._files, "_remove", remove_and_copy)
    await log.cleanup.remove_expired()
    assert len(copies) == 4
    for number, directory in enumerate(copies):
        crashed = await harness.open(directory, **CONFIG)
        assert crashed.recovery.damaged_from is None
        start = (number + 1) * PER_SEGMENT
        assert (crashed.log_start_offset, crashed.log_end_offset) == (start, END)
        assert [b.base_offset for b in await read_all(crashed)] == list(range(start, END))


async def test_a_removal_that_is_cancelled_goes_on_later(harness, log, monkeypatch):
    log.cleanup.advance_log_start(8)
    reached = asyncio.Event()
    remove = log._files._remove

    async def hang(segment):
        reached.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(log._files, "_remove", hang)
    removing = asyncio.create_task(log.cleanup.remove_expired())
    await reached.wait()
    removing.cancel()
    await asyncio.wait((removing,))
    monkeypatch.setattr(log._files, "_remove", remove)
    assert (await log.cleanup.remove_expired()).count == 4
    assert offsets_on_disk(harness) == [8]


async def test_a_log_that_begins_anew_leaves_no_expired_file_behind(harness, log):
    log.cleanup.advance_log_start(8)
    log._files.forget_expired()
    await log.reset_to(0)
    assert offsets_on_disk(harness) == [0]
    assert (await append_durably(log)).base_offset == 0
    assert await log.cleanup.remove_expired() == RemovedSegments()


async def test_files_that_cannot_be_removed_fail_the_log(harness, log, monkeypatch):
    def refuse(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(segment, "remove_file", refuse)
    log.cleanup.advance_log_start(4)
    with pytest.raises(StorageError, match="Input/output"):
        await log.cleanup.remove_expired()
    assert log.failure is harness.failures[0]


async def test_a_long_read_is_not_torn(harness, log):
    async with log._files.lock.shared():
        log.cleanup.advance_log_start(8)
        removing = asyncio.create_task(log.cleanup.remove_expired())
        for _ in range(20):
            await asyncio.sleep(0)
        assert offsets_on_disk(harness) == [0, 2, 4, 6, 8]
    assert (await removing).count == 4


async def test_appends_go_on_while_files_go(harness, log):
    log.cleanup.advance_log_start(8)
    removing = asyncio.create_task(log.cleanup.remove_expired())
    infos = [append(log, timestamp=1_010) for _ in range(6)]
    await log.wait_durable(infos[-1].next_offset)
    await removing
    assert [batch.base_offset for batch in await read_all(log)] == list(range(8, 16))
    assert harness.failures == []


async def test_producers_requests_and_epochs_outlive_their_records(harness):
    log = await harness.open(**CONFIG)
    await append_durably(log, idempotency=request(1), timestamp=1_000, leader_epoch=2)
    await append_durably(
        log, producer_id=7, producer_epoch=0, base_sequence=0, timestamp=1_000, leader_epoch=2
    )
    assert await enforce(log, now_ms=9_999, high_watermark=2) == 2
    await log.cleanup.remove_expired()
    for _ in range(2):
        again = append(log, idempotency=request(1), leader_epoch=2)
        assert (again.duplicate, again.base_offset) == (True, 0)
        again = append(log, producer_id=7, producer_epoch=0, base_sequence=0, leader_epoch=2)
        assert (again.duplicate, again.base_offset) == (True, 1)
        assert (log.last_batch_epoch, log.leader_epochs.epoch_at(1)) == (2, 2)
        log = await harness.reopen(log, **CONFIG)


async def test_a_truncation_below_the_start_begins_the_log_anew(harness, log):
    log.cleanup.advance_log_start(8)
    await log.cleanup.remove_expired()
    await log.truncate_to(9)
    assert (log.log_start_offset, log.next_offset) == (8, 9)
    await log.truncate_to(3)
    assert (log.log_start_offset, log.next_offset) == (3, 3)
    assert (await append_durably(log, timestamp=1)).base_offset == 3


async def test_a_truncation_into_a_sealed_segment_forgets_how_old_it_was(harness, log):
    assert await enforce(log, now_ms=1_000) == 0
    assert log._files._segments[0].newest_timestamp == 1_001
    await log.truncate_to(1)
    for timestamp in (5_000, 5_000):
        await append_durably(log, timestamp=timestamp)
    assert await enforce(log, now_ms=5_100, high_watermark=3) == 0


async def test_a_removal_waits_for_a_truncation_and_refuses_during_it(harness, log):
    log.cleanup.advance_log_start(4)
    async with log._files.lock.shared():
        truncating = asyncio.create_task(log.truncate_to(7))
        await asyncio.sleep(0)
        with pytest.raises(UnavailableError):
            await log.cleanup.remove_expired()
        with pytest.raises(UnavailableError):
            await log.cleanup.enforce_retention(high_watermark=4, now_ms=0)
    await truncating
    await log.cleanup.remove_expired()
    assert (log.log_start_offset, log.next_offset) == (4, 7)


async def test_a_log_that_is_closed_meanwhile_keeps_its_files(harness, log):
    log.cleanup.advance_log_start(8)
    await log.close()
    with pytest.raises(UnavailableError):
        await log.cleanup.remove_expired()
    assert offsets_on_disk(harness) == [0, 2, 4, 6, 8]


async def test_limits_change_at_run_time(log):
    assert await enforce(log, now_ms=1_200) == END
    log.reconfigure(LogConfig(segment_bytes=SEGMENT_BYTES, retention_ms=NEVER))
    await append_durably(log, timestamp=1)
    assert await enforce(log, now_ms=1 << 50, high_watermark=11) == END
