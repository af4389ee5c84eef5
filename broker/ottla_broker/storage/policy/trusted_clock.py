"""A wall clock that is believed only after it has proved itself.

Retention deletes by the wall clock, and what it has deleted is gone. A clock that jumps a month
ahead for a moment must not cost a month of records, so a jump counts only when it has lasted for an
hour of the monotonic clock, which gives people time to put it right. A clock that is set back is
believed at once: it only keeps records longer.

What was believed last outlives the process (`KnownTime`), so that a clock which is set ahead while
the broker is down is a jump like any other. So is the time that a machine was switched off: nobody
can tell the two apart, and an hour more or less matters to nobody then. The hour is one of running:
a broker that never runs for so long at a time gets through it all the same.
"""

from dataclasses import dataclass

CLOCK_JUMP_MS = 60_000
"""How far ahead of the monotonic clock the wall clock may be between two readings."""

CLOCK_JUMP_GRACE_MS = 60 * 60 * 1000
"""How long a jump ahead must last before it counts."""


@dataclass(frozen=True, slots=True)
class KnownTime:
    """What a process knew of the time when it was last asked."""

    trusted_ms: int
    ahead_for_ms: int = 0
    """How long the wall clock has been ahead of that; 0 where it is believed."""


class TrustedClock:
    """Corrects readings of the wall clock by those of the monotonic clock, both in ms.

    Args:
        wall_ms: believed, for want of anything better.
        monotonic_ms: read at the same time.
        known: by the process before, in place of `wall_ms`; None where there was none.
    """

    def __init__(self, wall_ms: int, monotonic_ms: int, known: KnownTime | None = None) -> None:
        self._trusted_ms = wall_ms if known is None else known.trusted_ms
        self._read_at_ms = monotonic_ms
        # Monotonic time since which the wall clock is ahead; None while it is not.
        self._ahead_since_ms: int | None = None
        if known is not None and known.ahead_for_ms:
            self._ahead_since_ms = monotonic_ms - known.ahead_for_ms

    @property
    def is_ahead(self) -> bool:
        """Whether the wall clock has jumped ahead and is not believed yet."""
        return self._ahead_since_ms is not None

    def read(self, wall_ms: int, monotonic_ms: int) -> int:
        """The time that may be relied on."""
        self._trusted_ms, self._ahead_since_ms = self._judged(wall_ms, monotonic_ms)
        self._read_at_ms = monotonic_ms
        return self._trusted_ms

    def known(self, wall_ms: int, monotonic_ms: int) -> KnownTime:
        """What is to be handed to the process after this one; that changes no later reading."""
        trusted_ms, since_ms = self._judged(wall_ms, monotonic_ms)
        return KnownTime(trusted_ms, 0 if since_ms is None else monotonic_ms - since_ms)

    def _judged(self, wall_ms: int, monotonic_ms: int) -> tuple[int, int | None]:
        """The time that may be relied on, and since when the wall clock is ahead of it."""
        expected_ms = self._trusted_ms + monotonic_ms - self._read_at_ms
        if wall_ms <= expected_ms + CLOCK_JUMP_MS:
            return wall_ms, None
        since_ms = monotonic_ms if self._ahead_since_ms is None else self._ahead_since_ms
        if monotonic_ms - since_ms >= CLOCK_JUMP_GRACE_MS:
            return wall_ms, None
        return expected_ms, since_ms
