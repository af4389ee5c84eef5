"""Which media type answers: RFC 9110 section 12.5.1."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_broker.http.negotiation import (
    MAX_MEDIA_RANGES,
    MediaRange,
    accept_of,
    negotiate,
    parse_accept,
)
from ottla_protocol.errors import NotAcceptableError

JSON, NDJSON, SSE, RAW = (
    "application/json",
    "application/x-ndjson",
    "text/event-stream",
    "application/octet-stream",
)
OFFERED = (JSON, NDJSON, SSE, RAW)


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, JSON),
        ("", JSON),
        ("  ", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        ("text/*", SSE),
        ("text/event-stream", SSE),
        ("TEXT/Event-Stream", SSE),
        # The client's order means nothing; the server's decides among equals.
        ("application/x-ndjson, application/json", JSON),
        ("application/x-ndjson, application/json;q=0.9", NDJSON),
        ("application/json;q=0.1,application/x-ndjson;q=0.2", NDJSON),
        ("application/json;q=0.001,*/*;q=0.002", NDJSON),
        # The most specific range counts, not the highest weight.
        ("application/*;q=0.1, application/octet-stream;q=0.5, */*;q=0.2", RAW),
        ("*/*;q=1, application/json;q=0", NDJSON),
        ("application/json;q=0, application/*", NDJSON),
        ("application/json;q=0.5, application/json", JSON),
        # What a browser's address bar sends.
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", JSON),
        ("application/json; charset=utf-8", JSON),
        ('application/json;charset="UTF-8";q=0.3', JSON),
        ("application/json ; q=0.3 , text/event-stream;q=0.4", SSE),
        # Another variant than the one that is offered.
        ("application/json;version=2, application/x-ndjson;q=0.1", NDJSON),
        # Members that break the grammar are passed over.
        ("nonsense, application/x-ndjson", NDJSON),
        ("application/json;q=2, application/x-ndjson", NDJSON),
        ("application/json;q=0.1234, application/x-ndjson;q=0.1", NDJSON),
        ("application/json;q=, application/x-ndjson;q=0.1", NDJSON),
        ("*/json, application/x-ndjson", NDJSON),
        (",,application/x-ndjson,,", NDJSON),
        ('text/plain;title="a, application/json", application/x-ndjson', NDJSON),
        ('application/x-ndjson, text/plain;title="open, application/json', NDJSON),
        # An extension behind the weight is ignored.
        ("application/x-ndjson;q=0.5;level=1", NDJSON),
    ],
)
def test_the_client_decides(accept: str | None, chosen: str) -> None:
    assert negotiate(accept, OFFERED) == chosen


@pytest.mark.parametrize(
    "accept",
    ["image/png", "application/json;q=0", "*/*;q=0", "text/event-stream;q=0.000", "nonsense", ","],
)
def test_refuses_where_nothing_is_accepted(accept: str) -> None:
    with pytest.raises(NotAcceptableError) as refused:
        negotiate(accept, (JSON, SSE))
    problem = refused.value.problem()
    assert (problem["status"], problem["code"]) == (406, "NOT_ACCEPTABLE")
    assert problem["offered"] == [JSON, SSE]


def test_a_bounded_number_of_ranges_counts() -> None:
    accept = "text/plain," * MAX_MEDIA_RANGES + JSON
    assert len(parse_accept(accept)) == MAX_MEDIA_RANGES
    with pytest.raises(NotAcceptableError):
        negotiate(accept, (JSON,))


def test_fields_join() -> None:
    assert accept_of([]) is None
    assert accept_of([JSON, "text/*;q=0.1"]) == f"{JSON}, text/*;q=0.1"


_token = st.text("abcxyz019.+-_~", min_size=1, max_size=8)
_weight = st.integers(0, 1000)
_range = st.one_of(st.just(("*", "*")), st.tuples(_token, st.just("*")), st.tuples(_token, _token))


@given(st.lists(st.tuples(_range, _weight, st.sampled_from(["", " ", "\t "])), max_size=8))
def test_ranges_are_read_as_written(
    members: list[tuple[tuple[str, str], int, str]],
) -> None:
    field = ",".join(
        f"{space}{main}/{sub}{space};{space}q={weight / 1000}{space}"
        for (main, sub), weight, space in members
    )
    assert parse_accept(field) == [
        MediaRange(main, sub, weight / 1000) for (main, sub), weight, _ in members
    ]


@given(st.text(max_size=300))
def test_any_text_is_answered_or_refused(accept: str) -> None:
    with suppress(NotAcceptableError):
        assert negotiate(accept, OFFERED) in OFFERED


@pytest.mark.parametrize("piece", ['"', '\\"', '"a', "a/b;c=", "a/b;", ";", "a/", '";"'])
def test_long_fields_are_read_in_one_pass(piece: str) -> None:
    # Backtracking would take hours for this.
    parse_accept(piece * 50_000)
