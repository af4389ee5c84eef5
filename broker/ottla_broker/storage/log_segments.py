"""Which segments one log has, which of them holds an offset, and where the log begins.

All of it is in memory. `LogFiles` reads, writes and takes away what is known here.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from ottla_broker.storage.log_config import RemovedSegments
from ottla_broker.storage.segment import Segment


class LogSegments:
    """The segments of one log, oldest first; the last one is active, all others are sealed.

    Args:
        recovered: the segments that recovery found; never empty.
    """

    def __init__(self, recovered: Sequence[Segment]) -> None:
        assert recovered
        # Invariant: base offsets rise; all but the last are sealed; empty only under the lock.
        self._segments = list(recovered)
        # Oldest first; nobody reads them any more, and their files are to be removed.
        self._expired: list[Segment] = []
        # Never below the first segment; above it while files wait for their removal, or where
        # segments are cut at other offsets than the leader's.
        self._log_start_offset = recovered[0].base_offset

    @property
    def log_start_offset(self) -> int:
        """The first offset that is kept."""
        return self._log_start_offset

    @property
    def size_bytes(self) -> int:
        """File bytes of sealed segments and batch bytes of the active one."""
        return sum(segment.size_bytes for segment in self._segments)

    @property
    def active(self) -> Segment:
        """The segment that is written."""
        return self._segments[-1]

    @property
    def segments(self) -> tuple[Segment, ...]:
        """All of them, oldest first."""
        return tuple(self._segments)

    def __len__(self) -> int:
        return len(self._segments)

    # --- looking one up -----------------------------------------------------------------------

    def at(self, offset: int, *, durable_end: int) -> tuple[Segment, int]:
        """The segment that holds `offset`, and where it ends: the active one at `durable_end`."""
        index = self._index_of(offset)
        is_last = index + 1 == len(self._segments)
        end_offset = durable_end if is_last else self._segments[index + 1].base_offset
        return self._segments[index], end_offset

    def end_of_segment_at(self, offset: int, durable_end: int) -> int:
        """Where the segment that holds `offset` ends."""
        return self.at(offset, durable_end=durable_end)[1]

    def from_offset(self, offset: int) -> tuple[Segment, ...]:
        """The segment that holds `offset`, and all that follow."""
        return tuple(self._segments[self._index_of(offset) :])

    def _index_of(self, offset: int) -> int:
        """The segment that holds `offset`: the last one that does not begin above it."""
        index = bisect_right(self._segments, offset, key=lambda segment: segment.base_offset) - 1
        assert index >= 0, (offset, self.log_start_offset)
        return index

    def sealed_at(self, offset: int) -> tuple[Segment, int]:
        """The sealed segment that holds `offset`, or the first one, and where it ends.

        For an offset below the active segment.
        """
        index = bisect_right(self._segments, offset, key=lambda segment: segment.base_offset) - 1
        index = max(index, 0)
        return self._segments[index], self._segments[index + 1].base_offset

    def sealed_segments(self) -> list[tuple[Segment, int]]:
        """All segments but the active one, each with the offset that it ends at."""
        return [(segment, after.base_offset) for segment, after in pairwise(self._segments)]

    def has_all(self, segments: Sequence[Segment]) -> bool:
        """Whether these are still segments of this log, and sealed."""
        known = {id(segment) for segment in self._segments[:-1]}
        return all(id(segment) in known and segment.sealed for segment in segments)

    def holds(self, path: Path) -> bool:
        """Whether a segment of this name is one of the log's."""
        return any(segment.path == path for segment in self._segments)

    # --- the log's beginning ------------------------------------------------------------------

    def advance_log_start(self, offset: int) -> None:
        """Let nobody read below `offset` any more; the files go with `forget_expired`."""
        self._log_start_offset = max(self._log_start_offset, offset)

    @property
    def has_expired(self) -> bool:
        """Whether a sealed segment lies wholly below the log's start."""
        return self._expired != [] or self._first_has_expired

    @property
    def _first_has_expired(self) -> bool:
        return len(self._segments) > 1 and self._segments[1].base_offset <= self._log_start_offset

    def segments_below(self, offset: int, *, next_offset: int) -> RemovedSegments:
        """How much would go if the log began at `offset`; it ends at `next_offset`."""
        ends = (*(segment.base_offset for segment in self._segments[1:]), next_offset)
        going = [
            segment.size_bytes
            for segment, end in zip(self._segments, ends, strict=True)
            if segment.base_offset < end <= offset
        ]
        return RemovedSegments(len(going), sum(going))

    def forget_expired(self) -> None:
        """Give up the segments below the log's start; the lock is held exclusively.

        `LogFiles.remove_expired` comes next.
        """
        while self._first_has_expired:
            self._expired.append(self._segments.pop(0))
