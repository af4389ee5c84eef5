"""Brokers die while clients write: nothing acknowledged is lost, nothing is told twice."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import pytest

from tests.cluster.awaiting import eventually
from tests.cluster.cluster_client import stored_batches
from tests.cluster.writers import Writers

pytestmark = pytest.mark.cluster

PARTITIONS = 3

NEW_TOPIC_LIMIT_S = 2.0
"""What an election and a creation take at most, less than a broker's session."""

PREFERRED_LEADER_LIMIT_S = 20.0
LOOK_UP_LIMIT_S = 30.0


@pytest.fixture
def client(start_cluster):
    """A cluster of this test's own with the topic `t`."""
    client = start_cluster()
    client.create_topic("t", partitions=PARTITIONS)
    client.wait_led("t", partitions=PARTITIONS)
    return client


def check_everything(client, writers):
    """What was promised holds on every broker, over HTTP and then in the bytes on their disks."""
    client.wait_isr("t", 3)
    copies = client.wait_replicas_equal("t", partitions=PARTITIONS)
    writers.check(copies)
    assert set(client.cluster.stop(timeout_s=20).values()) == {0}
    for partition in range(PARTITIONS):
        first, *others = (
            stored_batches(client.cluster, node, "t", partition) for node in client.node_ids
        )
        assert first
        assert first[-1][1] == len(copies[partition]) - 1
        assert all(other == first for other in others), partition
        epochs = [epoch for _, _, epoch, _ in first]
        assert epochs == sorted(epochs)
    for broker in client.cluster.brokers:
        lines = [json.loads(line) for line in broker.log_path.read_text().splitlines()]
        assert {line["broker"] for line in lines} == {broker.node_id}
        assert not [line for line in lines if line["level"] in {"error", "critical"}]


def look_up_newest(client, writers, via):
    """Whoever reads what was acknowledged last finds it, or is asked to ask again."""
    acknowledged = sorted(writers.acknowledged.copy().items())
    newest = {partition: (offset, value) for (partition, offset), value in acknowledged}

    def look_up(partition, node):
        offset, value = newest[partition]

        def answered():
            answer = client.read("t", partition, via=node, offset=offset, max_wait_ms=0)
            return answer.status != 503 and answer

        # The first answer that is no refusal counts.
        answer = eventually(answered, LOOK_UP_LIMIT_S)
        records = answer.expect(200).document["records"]
        assert [record["value"] for record in records[:1]] == [value], answer.text

    with ThreadPoolExecutor(2 * PARTITIONS) as threads:
        list(threads.map(look_up, *zip(*product(newest, via), strict=True)))


def test_a_leader_is_killed_under_load(client):
    leader = client.leader("t", 0)
    with Writers(client, "t", partitions=PARTITIONS) as writers:
        writers.wait_for_more()
        client.cluster.broker(leader).kill()
        look_up_newest(client, writers, client.others(leader))
        writers.wait_for_more()
        survivor = client.others(leader)[0]
        state = client.partition("t", 0, via=survivor)
        assert state["leader"] != leader
        assert state["leader_epoch"] >= 1
        client.cluster.broker(leader).start()
        client.cluster.wait_ready()
        client.wait_isr("t", 3)
        writers.wait_for_more()
        # The first replica leads again once it is in sync, without anybody asking.
        eventually(
            lambda: all(
                state["leader"] == state["replicas"][0]
                for state in client.describe("t")["partitions"]
            ),
            PREFERRED_LEADER_LIMIT_S,
        )
        writers.wait_for_more()
    check_everything(client, writers)


def test_the_controller_is_killed_and_the_next_topic_comes_in_time(client):
    """Twice: the second time the first victim is back and votes."""
    with Writers(client, "t", partitions=PARTITIONS, threads=1) as writers:
        for number in (1, 2):
            writers.wait_for_more(5)
            victim = client.controller()
            survivor = client.others(victim)[0]
            client.cluster.broker(victim).kill()
            started_s = time.monotonic()
            made = client.create_topic(
                f"new-{number}", via=survivor, partitions=1, replication_factor=2
            )
            took_s = time.monotonic() - started_s
            assert took_s < NEW_TOPIC_LIMIT_S, took_s
            assert made["name"] == f"new-{number}"
            for node in client.live_node_ids:
                client.describe(f"new-{number}", via=node)
            writers.wait_for_more(5)
            assert client.controller() != victim
            client.cluster.broker(victim).start()
            client.cluster.wait_ready()
            client.wait_isr("t", 3)
    check_everything(client, writers)


def test_a_leader_is_killed_and_back_before_anyone_notices(client):
    """A restarted process is another one, however quick: its leaderships get a new epoch."""
    with Writers(client, "t", partitions=PARTITIONS) as writers:
        for _ in range(3):
            writers.wait_for_more(10)
            partition = client.partition("t", 0)
            leader, epoch = partition["leader"], partition["leader_epoch"]
            restart_unnoticed(client, leader)
            eventually(lambda e=epoch: client.partition("t", 0)["leader_epoch"] > e)
            client.cluster.wait_ready()
            client.wait_isr("t", 3)
            writers.wait_for_more(10)
    check_everything(client, writers)


def restart_unnoticed(client, node_id):
    """Kill and start a broker while the others stand still, so that none is refused a connection.

    When they wake, whatever they were sending has broken, and the broker answers already.
    """
    others = [client.cluster.broker(other) for other in client.others(node_id)]
    for other in others:
        other.pause()
    client.cluster.broker(node_id).restart()
    eventually(lambda: client.answers_quickly(node_id))
    for other in others:
        other.resume()


def test_all_are_killed_under_load(client):
    """As when the power goes: whatever was acknowledged is at its offset on all three."""
    with Writers(client, "t", partitions=PARTITIONS) as writers:
        for _ in range(2):
            writers.wait_for_more()
            client.cluster.kill()
            client.cluster.start()
            client.cluster.wait_ready()
            writers.wait_for_more()
    check_everything(client, writers)
