"""Looking up the aborted transactions of a range of offsets, in memory and in sealed segments.

The newest segment's are in memory, and nearly no segment has any. Of each sealed one it is known,
once it has been asked for, whether it has any, and where the oldest transaction begins that was
open at its base: a look-up ends before a segment that none of the range's transactions reach.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from ottla_broker.storage.log_files import LogFiles
from ottla_broker.storage.log_state import LogState
from ottla_broker.storage.policy.abort_index import AbortIndex
from ottla_broker.storage.policy.open_transactions import AbortedTransaction
from ottla_broker.storage.segment import Segment
from ottla_broker.storage.segment_aborts import SegmentAborts, read_aborts
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
        found: list[AbortedTransaction] = []
        start = from_offset
        while start < self._files.active.base_offset:
            segment, start = self._files.sealed_at(start)
            known = segment.aborts
            if known is None:
                return None
            if _is_behind(segment, known, end_offset):
                return tuple(found)
            if known.aborted_count:
                if known.aborted is None:
                    return None
                found.extend(known.aborted.touching(from_offset, end_offset))
        self._add_newest(found, from_offset, end_offset)
        return tuple(found)

    async def find(self, from_offset: int, end_offset: int) -> tuple[AbortedTransaction, ...]:
        """As `PartitionLog.aborted_transactions`."""
        found: list[AbortedTransaction] = []
        start = from_offset
        async with self._files.lock.shared():
            # The writer may seal the newest segment meanwhile: then that is looked up, too.
            while start < self._files.active.base_offset:
                segment, start = self._files.sealed_at(start)
                known = await self._known(segment)
                if _is_behind(segment, known, end_offset):
                    return tuple(found)
                if known.aborted_count:
                    aborted = known.aborted or await self._load(segment, known)
                    found.extend(aborted.touching(from_offset, end_offset))
            self._add_newest(found, from_offset, end_offset)
        return tuple(found)

    def _add_newest(
        self, found: list[AbortedTransaction], from_offset: int, end_offset: int
    ) -> None:
        aborted = self._state().transactions.aborted
        if aborted:
            # What is sealed by now has been looked up in its file.
            from_offset = max(from_offset, self._files.active.base_offset)
            found.extend(aborted.touching(from_offset, end_offset))

    async def _known(self, segment: Segment) -> SegmentAborts:
        if segment.aborts is None:
            segment.aborts = await self._files.run(
                segment, "look for aborted transactions", read_aborts
            )
        return segment.aborts

    async def _load(self, segment: Segment, known: SegmentAborts) -> AbortIndex:
        aborted = await self._files.run(
            segment, "read aborted transactions", partial(read_index, path=segment.path)
        )
        if len(self._indexed) >= INDEXES_MAX:
            oldest = self._indexed.popleft()
            if oldest.aborts is not None:
                oldest.aborts = oldest.aborts._replace(aborted=None)
        self._indexed.append(segment)
        segment.aborts = known._replace(aborted=aborted)
        return aborted


def _is_behind(segment: Segment, known: SegmentAborts, end_offset: int) -> bool:
    """Whether neither this segment nor one behind it has the marker of records below an offset."""
    return segment.base_offset >= end_offset and not known.reaches_back_below(end_offset)
