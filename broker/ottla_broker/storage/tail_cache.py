"""The newest batches in memory, for followers and consumers that read at the log's end.

Almost every read of a healthy cluster asks for what was just appended, so one byte budget is
shared by all partitions, and the batch that was appended longest ago, anywhere, goes first. Each
partition's cached batches are therefore always a suffix of its log without holes. A batch that is
not yet durable is also in the group commit's queue, so eviction here never makes it unreadable.
"""

from bisect import bisect_left
from collections import OrderedDict

from ottla_broker.storage.stored_batch import StoredBatch

TAIL_CACHE_BYTES = 64 * 1024 * 1024
"""Default budget of one broker."""

_COMPACT_AFTER = 256


class TailCache:
    """The byte budget and the order of eviction, shared by all partitions of a broker."""

    def __init__(self, limit_bytes: int = TAIL_CACHE_BYTES) -> None:
        assert limit_bytes >= 0, limit_bytes
        self.limit_bytes = limit_bytes
        self.size_bytes = 0
        self._sequence = 0
        # Invariant: one entry per cached batch, in order of insertion over all partitions.
        self._owners: OrderedDict[int, PartitionTail] = OrderedDict()

    def partition(self) -> "PartitionTail":
        """A new, empty view for one partition."""
        return PartitionTail(self)

    def admit(self, owner: "PartitionTail", size_bytes: int) -> int:
        """Account for a batch that `owner` has added; returns the entry's sequence number."""
        self._sequence += 1
        self._owners[self._sequence] = owner
        self.size_bytes += size_bytes
        return self._sequence

    def evict_over_limit(self) -> None:
        """Evict the oldest batches of any partition until the budget holds."""
        while self.size_bytes > self.limit_bytes:
            _, owner = self._owners.popitem(last=False)
            self.size_bytes -= owner.evict_oldest()

    def forget(self, sequence: int, size_bytes: int) -> None:
        """Account for a batch that its owner has dropped itself."""
        del self._owners[sequence]
        self.size_bytes -= size_bytes


class BatchRun:
    """Consecutive batches of one log, found by offset.

    Invariant: `base_offset` rises; entries before `_head` are gone and await compaction.
    """

    __slots__ = ("_batches", "_head", "_last_offsets")

    def __init__(self) -> None:
        self._batches: list[StoredBatch | None] = []
        self._last_offsets: list[int] = []
        self._head = 0

    def __len__(self) -> int:
        return len(self._batches) - self._head

    def append(self, batch: StoredBatch) -> None:
        """Add the newest batch."""
        self._batches.append(batch)
        self._last_offsets.append(batch.last_offset)

    def first(self) -> StoredBatch | None:
        """The oldest batch, None when empty."""
        return self._batches[self._head] if self._head < len(self._batches) else None

    def last(self) -> StoredBatch | None:
        """The newest batch, None when empty."""
        return self._batches[-1] if self._head < len(self._batches) else None

    def pop_first(self) -> StoredBatch:
        """Drop the oldest batch."""
        batch = self._batches[self._head]
        assert batch is not None
        self._batches[self._head] = None
        self._head += 1
        if self._head >= _COMPACT_AFTER and self._head * 2 >= len(self._batches):
            del self._batches[: self._head]
            del self._last_offsets[: self._head]
            self._head = 0
        return batch

    def pop_last(self) -> StoredBatch:
        """Drop the newest batch."""
        assert len(self) > 0
        self._last_offsets.pop()
        batch = self._batches.pop()
        assert batch is not None
        return batch

    def read(self, offset: int, *, max_bytes: int, limit: int) -> tuple[StoredBatch, ...]:
        """Whole batches from the one that holds `offset` on, or the next one above a gap.

        Args:
            offset: where to begin.
            max_bytes: most bytes in all, but at least one batch.
            limit: only batches whose last offset is below it.
        """
        index = bisect_left(self._last_offsets, offset, lo=self._head)
        result: list[StoredBatch] = []
        size_bytes = 0
        while index < len(self._batches):
            batch = self._batches[index]
            assert batch is not None
            size_bytes += len(batch.data)
            if batch.last_offset >= limit or (result and size_bytes > max_bytes):
                break
            result.append(batch)
            index += 1
        return tuple(result)


class PartitionTail:
    """One partition's cached batches: the suffix of its log from `start_offset` on.

    Invariant: `start_offset` is at most the base offset of every cached batch and above the last
    offset of every batch that is not cached; an empty tail begins at the log's end.
    """

    def __init__(self, cache: TailCache) -> None:
        self._cache = cache
        self._run = BatchRun()
        self._sequences: OrderedDict[int, None] = OrderedDict()
        self.start_offset = 0

    def append(self, batch: StoredBatch) -> None:
        """Add the log's newest batch; may evict older ones, here or elsewhere."""
        self._run.append(batch)
        self._sequences[self._cache.admit(self, len(batch.data))] = None
        self._cache.evict_over_limit()

    def evict_oldest(self) -> int:
        """Called by the cache alone: drop the oldest batch; returns its size in bytes."""
        self._sequences.popitem(last=False)
        batch = self._run.pop_first()
        self.start_offset = batch.last_offset + 1
        return len(batch.data)

    def drop_below(self, offset: int) -> None:
        """Drop every batch that ends below `offset`."""
        while (first := self._run.first()) is not None and first.last_offset < offset:
            sequence = next(iter(self._sequences))
            self._cache.forget(sequence, self.evict_oldest())

    def truncate_to(self, offset: int) -> None:
        """Drop every batch that reaches `offset`."""
        while (last := self._run.last()) is not None and last.last_offset >= offset:
            self._run.pop_last()
            sequence, _ = self._sequences.popitem(last=True)
            self._cache.forget(sequence, len(last.data))
        if len(self._run) == 0:
            self.start_offset = offset

    def reset(self, start_offset: int) -> None:
        """Drop everything; the log is empty in memory and ends at `start_offset`."""
        self.truncate_to(-1)
        self.start_offset = start_offset

    def read(self, offset: int, *, max_bytes: int, limit: int) -> tuple[StoredBatch, ...] | None:
        """As BatchRun.read; None when batches from `offset` on are not all cached."""
        if offset < self.start_offset:
            return None
        return self._run.read(offset, max_bytes=max_bytes, limit=limit)
