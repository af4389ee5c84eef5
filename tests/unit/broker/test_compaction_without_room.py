"""Compaction needs room for what it writes before it gives any back."""

from types import SimpleNamespace

import pytest

from ottla_broker.drivers.log_compaction import RETRY_INTERVAL_MS, LogCompactionTask
from ottla_broker.storage.disk_full import DiskFullError
from ottla_broker.storage.log_compactor import CompactionLimits
from tests.unit.broker.disks import RESERVE_BYTES, DiskOf

NEEDED_BYTES = 1000


class CompactedPartition:
    """A partition whose log has something to compact, once, and asks for room as logs do."""

    key = ("id", 0)
    name = "orders-0"

    def __init__(self, needed_bytes):
        self.compactions = 0
        self.needed_bytes = needed_bytes
        self.log = SimpleNamespace(config=SimpleNamespace(compaction=object()), failure=None)

    async def compact(self, now_ms, limits):
        if not limits.has_room(self.needed_bytes):
            raise DiskFullError("no room")
        self.compactions += 1


class Compaction:
    """The task over one partition, on a disk and with a clock that the test holds."""

    def __init__(self, *, free_bytes, needed_bytes=NEEDED_BYTES):
        self.now_ms = 0
        self.disk = DiskOf(free_bytes)
        self.partition = CompactedPartition(needed_bytes)
        self.task = LogCompactionTask(
            replicas=SimpleNamespace(partitions={self.partition.key: self.partition}),
            interval_ms=1,
            limits=CompactionLimits(has_room=self.disk.has_room_to_replace),
            on_failure=lambda error: pytest.fail(str(error)),
            trusted_ms=lambda: self.now_ms,
            steady_ms=lambda: self.now_ms,
        )

    async def look(self):
        await self.task.compact_all()
        return self.partition.compactions


async def test_a_log_is_left_alone_while_what_is_written_of_it_has_no_room():
    compaction = Compaction(free_bytes=RESERVE_BYTES // 2 + NEEDED_BYTES - 1)
    assert await compaction.look() == 0
    compaction.disk.free_bytes = RESERVE_BYTES // 2 + NEEDED_BYTES
    await compaction.disk.sample()
    assert await compaction.look() == 0
    compaction.now_ms += RETRY_INTERVAL_MS
    assert await compaction.look() == 1


async def test_a_small_log_needs_little_room_also_of_a_disk_that_counts_as_full():
    compaction = Compaction(free_bytes=RESERVE_BYTES // 2 + 100, needed_bytes=100)
    await compaction.disk.sample()
    assert compaction.disk.is_full
    assert await compaction.look() == 1
