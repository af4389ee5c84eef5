"""What a producer is given by mistake: refused at once, with the rule, and nobody else suffers."""

import pytest

from ottla import (
    InvalidRecordError,
    InvalidTopicError,
    Outcome,
    SerializationError,
    UnknownTopicOrPartitionError,
)
from ottla.testing import FakeCluster


@pytest.fixture
def cluster():
    cluster = FakeCluster()
    cluster.create_topic("orders", partitions=1)
    cluster.create_topic("flights", partitions=1)
    return cluster


@pytest.fixture
def producer(cluster):
    with cluster.producer(max_block_ms=2_000) as producer:
        yield producer


@pytest.mark.parametrize(
    "topic", [b"orders", None, 5, "", "a b", "orders,flights", "a\ud800", "x" * 100_000]
)
@pytest.mark.parametrize("call", ["send", "send_many", "partitions_for"])
def test_a_topic_that_cannot_be_harms_no_other(producer, topic, call):
    innocent = producer.send("orders", b"innocent")
    arguments = {"send": (b"x",), "send_many": ([b"x"],), "partitions_for": ()}[call]
    with pytest.raises(InvalidTopicError) as caught:
        getattr(producer, call)(topic, *arguments)
    assert caught.value.outcome is Outcome.NOT_APPLIED
    assert innocent.get(5).offset == 0
    assert producer.send("flights", b"later").get(5).offset == 0


def test_a_topic_that_is_not_there_was_not_written_to(producer):
    with pytest.raises(UnknownTopicOrPartitionError) as caught:
        producer.send("nowhere", b"x")
    assert caught.value.outcome is Outcome.NOT_APPLIED


def test_what_cannot_be_a_record_was_not_sent(producer):
    with pytest.raises(SerializationError) as caught:
        producer.send("orders", 7)
    assert caught.value.outcome is Outcome.NOT_APPLIED
    with pytest.raises(InvalidRecordError) as caught:
        producer.send("orders", b"x", partition=99)
    assert caught.value.outcome is Outcome.NOT_APPLIED


@pytest.mark.parametrize("headers", [["a"], "ab c", [("a", b"b", b"c")], [7]])
def test_headers_that_are_none(producer, headers):
    with pytest.raises(InvalidRecordError, match="pairs"):
        producer.send("orders", b"x", headers=headers)


@pytest.mark.parametrize("values", ["abc", b"abc"])
def test_one_value_is_not_many(producer, values):
    with pytest.raises(InvalidRecordError, match="many values"):
        producer.send_many("orders", values)
