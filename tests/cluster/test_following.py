"""Streams of records: live, resumed at another broker, and through the deaths of brokers."""

import json

import pytest

from ottla_protocol import routes
from tests.cluster.awaiting import eventually
from tests.cluster.event_source import EventSource
from tests.cluster.writers import Writers

pytestmark = pytest.mark.cluster

PARTITIONS = 3


def topic_path(topic, query=""):
    return routes.TOPIC_RECORDS.format(topic=topic) + query


def partition_path(topic, query=""):
    return routes.PARTITION_RECORDS.format(topic=topic, partition=0) + query


def followers(client, node_id, kind="sse"):
    return client.metric(node_id, f'ottla_followers{{kind="{kind}"}}')


def test_events_come_live_from_every_broker_and_are_resumed_at_another(shared, topic):
    """Two of the three brokers do not lead the partition."""
    shared.append(topic, "before")
    sources = [
        EventSource([shared.url(node_id)], topic_path(topic, "?offset=latest"))
        for node_id in shared.node_ids
    ]
    for source in sources:
        with source:
            source.wait_open()
            assert source.events == []
            value = f"for {source.connections} {len(sources)}"
            offset = shared.append(topic, value)
            [record] = source.wait_for(1)
            assert (record["partition"], record["offset"], record["value"]) == (0, offset, value)
            assert source.retry_ms == 1000
    # The first one had the first record: whoever goes on behind it gets the other two.
    last_id = sources[0].last_event_id
    for node_id, path in (
        (1, topic_path(topic, f"?cursor={last_id}")),
        (2, topic_path(topic, f"?last_event_id={last_id}")),
        (3, partition_path(topic, f"?cursor={last_id}")),
    ):
        with EventSource([shared.url(node_id)], path) as resumed:
            found = resumed.wait_for(2)
        assert [record["offset"] for record in found] == [2, 3]


def test_a_header_counts_more_than_the_query(shared, topic):
    for value in range(3):
        shared.append(topic, value)
    with EventSource([shared.url(1)], partition_path(topic, "?offset=0")) as first:
        first.wait_for(3)
    one = first.events[0].last_event_id
    with EventSource(
        [shared.url(2)], partition_path(topic, "?offset=0"), headers={"Last-Event-ID": one}
    ) as resumed:
        found = resumed.wait_for(2)
    assert [record["offset"] for record in found] == [1, 2]


def test_lines_go_on_and_whoever_leaves_is_forgotten_at_once(shared, topic):
    leader = shared.leader(topic)
    via = shared.others(leader)[0]
    # Those of an earlier test may just have left.
    eventually(lambda: followers(shared, via, "ndjson") == 0)
    shared.append(topic, "stored")
    answer = shared.http._pool.request(
        "GET",
        shared.url(via) + partition_path(topic, "?offset=0&follow=true"),
        preload_content=False,
        timeout=30,
    )
    lines = iter(answer)
    assert json.loads(next(lines))["value"] == "stored"
    shared.append(topic, "live")
    assert json.loads(next(lines)) == {"key": None, "value": "live"} | {
        "offset": 1,
        "headers": {},
        "timestamp": shared.read(topic, offset=1).document["records"][0]["timestamp"],
    }
    assert followers(shared, via, "ndjson") == 1
    answer.close()
    eventually(lambda: followers(shared, via, "ndjson") == 0)
    eventually(lambda: shared.metric(via, "ottla_record_feeds") == 0)


def test_a_deleted_topic_ends_its_stream_with_an_error(shared, topic):
    with EventSource([shared.url(2)], topic_path(topic)) as source:
        source.wait_open()
        shared.http.delete(f"{shared.url(1)}{routes.TOPICS}/{topic}").expect(204)
        eventually(lambda: source.errors)
        assert source.errors[0].document["code"] == "UNKNOWN_TOPIC_OR_PARTITION"
        # It came back, and what it was told then made it give up.
        eventually(lambda: source.failed is not None)
        assert source.failed[0] in {404, 410}


def test_an_event_source_loses_and_repeats_nothing_while_brokers_die(start_cluster):
    """First a leader that it is not connected to, then its own broker, then that one in order."""
    settings = {"OTTLA_FOLLOWER_KEEP_ALIVE_MS": "300", "OTTLA_MAX_FOLLOWERS": "1"}
    client = start_cluster(settings=settings)
    client.create_topic("t", partitions=PARTITIONS)
    client.wait_led("t", partitions=PARTITIONS)
    urls = [client.url(node_id) for node_id in client.node_ids]
    by_url = {client.url(node_id): node_id for node_id in client.node_ids}

    def others_lead(source):
        own = by_url.get(source.connected_to)
        leaders = {client.leader("t", number) for number in range(PARTITIONS)}
        return own is not None and (own, sorted(leaders - {own}))

    with EventSource(urls, topic_path("t")) as source:
        eventually(lambda: source.comments > 2)
        refused = client.http.get(source.connected_to + topic_path("t", "?follow=true"))
        assert refused.expect(503).headers["Retry-After"]
        with Writers(client, "t", partitions=PARTITIONS, threads=2) as writers:
            writers.wait_for_more()
            _, leaders = others_lead(source)
            revive(client, leaders[0], client.cluster.broker(leaders[0]).kill)
            for stop in ("kill", "terminate"):
                writers.wait_for_more()
                own, _ = eventually(lambda: others_lead(source))
                seen = source.connections
                revive(client, own, getattr(client.cluster.broker(own), stop))
                eventually(lambda seen=seen: source.connections > seen)
            writers.wait_for_more()
        stored = {number: client.values("t", number) for number in range(PARTITIONS)}
        found = source.wait_for(sum(map(len, stored.values())))
    for number in range(PARTITIONS):
        received = [record for record in found if record["partition"] == number]
        offsets = [record["offset"] for record in received]
        assert offsets == list(range(len(stored[number]))), number
        assert {each["offset"]: each["value"] for each in received} == stored[number]
    assert {key: stored[key[0]].get(key[1]) for key in writers.acknowledged} == writers.acknowledged
    assert source.errors == []


def revive(client, node_id, end):
    """End that broker, start it again, and wait until all replicas are in sync again."""
    end()
    client.cluster.broker(node_id).start()
    client.cluster.wait_ready()
    client.wait_isr("t", 3)
