from hypothesis import given
from hypothesis import strategies as st

from ottla_broker.storage.policy.disk_space import (
    RELAPSE_FACTOR,
    RESUME_AFTER_MAX_MS,
    RESUME_AFTER_MS,
    DiskSpace,
    filled,
    fits,
    observed,
    resume_bytes,
)

RESERVE = 1000
LOOKS = st.lists(st.tuples(st.integers(-10, 3000), st.integers(0, 5000)), max_size=40)


@given(LOOKS)
def test_it_is_full_below_the_reserve_and_empties_only_after_room_for_a_while(looks):
    space, now_ms, room_since_ms = DiskSpace(), 0, None
    for available, passed_ms in looks:
        now_ms += passed_ms
        before = space
        space = observed(space, available, reserve_bytes=RESERVE, now_ms=now_ms)
        if available < RESERVE:
            assert space.is_full
        if available < resume_bytes(RESERVE):
            room_since_ms = None
        elif room_since_ms is None and before.is_full:
            room_since_ms = now_ms
        if before.is_full and not space.is_full:
            assert now_ms - room_since_ms >= RESUME_AFTER_MS
            room_since_ms = None
        if not before.is_full and space.is_full:
            assert available < RESERVE


@given(LOOKS)
def test_it_changes_at_most_once_in_the_time_that_room_must_last(looks):
    """Leaderships move with it, so it must not flap however the free space does."""
    space, now_ms, last_filled_ms = DiskSpace(), 0, None
    for available, passed_ms in looks:
        now_ms += passed_ms
        before = space
        space = observed(space, available, reserve_bytes=RESERVE, now_ms=now_ms)
        if space.is_full and not before.is_full:
            last_filled_ms = now_ms
        if before.is_full and not space.is_full:
            assert now_ms - last_filled_ms >= RESUME_AFTER_MS


def test_a_disk_that_fills_up_again_at_once_waits_longer_each_time_and_not_for_ever():
    space, now_ms, waits = DiskSpace(), 0, []
    for _ in range(9):
        space = filled(space, now_ms=now_ms)
        waits.append(space.resume_after_ms)
        space = observed(space, 10 * RESERVE, reserve_bytes=RESERVE, now_ms=now_ms)
        now_ms += space.resume_after_ms
        space = observed(space, 10 * RESERVE, reserve_bytes=RESERVE, now_ms=now_ms)
        assert not space.is_full
    assert waits[:3] == [RESUME_AFTER_MS, 2 * RESUME_AFTER_MS, 4 * RESUME_AFTER_MS]
    assert waits[-1] == RESUME_AFTER_MAX_MS
    now_ms += RELAPSE_FACTOR * RESUME_AFTER_MAX_MS
    assert filled(space, now_ms=now_ms).resume_after_ms == RESUME_AFTER_MS


@given(st.booleans(), st.integers(-10, 5000), st.integers(0, 3000), st.booleans())
def test_what_fits_leaves_the_reserve(is_full, available, size_bytes, is_internal):
    if fits(
        DiskSpace(is_full=is_full),
        available,
        size_bytes,
        reserve_bytes=RESERVE,
        is_internal=is_internal,
    ):
        assert available - 2 * size_bytes >= (RESERVE // 2 if is_internal else RESERVE)
        assert is_internal or not is_full
