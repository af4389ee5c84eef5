"""Whose time records carry, on real brokers."""

import time

import pytest

from ottla_protocol import routes
from tests.cluster.awaiting import eventually

pytestmark = pytest.mark.cluster

HOUR_MS = 3_600_000


def wall_ms():
    return time.time_ns() // 1_000_000


def alter(client, topic, configs):
    url = client.any_url() + routes.TOPIC_CONFIGS.format(topic=topic)
    client.http.call("PATCH", url, {"configs": configs}).expect(200)


def produce(client, topic, timestamp, *, via=None):
    return client.produce(
        topic, [{"value": timestamp, "timestamp": timestamp}], partition=0, via=via
    )


def produced_at(client, topic, timestamp, *, via=None):
    """The timestamp that the answer tells."""
    answer = produce(client, topic, timestamp, via=via).expect(200)
    return answer.document["results"][0]["timestamp"]


def stored(client, topic, **arguments):
    document = client.read(topic, offset=0, max_wait_ms=0, **arguments).expect(200).document
    return [record["timestamp"] for record in document["records"]]


def test_the_leader_s_time_is_told_stored_and_looked_for(shared, topic):
    alter(shared, topic, {"message.timestamp.type": "LogAppendTime"})
    before = wall_ms()
    # The leader of the topic hears of its new config soon, not at once.
    eventually(lambda: produced_at(shared, topic, 5) >= before)
    told = [produced_at(shared, topic, 5, via=via) for via in shared.node_ids]
    assert all(before <= timestamp <= wall_ms() for timestamp in told)
    # Whatever was appended before the config counted has the producer's time.
    assert stored(shared, topic)[-3:] == told
    found = shared.offset(topic, at=told[-1]).expect(200).document
    assert found["timestamp"] >= told[-1]
    shared.wait_replicas_equal(topic)
    for node in shared.node_ids:
        assert stored(shared, topic, via=node, replica="local")[-3:] == told
    alter(shared, topic, {"message.timestamp.type": None})
    eventually(lambda: produced_at(shared, topic, 7) == 7)


def test_a_record_from_the_future_is_refused_unless_its_topic_says_otherwise(shared, topic):
    future = wall_ms() + 2 * HOUR_MS
    for via in shared.node_ids:
        refused = produce(shared, topic, future, via=via)
        assert (refused.status, refused.code) == (422, "INVALID_TIMESTAMP")
        assert refused.document["outcome"] == "not_applied"
        assert "message.timestamp.after.max.ms" in refused.document["detail"]
    assert shared.offset(topic).expect(200).document["offset"] == 0
    assert produced_at(shared, topic, wall_ms() + HOUR_MS // 2) > wall_ms()
    alter(shared, topic, {"message.timestamp.after.max.ms": 3 * HOUR_MS})
    eventually(lambda: produce(shared, topic, future).status == 200)
    assert stored(shared, topic)[-1] == future
