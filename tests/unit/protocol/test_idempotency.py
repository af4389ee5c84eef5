"""Idempotency digests tell every request from every other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_protocol.idempotency import (
    DIGEST_BYTES,
    IDEMPOTENCY_BYTES,
    MAX_LINE_NUMBER,
    Idempotency,
    LineNumbers,
    idempotency_for,
    key_within,
    stream_idempotency,
)

request_parts = st.tuples(st.text(max_size=4), st.text(max_size=4), st.text(max_size=4))


def test_digests_are_stable():
    stored = idempotency_for("alice", "orders", "key-1", b"body").to_bytes()
    assert stored.hex() == ("9fda7bcada7488f0d6414aaee9e4c73806b721c380b2160c50903e9f6c636b28")
    assert len(stored) == IDEMPOTENCY_BYTES


@given(request_parts, request_parts)
def test_equal_key_digests_mean_the_same_principal_topic_and_key(one, other):
    same = idempotency_for(*one, b"").key_digest == idempotency_for(*other, b"").key_digest
    assert same == (one == other)


def test_moving_a_boundary_changes_the_digest():
    digests = {
        idempotency_for(*parts, b"").key_digest
        for parts in (("ab", "c", "d"), ("a", "bc", "d"), ("abc", "", "d"), ("", "abc", "d"))
    }
    assert len(digests) == 4


def test_the_body_digest_depends_on_the_body_alone():
    one = idempotency_for("a", "b", "c", b"body")
    assert one.body_digest == idempotency_for("x", "y", "z", b"body").body_digest
    assert one.body_digest != idempotency_for("a", "b", "c", b"body ").body_digest


def test_stored_form_reads_back():
    idempotency = idempotency_for("a", "b", "c", b"body")
    assert Idempotency.from_bytes(idempotency.to_bytes()) == idempotency


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_stored_form_of_another_size_is_refused(size):
    with pytest.raises(ValueError, match="32"):
        Idempotency.from_bytes(bytes(size))


def test_a_key_of_undecodable_header_bytes_has_a_digest():
    assert idempotency_for("a", "b", "\udcff", b"") != idempotency_for("a", "b", "\udcfe", b"")


def test_lines_of_a_stream_come_back_and_are_no_digest():
    for first, last in ((0, 0), (3, 2_000), (0, MAX_LINE_NUMBER)):
        found = LineNumbers.from_digest(LineNumbers(first, last).to_bytes())
        assert found == LineNumbers(first, last)
    assert LineNumbers.from_digest(bytes(DIGEST_BYTES)) is None
    assert LineNumbers.from_digest(idempotency_for("p", "t", "k", b"x").body_digest) is None
    backwards = LineNumbers(0, 1).to_bytes()[:4] + b"\x00" * 5 + b"\x02" + b"\x00" * 6
    assert LineNumbers.from_digest(backwards) is None


def test_a_stream_has_its_key_to_itself():
    def key_digest(split, key="k", topic="t"):
        return stream_idempotency("p", topic, key, split, LineNumbers(0, 1)).key_digest

    digests = {
        key_digest("3"),
        key_digest("4"),
        key_digest("path"),
        key_digest("3", key="l"),
        key_digest("3", topic="u"),
        idempotency_for("p", "t", "k", b"").key_digest,
    }
    assert len(digests) == 6
    later = stream_idempotency("p", "t", "k", "3", LineNumbers(5, 9))
    assert later.key_digest == key_digest("3")
    assert len(later.to_bytes()) == IDEMPOTENCY_BYTES


def test_a_key_is_another_one_in_each_transaction():
    keys = {key_within(token, "key-1") for token in (None, "7.0.a", "7.1.a", "7.0.b")}
    assert len(keys) == 4
    assert key_within(None, "key-1") == "key-1"


@given(st.text("ab.", max_size=4), st.text("ab.", max_size=4))
def test_no_two_pairs_of_transaction_and_key_share_a_key(token, key):
    assert key_within(token, key).split("\0") == ["", "transaction", token, key]
