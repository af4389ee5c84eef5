"""The task that compacts what is due, and who may not hold it up."""

import pytest

from ottla_broker.drivers.log_compaction import RETRY_INTERVAL_MS, LogCompactionTask
from ottla_broker.storage.log_compactor import CompactionLimits, CompactionResult
from ottla_broker.storage.log_config import LogConfig
from ottla_broker.storage.policy.compaction import CompactionConfig
from ottla_broker.storage.policy.trusted_clock import CLOCK_JUMP_GRACE_MS, TrustedClock
from ottla_broker.storage.segment_compaction import CompactionCounts
from ottla_broker.storage.stored_batch import DamagedSegmentError
from ottla_broker.telemetry import METRICS
from ottla_protocol.errors import StorageError, UnavailableError

LIMITS = CompactionLimits()
COMPACTED = CompactionConfig()
MONTH_MS = 30 * 24 * 3_600_000


def result(*, is_complete=True):
    counts = CompactionCounts(superseded=3, tombstones_removed=2, without_key=1)
    return CompactionResult(10, is_complete, 4, 1, 1_000, 400, counts)


class FakeLog:
    def __init__(self, compaction):
        self.config = LogConfig(compaction=compaction)
        self.failure = None
        self.size_bytes = 100


class FakePartition:
    def __init__(self, name, *results, compaction=COMPACTED):
        self.name = self.key = name
        self.log = FakeLog(compaction)
        self.results = list(results)
        self.asked = []

    async def compact(self, now_ms, limits):
        assert limits is LIMITS
        self.asked.append(now_ms)
        found = self.results.pop(0) if self.results else None
        if isinstance(found, Exception):
            raise found
        return found


class Clocks:
    wall_ms = steady_ms = 1_000_000


def task_of(clocks, *partitions):
    trusted = TrustedClock(clocks.wall_ms, clocks.steady_ms)

    class Replicas:
        pass

    replicas = Replicas()
    replicas.partitions = {partition.key: partition for partition in partitions}
    return LogCompactionTask(
        replicas=replicas,
        interval_ms=1,
        limits=LIMITS,
        on_failure=pytest.fail,
        trusted_ms=lambda: trusted.read(clocks.wall_ms, clocks.steady_ms),
        steady_ms=lambda: clocks.steady_ms,
    )


def metric(name, **labels):
    return METRICS.registry.get_sample_value(f"ottla_{name}_total", labels) or 0


async def test_every_compacted_log_is_looked_at_and_no_other():
    compacted, other = FakePartition("a"), FakePartition("b", compaction=None)
    await task_of(Clocks(), compacted, other).compact_all()
    assert (len(compacted.asked), other.asked) == (1, [])


async def test_a_log_with_more_keys_than_memory_is_compacted_in_steps_and_counted():
    names = ("compactions", "compaction_bytes_before", "compaction_bytes_after")
    before = [metric(name) for name in names]
    superseded = metric("compacted_records", reason="superseded")
    partition = FakePartition("a", result(is_complete=False), result())
    await task_of(Clocks(), partition).compact_all()
    assert len(partition.asked) == 2
    assert [metric(name) - was for name, was in zip(names, before, strict=True)] == [2, 2_000, 800]
    assert metric("compacted_records", reason="superseded") - superseded == 6


@pytest.mark.parametrize(
    ("error", "reason"),
    [(DamagedSegmentError("a bit"), "damage"), (StorageError("no room"), "storage")],
)
async def test_a_log_that_cannot_be_compacted_holds_up_no_other_and_is_tried_again(error, reason):
    clocks = Clocks()
    before = metric("compaction_errors", reason=reason)
    bad, good = FakePartition("a", error), FakePartition("b")
    task = task_of(clocks, bad, good)
    await task.compact_all()
    await task.compact_all()
    assert (len(bad.asked), len(good.asked)) == (1, 2)
    assert metric("compaction_errors", reason=reason) == before + 1
    clocks.steady_ms += RETRY_INTERVAL_MS
    await task.compact_all()
    assert (len(bad.asked), len(good.asked)) == (2, 3)


async def test_a_log_that_is_closed_or_truncated_is_left_for_the_next_time():
    partition = FakePartition("a", UnavailableError("closed"))
    task = task_of(Clocks(), partition)
    await task.compact_all()
    await task.compact_all()
    assert len(partition.asked) == 2


async def test_a_log_that_failed_ends_the_task():
    partition = FakePartition("a", StorageError("the disk"))
    partition.log.failure = StorageError("the disk")
    with pytest.raises(StorageError):
        await task_of(Clocks(), partition).compact_all()


async def test_a_clock_that_jumps_ahead_does_not_end_the_time_of_tombstones():
    clocks = Clocks()
    partition = FakePartition("a")
    task = task_of(clocks, partition)
    clocks.wall_ms += MONTH_MS
    await task.compact_all()
    clocks.steady_ms += CLOCK_JUMP_GRACE_MS
    await task.compact_all()
    assert partition.asked == [1_000_000, 1_000_000 + MONTH_MS]
