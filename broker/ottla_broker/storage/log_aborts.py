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
from ottla_broker.storage.policy.open_transactions import AbortedTransaction
from ottla_broker.storage.segment import Segment
from ottla_broker.storage.segment_aborts import SegmentAborts, read_aborts
from ottla_broker.storage.segment_transactions import read_index, rebuilt_aborts
from ottla_broker.storage.stored_batch import DamagedSegmentError

INDEXES_MAX: Final = 4
"""Sealed segments of one log whose aborted transactions are kept in memory, where they have any."""


class LogAborts:
    """The aborted transactions of one log.

    Args:
        files: its segments.
        state: as of its end.
        on_damage: told of damage that costs nothing here, because a segment's batches are whole.
    """

    def __init__(
        self,
        files: LogFiles,
        state: Callable[[], LogState],
        on_damage: Callable[[DamagedSegmentError], None],
    ) -> None:
        self._files = files
        self._state = state
        self._on_damage = on_damage
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
                try:
                    known = await self._known(segment)
                    if known.aborted_count and not _is_behind(segment, known, end_offset):
                        known = await self._with_index(segment, known)
                except DamagedSegmentError as error:
                    known = await self._rebuilt(segment, error)
                if _is_behind(segment, known, end_offset):
                    return tuple(found)
                if known.aborted is not None:
                    found.extend(known.aborted.touching(from_offset, end_offset))
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

    async def _with_index(self, segment: Segment, known: SegmentAborts) -> SegmentAborts:
        if known.aborted is not None:
            return known
        aborted = await self._files.run(
            segment, "read aborted transactions", partial(read_index, path=segment.path)
        )
        return self._keep(segment, known._replace(aborted=aborted))

    async def _rebuilt(self, segment: Segment, damage: DamagedSegmentError) -> SegmentAborts:
        """Go on without the damaged table, once its damage is told."""
        self._on_damage(damage)
        known = await self._files.run(
            segment, "look for aborted transactions", partial(rebuilt_aborts, path=segment.path)
        )
        return self._keep(segment, known)

    def _keep(self, segment: Segment, known: SegmentAborts) -> SegmentAborts:
        """Keep a segment's index in memory, in the place of the one that was asked for first."""
        if len(self._indexed) >= INDEXES_MAX:
            oldest = self._indexed.popleft()
            if oldest.aborts is not None:
                oldest.aborts = oldest.aborts._replace(aborted=None)
        self._indexed.append(segment)
        segment.aborts = known
        return known


def _is_behind(segment: Segment, known: SegmentAborts, end_offset: int) -> bool:
    """Whether neither this segment nor one behind it has the marker of records below an offset."""
    return segment.base_offset >= end_offset and not known.reaches_back_below(end_offset)
