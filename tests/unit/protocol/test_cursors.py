"""Cursors read back as they were, and nothing else reads as one."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_protocol.cursors import (
    MAX_CURSOR_CHARACTERS,
    MAX_CURSOR_PARTITIONS,
    MAX_LEADER_EPOCH,
    MAX_OFFSET,
    Cursor,
    CursorEncoder,
    decode_cursor,
    encode_cursor,
)
from ottla_protocol.errors import InvalidRequestError
from ottla_protocol.record_batch import NO_LEADER_EPOCH

TOPIC_ID = "0123456789abcdef0123456789abcdef"

offsets = st.integers(0, MAX_OFFSET)
epochs = st.just(NO_LEADER_EPOCH) | st.integers(0, MAX_LEADER_EPOCH)
cursors = st.builds(
    lambda topic_id, first, positions: Cursor(
        topic_id, first, tuple(at for at, _ in positions), tuple(each for _, each in positions)
    ),
    st.binary(min_size=16, max_size=16).map(bytes.hex),
    st.integers(0, 2_000),
    st.lists(st.tuples(offsets, epochs), min_size=1, max_size=20),
)


@given(cursors)
def test_a_cursor_reads_back(cursor):
    read = decode_cursor(encode_cursor(cursor))
    assert [read.epoch_of(read.first_partition + at) for at in range(len(cursor.epochs))] == [
        *cursor.epochs
    ]
    assert replace(read, epochs=cursor.epochs) == cursor


@given(cursors)
def test_a_cursor_needs_no_escape_in_a_query_or_a_header(cursor):
    assert encode_cursor(cursor).replace("-", "").replace("_", "").isalnum()


@given(cursors, st.data())
def test_a_damaged_cursor_is_refused(cursor, data):
    text = encode_cursor(cursor)
    position = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from("AQgw059zZ-_!").filter(lambda one: one != text[position]))
    damaged = text[:position] + other + text[position + 1 :]
    try:
        read = decode_cursor(damaged)
    except InvalidRequestError:
        return
    # Bits that base64 leaves over do not count.
    assert position == len(text) - 1
    assert read == decode_cursor(text)


@given(cursors, st.data())
def test_a_cut_cursor_is_refused(cursor, data):
    text = encode_cursor(cursor)
    with pytest.raises(InvalidRequestError):
        decode_cursor(text[: data.draw(st.integers(0, len(text) - 1))])


@given(st.text(max_size=80) | st.binary(max_size=80).map(lambda raw: raw.decode("latin-1")))
def test_anything_else_is_refused(text):
    with pytest.raises(InvalidRequestError):
        decode_cursor(text)


def test_the_largest_cursor_fits_a_header_field():
    largest = Cursor("f" * 32, 2_000, (MAX_OFFSET,) * MAX_CURSOR_PARTITIONS)
    text = encode_cursor(largest)
    assert len(text) <= MAX_CURSOR_CHARACTERS < 8_190
    assert decode_cursor(text) == largest


def test_epochs_are_left_out_of_a_cursor_that_would_be_too_long():
    many = MAX_CURSOR_PARTITIONS
    largest = Cursor("f" * 32, 2_000, (MAX_OFFSET,) * many, (MAX_LEADER_EPOCH,) * many)
    text = encode_cursor(largest)
    assert len(text) <= MAX_CURSOR_CHARACTERS
    assert decode_cursor(text) == replace(largest, epochs=())
    usual = Cursor("f" * 32, 0, (2**48,) * many, (2**13,) * many)
    assert decode_cursor(encode_cursor(usual)) == usual
    encoder = CursorEncoder("f" * 32, 0)
    moved = encoder.encode_each(usual.offsets, 5, [MAX_OFFSET], usual.epochs)
    assert len(moved[0]) <= MAX_CURSOR_CHARACTERS


def test_a_refusal_names_the_parameter():
    with pytest.raises(InvalidRequestError) as refused:
        decode_cursor("x", parameter="last_event_id")
    assert refused.value.members == {"parameter": "last_event_id"}


def test_an_offset_is_told_by_its_partition():
    cursor = Cursor(TOPIC_ID, 3, (5, 7))
    found = [cursor.offset_of(partition) for partition in range(2, 6)]
    assert found == [None, 5, 7, None]


@given(st.lists(offsets, min_size=1, max_size=9), st.data())
def test_cursors_of_a_run_are_those_that_are_encoded_one_by_one(positions, data):
    index = data.draw(st.integers(0, len(positions) - 1))
    known = data.draw(st.lists(epochs, min_size=len(positions), max_size=len(positions)))
    following = data.draw(st.lists(offsets, max_size=5))
    encoder = CursorEncoder(TOPIC_ID, 0)
    expected = [
        encoder.encode([*positions[:index], offset, *positions[index + 1 :]], known)
        for offset in following
    ]
    assert encoder.encode_each(positions, index, following, known) == expected


def test_an_encoder_goes_on_being_used():
    encoder = CursorEncoder(TOPIC_ID, 1)
    read = [decode_cursor(encoder.encode(offsets).decode()) for offsets in ((1,), (300, 2))]
    assert read == [Cursor(TOPIC_ID, 1, (1,)), Cursor(TOPIC_ID, 1, (300, 2))]


def test_the_form_is_stable():
    """Clients keep cursors, and every later version has to read them."""
    text = "AQEjRWeJq83vASNFZ4mrze8AAwWsAgDBzCNz"
    assert encode_cursor(Cursor(TOPIC_ID, 0, (5, 300, 0))) == text
    assert decode_cursor(text) == Cursor(TOPIC_ID, 0, (5, 300, 0))
    text = "AgEjRWeJq83vASNFZ4mrze8AAwUIrAIAAMkB3XDnYg"
    assert encode_cursor(Cursor(TOPIC_ID, 0, (5, 300, 0), (7, -1, 200))) == text
