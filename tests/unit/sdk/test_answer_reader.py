"""Answers out of bytes: however they are cut, and whatever is no answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla._answer_reader import (
    MAX_HEAD_BYTES,
    AnswerReader,
    ForeignAnswerError,
    NotAnAnswerError,
)

LIMIT = 1_000


def rendered(status, content_type, body, *, closes=False):
    lines = [f"HTTP/1.1 {status} X", f"Content-Type: {content_type}", f"CONTENT-LENGTH:{len(body)}"]
    if closes:
        lines.append("Connection: Close")
    return "\r\n".join([*lines, "", ""]).encode() + body


def read(reader, data, cuts=()):
    """Feed `data`, cut at these places and wherever a buffer is full; returns what was answered."""
    answers = []
    view = memoryview(data)
    edges = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    begin = 0
    while begin < len(data):
        buffer = reader.buffer
        end = min(next(edge for edge in edges if edge > begin), begin + len(buffer))
        buffer[: end - begin] = view[begin:end]
        answer = reader.received(end - begin)
        if answer is not None:
            answers.append(answer)
        begin = end
    return answers


@given(
    st.lists(
        st.tuples(
            st.sampled_from([200, 207, 421, 503]),
            st.sampled_from(["text/plain", "application/msgpack; a=b", "Text/Plain"]),
            st.binary(max_size=LIMIT),
            st.integers(0, 2),
            st.booleans(),
        ),
        max_size=4,
    ),
    st.lists(st.integers(1, 5_000), max_size=12),
)
def test_answers_are_the_same_however_they_are_cut(sent, cuts):
    reader = AnswerReader(LIMIT)
    for status, content_type, body, interim, closes in sent:
        data = b"HTTP/1.1 100 Continue\r\n\r\n" * interim
        data += rendered(status, content_type, body, closes=closes)
        [answer] = read(reader, data, cuts)
        assert (answer.status, bytes(answer.body)) == (status, body)
        assert answer.content_type == content_type.partition(";")[0].lower()
        assert answer.keeps_alive is not closes


def test_a_body_has_memory_of_its_own():
    reader = AnswerReader(LIMIT)
    [first] = read(reader, rendered(200, "a", b"first"))
    [second] = read(reader, rendered(200, "a", b"later"))
    assert (first.body, second.body) == (b"first", b"later")


def test_an_answer_without_content_ends_with_its_head():
    [answer] = read(AnswerReader(LIMIT), b"HTTP/1.1 204 No Content\r\n\r\n")
    assert (answer.status, answer.content_type, answer.body) == (204, "", b"")


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH",
        b"HTTP/2 200 X\r\n\r\n",
        b"HTTP/1.1 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 X\r\nno field\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 X\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 X\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 X\r\nContent-Length: \u00b2\r\n\r\nab".encode("latin-1"),
        b"HTTP/1.1 200 X\r\nContent-Length: %d\r\n\r\n" % (LIMIT + 1),
        b"HTTP/1.1 200 X\r\nContent-Length: 1\r\n\r\nab",
        b"HTTP/1.1 200 X\r\n" + b"a: b\r\n" * (MAX_HEAD_BYTES // 6),
    ],
)
def test_what_is_no_answer_is_refused(data):
    with pytest.raises(NotAnAnswerError):
        read(AnswerReader(LIMIT), data)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 X\r\n\r\n",
        b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
        b"HTTP/1.1 200 X\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n",
        b"HTTP/1.0 200 X\r\nContent-Length: 3\r\n\r\n",
    ],
)
def test_an_answer_of_a_proxys_is_told_apart(head):
    with pytest.raises(ForeignAnswerError):
        read(AnswerReader(LIMIT), head)


def test_an_encoding_that_is_none_is_a_brokers():
    data = b"HTTP/1.1 200 X\r\nContent-Encoding: Identity\r\nContent-Length: 2\r\n\r\nok"
    [answer] = read(AnswerReader(LIMIT), data)
    assert answer.body == b"ok"
