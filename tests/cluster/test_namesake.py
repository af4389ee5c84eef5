"""A topic is deleted and made again under its name while a broker that holds it is away."""

import time

import pytest

from tests.cluster.awaiting import eventually
from tests.cluster.cluster_client import stored_batches

pytestmark = pytest.mark.cluster

WATCH_S = 2.0


@pytest.fixture
def client(start_cluster):
    """A cluster of this test's own with old records in `t` on every broker."""
    client = start_cluster()
    client.create_topic("t", partitions=2)
    for partition in (0, 1):
        client.append("t", *["old"] * 30, partition=partition)
    for node in client.node_ids:
        eventually(lambda node=node: client.local_records(node, "t", 1)[0] == 30)
    return client


def watch(client, node_id, new_topic_id):
    """Ask the returned broker for `t` in every way, all the time; the values that it gave.

    Its own copy is asked for once it knows of the new topic: a process that has just woken shows
    what it holds, and cannot know better.
    """
    seen = set()
    deadline_s = time.monotonic() + WATCH_S

    def ask():
        described = client.http.get(f"{client.url(node_id)}/v1/topics/t")
        knows = described.status == 200 and described.document["topic_id"] == new_topic_id
        for query in ({}, {"replica": "local"}) if knows else ({},):
            for partition in (0, 1):
                answer = client.read("t", partition, via=node_id, max_wait_ms=0, offset=0, **query)
                if answer.status == 200:
                    seen.update(record["value"] for record in answer.document["records"])
        return time.monotonic() >= deadline_s and knows

    eventually(ask, WATCH_S + 20)
    return seen


def write_new(client, via):
    """Write two records to each partition, repeated safely while a leader stands still."""
    records = [{"value": "new-1"}, {"value": "new-2"}]
    for partition in (0, 1):
        key = {"Idempotency-Key": f"new-{partition}"}

        def write(partition=partition, key=key):
            return client.produce("t", records, partition=partition, via=via, headers=key)

        eventually(lambda write=write: write().status == 200, 15)


def check_new_only(client, returned, made):
    assert watch(client, returned, made["topic_id"]) <= {"new-1", "new-2"}
    for partition in (0, 1):
        assert client.values("t", partition) == {0: "new-1", 1: "new-2"}
        assert client.values("t", partition, via=returned) == {0: "new-1", 1: "new-2"}


@pytest.mark.parametrize("back", ["resumed", "restarted"])
def test_it_comes_back_as_a_replica_of_the_new_topic(client, back):
    away = next(node for node in client.node_ids if node != client.controller())
    others = client.others(away)
    # Stopped, not killed: it is still in the cluster when the new topic is placed.
    client.cluster.broker(away).pause()
    client.http.delete(f"{client.url(others[0])}/v1/topics/t").expect(204)
    made = client.create_topic("t", partitions=2, replication_factor=3, via=others[0])
    assert all(away in state["replicas"] for state in made["partitions"])
    write_new(client, others[1])
    if back == "restarted":
        client.cluster.broker(away).restart()
    else:
        client.cluster.broker(away).resume()
    check_new_only(client, away, made)
    client.wait_isr("t", 3)
    copies = client.wait_replicas_equal("t", partitions=2)
    assert [len(records) for records in copies.values()] == [2, 2]
    eventually(lambda: not list((client.cluster.broker(away).data_dir / "deleted").iterdir()))
    assert set(client.cluster.stop(timeout_s=20).values()) == {0}
    for partition in (0, 1):
        batches = stored_batches(client.cluster, away, "t", partition)
        assert batches == stored_batches(client.cluster, others[0], "t", partition)
        assert b"old" not in b"".join(data for *_, data in batches)


def test_it_comes_back_without_a_replica_of_the_new_topic(client):
    away = next(node for node in client.node_ids if node != client.controller())
    others = client.others(away)
    client.cluster.broker(away).kill()
    client.http.delete(f"{client.url(others[0])}/v1/topics/t").expect(204)

    def fenced():
        brokers = client.http.get(f"{client.url(others[0])}/v1/brokers").document["brokers"]
        return {broker["id"]: broker["state"] for broker in brokers}[away] == "fenced"

    eventually(fenced)
    made = client.create_topic("t", partitions=2, replication_factor=2, via=others[0])
    write_new(client, others[1])
    client.cluster.broker(away).start()
    eventually(lambda: client.answers_quickly(away))
    check_new_only(client, away, made)
    directory = client.cluster.broker(away).data_dir
    eventually(lambda: not list(directory.glob("t-*")))
