"""The last in-sync replica comes back without its directory: the others keep what they have."""

import shutil

import pytest

from ottla_protocol import routes
from tests.cluster.awaiting import eventually

pytestmark = pytest.mark.cluster


def reasons_without_a_leader(client, topic):
    answer = client.http.get(client.any_url() + routes.CLUSTER_HEALTH, condition="offline")
    return [
        reason["code"]
        for partition in answer.expect(200).document["partitions"]
        if partition["topic"] == topic
        for reason in partition["reasons"]
    ]


def test_an_empty_directory_of_the_last_member_costs_the_others_nothing(start_cluster):
    client = start_cluster()
    configs = {"min.insync.replicas": 1}
    client.create_topic("orders", partitions=1, replication_factor=2, configs=configs)
    client.wait_led("orders")
    client.wait_isr("orders", 2)
    last = client.leader("orders")
    [other] = [n for n in client.partition("orders")["replicas"] if n != last]
    client.append("orders", *range(20))
    client.cluster.broker(other).kill()
    eventually(lambda: client.partition("orders", via=last)["isr"] == [last])

    broker = client.cluster.broker(last)
    broker.kill()
    shutil.rmtree(broker.data_dir)
    for node_id in (last, other):
        client.cluster.broker(node_id).start()
    for node_id in (last, other):
        client.cluster.broker(node_id).wait_ready()
    eventually(lambda: "directory_awaited" in reasons_without_a_leader(client, "orders"))
    assert client.partition("orders")["leader"] is None
    assert client.partition("orders")["isr"] == [last]

    # Nothing is to be found of that directory: the other has all that there is.
    path = routes.TOPIC_CONFIGS.format(topic="orders")
    body = {"configs": {"unclean.leader.election.enable": True}}
    client.http.call("PATCH", client.any_url() + path, body).expect(200)
    client.wait_isr("orders", 2, timeout_s=30)
    assert client.values("orders") == dict(enumerate(range(20)))
