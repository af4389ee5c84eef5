"""Which segments go, when an idle one is sealed, and which clock is believed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_broker.storage.policy.retention import (
    NEVER,
    RetentionLimits,
    SealedSegment,
    active_must_roll,
    may_go,
)
from ottla_broker.storage.policy.rolling import SegmentFill
from ottla_broker.storage.policy.trusted_clock import (
    CLOCK_JUMP_GRACE_MS,
    CLOCK_JUMP_MS,
    KnownTime,
    TrustedClock,
)

OLDEST = SealedSegment(end_offset=10, size_bytes=100, newest_timestamp=1_000)
HOUR_MS = 3_600_000


def goes(limits, *, log_bytes=1_000, high_watermark=10, now_ms=1_000):
    return may_go(OLDEST, limits, log_bytes=log_bytes, high_watermark=high_watermark, now_ms=now_ms)


def test_without_bounds_nothing_goes():
    assert not goes(RetentionLimits(NEVER, NEVER), log_bytes=1 << 60, now_ms=1 << 60)


@pytest.mark.parametrize(("now_ms", "expected"), [(1_050, False), (1_051, True), (0, False)])
def test_the_age_of_a_segment_is_that_of_its_newest_record(now_ms, expected):
    assert goes(RetentionLimits(retention_ms=50), now_ms=now_ms) is expected


@pytest.mark.parametrize(("log_bytes", "expected"), [(599, False), (600, True), (100, False)])
def test_a_log_keeps_at_least_retention_bytes(log_bytes, expected):
    assert goes(RetentionLimits(retention_bytes=500), log_bytes=log_bytes) is expected


def test_nothing_above_the_high_watermark_goes():
    limits = RetentionLimits(0, 0)
    assert goes(limits, high_watermark=10, now_ms=1 << 60)
    assert not goes(limits, high_watermark=9, now_ms=1 << 60)


@given(
    sizes=st.lists(st.integers(1, 1_000), max_size=20),
    active_bytes=st.integers(0, 1_000),
    retention_bytes=st.integers(0, 5_000),
)
def test_as_much_goes_as_may_and_no_more(sizes, active_bytes, retention_bytes):
    left = list(sizes)
    while left and may_go(
        SealedSegment(0, left[0], 0),
        RetentionLimits(retention_bytes=retention_bytes),
        log_bytes=sum(left) + active_bytes,
        high_watermark=0,
        now_ms=0,
    ):
        left.pop(0)
    kept = sum(left) + active_bytes
    assert kept >= retention_bytes or left == sizes
    assert not left or kept - left[0] < retention_bytes


@pytest.mark.parametrize(
    ("active", "retention_ms", "now_ms", "expected"),
    [
        (SegmentFill(), 50, 1 << 60, False),
        (SegmentFill(9, 1, 100, 120), 50, 170, False),
        (SegmentFill(9, 1, 100, 120), 50, 171, True),
        (SegmentFill(9, 1, 100, 120), 5_000, 599, False),
        (SegmentFill(9, 1, 100, 120), 5_000, 600, True),
        (SegmentFill(9, 1, 100, 120), NEVER, 1 << 60, False),
        (SegmentFill(9, 1, -1, -1), 50, 1 << 60, False),
        (SegmentFill(9, 2, -1, 120), 5_000, 619, False),
        (SegmentFill(9, 2, -1, 120), 5_000, 620, True),
    ],
)
def test_an_idle_active_segment_is_sealed_when_it_is_due(active, retention_ms, now_ms, expected):
    limits = RetentionLimits(retention_ms)
    assert active_must_roll(active, limits, segment_ms=500, now_ms=now_ms) is expected


def test_a_clock_that_runs_evenly_is_believed():
    clock = TrustedClock(1_000, 0)
    for elapsed in (10, 5_000, 10 * HOUR_MS):
        assert clock.read(1_000 + elapsed, elapsed) == 1_000 + elapsed
    assert not clock.is_ahead


def test_a_jump_ahead_counts_only_after_an_hour():
    clock = TrustedClock(0, 0)
    jump = 30 * 24 * HOUR_MS
    assert clock.read(jump, 0) == 0
    assert clock.is_ahead
    almost = CLOCK_JUMP_GRACE_MS - 1
    assert clock.read(jump + almost, almost) == almost
    assert clock.read(jump + almost + 1, almost + 1) == jump + almost + 1
    assert not clock.is_ahead


def test_a_jump_that_is_put_right_is_forgotten():
    clock = TrustedClock(0, 0)
    clock.read(HOUR_MS, 10)
    assert clock.read(20, 20) == 20
    assert not clock.is_ahead
    # The hour begins anew with the next one.
    clock.read(9 * HOUR_MS, HOUR_MS)
    assert clock.is_ahead
    later = 2 * HOUR_MS - 1
    assert clock.read(9 * HOUR_MS + later, later) == later


MONTH_MS = 30 * 24 * HOUR_MS


def test_a_clock_that_was_set_ahead_between_two_processes_has_jumped():
    known = TrustedClock(0, 0).known(5_000, 5_000)
    clock = TrustedClock(MONTH_MS, 70, known)
    assert clock.read(MONTH_MS, 70) == 5_000
    assert clock.is_ahead
    assert clock.read(MONTH_MS + HOUR_MS - 1, 70 + HOUR_MS - 1) == 5_000 + HOUR_MS - 1
    assert clock.read(MONTH_MS + HOUR_MS, 70 + HOUR_MS) == MONTH_MS + HOUR_MS


def test_a_process_that_begins_soon_after_the_one_before_believes_the_clock():
    known = TrustedClock(0, 0).known(5_000, 5_000)
    clock = TrustedClock(5_000 + CLOCK_JUMP_MS, 9, known)
    assert clock.read(5_000 + CLOCK_JUMP_MS, 9) == 5_000 + CLOCK_JUMP_MS
    assert not clock.is_ahead


def test_the_hour_goes_on_in_the_process_after():
    """A month between two runs of a quarter of an hour: a gap is believed after four of them."""
    known, ran = KnownTime(0), HOUR_MS // 4
    for run in range(1, 5):
        wall_ms = run * MONTH_MS
        clock = TrustedClock(wall_ms, 0, known)
        assert clock.read(wall_ms, 0) == (run - 1) * ran
        assert clock.is_ahead
        known = clock.known(wall_ms + ran, ran)
    assert known.trusted_ms == MONTH_MS + HOUR_MS
    for run in range(5, 9):
        clock = TrustedClock(run * MONTH_MS, 0, known)
        known = clock.known(run * MONTH_MS + ran, ran)
    assert 3 * MONTH_MS < known.trusted_ms < 5 * MONTH_MS


def test_a_jump_in_the_hour_of_another_has_an_hour_of_its_own():
    down_ms = 2 * CLOCK_JUMP_MS
    clock = TrustedClock(down_ms, 0, KnownTime(0))
    assert clock.read(down_ms, 0) == 0
    wall_ms = MONTH_MS + down_ms
    assert clock.read(wall_ms + HOUR_MS - 1, HOUR_MS - 1) == HOUR_MS - 1
    assert clock.read(wall_ms + HOUR_MS, HOUR_MS) == down_ms + HOUR_MS
    assert clock.is_ahead
    later = 2 * HOUR_MS - 1
    assert clock.read(wall_ms + later, later) == down_ms + later
    assert clock.read(wall_ms + later + 1, later + 1) == wall_ms + later + 1
    assert not clock.is_ahead


def test_so_has_a_jump_between_two_processes_in_the_hour_of_another():
    down_ms, ran = 2 * CLOCK_JUMP_MS, HOUR_MS - 1
    clock = TrustedClock(down_ms, 0, KnownTime(0))
    clock.read(down_ms, 0)
    known = clock.known(down_ms + ran, ran)
    assert known == KnownTime(ran, ahead_for_ms=ran, ahead_by_ms=down_ms)
    wall_ms = MONTH_MS + down_ms + ran
    clock = TrustedClock(wall_ms, 0, known)
    assert clock.read(wall_ms + 1, 1) == down_ms + ran + 1
    assert clock.read(wall_ms + HOUR_MS, HOUR_MS) == down_ms + ran + HOUR_MS
    assert clock.read(wall_ms + HOUR_MS + 1, HOUR_MS + 1) == wall_ms + HOUR_MS + 1


def test_what_was_put_right_within_the_hour_was_not_ahead_for_all_of_it():
    clock = TrustedClock(0, 0)
    clock.read(MONTH_MS, 0)
    clock.read(2 * HOUR_MS, 1)
    assert clock.read(MONTH_MS + HOUR_MS, HOUR_MS) == 3 * HOUR_MS - 1
    assert clock.is_ahead


def test_an_hour_of_a_version_that_did_not_tell_the_gap_believes_nothing_by_itself():
    clock = TrustedClock(MONTH_MS, 0, KnownTime(0, ahead_for_ms=HOUR_MS))
    assert clock.read(MONTH_MS, 0) == 0
    assert clock.read(MONTH_MS + HOUR_MS, HOUR_MS) == MONTH_MS + HOUR_MS


def test_what_is_known_for_the_next_process_is_read_without_being_believed():
    clock = TrustedClock(0, 0)
    for step in range(1, 9):
        # Each step alone would be small enough; between two readings they are one jump.
        clock.known(step * CLOCK_JUMP_MS, step)
    assert clock.read(9 * CLOCK_JUMP_MS, 10) == 10


def test_a_clock_that_was_wrong_in_the_process_before_is_put_right():
    known = KnownTime(MONTH_MS, ahead_for_ms=9)
    clock = TrustedClock(50, 0, known)
    assert clock.read(50, 0) == 50
    assert not clock.is_ahead


def test_a_clock_that_is_set_back_is_believed_at_once():
    clock = TrustedClock(10 * HOUR_MS, 0)
    assert clock.read(HOUR_MS, 5) == HOUR_MS
    assert clock.read(HOUR_MS + CLOCK_JUMP_MS + 5, 10) == HOUR_MS + CLOCK_JUMP_MS + 5
    assert clock.read(10 * HOUR_MS, 15) < 2 * HOUR_MS
