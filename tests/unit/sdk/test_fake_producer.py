"""What a user's own test does: a producer against the cluster in memory."""

import pytest

from ottla._errors import DeliveryTimeoutError, InvalidRecordError
from ottla.testing import FakeCluster
from ottla_protocol.errors import MessageTooLargeError, UnknownTopicOrPartitionError
from ottla_protocol.partitioning import partition_for_key


@pytest.fixture
def cluster():
    made = FakeCluster()
    made.create_topic("bookings", partitions=3)
    return made


def values(cluster):
    return sorted(record.value for record in cluster.records("bookings"))


def test_records_arrive_where_their_keys_belong(cluster):
    with cluster.producer(value_serializer="json", key_serializer="string") as producer:
        for number in range(100):
            producer.send("bookings", {"seat": number}, key=f"customer-{number}")
    records = cluster.records("bookings")
    assert len(records) == 100
    for record in records:
        assert record.partition == partition_for_key(record.key, 3)


async def test_asyncio(cluster):
    async with cluster.async_producer(value_serializer="string") as producer:
        metadata = await (await producer.send("bookings", "12A", partition=1))
    [record] = cluster.records("bookings")
    assert (metadata.topic, metadata.partition, metadata.offset) == record[:3]
    assert record.value == b"12A"


@pytest.mark.parametrize("after_append", [False, True])
def test_a_lost_answer_never_stores_a_record_twice(cluster, after_append):
    cluster.fail(after_append=after_append, times=3)
    with cluster.producer(retry_backoff_ms=1) as producer:
        futures = [producer.send("bookings", b"%d" % number) for number in range(20)]
        producer.flush()
    assert values(cluster) == sorted(b"%d" % number for number in range(20))
    assert len({(future.get().partition, future.get().offset) for future in futures}) == 20


def test_a_leader_that_moves_is_followed(cluster):
    with cluster.producer(retry_backoff_ms=1) as producer:
        producer.send("bookings", b"1", partition=0).get(timeout=10)
        cluster.move_leader("bookings", 0, 3)
        producer.send("bookings", b"2", partition=0).get(timeout=10)
        cluster.stop_broker(3)
        producer.send("bookings", b"3", partition=0).get(timeout=10)
    assert [record.value for record in cluster.records("bookings", 0)] == [b"1", b"2", b"3"]


def test_what_the_broker_refuses_fails_the_future(cluster):
    cluster.fail(MessageTooLargeError("too large"))
    with cluster.producer() as producer:
        future = producer.send("bookings", b"1")
        with pytest.raises(MessageTooLargeError):
            future.get(timeout=10)
    assert cluster.records("bookings") == []


def test_a_cluster_that_never_answers_runs_into_the_delivery_timeout(cluster):
    cluster.fail(times=1_000_000)
    options = {"request_timeout_ms": 20, "delivery_timeout_ms": 100, "retry_backoff_ms": 1}
    with cluster.producer(**options) as producer:
        future = producer.send("bookings", b"1")
        with pytest.raises(DeliveryTimeoutError) as caught:
            future.get(timeout=10)
    assert caught.value.outcome == "unknown"


def test_an_unknown_topic(cluster):
    with cluster.producer() as producer, pytest.raises(UnknownTopicOrPartitionError):
        producer.send("trains", b"1").get(timeout=10)


def test_kafkas_example_of_a_partitioner(cluster):
    def banana(topic, key, key_bytes, value, value_bytes, cluster):
        others = len(cluster.partitions_for_topic(topic)) - 1
        if key_bytes is None:
            raise InvalidRecordError("every record needs a customer's name as its key")
        return 0 if key == "Banana" else partition_for_key(key_bytes, others) + 1

    with cluster.producer(partitioner=banana, key_serializer="string") as producer:
        for number in range(50):
            producer.send("bookings", b"", key="Banana")
            producer.send("bookings", b"", key=f"customer-{number}")
        with pytest.raises(InvalidRecordError, match="customer's name"):
            producer.send("bookings", b"")
    for record in cluster.records("bookings"):
        assert (record.partition == 0) == (record.key == b"Banana")
    assert {record.partition for record in cluster.records("bookings")} == {0, 1, 2}
