"""When a disk hangs: it neither takes what is written to it nor fails.

Every write that somebody waits for is counted from its beginning to its end. A disk hangs when the
oldest of them has been under way for the time-out and nothing has ended meanwhile: then it is not
this write that is long, nothing comes back. A write that is as old as STUCK_FACTOR time-outs counts
although others end, for a single file may be what hangs.

The clock is that of a process that looks: time in which nobody called moves it by MAX_STEP_MS at
most. A process that was suspended finds its writes old, but that was its own pause.

A disk that hung counts as hung until nothing has been overdue for SETTLE_MS, so that one that gives
back a write now and then does not call its broker back each time.
"""

MAX_STEP_MS = 500
"""How far the clock moves between two calls at most. Whoever uses this looks more often."""

SETTLE_MS = 1_000
"""How long no write may have been overdue before the disk counts as sound again."""

STUCK_FACTOR = 6
"""After so many time-outs a write counts as hung although others end; and a long one as hung at
all. Sealing a segment is long: its index is built in one step, in seconds where it is large."""


class DiskProgress:
    """The writes of one disk.

    Args:
        hang_timeout_ms: how long a write may be under way while nothing else ends.
    """

    def __init__(self, hang_timeout_ms: int) -> None:
        assert hang_timeout_ms > 0, hang_timeout_ms
        self._hang_timeout_ms = hang_timeout_ms
        # Time lived, on a clock of its own that begins at 0, and the caller's time it is of.
        self._lived_ms = 0
        self._seen_ms: int | None = None
        # By token: when it began, and after how long without any progress it is overdue. Ordered by
        # when they began.
        self._writes: dict[int, tuple[int, int]] = {}
        self._next_token = 0
        self._last_end_ms = 0
        self._settled_at_ms: int | None = None
        self.is_hung = False
        """As of the last `observe`."""

    def began(self, now_ms: int, *, is_long: bool = False) -> int:
        """A write begins; its token.

        Args:
            now_ms: a clock that never goes back.
            is_long: it may well take several time-outs, without anything else being written.
        """
        self._advance(now_ms)
        self._next_token += 1
        limit_ms = self._hang_timeout_ms * (STUCK_FACTOR if is_long else 1)
        self._writes[self._next_token] = (self._lived_ms, limit_ms)
        return self._next_token

    def ended(self, token: int, now_ms: int) -> None:
        """The write has ended, well or not: the disk answered."""
        self._advance(now_ms)
        del self._writes[token]
        self._last_end_ms = self._lived_ms

    def observe(self, now_ms: int) -> bool:
        """Whether the disk hangs now."""
        self._advance(now_ms)
        if any(self._is_overdue(*write) for write in self._writes.values()):
            self.is_hung = True
            self._settled_at_ms = None
        elif self.is_hung:
            if self._settled_at_ms is None:
                self._settled_at_ms = self._lived_ms + SETTLE_MS
            self.is_hung = self._lived_ms < self._settled_at_ms
        return self.is_hung

    def oldest_ms(self, now_ms: int) -> int:
        """How long the oldest write has been under way; 0 while there is none."""
        self._advance(now_ms)
        for began_ms, _ in self._writes.values():
            return self._lived_ms - began_ms
        return 0

    def _is_overdue(self, began_ms: int, limit_ms: int) -> bool:
        without_progress_ms = self._lived_ms - max(began_ms, self._last_end_ms)
        is_stuck = self._lived_ms - began_ms >= self._hang_timeout_ms * STUCK_FACTOR
        return is_stuck or without_progress_ms >= limit_ms

    def _advance(self, now_ms: int) -> None:
        if self._seen_ms is None:
            self._seen_ms = now_ms
        elif now_ms > self._seen_ms:
            self._lived_ms += min(now_ms - self._seen_ms, MAX_STEP_MS)
            self._seen_ms = now_ms
