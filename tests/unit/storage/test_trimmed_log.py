"""A log that begins amid a batch or a segment: what is read of it, and which files go."""

import pytest

from ottla_broker.storage.log_config import RemovedSegments
from ottla_protocol.errors import OffsetOutOfRangeError
from tests.unit.storage.log_harness import UNLIMITED, append_durably, make_batch, read_all

RECORDS = 5
"""In each batch."""
SEGMENT_BYTES = 2 * len(make_batch(RECORDS))
CONFIG = {"segment_bytes": SEGMENT_BYTES}


async def opened(harness, batches, **config):
    log = await harness.open(**config)
    for number in range(batches):
        await append_durably(log, RECORDS, timestamp=1_000 + RECORDS * number)
    return log


def bases(log):
    return list(log.inspector.base_offsets())


async def test_it_reads_the_batch_that_it_begins_in_and_nothing_below(harness):
    log = await opened(harness, 3)
    log.cleanup.advance_log_start(7)
    assert [batch.base_offset for batch in await read_all(log)] == [5, 10]
    for offset in (0, 6):
        with pytest.raises(OffsetOutOfRangeError) as refused:
            await log.read(offset, max_bytes=1, limit=UNLIMITED)
        assert refused.value.members["log_start_offset"] == 7
    log.cleanup.advance_log_start(3)
    assert log.log_start_offset == 7


async def test_a_look_up_by_time_begins_with_the_batch_that_holds_its_offset(harness):
    log = await opened(harness, 4, **CONFIG)
    log.cleanup.advance_log_start(7)
    for sealed_too in (False, True):
        found = await log.find_timestamp(1_008, limit=UNLIMITED)
        assert found is not None, sealed_too
        assert found.base_offset == 5
        assert (await log.find_timestamp(1_008, limit=UNLIMITED, offset=10)).base_offset == 10
        await log.cleanup.remove_expired()
        log = await harness.reopen(log, **CONFIG)
        log.cleanup.advance_log_start(7)


async def test_the_segments_below_are_told_and_go(harness):
    log = await opened(harness, 5, **CONFIG)
    assert bases(log) == [0, 10, 20]
    told = log.cleanup.segments_below(12)
    assert (told.count, told.size_bytes > 0) == (1, True)
    assert log.cleanup.segments_below(25).count == 3
    log.cleanup.advance_log_start(12)
    assert await log.cleanup.remove_expired() == told
    assert bases(log) == [10, 20]
    assert log.cleanup.segments_below(12) == RemovedSegments()
    assert [batch.base_offset for batch in await read_all(log)] == [10, 15, 20]


@pytest.mark.parametrize(("start", "ends"), [(9, False), (10, True), (20, True)])
async def test_the_active_segment_ends_once_half_of_it_has_gone(harness, start, ends):
    """Trimmed all the time, a log must neither keep everything nor become one of tiny files."""
    log = await opened(harness, 4)
    log.cleanup.advance_log_start(start)
    assert log.cleanup.has_expired == ends
    removed = await log.cleanup.remove_expired()
    assert removed.count == (start == 20)
    assert bases(log) == ([20] if start == 20 else [0, 20] if ends else [0])
    assert not log.cleanup.has_expired
    await append_durably(log, RECORDS)
    log.cleanup.advance_log_start(22)
    await log.cleanup.remove_expired()
    assert log.log_start_offset == 22
    assert [batch.base_offset for batch in await read_all(log)] == [20]


async def test_a_log_that_ends_in_the_batch_that_it_began_in_begins_anew_at_its_start(harness):
    log = await opened(harness, 2)
    log.cleanup.advance_log_start(7)
    await log.truncate_to(8)
    assert (log.log_start_offset, log.next_offset, bases(log)) == (7, 7, [7])
    await append_durably(log, RECORDS)
    assert [batch.base_offset for batch in await read_all(log)] == [7]
