"""What the partition remembers of requests with an Idempotency-Key."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_broker.storage.policy.idempotency_window import (
    UNKNOWN_OFFSET,
    IdempotencyWindow,
    StoredRequest,
)
from ottla_protocol.errors import (
    DuplicateSequenceNumberError,
    IdempotencyKeyReusedError,
    Outcome,
)
from ottla_protocol.idempotency import LineNumbers


def stored(offset, *, body=b"body", seen_ms=0):
    return StoredRequest(body, offset, offset, timestamp=0, seen_ms=seen_ms)


def keys(window):
    return [key for key, _ in window.entries()]


def test_a_repeated_request_finds_the_first_answer():
    window = IdempotencyWindow()
    window.remember(b"a", stored(4), 0)
    assert window.find(b"a", b"body") == stored(4)
    assert window.find(b"b", b"body") is None


def test_the_same_key_with_another_body_is_refused():
    window = IdempotencyWindow()
    window.remember(b"a", stored(4), 0)
    with pytest.raises(IdempotencyKeyReusedError) as raised:
        window.find(b"a", b"other")
    assert raised.value.outcome is Outcome.NOT_APPLIED


def test_the_oldest_entry_goes_when_there_are_too_many():
    window = IdempotencyWindow(entries_max=2)
    for number, key in enumerate((b"a", b"b", b"c")):
        window.remember(key, stored(number), 0)
    assert keys(window) == [b"b", b"c"]


def test_entries_go_when_they_are_as_old_as_the_window():
    window = IdempotencyWindow(window_ms=100)
    window.remember(b"a", stored(0), 0)
    window.remember(b"b", stored(1), 99)
    assert len(window) == 2
    window.remember(b"c", stored(2), 100)
    assert keys(window) == [b"b", b"c"]
    window.expire(10_000)
    assert len(window) == 0


def test_the_wall_clock_makes_nothing_older():
    """It jumps: one from next year must not make retries that are on their way new requests."""
    window = IdempotencyWindow(window_ms=100)
    window.remember(b"a", stored(0, seen_ms=0), 0)
    window.remember(b"b", stored(1, seen_ms=2**60), 1)
    window.remember(b"c", stored(2, seen_ms=-(2**60)), 2)
    assert keys(window) == [b"a", b"b", b"c"]
    window.remember(b"d", stored(3, seen_ms=-(2**60)), 100)
    assert keys(window) == [b"b", b"c", b"d"]


def test_a_bound_that_is_lower_than_at_the_last_start_holds_with_the_next_request():
    window = IdempotencyWindow(entries_max=2)
    window.load([(b"%d" % number, stored(number)) for number in range(5)], 0)
    window.remember(b"a", stored(5), 0)
    assert keys(window) == [b"4", b"a"]


def test_a_key_stored_again_counts_as_new():
    window = IdempotencyWindow(entries_max=2)
    for number, key in enumerate((b"a", b"b", b"a", b"c")):
        window.remember(key, stored(number), 0)
    assert keys(window) == [b"a", b"c"]


def test_a_snapshot_restores_everything_in_order():
    window = IdempotencyWindow()
    window.remember(b"b", stored(0), 0)
    window.remember(b"a", stored(1), 0)
    restored = IdempotencyWindow(window_ms=100)
    restored.load(window.entries(), 5_000)
    assert restored.entries() == window.entries()
    restored.expire(5_099)
    assert keys(restored) == [b"b", b"a"]
    restored.expire(5_100)
    assert keys(restored) == []


def lines(first, last):
    return LineNumbers(first, last).to_bytes()


class TestLinesOfAStream:
    def test_lines_behind_what_is_there_are_new(self):
        window = IdempotencyWindow()
        assert window.find(b"s", lines(0, 4)) is None
        window.remember(b"s", stored(0, body=lines(0, 4)), 0)
        assert window.find(b"s", lines(5, 9)) is None
        assert window.find(b"s", lines(7, 9)) is None

    def test_lines_that_are_there_are_found_with_offsets_of_the_last_batch_only(self):
        window = IdempotencyWindow()
        window.remember(b"s", stored(10, body=lines(5, 9)), 0)
        for first in (0, 5, 8, 9):
            assert window.find(b"s", lines(first, 9)) == stored(10, body=lines(5, 9))
        for first, last in ((0, 4), (5, 8), (6, 6)):
            assert window.find(b"s", lines(first, last)).base_offset == UNKNOWN_OFFSET
            assert window.find(b"s", lines(first, last)).last_offset == 10

    def test_lines_that_are_there_in_part_are_refused_with_their_bound(self):
        window = IdempotencyWindow()
        window.remember(b"s", stored(10, body=lines(5, 9)), 0)
        with pytest.raises(DuplicateSequenceNumberError) as raised:
            window.find(b"s", lines(9, 10))
        assert raised.value.members == {"last_line": 9}
        assert raised.value.outcome is Outcome.NOT_APPLIED

    def test_a_body_is_no_lines(self):
        window = IdempotencyWindow()
        window.remember(b"s", stored(10, body=b"x" * 16), 0)
        with pytest.raises(IdempotencyKeyReusedError):
            window.find(b"s", lines(0, 1))
        window.remember(b"s", stored(10, body=lines(0, 1)), 0)
        with pytest.raises(IdempotencyKeyReusedError):
            window.find(b"s", b"x" * 16)

    def test_only_the_last_batch_takes_room(self):
        window = IdempotencyWindow(entries_max=2)
        window.remember(b"a", stored(0), 0)
        for number in range(9):
            window.remember(b"s", stored(number, body=lines(number, number)), 0)
        assert keys(window) == [b"a", b"s"]

    @given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 6)), max_size=12))
    def test_whatever_is_sent_again_each_line_is_stored_once_and_in_order(self, batches):
        """A producer may go back as far as it likes, and cut its batches elsewhere each time."""
        window, log = IdempotencyWindow(), []
        for back, size in batches:
            first = max(0, len(log) - back)
            pending = [(first, first + size - 1)]
            while pending:
                low, high = pending.pop()
                try:
                    if window.find(b"s", lines(low, high)) is None:
                        request = StoredRequest(
                            lines(low, high), len(log), len(log) + high - low, 0, 0
                        )
                        log += range(low, high + 1)
                        window.remember(b"s", request, 0)
                except DuplicateSequenceNumberError as error:
                    last = error.members["last_line"]
                    pending += [(last + 1, high), (low, last)]
            assert log == list(range(len(log)))
            assert len(log) >= first + size
