"""When a disk counts as hung (`storage.policy.disk_progress`)."""

from hypothesis import given
from hypothesis import strategies as st

from ottla_broker.storage.policy.disk_progress import (
    MAX_STEP_MS,
    SETTLE_MS,
    STUCK_FACTOR,
    DiskProgress,
)

TIMEOUT_MS = 5_000
STEP_MS = 100


class Looked:
    """A disk's progress that is looked at every STEP_MS."""

    def __init__(self):
        self.progress = DiskProgress(TIMEOUT_MS)
        self.now_ms = 1_000_000
        self.progress.observe(self.now_ms)

    def pass_time(self, duration_ms):
        """Whether it was hung at any look."""
        verdicts = []
        for _ in range(duration_ms // STEP_MS):
            self.now_ms += STEP_MS
            verdicts.append(self.progress.observe(self.now_ms))
        return any(verdicts)

    def begin(self, **options):
        return self.progress.began(self.now_ms, **options)

    def end(self, token):
        self.progress.ended(token, self.now_ms)


def test_a_write_that_does_not_end_within_the_timeout_means_that_the_disk_hangs():
    disk = Looked()
    disk.begin()
    assert not disk.pass_time(TIMEOUT_MS - STEP_MS)
    assert disk.pass_time(STEP_MS)
    assert disk.progress.oldest_ms(disk.now_ms) == TIMEOUT_MS


def test_an_idle_disk_never_hangs():
    disk = Looked()
    disk.end(disk.begin())
    assert not disk.pass_time(10 * TIMEOUT_MS)
    assert disk.progress.oldest_ms(disk.now_ms) == 0


def test_a_long_write_is_no_hang_while_others_end():
    disk = Looked()
    disk.begin()
    for _ in range(STUCK_FACTOR - 1):
        other = disk.begin()
        assert not disk.pass_time(TIMEOUT_MS - 2 * STEP_MS)
        disk.end(other)
        assert not disk.pass_time(STEP_MS)


def test_one_file_may_be_what_hangs():
    disk = Looked()
    disk.begin()
    hung_after_ms = 0
    while not disk.progress.is_hung:
        other = disk.begin()
        disk.pass_time(STEP_MS)
        disk.end(other)
        hung_after_ms += STEP_MS
    assert hung_after_ms == STUCK_FACTOR * TIMEOUT_MS


def test_what_is_long_by_its_nature_has_more_time():
    disk = Looked()
    disk.begin(is_long=True)
    assert not disk.pass_time(STUCK_FACTOR * TIMEOUT_MS - STEP_MS)
    assert disk.pass_time(STEP_MS)


def test_a_suspended_process_does_not_take_its_own_pause_for_the_disks():
    disk = Looked()
    disk.begin()
    disk.now_ms += 100 * TIMEOUT_MS
    assert not disk.progress.observe(disk.now_ms)
    assert disk.pass_time(TIMEOUT_MS - MAX_STEP_MS)


def test_a_disk_that_gives_back_a_write_now_and_then_stays_hung():
    disk = Looked()
    first = disk.begin()
    disk.pass_time(TIMEOUT_MS)
    disk.end(first)
    second = disk.begin()
    disk.pass_time(SETTLE_MS - STEP_MS)
    assert disk.progress.is_hung
    disk.pass_time(2 * STEP_MS)
    assert not disk.progress.is_hung
    assert disk.pass_time(TIMEOUT_MS)
    disk.end(second)


@st.composite
def histories(draw):
    """Writes with their beginnings and lengths, in steps of a look; None for one that hangs."""
    return draw(
        st.lists(
            st.tuples(st.integers(0, 300), st.one_of(st.none(), st.integers(0, 400))), max_size=12
        )
    )


@given(histories())
def test_it_hangs_exactly_when_the_rule_says_so(writes):
    """Against the rule, worked out from the whole history at each look."""
    progress = DiskProgress(TIMEOUT_MS)
    progress.observe(0)
    tokens = {}
    sound_since = 0
    for step in range(1, 420):
        now_ms = step * STEP_MS
        for number, (begins, length) in enumerate(writes):
            if length is not None and begins + length == step and number in tokens:
                progress.ended(tokens.pop(number), now_ms)
            if begins == step and length != 0:
                tokens[number] = progress.began(now_ms)
        ends = [b + n for b, n in writes if n and b > 0 and b + n <= step]
        last_end = max(ends, default=0)
        overdue = any(
            0 < begins <= step
            and (length is None or (length and begins + length > step))
            and (
                (step - max(begins, last_end)) * STEP_MS >= TIMEOUT_MS
                or (step - begins) * STEP_MS >= STUCK_FACTOR * TIMEOUT_MS
            )
            for begins, length in writes
        )
        was_hung = progress.is_hung
        is_hung = progress.observe(now_ms)
        if overdue:
            assert is_hung
            sound_since = None
        elif was_hung:
            sound_since = now_ms if sound_since is None else sound_since
            assert is_hung == (now_ms - sound_since < SETTLE_MS)
        else:
            assert not is_hung
