"""Looking up the aborted transactions of a range of offsets, in memory and in sealed segments.

The newest segment's are in memory, and nearly no segment has any. Of each sealed one it is known,
once it has been asked for, whether it has any, and where the oldest transaction begins that was
open at its base: a look-up ends before a segment that none of the range's transactions reach.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from ottla_broker.storage import segment as segments
from ottla_broker.storage.log_files import LogFiles
from ottla_broker.storage.log_state import LogState
from ottla_broker.storage.policy.abort_index import AbortIndex
from ottla_broker.storage.policy.open_transactions import AbortedTransaction
from ottla_broker.storage.segment import Segment
from ottla_broker.storage.segment_transactions import read_index

INDEXES_MAX: Final = 4
"""Sealed segments of one log whose aborted transactions are kept in memory, where they have any."""


class LogAborts:
    """The aborted transactions of one log.

    Args:
        files: its segments.
        state: as of its end.
    """

    def __init__(self, files: LogFiles, state: Callable[[], LogState]) -> None:
        self._files = files
        self._state = state
        # Those that hold an index, the one asked for last at the right.
        self._indexed: deque[Segment] = deque()

    def in_memory(self, from_offset: int, end_offset: int) -> tuple[AbortedTransaction, ...] | None:
        """As `PartitionLog.aborted_in_memory`."""
        found, missing = self._look(from_offset, end_offset)
        return found if missing is None else None

    async def find(self, from_offset: int, end_offset: int) -> tuple[AbortedTransaction, ...]:
        """As `PartitionLog.aborted_transactions`."""
        async with self._files.lock.shared():
            while True:
                found, missing = self._look(from_offset, end_offset)
                if missing is None:
                    return found
                await self._load(missing)

    def _look(
        self, from_offset: int, end_offset: int
    ) -> tuple[tuple[AbortedTransaction, ...], Segment | None]:
        """What is found, or the sealed segment of which more must be known first."""
        found: list[AbortedTransaction] = []
        active = self._files.active
        if from_offset < active.base_offset:
            for segment in self._files.sealed_from(from_offset):
                known = segment.aborts
                if known is None:
                    return (), segment
                is_behind = segment.base_offset >= end_offset
                if is_behind and not known.reaches_back_below(end_offset):
                    return tuple(found), None
                if known.aborted_count:
                    if known.aborted is None:
                        return (), segment
                    found.extend(known.aborted.touching(from_offset, end_offset))
        in_memory = self._state().transactions.aborted
        if in_memory:
            # What is sealed by now has been looked up in its file.
            from_offset = max(from_offset, active.base_offset)
            found.extend(in_memory.touching(from_offset, end_offset))
        return tuple(found), None

    async def _load(self, segment: Segment) -> None:
        if segment.aborts is None:
            segment.aborts = await self._files.run(
                segment, "look for aborted transactions", segments.read_aborts
            )
            return

        def read(connection: Any) -> AbortIndex:
            return read_index(connection, segment.path)

        index = await self._files.run(segment, "read aborted transactions", read)
        if len(self._indexed) >= INDEXES_MAX:
            oldest = self._indexed.popleft()
            if oldest.aborts is not None:
                oldest.aborts = oldest.aborts._replace(aborted=None)
        self._indexed.append(segment)
        segment.aborts = segment.aborts._replace(aborted=index)
