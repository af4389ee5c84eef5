"""How late the event loop is: whatever blocks it stops Raft, heartbeats and every client.

A timer that fires late is all the evidence. Most lags are of no account, so what an operator needs
beside the histogram is the worst one lately, and a line in the log for each that was long enough to
matter. The line tells how much of it was this process's own work: a machine that gave it no time,
or a stopped process, looks the same from inside.
"""

import time
from collections.abc import Callable

import structlog

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.telemetry import METRICS

BLOCKED_LOOP_MS = 250
"""From which lag on a line is logged: half of the shortest election timeout."""

WINDOW_MS = 30_000
"""The maximum is that of the present and the former span of this length."""

log = structlog.get_logger()


class LagMaximum:
    """The largest lag within the last WINDOW_MS to twice that: two numbers, whatever the rate."""

    def __init__(self) -> None:
        self._window: int | None = None
        self._present_ms = 0
        self._former_ms = 0

    def observe(self, lag_ms: int, now_ms: int) -> int:
        """Take a lag into account; the maximum in milliseconds."""
        window = now_ms // WINDOW_MS
        if window != self._window:
            follows = self._window is not None and window == self._window + 1
            self._former_ms = self._present_ms if follows else 0
            self._present_ms = 0
            self._window = window
        self._present_ms = max(self._present_ms, lag_ms)
        return max(self._present_ms, self._former_ms)


def _busy_ms() -> int:
    return time.thread_time_ns() // 1_000_000


class EventLoopLag:
    """Measures one event loop; call `begin` before a sleep and `end` after it.

    Args:
        clock_ms: a clock that never jumps.
        busy_ms: processor time of the event loop's thread.
    """

    def __init__(
        self,
        *,
        clock_ms: Callable[[], int] = monotonic_ms,
        busy_ms: Callable[[], int] = _busy_ms,
    ) -> None:
        self._clock_ms = clock_ms
        self._read_busy_ms = busy_ms
        self._maximum = LagMaximum()
        self._due_ms = 0
        self._busy_ms = 0

    def begin(self, sleep_ms: int) -> None:
        """A sleep of that length begins now."""
        self._due_ms = self._clock_ms() + sleep_ms
        self._busy_ms = self._read_busy_ms()

    def end(self) -> None:
        """It ended: export how late."""
        now_ms = self._clock_ms()
        lag_ms = max(0, now_ms - self._due_ms)
        METRICS.event_loop_lag_seconds.observe(lag_ms / 1000)
        METRICS.event_loop_lag_max_seconds.set(self._maximum.observe(lag_ms, now_ms) / 1000)
        if lag_ms >= BLOCKED_LOOP_MS:
            METRICS.event_loop_blocks.inc()
            busy_ms = self._read_busy_ms() - self._busy_ms
            log.warning("event_loop_blocked", blocked_ms=lag_ms, busy_ms=busy_ms)
