"""The asyncio producer: the same machines, without a thread."""

import asyncio
import threading

import pytest

from ottla import BufferExhaustedError, NotEnoughReplicasError, Outcome, ProducerClosedError
from ottla.aio import Producer
from ottla.testing import FakeCluster
from ottla_protocol import routes

TOO_FEW = NotEnoughReplicasError("too few", outcome=Outcome.NOT_APPLIED)


@pytest.fixture
def cluster():
    cluster = FakeCluster()
    cluster.create_topic("t", partitions=1)
    cluster.create_topic("wide", partitions=6)
    return cluster


async def test_records_arrive_in_order_without_a_thread(cluster):
    threads = set(threading.enumerate())
    async with Producer(cluster.bootstrap_servers, transport=cluster.transport()) as producer:
        futures = [await producer.send("t", b"%d" % number) for number in range(500)]
        metadata = await asyncio.gather(*futures)
        # Those of earlier tests may end meanwhile.
        assert set(threading.enumerate()) <= threads
    assert [each.offset for each in metadata] == list(range(500))
    assert [int(record.value) for record in cluster.records("t")] == list(range(500))
    assert futures[0].result() == metadata[0]
    assert futures[0].exception() is None


async def test_many_records_are_one_future(cluster):
    async with Producer(cluster.bootstrap_servers, transport=cluster.transport()) as producer:
        future = await producer.send_many("wide", [b"v"] * 1_000, [b"%d" % n for n in range(1_000)])
        report = await future
    assert len(report) == 1_000
    assert len({each.partition for each in report}) == 6
    assert await future.outcomes() == list(report)


async def test_send_awaits_only_while_there_is_no_room(cluster):
    cluster.fail(TOO_FEW, path=routes.PRODUCE, times=3)
    producer = Producer(
        cluster.bootstrap_servers,
        transport=cluster.transport(),
        buffer_memory=10_000,
        batch_size=1_000,
        retry_backoff_ms=20,
    )
    async with producer:
        futures = [await producer.send("t", b"v" * 500) for _ in range(100)]
        assert [(await future).offset for future in futures] == list(range(100))


async def test_without_room_in_time_it_fails(cluster):
    cluster.fail(TOO_FEW, path=routes.PRODUCE, times=10_000)
    producer = Producer(
        cluster.bootstrap_servers,
        transport=cluster.transport(),
        buffer_memory=10_000,
        max_block_ms=500,
    )
    future = await producer.send("t", b"v")
    with pytest.raises(asyncio.InvalidStateError):
        future.result()
    with pytest.raises(BufferExhaustedError):
        await producer.send_many("t", [b"v" * 500] * 100)
    await producer.close(timeout=0.01)
    with pytest.raises(ProducerClosedError):
        await future
    with pytest.raises(ProducerClosedError):
        await producer.send("t", b"v")


async def test_a_cancelled_wait_cancels_nothing_else(cluster):
    cluster.delay_ms = 100
    async with Producer(cluster.bootstrap_servers, transport=cluster.transport()) as producer:
        future = await producer.send("t", b"v")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(future, 0.01)
        called = []
        future.add_done_callback(called.append)
        assert (await future).offset == 0
        later = await producer.send("t", b"v")
        with pytest.raises(TimeoutError):
            await producer.flush(timeout=0.01)
        assert (await later).offset == 1
        assert called == [future]
