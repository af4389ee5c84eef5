"""With too few replicas in sync a retry of what is stored is told so; only new writes wait."""

import pytest

from tests.cluster.awaiting import eventually
from tests.cluster.binary_producer import BinaryProducer
from tests.cluster.http_client import produced

pytestmark = pytest.mark.cluster


def test_a_retry_gets_its_offset_while_new_writes_are_refused(start_cluster):
    client = start_cluster()
    client.create_topic("t", partitions=1, replication_factor=2)
    client.wait_led("t")
    state = client.partition("t")
    leader = client.leader("t")
    (follower,) = set(state["replicas"]) - {leader}
    producer = BinaryProducer(client, "t", producer_id=5)
    first = producer.append(0, b"numbered")

    def keyed(key, via, **query):
        headers = {"Idempotency-Key": key}
        return client.produce("t", [{"value": key}], headers=headers, via=via, **query)

    stored = keyed("order-1", leader).expect(200).document
    client.cluster.broker(follower).kill()
    via = client.live_node_ids
    eventually(lambda: client.partition("t", via=leader)["isr"] == [leader])
    eventually(lambda: keyed("order-2", leader, timeout_ms=1_000).code == "NOT_ENOUGH_REPLICAS")

    again = producer.send(0, b"numbered", to=leader)
    (result,) = produced(again.expect(200))
    assert (result.base_offset, result.duplicate) == (first.base_offset, True)
    assert producer.send(1, b"new", to=leader).code == "NOT_ENOUGH_REPLICAS"
    for node_id in via:
        repeated = keyed("order-1", node_id).expect(200).document
        assert repeated["records"] == stored["records"]
        assert repeated["results"][0]["duplicate"]
    client.cluster.broker(follower).start()
    client.wait_isr("t", 2)
    assert producer.append(1, b"new").base_offset == 2
    assert client.offset("t").expect(200).document["offset"] == 3
