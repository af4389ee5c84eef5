"""How far a replica that is being added has come, as its leader sees it from the fetches.

Offsets are exact. Bytes that are still to be copied are estimated from the size of the log and the
part of its offsets that is missing, for nobody counts the bytes behind an offset. The rate is that
of the last RATE_WINDOW_MS, so that an estimate follows a changed throttle within that time.
"""

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

RATE_WINDOW_MS = 10_000
SAMPLE_INTERVAL_MS = 500
"""Between two samples of the window, which therefore has a bounded number of them."""


class _Sample(NamedTuple):
    at_ms: int
    copied_bytes: int
    offset: int


@dataclass(frozen=True, slots=True)
class CopyProgress:
    """What is known of one copy.

    Attributes:
        copied_bytes: sent by this leader in this leadership; a former leader's part is not known.
        copied_offsets: how far the replica is into the log, in offsets from the log's start.
        remaining_offsets: what it lacks of the log's present end.
        remaining_bytes: the same in bytes, estimated.
        bytes_per_second: of late; 0 where nothing was sent of late.
        remaining_seconds: at the rate of late, if nothing more is appended; None where nothing
            was sent of late, and 0 where nothing is missing.
    """

    copied_bytes: int
    copied_offsets: int
    remaining_offsets: int
    remaining_bytes: int
    bytes_per_second: int
    remaining_seconds: int | None


class CopyMeter:
    """One replica's copy of one partition.

    Args:
        offset: where its first fetch began.
        now_ms: when that was.
    """

    def __init__(self, offset: int, now_ms: int) -> None:
        self._copied_bytes = 0
        self._offset = offset
        self._samples: deque[_Sample] = deque([_Sample(now_ms, 0, offset)])

    def fetched(self, offset: int, now_ms: int) -> None:
        """A fetch came: all below `offset` is durable there. A log begun anew may go back."""
        self._offset = offset
        self._sample(now_ms)

    def sent(self, size_bytes: int) -> None:
        """So much was sent in answer."""
        self._copied_bytes += size_bytes

    def progress(
        self, *, log_start_offset: int, log_end_offset: int, log_bytes: int, now_ms: int
    ) -> CopyProgress:
        """Where the copy is now, in a log of that extent and size."""
        self._sample(now_ms)
        offset = min(max(self._offset, log_start_offset), log_end_offset)
        remaining_offsets = log_end_offset - offset
        total_offsets = log_end_offset - log_start_offset
        remaining_bytes = log_bytes * remaining_offsets // total_offsets if total_offsets else 0
        oldest = self._samples[0]
        elapsed_ms = max(1, now_ms - oldest.at_ms)
        rate = max(0, self._copied_bytes - oldest.copied_bytes) * 1000 // elapsed_ms
        remaining_seconds = None
        if remaining_offsets == 0:
            remaining_seconds = 0
        elif rate > 0:
            remaining_seconds = -(-remaining_bytes // rate)
        return CopyProgress(
            copied_bytes=self._copied_bytes,
            copied_offsets=offset - log_start_offset,
            remaining_offsets=remaining_offsets,
            remaining_bytes=remaining_bytes,
            bytes_per_second=rate,
            remaining_seconds=remaining_seconds,
        )

    def _sample(self, now_ms: int) -> None:
        if now_ms - self._samples[-1].at_ms >= SAMPLE_INTERVAL_MS:
            self._samples.append(_Sample(now_ms, self._copied_bytes, self._offset))
        # The oldest that is kept is the youngest that is at least as old as the window.
        while len(self._samples) > 1 and now_ms - self._samples[1].at_ms >= RATE_WINDOW_MS:
            self._samples.popleft()
