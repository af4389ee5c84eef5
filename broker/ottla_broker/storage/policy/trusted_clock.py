"""A wall clock that is believed only after it has proved itself.

Retention deletes by the wall clock, and what it has deleted is gone. A clock that jumps a month
ahead for a moment must not cost a month of records, so a jump counts only when it has lasted for an
hour of the monotonic clock, which gives people time to put it right. A clock that is set back is
believed at once: it only keeps records longer.
"""

CLOCK_JUMP_MS = 60_000
"""How far ahead of the monotonic clock the wall clock may be between two readings."""

CLOCK_JUMP_GRACE_MS = 60 * 60 * 1000
"""How long a jump ahead must last before it counts."""


class TrustedClock:
    """Corrects readings of the wall clock by those of the monotonic clock, both in ms.

    Args:
        wall_ms: believed, for want of anything better.
        monotonic_ms: read at the same time.
    """

    def __init__(self, wall_ms: int, monotonic_ms: int) -> None:
        self._trusted_ms = wall_ms
        self._read_at_ms = monotonic_ms
        # Monotonic time since which the wall clock is ahead; None while it is not.
        self._ahead_since_ms: int | None = None

    @property
    def is_ahead(self) -> bool:
        """Whether the wall clock has jumped ahead and is not believed yet."""
        return self._ahead_since_ms is not None

    def read(self, wall_ms: int, monotonic_ms: int) -> int:
        """The time that may be relied on."""
        expected_ms = self._trusted_ms + monotonic_ms - self._read_at_ms
        if wall_ms <= expected_ms + CLOCK_JUMP_MS:
            self._ahead_since_ms = None
        elif self._ahead_since_ms is None:
            self._ahead_since_ms = monotonic_ms
        elif monotonic_ms - self._ahead_since_ms >= CLOCK_JUMP_GRACE_MS:
            self._ahead_since_ms = None
        self._trusted_ms = expected_ms if self.is_ahead else wall_ms
        self._read_at_ms = monotonic_ms
        return self._trusted_ms
