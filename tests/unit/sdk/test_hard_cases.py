"""What users' code and unlucky moments do to a producer: nobody hangs, and nobody is lied to."""

import asyncio
import contextlib
import sys
import traceback

import pytest

from ottla import BufferExhaustedError, DeliveryTimeoutError, Outcome
from ottla.testing import FakeCluster
from ottla_protocol.errors import NotEnoughReplicasError


@pytest.fixture
def cluster():
    cluster = FakeCluster()
    cluster.create_topic("orders", partitions=2)
    return cluster


@contextlib.contextmanager
def refusing(cluster):
    """No record is stored meanwhile, so no memory is given back, however long it takes."""
    cluster.fail(NotEnoughReplicasError("one is in sync"), times=1_000_000)
    yield
    cluster._brokers.faults.clear()


def test_a_callback_that_exits_keeps_nobody_from_their_results(cluster, caplog):
    with cluster.producer(linger_ms=20) as producer:
        first = producer.send("orders", b"a", partition=0, on_delivery=lambda *_: sys.exit(3))
        second = producer.send("orders", b"b", partition=1)
        assert (first.get(5).offset, second.get(5).offset) == (0, 0)
        assert producer.send("orders", b"c", partition=0).get(5).offset == 1
    assert "SystemExit" in caplog.text


def test_a_call_that_was_taken_in_part_is_not_told_as_not_applied(cluster):
    values = [b"%03d" % number + b"x" * 1_000 for number in range(300)]
    producer = cluster.producer(buffer_memory=64 << 10, max_block_ms=500)
    producer.send("orders", b"warm", partition=0).get(5)
    with refusing(cluster), pytest.raises(BufferExhaustedError) as caught:
        producer.send_many("orders", values, partition=0)
    producer.close(10)
    stored = len(cluster.records("orders")) - 1
    assert caught.value.outcome is Outcome.UNKNOWN
    assert caught.value.members["records_taken"] == stored > 0


def test_one_that_was_not_taken_at_all_is_told_so(cluster):
    producer = cluster.producer(buffer_memory=20_000, batch_size=16_000, max_block_ms=500)
    producer.send("orders", b"warm", partition=0).get(5)
    with refusing(cluster):
        producer.send("orders", b"x" * 15_000, partition=0)
        with pytest.raises(BufferExhaustedError) as caught:
            producer.send_many("orders", [b"y" * 15_000], partition=1)
    producer.close(10)
    assert caught.value.outcome is Outcome.NOT_APPLIED
    assert len(cluster.records("orders")) == 2


def test_a_wait_may_be_as_long_as_kafka_allows(cluster):
    with cluster.producer(
        buffer_memory=20_000, batch_size=16_000, max_block_ms=2**63 - 1
    ) as producer:
        producer.send("orders", b"warm").get(5)
        cluster.delay_ms = 100
        futures = [producer.send("orders", b"x" * 15_000) for _ in range(3)]
        cluster.delay_ms = 0
        assert len({future.get(5) for future in futures}) == 3


def test_batches_respect_the_topics_own_limit(cluster):
    with cluster.admin() as admin:
        admin.create_topic("small", partitions=1, configs={"max.message.bytes": 4_096})
    with cluster.producer(linger_ms=50) as producer:
        futures = [producer.send("small", b"x" * 500) for _ in range(30)]
        producer.flush(5)
        assert [future.get(5).offset for future in futures] == list(range(30))
        assert producer.metrics()["batches_sent"] >= 4


def test_reading_one_failure_again_and_again_adds_nothing_to_it(cluster):
    with cluster.producer(delivery_timeout_ms=100, request_timeout_ms=50) as producer:
        producer.partitions_for("orders")
        for node_id in (1, 2, 3):
            cluster.stop_broker(node_id)
        future = producer.send("orders", b"x")
        frames = []
        for _ in range(20):
            with pytest.raises(DeliveryTimeoutError) as caught:
                future.get(5)
            frames.append(len(traceback.extract_tb(caught.value.__traceback__)))
    assert len(set(frames)) == 1, frames


async def test_a_close_that_is_cancelled_closes_all_the_same(cluster):
    producer = cluster.async_producer()
    await (await producer.send("orders", b"warm"))
    cluster.delay_ms = 5_000
    future = await producer.send("orders", b"x")
    await asyncio.sleep(0.05)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(producer.close(), 0.05)
    assert future.done()
    cluster.delay_ms = 0
    await producer.close()
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
