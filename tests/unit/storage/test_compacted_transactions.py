"""What compaction leaves of transactions."""

from ottla_protocol.control_records import EndMarker
from ottla_protocol.record_batch import read_header
from tests.unit.storage.compaction_harness import ALWAYS, compact, put, values_of
from tests.unit.storage.log_harness import read_all

COMMIT, ABORT = EndMarker(True, 0), EndMarker(False, 0)
DELETE_RETENTION_MS = 100
CONFIG = {
    "compaction": ALWAYS._replace(delete_retention_ms=DELETE_RETENTION_MS),
    "segment_bytes": 1 << 20,
}


async def write(log, *pairs, producer_id=7, epoch=0):
    return await put(log, *pairs, producer=(producer_id, epoch, -1), transactional=True)


async def end(log, marker, *, producer_id=7, epoch=1):
    info = log.append_marker(
        marker, producer_id=producer_id, producer_epoch=epoch, leader_epoch=0, now_ms=5
    )
    await log.wait_durable(info.next_offset)


async def seal(log):
    log._appender.roll()
    await put(log, ("end", 0))


async def shape(log):
    """(base offset, records, whether it is a marker) of every batch."""
    headers = [read_header(batch.data) for batch in await read_all(log)]
    return [(each.base_offset, each.record_count, each.is_control) for each in headers]


async def aborted_of(log):
    return await log.aborted_transactions(0, log.next_offset)


async def test_records_of_an_aborted_transaction_go_and_count_for_nothing(harness):
    log = await harness.open(**CONFIG)
    await put(log, ("a", 1), ("b", 1))
    await write(log, ("a", 2), ("c", 2))
    await end(log, ABORT)
    await write(log, ("b", 3), epoch=1)
    await end(log, COMMIT, epoch=2)
    await seal(log)
    result = await compact(log)
    assert await values_of(log) == [(0, "a", "1"), (5, "b", "3"), (7, "end", "0")]
    assert (result.counts.aborted, result.counts.superseded) == (2, 1)
    assert [each[0] for each in await shape(log) if each[2]] == [4, 6]


async def test_nothing_above_the_last_stable_offset_is_compacted(harness):
    log = await harness.open(**CONFIG | {"segment_bytes": 1})
    await put(log, ("a", 1))
    await put(log, ("a", 2))
    await write(log, ("a", 3))
    await put(log, ("a", 4))
    await put(log, ("b", 1))
    await compact(log)
    assert [value[0] for value in await values_of(log)] == [1, 2, 3, 4]
    await end(log, COMMIT)
    await compact(log, high_watermark=5)
    assert [value[0] for value in await values_of(log)] == [1, 2, 3, 4]
    await put(log, ("b", 2))
    await compact(log)
    assert [value[0] for value in await values_of(log)] == [3, 4, 6]


async def test_a_marker_behind_the_compacted_part_hides_the_records_in_it(harness):
    log = await harness.open(**CONFIG)
    await put(log, ("a", 1))
    await write(log, ("a", 2))
    await put(log, ("b", 1))
    await seal(log)
    await end(log, ABORT)
    await compact(log)
    assert await values_of(log) == [(0, "a", "1"), (2, "b", "1"), (3, "end", "0")]


async def test_a_marker_goes_a_while_after_its_records(harness):
    log = await harness.open(**CONFIG)
    await put(log, ("first of its epoch", 0))
    await write(log, ("a", 1))
    await end(log, ABORT)
    await write(log, ("a", 2), epoch=1)
    await end(log, COMMIT, epoch=2)
    await write(log, ("a", 3), epoch=2)
    await end(log, COMMIT, epoch=3)
    await seal(log)
    markers = []
    for now_ms in (1_000, 1_001, 1_100, 1_101, 1_102):
        log._compactor._progress = None
        (log.directory / "compaction.json").unlink(missing_ok=True)
        await compact(log, now_ms=now_ms)
        markers.append([offset for offset, _, is_control in await shape(log) if is_control])
    # First the records go; then nothing of them is met; then the time is up. The newest stays.
    assert markers == [[2, 4, 6], [2, 4, 6], [2, 4, 6], [6], [6]]
    assert (await values_of(log))[1:] == [(5, "a", "3"), (7, "end", "0")]


async def test_an_aborted_transaction_that_is_gone_is_none_after_a_restart(harness):
    log = await harness.open(**CONFIG)
    await put(log, ("first of its epoch", 0))
    await write(log, ("a", 1))
    await end(log, ABORT)
    await write(log, ("b", 1), producer_id=8)
    await end(log, ABORT, producer_id=8)
    await seal(log)
    assert [each.producer_id for each in await aborted_of(log)] == [7, 8]
    await compact(log)
    log = await harness.reopen(log, **CONFIG)
    assert await aborted_of(log) == ()
    assert log.last_stable_offset(6) == 6
    assert [offset for offset, _, is_control in await shape(log) if is_control] == [2, 4]


async def test_a_follower_of_a_compacted_log_has_no_transaction_open(harness):
    """Also of a segment that begins within one, in whatever order files become one."""
    log = await harness.open(**CONFIG | {"segment_bytes": 1})
    await put(log, ("a", 1))
    await write(log, ("a", 2))
    await write(log, ("b", 2), producer_id=8)
    await end(log, ABORT)
    await end(log, COMMIT, producer_id=8)
    await put(log, ("a", 3), ("b", 3))
    await put(log, ("z", 0))
    for segment_bytes in (1, 1 << 20):
        log.reconfigure(log.config.__class__(**CONFIG | {"segment_bytes": segment_bytes}))
        for now_ms in (0, 1, DELETE_RETENTION_MS + 1, DELETE_RETENTION_MS + 2):
            log._compactor._progress = None
            (log.directory / "compaction.json").unlink(missing_ok=True)
            await compact(log, now_ms=now_ms)
            follower = await harness.open(
                harness.root / f"follower-{segment_bytes}-{now_ms}", **CONFIG
            )
            follower.append_as_follower(await read_all(log))
            await follower.wait_durable(follower.next_offset)
            assert follower.open_transactions() == ()
            assert await values_of(follower) == await values_of(log)


async def test_retention_waits_for_a_transaction_to_be_over(harness):
    log = await harness.open(segment_bytes=1, retention_bytes=0)
    await put(log, ("a", 1))
    await write(log, ("b", 1))
    await put(log, ("c", 1))
    await log.cleanup.enforce_retention(high_watermark=3, now_ms=0)
    assert log.log_start_offset == 1
    await end(log, COMMIT)
    await log.cleanup.enforce_retention(high_watermark=3, now_ms=0)
    assert log.log_start_offset == 1
    await log.cleanup.enforce_retention(high_watermark=4, now_ms=0)
    assert log.log_start_offset == 3
