"""Reading one partition's log: from memory where it is there, else from the segments.

A read holds the files' lock shared, and nothing else: appends, commits and rolls go on meanwhile.
"""

from collections.abc import Callable

from ottla_broker.storage.group_commit import GroupCommit
from ottla_broker.storage.log_files import LogFiles
from ottla_broker.storage.stored_batch import DamagedSegmentError, StoredBatch
from ottla_broker.storage.tail_cache import PartitionTail
from ottla_protocol.errors import OffsetOutOfRangeError

SKIPPED_BATCHES_MAX = 1_000
"""How many damaged batches of one segment are tried before the rest of it is given up."""


class LogReader:
    """What the log's readers see.

    Args:
        files: the segments.
        tail: the newest batches that are cached.
        commits: the batches that are not durable yet.
        next_offset: tells where the log ends, what is queued included.
    """

    def __init__(
        self,
        files: LogFiles,
        tail: PartitionTail,
        commits: GroupCommit,
        next_offset: Callable[[], int],
    ) -> None:
        self._files = files
        self._tail = tail
        self._commits = commits
        self._next_offset = next_offset

    def read_tail(
        self, offset: int, *, max_bytes: int, limit: int
    ) -> tuple[StoredBatch, ...] | None:
        """As `PartitionLog.read_tail`."""
        batches = self._tail.read(offset, max_bytes=max_bytes, limit=limit)
        if batches is None:
            batches = self._commits.read_pending(offset, max_bytes=max_bytes, limit=limit)
        return batches

    async def read(self, offset: int, *, max_bytes: int, limit: int) -> tuple[StoredBatch, ...]:
        """As `PartitionLog.read`."""
        async with self._files.lock.shared():
            self._require_in_range(offset)
            while offset < limit:
                batches = self.read_tail(offset, max_bytes=max_bytes, limit=limit)
                if batches is not None:
                    return batches
                batches, end_offset = await self._files.read(
                    offset,
                    max_bytes=max_bytes,
                    limit=limit,
                    durable_end=self._commits.durable_end,
                )
                if batches:
                    return batches
                # Nothing from `offset` to the segment's end: a gap, or the limit is in between.
                assert end_offset > offset, (end_offset, offset)
                offset = end_offset
            return ()

    async def find_timestamp(
        self, timestamp: int, *, limit: int, offset: int | None
    ) -> StoredBatch | None:
        """As `PartitionLog.find_timestamp`."""
        await self._commits.wait_durable(min(limit, self._next_offset()))
        async with self._files.lock.shared():
            start = max(offset or 0, self._files.log_start_offset)
            return await self._files.find_timestamp(timestamp, start, limit=limit)

    async def next_readable(self, offset: int) -> int:
        """As `PartitionLog.next_readable`: the log's durable end where nothing is.

        It looks at SKIPPED_BATCHES_MAX batches of a segment, then at the next segment.
        """
        async with self._files.lock.shared():
            offset = max(offset, self._files.log_start_offset)
            tries = 0
            while offset < self._commits.durable_end:
                try:
                    batches, end_offset = await self._files.read(
                        offset,
                        max_bytes=1,
                        limit=self._commits.durable_end,
                        durable_end=self._commits.durable_end,
                    )
                except DamagedSegmentError:
                    tries += 1
                    after = None
                    if tries % SKIPPED_BATCHES_MAX:
                        after = await self._files.next_base_offset(offset)
                    offset = (
                        after
                        if after is not None
                        else self._files.end_of_segment_at(offset, self._commits.durable_end)
                    )
                else:
                    if batches:
                        return max(offset, batches[0].base_offset)
                    offset = end_offset
            return offset

    def _require_in_range(self, offset: int) -> None:
        start, end = self._files.log_start_offset, self._next_offset()
        if not start <= offset <= end:
            raise OffsetOutOfRangeError(
                f"offset {offset} is outside [{start}, {end}]",
                log_start_offset=start,
                log_end_offset=end,
            )
