"""The parts of a fetch's answer, joined by the connection, give back what was answered."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_broker.drivers.peer_messages import (
    FetchResult,
    ReplicatedBatch,
    decode_fetch_answer,
    encode_fetch_answer,
)

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


def encoded(results):
    return bytearray(b"".join(encode_fetch_answer(results)))


@given(st.lists(RESULTS, max_size=4))
def test_what_was_answered_comes_back(results):
    assert decode_fetch_answer(encoded(results)) == results


def test_batches_are_neither_copied_out_nor_in():
    batch = b"x" * 1000
    result = FetchResult("t", 0, None, 5, 0, None, [ReplicatedBatch(batch, None)])
    parts = encode_fetch_answer([result])
    assert parts[1] is batch
    body = bytearray(b"".join(parts))
    (decoded,) = decode_fetch_answer(body)
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
