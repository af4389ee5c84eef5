"""NDJSON in pieces gives the lines that it has in one piece, and no more memory than allowed."""

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ottla_broker.http.record_lines import LONG_LINE, LineSplitter, render_results
from ottla_broker.services.stream_produce import StoredLine, StreamLine
from ottla_protocol.errors import LeaderNotAvailableError, Outcome
from ottla_protocol.json_records import ParsedRecord


@st.composite
def bodies_in_pieces(draw):
    body = b"".join(draw(st.lists(st.sampled_from([b"\n", b"\r\n", b" ", b"ab", b'{"a":1}']))))
    cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=8)))
    edges = [0, *cuts, len(body)]
    return body, [body[start:end] for start, end in pairwise(edges)]


@given(bodies_in_pieces(), st.integers(1, 12))
def test_lines_do_not_depend_on_the_pieces(given_body, line_bytes_max):
    body, pieces = given_body
    splitter = LineSplitter(line_bytes_max)
    found = []
    for piece in pieces:
        found += splitter.feed(piece)
        assert splitter.begun_bytes <= line_bytes_max
    found += splitter.finish()
    whole = [line for line in body.split(b"\n") if line]
    expected = [
        LONG_LINE if len(line) > line_bytes_max else line
        for line in whole
        if not line.isspace() or len(line) > line_bytes_max
    ]
    # A line of blanks that is too long may be told as such: it is no record either way.
    assert [line for line in found if line] == [line for line in expected if line]
    assert found.count(LONG_LINE) <= expected.count(LONG_LINE)
    long_records = [line for line in whole if len(line) > line_bytes_max and not line.isspace()]
    assert found.count(LONG_LINE) >= len(long_records)


def test_of_a_line_that_is_too_long_nothing_is_kept():
    splitter = LineSplitter(1_000)
    for _ in range(100):
        assert splitter.feed(b"x" * 900) == []
    assert splitter._begun == []
    assert splitter.feed(b"\n1\n") == [LONG_LINE, b"1"]


def test_answers_are_one_line_each():
    lines = [StreamLine(number, "t\n", ParsedRecord(None, b"1")) for number in (7, 8, 9)]
    error = LeaderNotAvailableError("nobody", outcome=Outcome.NOT_APPLIED, index=3)
    results = [StoredLine(2, 5, duplicate=False), error, StoredLine(0, -1, duplicate=True)]
    for with_topics in (False, True):
        told = render_results(lines, results, with_topics=with_topics).decode().splitlines()
        topic = {"topic": "t\n"} if with_topics else {}
        assert json.loads(told[0]) == {**topic, "partition": 2, "offset": 5}
        assert json.loads(told[1])["index"] == 8
        assert json.loads(told[1])["error"]["code"] == "LEADER_NOT_AVAILABLE"
        assert json.loads(told[2]) == {**topic, "partition": 0, "offset": -1, "duplicate": True}
