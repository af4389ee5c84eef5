"""The event loop's lag: what is exported, and what is worth a line in the log."""

import structlog
from hypothesis import given
from hypothesis import strategies as st

from ottla_broker.drivers.event_loop_lag import (
    BLOCKED_LOOP_MS,
    WINDOW_MS,
    EventLoopLag,
    LagMaximum,
)
from ottla_broker.telemetry import METRICS


class Clock:
    now_ms = 1_000
    busy_ms = 0


def lag_under_test(clock):
    return EventLoopLag(clock_ms=lambda: clock.now_ms, busy_ms=lambda: clock.busy_ms)


def test_a_blocked_loop_has_a_line_that_tells_for_how_long_and_how_much_was_its_own_work():
    clock = Clock()
    lag = lag_under_test(clock)
    with structlog.testing.capture_logs() as lines:
        lag.begin(100)
        clock.now_ms += 100 + BLOCKED_LOOP_MS - 1
        lag.end()
        assert lines == []
        lag.begin(100)
        clock.now_ms += 100 + BLOCKED_LOOP_MS
        clock.busy_ms += 7
        lag.end()
    assert lines == [
        {
            "event": "event_loop_blocked",
            "log_level": "warning",
            "blocked_ms": BLOCKED_LOOP_MS,
            "busy_ms": 7,
        }
    ]
    assert METRICS.event_loop_lag_max_seconds._value.get() == BLOCKED_LOOP_MS / 1000


def test_the_lag_is_that_beyond_the_sleep():
    clock = Clock()
    lag = lag_under_test(clock)
    with structlog.testing.capture_logs() as lines:
        lag.begin(10 * BLOCKED_LOOP_MS)
        clock.now_ms += 10 * BLOCKED_LOOP_MS
        lag.end()
    assert lines == []


@given(st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 2 * WINDOW_MS)), max_size=50))
def test_the_maximum_covers_the_last_window_and_forgets_within_two(observations):
    maximum = LagMaximum()
    seen = []
    now_ms = 0
    for lag_ms, passed_ms in observations:
        now_ms += passed_ms
        seen.append((now_ms, lag_ms))
        told = maximum.observe(lag_ms, now_ms)
        assert told >= max(lag for at_ms, lag in seen if now_ms - at_ms < WINDOW_MS)
        assert told <= max(lag for at_ms, lag in seen if now_ms - at_ms < 2 * WINDOW_MS)
