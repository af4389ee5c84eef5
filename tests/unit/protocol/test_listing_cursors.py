"""Cursors of lists by name: they come back as they were given out, and nothing else is one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_protocol.errors import InvalidRequestError
from ottla_protocol.listing_cursors import (
    MAX_LISTING_CURSOR_CHARACTERS,
    MAX_NAME_CHARACTERS,
    decode_listing_cursor,
    encode_listing_cursor,
)

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=MAX_NAME_CHARACTERS)


@given(NAMES)
def test_a_cursor_tells_its_name(name):
    cursor = encode_listing_cursor(name)
    assert len(cursor) <= MAX_LISTING_CURSOR_CHARACTERS
    assert decode_listing_cursor(cursor) == name


def test_the_longest_name_fits():
    cursor = encode_listing_cursor("\N{PILE OF POO}" * MAX_NAME_CHARACTERS)
    assert len(cursor) == MAX_LISTING_CURSOR_CHARACTERS


@given(NAMES, st.data())
def test_a_cursor_that_was_cut_or_changed_is_none(name, data):
    cursor = encode_listing_cursor(name)
    at = data.draw(st.integers(0, len(cursor) - 1))
    other = "A" if cursor[at] != "A" else "B"
    # A last character may have bits that belong to no byte.
    changed = cursor[:at] + other + cursor[at + 1 :] if at < len(cursor) - 1 else cursor[:at]
    with pytest.raises(InvalidRequestError):
        decode_listing_cursor(changed)


@pytest.mark.parametrize(
    "text", ["", "zzz", "teller-1", "AAAAAA", "a b", "ä", "\ud800", "A" * 2_000, "====", "AAAA=A"]
)
def test_what_nobody_gave_out_is_told_so(text):
    with pytest.raises(InvalidRequestError, match="must be the next_cursor of an answer") as caught:
        decode_listing_cursor(text)
    assert caught.value.members == {"parameter": "cursor"}
