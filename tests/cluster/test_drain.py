"""A broker leaves the cluster: its replicas move while they are written, then it is forgotten."""

import pytest

from ottla_protocol import routes
from tests.cluster.awaiting import eventually
from tests.cluster.writers import Writers

pytestmark = pytest.mark.cluster


def path(template, broker):
    return template.format(broker=broker)


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
