"""What the partition remembers of requests with an Idempotency-Key."""

import pytest

from ottla_broker.storage.policy.idempotency_window import IdempotencyWindow, StoredRequest
from ottla_protocol.errors import IdempotencyKeyReusedError, Outcome


def stored(offset, *, body=b"body", seen_ms=0):
    return StoredRequest(body, offset, offset, timestamp=0, seen_ms=seen_ms)


def test_a_repeated_request_finds_the_first_answer():
    window = IdempotencyWindow()
    window.remember(b"a", stored(4))
    assert window.find(b"a", b"body") == stored(4)
    assert window.find(b"b", b"body") is None


def test_the_same_key_with_another_body_is_refused():
    window = IdempotencyWindow()
    window.remember(b"a", stored(4))
    with pytest.raises(IdempotencyKeyReusedError) as raised:
        window.find(b"a", b"other")
    assert raised.value.outcome is Outcome.NOT_APPLIED


def test_the_oldest_entry_goes_when_there_are_too_many():
    window = IdempotencyWindow(entries_max=2)
    for number, key in enumerate((b"a", b"b", b"c")):
        window.remember(key, stored(number))
    assert [key for key, _ in window.entries()] == [b"b", b"c"]


def test_entries_go_when_they_are_as_old_as_the_window():
    window = IdempotencyWindow(window_ms=100)
    window.remember(b"a", stored(0, seen_ms=0))
    window.remember(b"b", stored(1, seen_ms=99))
    assert len(window) == 2
    window.remember(b"c", stored(2, seen_ms=100))
    assert [key for key, _ in window.entries()] == [b"b", b"c"]
    window.expire(10_000)
    assert len(window) == 0


def test_a_key_stored_again_counts_as_new():
    window = IdempotencyWindow(entries_max=2)
    for number, key in enumerate((b"a", b"b", b"a", b"c")):
        window.remember(key, stored(number))
    assert [key for key, _ in window.entries()] == [b"a", b"c"]


def test_a_snapshot_restores_everything_in_order():
    window = IdempotencyWindow()
    window.remember(b"b", stored(0))
    window.remember(b"a", stored(1))
    restored = IdempotencyWindow()
    restored.load(window.entries())
    assert restored.entries() == window.entries()
