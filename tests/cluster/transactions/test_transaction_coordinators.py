"""Transactions on real brokers: decided once, told to every partition, whoever dies meanwhile."""

import pytest

from ottla_broker.drivers.transaction_coordinators import TRANSACTION_STATE_TOPIC
from ottla_cluster.transactions.commands import EndTransaction
from ottla_cluster.transactions.records import TransactionState
from tests.cluster.awaiting import eventually
from tests.cluster.transactions.transacting import (
    Coordinators,
    RefusedError,
    Transacting,
    committed_values,
)

pytestmark = pytest.mark.cluster

SETTINGS = {"OTTLA_SESSION_TIMEOUT_MS": "1000"}


@pytest.fixture(scope="module")
def coordinators(shared):
    return Coordinators(shared)


def test_what_is_committed_appears_and_what_is_aborted_never_does(coordinators, shared, topic):
    producer = Transacting(coordinators, topic)
    for value, is_commit in ((b'"a"', True), (b'"b"', False), (b'"c"', True)):
        before = committed_values(shared, topic)
        producer.send(topic, value)
        assert committed_values(shared, topic) == before
        producer.end(is_commit=is_commit)
        eventually(
            lambda: (
                coordinators.describe(topic).state
                in {TransactionState.COMPLETE_COMMIT, TransactionState.COMPLETE_ABORT}
            )
        )
    assert committed_values(shared, topic) == ["a", "c"]


def test_a_successor_aborts_what_was_open_and_fences_its_holder(coordinators, shared, topic):
    first = Transacting(coordinators, topic)
    first.send(topic, b'"torn"')
    second = Transacting(coordinators, topic)
    # It has its answer, so the markers are written.
    assert second.identity.producer_epoch == first.identity.producer_epoch + 2
    assert shared.offset(topic).expect(200).document["offset"] == 2
    with pytest.raises(RefusedError) as caught:
        coordinators.ask_once(EndTransaction(topic, first.identity, True))
    assert caught.value.code == "PRODUCER_FENCED"
    second.send(topic, b'"whole"')
    second.end()
    eventually(lambda: committed_values(shared, topic) == ["whole"])


def test_nobody_ends_it_so_its_time_does(coordinators, shared, topic):
    late = Transacting(coordinators, topic, timeout_ms=200)
    late.send(topic, b'"late"')
    state = TransactionState.COMPLETE_ABORT
    eventually(lambda: coordinators.describe(topic).state is state)
    with pytest.raises(RefusedError) as caught:
        coordinators.ask_once(EndTransaction(topic, late.identity, True))
    assert caught.value.code == "TRANSACTION_ABORTABLE"
    late.end(is_commit=False)
    late.send(topic, b'"in time"')
    late.end()
    eventually(lambda: committed_values(shared, topic) == ["in time"])


def test_markers_for_a_topic_that_is_deleted_are_not_waited_for(coordinators, shared, topic):
    producer = Transacting(coordinators, topic)
    name = f"{topic}-deleted"
    shared.create_topic(name, partitions=2)
    shared.wait_led(name, partitions=2)
    producer.add(name, 0, 1)
    producer.send(topic, b'"stays"')
    shared.http.delete(f"{shared.any_url()}/v1/topics/{name}").expect(204)
    producer.end()
    eventually(lambda: committed_values(shared, topic) == ["stays"])
    assert Transacting(coordinators, topic).identity.producer_epoch == 2


def test_a_coordinator_that_dies_between_decision_and_markers_takes_nothing_along(start_cluster):
    client = start_cluster(settings=SETTINGS)
    coordinators = Coordinators(client)
    coordinator = coordinators.node_of("t")
    # One replica each: while its broker is down nobody can end a transaction there.
    alone = topic_led_by_another(client, coordinator)
    (other,) = set(client.node_ids) - {coordinator, client.leader(alone)}
    down = client.cluster.broker(client.leader(alone))
    producer = Transacting(coordinators, "t")
    producer.send(alone, b'"decided"')
    down.kill()
    producer.end()
    assert coordinators.describe("t").state is TransactionState.PREPARE_COMMIT
    client.cluster.broker(coordinator).kill()
    client.cluster.broker(coordinator).start()
    # Without the broker that is down both others are needed, and either may coordinate.
    found = eventually(lambda: coordinators.describe("t"), 20.0)
    assert found.state is TransactionState.PREPARE_COMMIT
    assert {each.topic for each in found.partitions} == {alone}
    with pytest.raises(RefusedError) as caught:
        coordinators.ask_once(EndTransaction("t", producer.identity, True))
    assert caught.value.retriable
    down.start()
    eventually(lambda: coordinators.describe("t").state is TransactionState.COMPLETE_COMMIT, 30.0)
    assert committed_values(client, alone) == ["decided"]
    producer.send(alone, b'"next"')
    producer.end()
    eventually(lambda: committed_values(client, alone) == ["decided", "next"])
    assert client.leader(TRANSACTION_STATE_TOPIC, via=other)


def topic_led_by_another(client, node_id):
    """The name of a topic with one replica, that is not on this broker."""
    for number in range(12):
        name = f"alone-{number}"
        made = client.create_topic(name, partitions=1, replication_factor=1)
        if made["partitions"][0]["leader"] != node_id:
            client.wait_led(name)
            return name
    raise AssertionError(f"every topic was placed on broker {node_id}")
