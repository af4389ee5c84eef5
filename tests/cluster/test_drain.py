"""A broker leaves the cluster: its replicas move while they are written, then it is forgotten."""

import time

import pytest

from ottla_protocol import routes
from tests.cluster.awaiting import eventually
from tests.cluster.writers import Writers

pytestmark = pytest.mark.cluster

LONGER_THAN_A_SESSION_S = 8.0
"""By then the controller would have elected another one, if it did that."""


def path(template, broker):
    return template.format(broker=broker)


def reassign(client, **body):
    client.http.post(client.url(1) + routes.REASSIGNMENTS, body).expect(200)


def move(client, topic, node_id, **body):
    wanted = {"topic": topic, "partition": 0, "replicas": [node_id]}
    reassign(client, reassignments=[wanted], **body)


def test_a_drained_broker_may_go(start_cluster):
    client = start_cluster(brokers=4, voters=3)
    client.create_topic("t", partitions=6, replication_factor=3)
    client.wait_led("t", partitions=6)
    leaving = 4
    drain = client.url(1) + path(routes.BROKER_DRAIN, leaving)
    assert client.http.get(drain).expect(200).document["state"] == "none"
    with Writers(client, "t", partitions=6, via=[1, 2, 3]) as writers:
        writers.wait_for_more()
        begun = client.http.post(drain).expect(202).document
        assert begun["partitions_at_start"] > 0
        eventually(lambda: client.http.get(drain).document["state"] == "drained", 60)
        writers.wait_for_more()
    for partition in client.describe("t")["partitions"]:
        assert sorted(partition["replicas"]) == [1, 2, 3]
    client.create_topic("later", partitions=3, replication_factor=3)
    assert all(leaving not in p["replicas"] for p in client.describe("later")["partitions"])
    # Nobody could take the place of another one.
    refused = client.http.post(client.url(1) + path(routes.BROKER_DRAIN, 3)).expect(422).document
    assert refused["code"] == "INVALID_REPLICATION_FACTOR"
    assert "would remain" in refused["detail"]
    unregister = client.url(1) + path(routes.BROKER, leaving)
    assert client.http.delete(unregister).expect(409).document["code"] == "CONFLICT"

    assert client.cluster.broker(leaving).terminate(timeout_s=20) == 0
    eventually(lambda: client.http.delete(unregister).status == 204, 20)
    brokers = client.http.get(client.url(1) + routes.BROKERS).expect(200).document["brokers"]
    assert [broker["id"] for broker in brokers] == [1, 2, 3]
    assert client.append("t", "still here", partition=0, via=1) >= 0


def test_what_only_a_broker_that_is_down_has_waits_for_it(start_cluster):
    """Though its topic allows unclean elections: the new replica is empty."""
    client = start_cluster(brokers=4, voters=3)
    leaving, names = 4, ("moving", "later")
    configs = {"unclean.leader.election.enable": True}
    for name in names:
        client.create_topic(name, partitions=1, replication_factor=1, configs=configs)
        move(client, name, leaving)
        eventually(lambda name=name: client.partition(name)["replicas"] == [leaving], 20)
        client.append(name, "kept")
    for _ in range(20):
        client.append("moving", "x" * 50_000)
    # The one is on its way when its broker dies, too slowly to come to its end.
    move(client, "moving", 1, throttle_bytes_per_second=1_024)
    assert client.partition("moving")["isr"] == [leaving]
    client.cluster.broker(leaving).kill()
    for name in names:
        eventually(lambda name=name: client.partition(name)["leader"] is None, 20)
    drain = client.url(1) + path(routes.BROKER_DRAIN, leaving)
    client.http.post(drain).expect(202)
    time.sleep(LONGER_THAN_A_SESSION_S)
    progress = client.http.get(drain).expect(200).document
    assert (progress["state"], progress["partitions_left"]) == ("draining", 2)
    assert {each["topic"] for each in progress["blocked"]} == set(names)
    assert all("nobody leads it" in each["detail"] for each in progress["blocked"])
    for name in names:
        assert client.partition(name)["leader"] is None
        assert leaving in client.partition(name)["replicas"]

    reassign(client, throttle_bytes_per_second=None)
    client.cluster.broker(leaving).start()
    client.cluster.broker(leaving).wait_ready()
    eventually(lambda: client.http.get(drain).document["state"] == "drained", 60)
    for name in names:
        eventually(lambda name=name: client.offset(name).status == 200)
        assert client.values(name)[0] == "kept"
