"""Consumers read from a follower in sync: only what is committed, and never from a stale one."""

import threading

import pytest

from ottla_protocol import routes
from ottla_protocol.models import PartitionToFetch
from ottla_protocol.record_codec import decode_batch
from tests.cluster.awaiting import eventually
from tests.cluster.http_client import fetched

pytestmark = pytest.mark.cluster

REFUSAL_LIMIT_S = 8.0
"""A session of three seconds, and a busy machine."""

RECOVERY_LIMIT_S = 30.0
"""Elections of a controller and of a leader, one after the other."""


def fetch(client, node_id, topic, offset=0, *, replica="any", max_wait_ms=0, **options):
    """Fetch partition 0 at one broker; the bare answer."""
    wanted = PartitionToFetch(topic, 0, offset, **options)
    return client.http.binary_fetch(
        client.url(node_id), [wanted], replica=replica, max_wait_ms=max_wait_ms
    )


def open_follower(client, topic):
    """A follower of a fresh topic, once it has opened its replica."""
    follower = client.others(client.leader(topic))[0]
    eventually(lambda: fetch(client, follower, topic).expect(200))
    return follower


def values_of(answer):
    [partition] = fetched(answer.expect(200))
    return [
        record.value
        for batch in partition.batches
        for record in decode_batch(batch, max_inflated_bytes=1 << 20)
    ]


def test_every_replica_in_sync_serves_what_is_committed(shared, topic):
    shared.append(topic, 1, 2)
    for node_id in shared.node_ids:
        eventually(
            lambda node_id=node_id: (
                values_of(fetch(shared, node_id, topic, max_wait_ms=1_000)) == [b"1", b"2"]
            )
        )


def test_an_answer_tells_whose_records_these_are(shared, topic):
    described = shared.http.get(f"{shared.any_url()}{routes.TOPICS}/{topic}").expect(200).document
    answer = fetch(shared, shared.leader(topic), topic, max_wait_ms=0).expect(200)
    assert [each.topic_id for each in fetched(answer)] == [described["topic_id"]]


def test_without_being_asked_to_a_follower_serves_nothing(shared, topic):
    follower = open_follower(shared, topic)
    answer = fetch(shared, follower, topic, replica="leader").expect(421)
    assert answer.document["leader"] == shared.leader(topic)


def test_a_parked_read_at_a_follower_wakes_when_records_are_committed(shared, topic):
    follower = open_follower(shared, topic)
    found = []
    reader = threading.Thread(
        target=lambda: found.extend(values_of(fetch(shared, follower, topic, max_wait_ms=20_000)))
    )
    reader.start()
    eventually(lambda: shared.metric(follower, "ottla_parked_requests") >= 1)
    shared.append(topic, 7)
    reader.join(10)
    assert found == [b"7"]


def test_what_a_follower_has_not_got_may_be_had_elsewhere(shared, topic):
    shared.append(topic, 1)
    leader = shared.leader(topic)
    follower = shared.others(leader)[0]
    answer = fetch(shared, follower, topic, 5).expect(503)
    assert (answer.code, answer.document["retriable"]) == ("OFFSET_NOT_AVAILABLE", True)
    assert fetch(shared, leader, topic, 5).expect(416).code == "OFFSET_OUT_OF_RANGE"
    assert fetch(shared, follower, topic, -1).expect(416).code == "OFFSET_OUT_OF_RANGE"


def test_a_follower_fences_a_stale_leader_epoch(shared, topic):
    follower = open_follower(shared, topic)
    answer = fetch(shared, follower, topic, leader_epoch=99).expect(409)
    assert answer.code == "UNKNOWN_LEADER_EPOCH"


def test_a_broker_without_a_replica_names_the_leader(shared):
    shared.create_topic("two-replicas", partitions=1, replication_factor=2)
    shared.wait_led("two-replicas")
    state = shared.partition("two-replicas")
    [outsider] = set(shared.node_ids) - set(state["replicas"])
    answer = fetch(shared, outsider, "two-replicas").expect(421)
    assert answer.document["leader"] == state["leader"]


def test_a_follower_that_is_cut_off_refuses(start_cluster):
    client = start_cluster()
    client.create_topic("t", partitions=1)
    client.wait_led("t")
    client.append("t", 1)
    client.wait_isr("t", 3)
    leader = client.leader("t")
    follower, other = client.others(leader)
    eventually(lambda: values_of(fetch(client, follower, "t")) == [b"1"])
    for node_id in (leader, other):
        client.cluster.broker(node_id).pause()
    refused = eventually(
        lambda: (answer := fetch(client, follower, "t")).status == 503 and answer,
        REFUSAL_LIMIT_S,
    )
    assert refused.code == "LEADER_NOT_AVAILABLE"
    for node_id in (leader, other):
        client.cluster.broker(node_id).resume()
    eventually(lambda: values_of(fetch(client, follower, "t")) == [b"1"], RECOVERY_LIMIT_S)


def test_metadata_tells_where_the_brokers_stand(start_cluster):
    client = start_cluster(brokers=1, settings={"OTTLA_RACK": "berlin"})
    document = client.http.get(client.any_url() + "/v1/metadata").expect(200).document
    assert [broker["rack"] for broker in document["brokers"]] == ["berlin"]
