"""The settings that bound how long, and for how many requests, a retry is known for one."""

from itertools import count

import pytest

from tests.cluster.awaiting import eventually
from tests.cluster.binary_producer import BinaryProducer

pytestmark = pytest.mark.cluster

REMEMBERED_MS = 5_000
"""A machine that stands still between two requests must not make the first one old."""

FORGOTTEN_WITHIN_S = 20.0


def keyed(client, key):
    answer = client.produce("t", [{"value": key}], headers={"Idempotency-Key": key}, partition=0)
    return answer.expect(200).document["results"][0]["duplicate"]


def started(start_cluster, **settings):
    client = start_cluster(brokers=1, settings=settings)
    client.create_topic("t", partitions=1)
    client.wait_led("t")
    return client


def test_a_key_is_forgotten_after_its_window(start_cluster):
    client = started(start_cluster, OTTLA_IDEMPOTENCY_WINDOW_MS=str(REMEMBERED_MS))
    assert not keyed(client, "first")
    assert keyed(client, "first")
    others = count()

    def forgotten():
        # Others come meanwhile, as they do: what is too old is forgotten when something is new.
        assert not keyed(client, f"other-{next(others)}")
        return not keyed(client, "first")

    eventually(forgotten, FORGOTTEN_WITHIN_S)


def test_the_oldest_key_is_forgotten_when_there_are_too_many(start_cluster):
    client = started(start_cluster, OTTLA_IDEMPOTENCY_ENTRIES_MAX="3")
    for key in ("a", "b", "c"):
        assert not keyed(client, key)
    assert keyed(client, "a")
    assert not keyed(client, "d")
    assert keyed(client, "b")
    assert not keyed(client, "a")


def test_a_silent_producer_is_forgotten_after_its_expiration(start_cluster):
    """An unknown producer may begin anywhere, a known one may not leave records out."""
    client = started(start_cluster, OTTLA_PRODUCER_ID_EXPIRATION_MS=str(REMEMBERED_MS))
    producer = BinaryProducer(client, "t", producer_id=5)
    producer.append(0, b"zero")
    gap = producer.send(7, b"seven")
    assert gap.code == "OUT_OF_ORDER_SEQUENCE_NUMBER"
    eventually(lambda: producer.send(7, b"seven").status == 200, FORGOTTEN_WITHIN_S)
    assert producer.append(7, b"seven").duplicate
