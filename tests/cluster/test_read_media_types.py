"""One URL for reads: Accept, conditional requests and filters, at the leader and through others."""

import json
from urllib.parse import quote

import pytest

from ottla_protocol import routes

pytestmark = pytest.mark.cluster

JFK_LATE = quote('$.origin == "JFK" && $.delay > 30', safe="")


@pytest.fixture
def flights(shared, topic):
    """A topic with four records, the last of which are no JSON objects."""
    records = [
        {"key": "N1", "value": {"origin": "JFK", "delay": 31}, "timestamp": 5},
        {"key": "N1é\n", "value": {"origin": "EWR", "delay": 99}, "headers": {"tr\r\nace": "a b"}},
        {"key_b64": "/w==", "value_text": "plain"},
        {"key": "N2", "value": None},
    ]
    shared.produce(topic, records, partition=0).expect(200)
    return topic


@pytest.fixture
def read(shared, flights):
    """Reads at a broker, with an Accept."""

    def read(node_id, accept=None, *, method="GET", headers=None, name=flights, **query):
        path = routes.PARTITION_RECORDS.format(topic=name, partition=0)
        sent = (headers or {}) | ({} if accept is None else {"Accept": accept})
        query = {"max_wait_ms": 0} | query
        return shared.http.call(method, shared.url(node_id) + path, headers=sent, **query)

    return read


def test_accept_decides_at_every_broker(shared, read):
    for node_id in shared.node_ids:
        document = read(node_id).expect(200).document
        lines = read(node_id, "application/x-ndjson, text/html;q=0.5").expect(200)
        assert lines.headers["Content-Type"] == routes.NDJSON
        assert [line["offset"] for line in map(json.loads, lines.text.splitlines())] == [0, 1, 2, 3]
        assert list(map(json.loads, lines.text.splitlines())) == document["records"]
        value = read(node_id, routes.OCTET_STREAM, offset=2).expect(200)
        assert (value.body, value.headers["Ottla-Key"]) == (b"plain", "%FF")
        value = read(node_id, routes.OCTET_STREAM, offset=1).expect(200)
        assert value.headers["Ottla-Key"] == "N1%C3%A9%0A"
        assert value.headers["Ottla-Header-tr%0D%0Aace"] == "a%20b"
        assert value.headers["X-Content-Type-Options"] == "nosniff"
        assert read(node_id, routes.OCTET_STREAM, offset=3).headers["Ottla-Tombstone"] == "true"
        assert read(node_id, routes.OCTET_STREAM, offset=4).expect(204).body == b""
        for answer in (lines, value, read(node_id)):
            assert answer.headers["Vary"] == "Accept"
            assert answer.headers["High-Watermark"] == "4"
            assert answer.headers["Log-Start-Offset"] == "0"
        assert (lines.headers["Next-Offset"], value.headers["Next-Offset"]) == ("4", "2")
        refused = read(node_id, "image/png").expect(406)
        assert (refused.code, routes.JSON in refused.document["offered"]) == (
            "NOT_ACCEPTABLE",
            True,
        )


def test_head_is_get_without_the_body_at_every_broker(shared, read):
    for node_id in shared.node_ids:
        for accept in (routes.JSON, routes.NDJSON, routes.OCTET_STREAM):
            # Twice on connections that are kept: a body would be taken for the next answer.
            for query in ({"offset": 0, "max_records": 1}, {"offset": 99}):
                # A problem tells its request's id, and ids of the broker's own grow in length.
                named = {routes.HEADER_REQUEST_ID: "the-same"}
                got = read(node_id, accept, headers=named, **query)
                head = read(node_id, accept, method="HEAD", headers=named, **query)
                assert (head.status, head.body) == (got.status, b"")
                for name in ("Content-Type", "Content-Length", "ETag", "Next-Offset"):
                    assert head.headers.get(name) == got.headers.get(name), name


def test_a_full_page_is_kept_and_asked_about_at_any_broker(shared, read, flights):
    page = {"offset": 0, "max_records": 2}
    tags = {}
    for accept in (routes.JSON, routes.NDJSON):
        first = read(1, accept, **page).expect(200)
        assert first.headers["Cache-Control"] == "max-age=3600, immutable"
        tags[accept] = first.headers["ETag"]
    assert len(set(tags.values())) == 2
    shared.append(flights, 1)
    for node_id in shared.node_ids:
        for accept, tag in tags.items():
            known = {"If-None-Match": f'"other", {tag}'}
            same = read(node_id, accept, headers=known, **page).expect(304)
            assert (same.body, same.headers["ETag"]) == (b"", tag)
            assert same.headers["High-Watermark"] == "5"
            other = read(node_id, accept, headers=known, offset=0, max_records=1).expect(200)
            assert other.headers["ETag"] != tag
        # What more is appended to, what moves, and what is a copy of its own.
        tail = read(node_id, offset=1)
        assert (tail.headers["Cache-Control"], "ETag" in tail.headers) == ("no-store", False)
        assert read(node_id, max_records=1).headers["Cache-Control"] == "no-cache"
    shared.wait_replicas_equal(flights)
    own = read(2, offset=0, max_records=1, replica="local").expect(200)
    assert own.headers["Cache-Control"] == "no-store"


def test_pages_of_a_compacted_topic_are_asked_about_each_time(shared, read):
    name = "compacted-pages"
    shared.create_topic(
        name, partitions=1, replication_factor=3, configs={"cleanup.policy": "compact"}
    )
    shared.wait_led(name)
    records = [{"key": "k", "value": 1}, {"key": "k", "value": 2}]
    shared.produce(name, records, partition=0).expect(200)
    page = read(1, name=name, offset=0, max_records=1).expect(200)
    assert page.headers["Cache-Control"] == "no-cache"
    known = {"If-None-Match": page.headers["ETag"]}
    read(2, name=name, offset=0, max_records=1, headers=known).expect(304)


def test_filters_and_fields_at_every_broker(shared, read):
    for node_id in shared.node_ids:
        found = read(node_id, where=JFK_LATE, fields="offset,value.delay").expect(200).document
        assert found["records"] == [{"offset": 0, "value": {"delay": 31}}]
        assert found["next_offset"] == 4
        lines = read(node_id, routes.NDJSON, key_prefix="N1", fields="key").expect(200)
        assert [json.loads(line) for line in lines.text.splitlines()] == [
            {"key": "N1"},
            {"key": "N1é\n"},
        ]
        value = read(node_id, routes.OCTET_STREAM, where=quote("$.delay == 99")).expect(200)
        assert value.headers["Ottla-Offset"] == "1"
        none = read(node_id, routes.OCTET_STREAM, key="nobody").expect(204)
        assert none.headers["Next-Offset"] == "4"
        refused = read(node_id, where=quote("$.delay >")).expect(422)
        assert (refused.document["parameter"], refused.document["position"]) == ("where", 9)


def test_a_filter_waits_for_what_it_lets_through(shared, read, flights):
    """Records that it does not let through do not end the wait, and are stepped over."""
    shared.append(flights, {"delay": 1})
    shared.append(flights, {"delay": 2})
    found = read(1, offset=4, where=quote("$.delay == 2"), max_wait_ms=30_000).expect(200).document
    assert [record["offset"] for record in found["records"]] == [5]
    found = read(1, offset=4, where=quote("$.delay == 3"), max_wait_ms=100).expect(200).document
    assert (found["records"], found["next_offset"]) == ([], 6)
