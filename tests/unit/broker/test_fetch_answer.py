"""The parts of a fetch's answer, joined by the connection, give back what was answered."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_broker.drivers.peer_messages import (
    FetchResult,
    ReplicaFetchRequest,
    ReplicatedBatch,
    decode_fetch_answer,
    encode,
    encode_fetch_answer,
)
from ottla_cluster.replication.fetch_session import NO_SESSION, NO_SESSION_EPOCH

OFFSETS = st.integers(-1, 2**63 - 1)

BATCHES = st.builds(
    ReplicatedBatch,
    st.binary(min_size=1, max_size=100),
    st.none() | st.binary(min_size=32, max_size=32),
)

RESULTS = st.builds(
    FetchResult,
    topic_id=st.text("0123456789abcdef", min_size=32, max_size=32),
    partition=st.integers(0, 2**31 - 1),
    error_code=st.none() | st.just("FENCED_LEADER_EPOCH"),
    high_watermark=OFFSETS,
    log_start_offset=OFFSETS,
    diverging=st.none() | st.tuples(st.integers(-1, 2**31 - 1), OFFSETS),
    batches=st.lists(BATCHES, max_size=4),
)


def encoded(results, session_id=None):
    return bytearray(b"".join(encode_fetch_answer(results, session_id)))


@given(st.lists(RESULTS, max_size=4), st.none() | st.integers(0, 2**63 - 1))
def test_what_was_answered_comes_back(results, session_id):
    answer = decode_fetch_answer(encoded(results, session_id))
    assert answer == (session_id or NO_SESSION, results)


def test_a_follower_that_knows_no_sessions_asks_for_none():
    """What it sends lacks the last members, and what it gets is an array."""
    request = ReplicaFetchRequest(2, 5, 500, 1, 1 << 20, [])
    old = msgspec.msgpack.encode(msgspec.msgpack.decode(encode(request))[:6])
    assert msgspec.msgpack.decode(old, type=ReplicaFetchRequest) == request
    assert request.session_epoch == NO_SESSION_EPOCH
    body = encoded([FetchResult("t", 0, None, 5, 0, None, [])])
    assert msgspec.msgpack.decode(body[4:]) == [["t", 0, None, 5, 0, None, []]]


def test_batches_are_neither_copied_out_nor_in():
    batch = b"x" * 1000
    result = FetchResult("t", 0, None, 5, 0, None, [ReplicatedBatch(batch, None)])
    parts = encode_fetch_answer([result])
    assert parts[1] is batch
    body = bytearray(b"".join(parts))
    _, (decoded,) = decode_fetch_answer(body)
    assert decoded.batches[0].data.obj is body


@given(st.lists(RESULTS, min_size=1, max_size=3), st.data())
def test_a_cut_answer_is_no_answer(results, data):
    body = encoded(results)
    cut = data.draw(st.integers(0, len(body) - 1))
    with pytest.raises(ValueError, match=r"parse|fit|follow"):
        decode_fetch_answer(body[:cut])


@given(st.lists(RESULTS, max_size=2), st.binary(min_size=1, max_size=9))
def test_more_than_the_answer_is_no_answer(results, excess):
    with pytest.raises(ValueError, match="follow its last batch"):
        decode_fetch_answer(encoded(results) + excess)
