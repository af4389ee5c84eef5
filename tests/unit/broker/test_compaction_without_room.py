"""Compaction needs room for what it writes before it gives any back."""

from types import SimpleNamespace

import pytest

from ottla_broker.drivers.log_compaction import RETRY_INTERVAL_MS, LogCompactionTask
from ottla_broker.storage.log_compactor import CompactionLimits
from tests.unit.broker.disks import RESERVE_BYTES, DiskOf

SEGMENT_BYTES = 1000


class CompactedPartition:
    """A partition whose log has something to compact, once."""

    key = ("id", 0)
    name = "orders-0"

    def __init__(self, size_bytes):
        self.compactions = 0
        self.log = SimpleNamespace(
            config=SimpleNamespace(compaction=object(), segment_bytes=SEGMENT_BYTES),
            size_bytes=size_bytes,
            failure=None,
        )

    async def compact(self, now_ms, limits):
        self.compactions += 1


class Compaction:
    """The task over one partition, on a disk and with a clock that the test holds."""

    def __init__(self, *, free_bytes, size_bytes):
        self.now_ms = 0
        self.disk = DiskOf(free_bytes)
        self.partition = CompactedPartition(size_bytes)
        self.task = LogCompactionTask(
            replicas=SimpleNamespace(partitions={self.partition.key: self.partition}),
            interval_ms=1,
            limits=CompactionLimits(),
            has_room=self.disk.has_room_to_replace,
            on_failure=lambda error: pytest.fail(str(error)),
            steady_ms=lambda: self.now_ms,
        )

    async def look(self):
        await self.task.compact_all()
        return self.partition.compactions


@pytest.mark.parametrize("size_bytes", [SEGMENT_BYTES, 100 * SEGMENT_BYTES])
async def test_a_log_is_left_alone_while_one_segment_of_it_has_no_room(size_bytes):
    compaction = Compaction(
        free_bytes=RESERVE_BYTES // 2 + SEGMENT_BYTES - 1, size_bytes=size_bytes
    )
    assert await compaction.look() == 0
    compaction.disk.free_bytes = RESERVE_BYTES // 2 + SEGMENT_BYTES
    await compaction.disk.sample()
    assert await compaction.look() == 0
    compaction.now_ms += RETRY_INTERVAL_MS
    assert await compaction.look() == 1


async def test_a_small_log_needs_little_room_also_of_a_disk_that_counts_as_full():
    compaction = Compaction(free_bytes=RESERVE_BYTES // 2 + 100, size_bytes=100)
    await compaction.disk.sample()
    assert compaction.disk.is_full
    assert await compaction.look() == 1
