"""Which ids requests go by, and how one is taken out of a head without changing what that means."""

from time import process_time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ottla_broker.http.request_head import parse_head
from ottla_broker.request_id import (
    IDS_PER_FORWARD_MAX,
    REQUEST_ID,
    REQUEST_ID_CHARACTERS_MAX,
    accepted,
    add_request_id,
    joined,
    new_request_id,
    outside_requests,
    take_from_head,
)

HEAD = b"POST /v1/produce HTTP/1.1\r\nHost: x\r\n%bContent-Length: 3\r\n\r\n"


@pytest.mark.parametrize(
    "told", ["a", "0af7651916cd43dd8448eb211c80319c", "x" * 64, "a-b_c.d:e/f=@+~"]
)
def test_an_id_is_taken_as_it_is(told):
    assert accepted(told, is_internal=False) == told
    assert accepted(told, is_internal=True) == told


@pytest.mark.parametrize(
    "told", [None, "", "a b", "a,b", "x" * (REQUEST_ID_CHARACTERS_MAX + 1), 'a"b', "a\nb", "é"]
)
def test_anything_else_is_as_if_there_were_none(told):
    made = accepted(told, is_internal=False)
    assert made not in (told, accepted(told, is_internal=False))
    assert accepted(made, is_internal=False) == made
    if told != "a,b":
        assert accepted(told, is_internal=True) is None


def test_a_forward_names_the_requests_that_it_serves_up_to_a_bound():
    assert joined(["a", None, "b", "a"]) == "a,b"
    assert joined([None]) is None
    many = joined(new_request_id() for _ in range(IDS_PER_FORWARD_MAX + 5))
    assert many.count(",") == IDS_PER_FORWARD_MAX - 1
    assert accepted(many, is_internal=True) == many


@pytest.mark.parametrize("name", [b"X-Request-Id", b"x-request-id", b"X-REQUEST-ID"])
@pytest.mark.parametrize("space", [b"", b" ", b" \t"])
def test_a_head_is_the_same_without_its_id(name, space):
    told, rest = take_from_head(HEAD % (name + b":" + space + b"r-1" + space + b"\r\n"))
    assert (told, rest) == ("r-1", HEAD % b"")


@pytest.mark.parametrize(
    "field",
    [
        b"X-Request-Id: a b\r\n",
        b"X-Request-Id: \r\n",
        b"X-Request-Id: a\r\n b\r\n",
        b"X-Request-Id: a\rb\r\n",
        b"X-Request-Ids: a\r\n",
    ],
)
def test_what_is_no_id_on_one_line_stays_in_the_head(field):
    assert take_from_head(HEAD % field) == (None, HEAD % field)


@pytest.mark.parametrize("field", [b"X-Request-Id: a%bb\r\n", b"X-Request-Id:%b\r\n b\r\n"])
@pytest.mark.parametrize("blank", [b" ", b"\t", b" x"])
def test_a_head_full_of_blanks_is_looked_through_once(field, blank):
    head = HEAD % (field % (blank * (8_000 // len(blank))))
    began_s = process_time()
    assert take_from_head(head) == (None, head)
    # Less than a thousandth of it. Every combination of blanks would be ten seconds, or hours.
    assert process_time() - began_s < 2


@given(st.binary(max_size=40), st.sampled_from([b"X-Request-Id: r-1\r\n", b"X-Request-Id:r-1\n"]))
@example(b" folded\r\n", b"X-Request-Id: r-1\r\n")
def test_taking_it_changes_nothing_that_a_parser_sees(after, field):
    head = HEAD % (field + after)
    _, rest = take_from_head(head)
    before, now = parse_head(head), parse_head(rest)
    if before is None or now is None:
        assert before is now or now is None
        return
    kept = {name: value for name, value in before.headers.items() if name != "x-request-id"}
    seen = {name: value for name, value in now.headers.items() if name != "x-request-id"}
    assert (now.target, now.content_length, seen) == (before.target, before.content_length, kept)


def test_log_lines_say_for_which_request_they_are():
    assert add_request_id(None, "info", {"event": "x"}) == {"event": "x"}
    outer = REQUEST_ID.set("r-1")
    try:
        assert add_request_id(None, "info", {"event": "x"}) == {"event": "x", "request_id": "r-1"}
        assert outside_requests().run(REQUEST_ID.get) is None
        assert REQUEST_ID.get() == "r-1"
    finally:
        REQUEST_ID.reset(outer)
