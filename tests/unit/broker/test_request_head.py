"""Which heads take the short way, and that everything doubtful does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_broker.http.post_routes import POST_ROUTES, find_post_route
from ottla_broker.http.request_head import parse_head
from ottla_protocol import routes

PLAIN = ("Host: x", "Content-Length: 5")


def head(*lines, request_line="POST /v1/produce HTTP/1.1"):
    return "\r\n".join((request_line, *lines, "", "")).encode("latin-1")


def test_a_plain_post_is_understood():
    parsed = parse_head(head("Host: x", "CONTENT-length: 5", "Content-Type: a/b", "X: 1", "x: 2"))
    assert (parsed.target, parsed.content_length, parsed.keep_alive) == ("/v1/produce", 5, True)
    assert parsed.headers["content-type"] == "a/b"
    assert parsed.headers["x"] == "1", "the first of a repeated field, as aiohttp has it"


def test_a_client_that_closes_is_understood():
    assert not parse_head(head(*PLAIN, "Connection: close")).keep_alive


@pytest.mark.parametrize(
    "doubtful",
    [
        head("Host: x"),
        head("Host: x", "Content-Length: 5", "Content-Length: 6"),
        head("Host: x", "Content-Length: +5"),
        head("Host: x", "Content-Length: 5, 5"),
        head("Host: x", "Content-Length: "),
        head("Host: x", "Transfer-Encoding: chunked"),
        head(*PLAIN, "Transfer-Encoding: chunked"),
        head(*PLAIN, "Transfer-Encoding : chunked"),
        head(*PLAIN, "Content-Encoding: gzip"),
        head(*PLAIN, "Expect: 100-continue"),
        head(*PLAIN, "Connection: upgrade", "Upgrade: websocket"),
        head(*PLAIN, request_line="POST /v1/produce HTTP/1.0"),
        head(*PLAIN, request_line="GET /v1/produce HTTP/1.1"),
        head(*PLAIN, request_line="POST /v1/produce"),
        head(*PLAIN, request_line="POST  HTTP/1.1"),
        head(*PLAIN, " folded: 1"),
        head(*PLAIN, "Nul: \0"),
        b"\r\n\r\n",
    ],
)
def test_whatever_is_unusual_is_left_to_aiohttp(doubtful):
    assert parse_head(doubtful) is None


@given(st.binary(max_size=200))
def test_garbage_is_never_an_error(garbage):
    assert parse_head(garbage + b"\r\n\r\n") is None


@pytest.mark.parametrize("route", POST_ROUTES, ids=lambda route: route.path)
def test_every_route_is_found_with_the_names_in_its_path(route):
    names = {
        "topic": "orders",
        "partition": "7",
        "group": "billing",
        "member": "m-1",
        "transactional_id": "teller-1",
    }
    found, values, query = find_post_route(route.path.format(**names) + "?acks=all&x=%31&y=")
    assert found is route
    assert values == {name: names[name] for name in values}
    assert set(values) == {name for name in names if f"{{{name}}}" in route.path}
    assert list(query) == [("acks", "all"), ("x", "1"), ("y", "")]


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/v1/produce/",
        "//v1/produce",
        "/v1/pr%6Fduce",
        "/v1/topics//records",
        "/v1/topics/a%2Fb/records",
        "/v1/topics/a/partitions//records",
        "/v1/topics/a/partitions/0/records/",
        "/v1/topics/{topic}/records",
        "/v1/topics",
        "/v1/groups//offsets",
        "/v1/groups/a%20b/offsets",
        "/v1/groups/g/members//heartbeat",
        "/v1/groups/g/members/m/heartbeat/",
        "/v1/groups/g/members",
        "http://elsewhere/v1/produce",
        "/v1/produce?a#b",
        "*",
    ],
)
def test_other_targets_are_left_to_the_router(target):
    assert find_post_route(target) is None


def test_a_route_without_names_takes_none():
    assert find_post_route(routes.PRODUCE)[1:] == ({}, ())
