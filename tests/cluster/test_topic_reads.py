"""All partitions of a topic with one cursor, which any broker takes."""

import time
from itertools import cycle

import pytest

from ottla_protocol import routes
from tests.cluster.awaiting import eventually

pytestmark = pytest.mark.cluster

PARTITIONS = 3


@pytest.fixture
def wide_topic(shared, topic):
    """A fresh topic of three partitions with 12 records."""
    name = f"{topic}-wide"
    shared.create_topic(name, partitions=PARTITIONS, replication_factor=3)
    shared.wait_led(name, partitions=PARTITIONS)
    for partition in range(PARTITIONS):
        shared.append(name, *range(4), partition=partition)
    return name


def read(client, topic, node_id, *, headers=None, **query):
    url = client.url(node_id) + routes.TOPIC_RECORDS.format(topic=topic)
    return client.http.get(url, headers=headers, **query)


def pages(client, topic, start=None, **query):
    """Pages, each of another broker, until the cursor stands still.

    One of them may lack the records of a leader that takes longer to answer than others.
    """
    at = start or {}
    for node_id in cycle(client.node_ids):
        answer = read(client, topic, node_id, max_wait_ms=0, **query, **at)
        document = answer.expect(200).document
        assert document["unavailable"] == []
        yield document
        if at == {"cursor": document["cursor"]}:
            return
        at = {"cursor": document["cursor"]}


def places(records):
    return [(record["partition"], record["offset"]) for record in records]


def all_places(offsets=range(4)):
    return sorted((partition, offset) for partition in range(PARTITIONS) for offset in offsets)


def test_a_cursor_goes_from_broker_to_broker(shared, wide_topic):
    found, cursor = [], {}
    for node_id in cycle(shared.node_ids):
        answer = read(shared, wide_topic, node_id, max_records=5, max_wait_ms=0, **cursor)
        document = answer.expect(200).document
        assert answer.headers[routes.HEADER_CURSOR] == document["cursor"]
        assert document["unavailable"] == []
        cursor = {"cursor": document["cursor"]}
        if not document["records"]:
            break
        assert len(document["records"]) <= 5
        found += document["records"]
    assert sorted(places(found)) == all_places()
    for partition in range(PARTITIONS):
        offsets = [record["offset"] for record in found if record["partition"] == partition]
        assert offsets == sorted(offsets)


def test_lines_carry_the_cursor_in_a_header(shared, wide_topic):
    accept = {"Accept": routes.NDJSON}
    lines, start = [], {}
    # Lines of a leader that takes longer to answer than others come with the next page.
    while len(lines) < 12:
        answer = read(shared, wide_topic, 1, headers=accept, max_records=100, **start).expect(200)
        assert answer.headers["Content-Type"] == routes.NDJSON
        lines += answer.text.splitlines()
        start = {"cursor": answer.headers[routes.HEADER_CURSOR]}
    assert len(lines) == 12
    assert read(shared, wide_topic, 2, max_wait_ms=0, **start).document["records"] == []


def test_a_read_begins_at_an_end_or_at_a_time(shared, wide_topic):
    def begun(**start):
        found = [document["records"] for document in pages(shared, wide_topic, start)]
        return sorted(place for records in found for place in places(records))

    assert begun(offset="latest") == []
    assert begun(offset=-1) == all_places([3])
    assert begun(offset=-99) == begun(offset="earliest") == all_places()
    assert begun(timestamp=1) == all_places()
    assert begun(timestamp=2**62) == []


def test_a_filter_is_read_on_behind_what_it_examined(shared, wide_topic):
    where = "%24%20%3E%202"  # $ > 2
    found = list(pages(shared, wide_topic, where=where, fields="value", max_records=2))
    assert all(len(document["records"]) <= 2 for document in found)
    let_through = [record for document in found for record in document["records"]]
    assert sorted(record["partition"] for record in let_through) == [0, 1, 2]
    assert all(record == {"partition": record["partition"], "value": 3} for record in let_through)
    *_, nothing = found = list(pages(shared, wide_topic, key="none"))
    assert all(document["records"] == [] for document in found)
    assert (
        read(shared, wide_topic, 1, cursor=nothing["cursor"], max_wait_ms=0).document["records"]
        == []
    )


def test_a_read_waits_for_a_record_of_any_partition(shared, wide_topic):
    cursor = read(shared, wide_topic, 1, offset="latest", max_wait_ms=0).document["cursor"]
    started_s = time.monotonic()
    assert read(shared, wide_topic, 1, cursor=cursor, max_wait_ms=200).document["records"] == []
    assert time.monotonic() - started_s >= 0.19  # Brokers count in whole milliseconds.
    shared.append(wide_topic, "new", partition=2)
    document = read(shared, wide_topic, 3, cursor=cursor, max_wait_ms=60_000).document
    assert places(document["records"]) == [(2, 4)]


def test_partitions_that_the_topic_got_begin_at_their_earliest(shared, wide_topic):
    cursor = read(shared, wide_topic, 1, offset="latest", max_wait_ms=0).document["cursor"]
    url = f"{shared.any_url()}{routes.TOPICS}/{wide_topic}"
    shared.http.call("PATCH", url, {"partitions": PARTITIONS + 1}).expect(200)
    shared.wait_led(wide_topic, partitions=PARTITIONS + 1)
    shared.append(wide_topic, "first", partition=PARTITIONS)
    for node_id in shared.node_ids:
        found = eventually(
            lambda node_id=node_id: read(shared, wide_topic, node_id, cursor=cursor).document[
                "records"
            ]
        )
        assert places(found) == [(PARTITIONS, 0)]


def test_a_cursor_of_a_deleted_topic_is_told_apart(shared, wide_topic):
    cursor = read(shared, wide_topic, 1, max_wait_ms=0).document["cursor"]
    shared.http.delete(f"{shared.any_url()}{routes.TOPICS}/{wide_topic}").expect(204)
    for node_id in shared.node_ids:

        def gone(node_id=node_id):
            answer = read(shared, wide_topic, node_id, cursor=cursor, max_wait_ms=0)
            return answer.code in {"UNKNOWN_TOPIC_OR_PARTITION", "CURSOR_OF_DELETED_TOPIC"}

        # A broker that was not asked to delete it hears of that a moment later.
        eventually(gone)
    shared.create_topic(wide_topic, partitions=PARTITIONS)
    shared.wait_led(wide_topic, partitions=PARTITIONS)
    for node_id in shared.node_ids:
        refused = eventually(
            lambda node_id=node_id: read(shared, wide_topic, node_id, cursor=cursor).expect(410)
        )
        assert refused.code == "CURSOR_OF_DELETED_TOPIC"
        assert refused.document["retriable"] is False


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"cursor": "AAAA"}, "INVALID_REQUEST"),
        ({"cursor": ""}, "INVALID_REQUEST"),
        ({"offset": 3}, "INVALID_REQUEST"),
        ({"offset": "latest", "timestamp": 1}, "INVALID_REQUEST"),
        ({"follow": "yes"}, "INVALID_REQUEST"),
        ({"min_bytes": 1}, "INVALID_REQUEST"),
        ({"follow": "true", "max_records": 1}, "INVALID_REQUEST"),
    ],
)
def test_what_makes_no_sense_is_refused(shared, topic, query, code):
    assert read(shared, topic, 1, **query).expect(422).code == code


def test_who_accepts_nothing_of_what_there_is_hears_so(shared, topic):
    assert read(shared, topic, 1, headers={"Accept": "text/html"}).expect(406)
    only_json = {"Accept": routes.JSON}
    assert read(shared, topic, 1, headers=only_json, follow="true").expect(406)
    assert read(shared, "no-such-topic", 1).expect(404)
