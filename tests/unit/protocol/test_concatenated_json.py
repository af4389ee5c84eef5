"""Concatenated JSON is cut where its documents end, however its bytes arrive."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from ottla_protocol.concatenated_json import MAX_DEPTH, ConcatenatedJsonSplitter
from ottla_protocol.errors import InvalidRequestError, MalformedBodyError, MessageTooLargeError

LIMIT_BYTES = 1 << 20

texts = st.text('"\\{}[]: \n\té', max_size=6)
"""What would mislead whoever does not know a string from what is outside."""

values = st.integers() | texts | st.lists(texts, max_size=2) | st.dictionaries(texts, texts)
documents = st.dictionaries(texts, values, max_size=3)
spaces = st.sampled_from([b"", b" ", b"\n", b"\r\n\t"])
few_examples = settings(max_examples=50)


@st.composite
def streams(draw):
    """Objects as text, and what they make together, cut into pieces."""
    indent = draw(st.sampled_from([None, 1]))
    is_ascii = draw(st.booleans())
    found = [
        json.dumps(each, indent=indent, ensure_ascii=is_ascii).encode()
        for each in draw(st.lists(documents, max_size=4))
    ]
    space = draw(spaces)
    whole = space + b"".join(each + space for each in found)
    size = draw(st.integers(1, max(1, len(whole))))
    return found, [whole[start : start + size] for start in range(0, len(whole), size)]


def cut(pieces, **limits):
    splitter = ConcatenatedJsonSplitter(**{"limit_bytes": LIMIT_BYTES} | limits)
    found = [document for piece in pieces for document in splitter.feed(piece)]
    splitter.finish()
    return found, splitter


@few_examples
@given(streams())
def test_documents_come_out_as_they_went_in_wherever_the_bytes_are_cut(stream):
    whole, pieces = stream
    found, splitter = cut(pieces)
    assert (found, splitter.error) == (whole, None)
    assert splitter.pending_bytes == 0


@few_examples
@given(streams(), st.sampled_from([b"1", b"[1]", b'"x"', b",", b"}", b"\x00"]))
def test_what_is_no_object_ends_the_stream_behind_all_that_was_whole(stream, rubbish):
    whole, pieces = stream
    found, splitter = cut([*pieces, rubbish, b"{}"])
    assert found == whole
    assert isinstance(splitter.error, MalformedBodyError)
    assert splitter.error.members["position"] == sum(map(len, pieces))


@given(st.binary(max_size=200), st.integers(1, 200))
def test_no_bytes_break_it_and_none_appear_from_nowhere(data, size):
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    found, splitter = cut(pieces, limit_bytes=64)
    at = 0
    for document in found:
        assert len(document) <= 64
        at = data.index(document, at) + len(document)
    assert splitter.pending_bytes <= 64 + size


def test_an_unfinished_document_is_told_at_the_end_and_only_then():
    splitter = ConcatenatedJsonSplitter(limit_bytes=LIMIT_BYTES)
    assert splitter.feed(b'{"a": 1} {"b": "}') == [b'{"a": 1}']
    assert splitter.error is None
    splitter.finish()
    assert isinstance(splitter.error, MalformedBodyError)


def test_a_document_may_be_as_long_as_the_limit_and_no_longer():
    fits = b'{"a":"' + b"x" * 92 + b'"}'
    assert len(fits) == 100
    assert cut([fits], limit_bytes=100)[0] == [fits]
    found, splitter = cut([b"{}", fits], limit_bytes=99)
    assert found == [b"{}"]
    assert isinstance(splitter.error, MessageTooLargeError)


def test_an_endless_document_is_given_up_at_the_limit():
    splitter = ConcatenatedJsonSplitter(limit_bytes=1_000)
    assert splitter.feed(b'{"a":"') == []
    for _ in range(1_000):
        assert splitter.feed(b"x" * 100) == []
        assert splitter.pending_bytes <= 1_100
    assert isinstance(splitter.error, MessageTooLargeError)


def test_depth_has_a_limit():
    def nested(depth):
        return b'{"a":' * depth + b"1" + b"}" * depth

    assert cut([nested(MAX_DEPTH)])[0] == [nested(MAX_DEPTH)]
    found, splitter = cut([nested(MAX_DEPTH + 1)])
    assert found == []
    assert isinstance(splitter.error, InvalidRequestError)
    assert not isinstance(splitter.error, MalformedBodyError)
