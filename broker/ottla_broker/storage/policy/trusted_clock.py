"""A wall clock that is believed only after it has proved itself.

Retention deletes by the wall clock, and what it has deleted is gone. A clock that jumps a month
ahead for a moment must not cost a month of records, so a jump counts only when it has lasted for an
hour of the monotonic clock, which gives people time to put it right. A clock that is set back is
believed at once: it only keeps records longer.

What was believed last outlives the process (`KnownTime`), so that a clock which is set ahead while
the broker is down is a jump like any other. So is the time that a machine was switched off: nobody
can tell the two apart, and an hour more or less matters to nobody then. The hour is one of running:
a broker that never runs for so long at a time gets through it all the same.

An hour is that of one gap. After it the wall clock is believed by as much as it was ahead all the
time, and what it has gained meanwhile has an hour of its own.
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
    ahead_by_ms: int = 0
    """How far it was ahead for all that time."""


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
        # None while the wall clock is believed.
        self._gap: _Gap | None = None
        if known is not None and (known.ahead_for_ms or known.ahead_by_ms):
            self._gap = _Gap(monotonic_ms - known.ahead_for_ms, known.ahead_by_ms)

    @property
    def is_ahead(self) -> bool:
        """Whether the wall clock has jumped ahead and is not believed yet."""
        return self._gap is not None

    def read(self, wall_ms: int, monotonic_ms: int) -> int:
        """The time that may be relied on."""
        self._trusted_ms, self._gap = self._judged(wall_ms, monotonic_ms)
        self._read_at_ms = monotonic_ms
        return self._trusted_ms

    def known(self, wall_ms: int, monotonic_ms: int) -> KnownTime:
        """What is to be handed to the process after this one; that changes no later reading."""
        trusted_ms, gap = self._judged(wall_ms, monotonic_ms)
        if gap is None:
            return KnownTime(trusted_ms)
        return KnownTime(trusted_ms, monotonic_ms - gap.since_ms, gap.least_ms)

    def _judged(self, wall_ms: int, monotonic_ms: int) -> "tuple[int, _Gap | None]":
        """The time that may be relied on, and how the wall clock is ahead of it."""
        expected_ms = self._trusted_ms + monotonic_ms - self._read_at_ms
        ahead_ms = wall_ms - expected_ms
        if ahead_ms <= CLOCK_JUMP_MS:
            return wall_ms, None
        if self._gap is None:
            return expected_ms, _Gap(monotonic_ms, ahead_ms)
        gap = _Gap(self._gap.since_ms, min(self._gap.least_ms, ahead_ms))
        if monotonic_ms - gap.since_ms < CLOCK_JUMP_GRACE_MS:
            return expected_ms, gap
        if ahead_ms - gap.least_ms <= CLOCK_JUMP_MS:
            return wall_ms, None
        return expected_ms + gap.least_ms, _Gap(monotonic_ms, ahead_ms - gap.least_ms)


@dataclass(frozen=True, slots=True)
class _Gap:
    """How far the wall clock was ahead at least, since a monotonic time."""

    since_ms: int
    least_ms: int
