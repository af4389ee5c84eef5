"""The asyncio consumer: what differs from the one of threads."""

import asyncio

import pytest

from ottla import (
    ConcurrentUseError,
    ConsumerClosedError,
    RecordDeserializationError,
    SubscriptionError,
    WakeupError,
)
from ottla.aio import Consumer
from tests.unit.sdk.consumer_under_test import WAIT_S, A, B, aio_fill, aio_take, offsets


async def test_poll_iterate_seek_and_commit(cluster, aio_consume):
    await aio_fill(cluster, 10)
    consumer = aio_consume(group_id="g", enable_auto_commit=False, consumer_timeout_ms=200)
    consumer.assign([A, B])
    assert offsets(await aio_take(consumer, 4, max_records=4)) == [0, 1, 2, 3]
    assert offsets([record async for record in consumer]) == [4, 5, 6, 7, 8, 9]
    consumer.seek(A, 2)
    assert (await anext(consumer)).offset == 2
    await consumer.commit()
    assert (await consumer.committed(A))[A].offset == 3
    consumer.seek_to_end(A)
    assert await consumer.position(A) == 10
    assert await consumer.end_offsets([A]) == {A: 10}
    assert await consumer.beginning_offsets([A]) == {A: 0}
    assert (await consumer.offsets_for_times({A: 0}))[A].offset == 0
    assert len(await consumer.partitions_for("t")) == 2
    assert consumer.current_lag(A) == 0
    with pytest.raises(StopAsyncIteration):
        await anext(consumer)


async def test_an_iteration_that_was_left_goes_on_behind_its_record(cluster, aio_consume):
    await aio_fill(cluster, 6)
    consumer = aio_consume()
    consumer.assign([A])
    async for record in consumer:
        if record.offset == 2:
            break
    assert offsets(await aio_take(consumer, 3)) == [3, 4, 5]


async def test_auto_commit_of_an_iteration_covers_what_is_before_the_current_record(
    cluster, aio_consume
):
    await aio_fill(cluster, 6)
    consumer = aio_consume(group_id="g", auto_commit_interval_ms=10)
    consumer.assign([A])
    async for record in consumer:
        if record.offset == 4:
            async with asyncio.timeout(WAIT_S):
                while cluster.committed("g").get(A, (None,))[0] != 4:  # noqa: ASYNC110  no event
                    await asyncio.sleep(0.01)
            break
    await consumer.close()
    assert cluster.committed("g")[A].offset == 4


async def test_listeners_and_callbacks_may_be_coroutines(cluster, aio_consume):
    told = []

    class Listener:
        async def on_partitions_assigned(self, partitions):
            await asyncio.sleep(0)
            told.append(("assigned", partitions))

        async def on_partitions_revoked(self, partitions):
            await consumer.commit({A: 1})
            told.append(("revoked", partitions))

    consumer = aio_consume(group_id="g", enable_auto_commit=False)
    consumer.subscribe("t", listener=Listener())
    async with asyncio.timeout(WAIT_S):
        while not consumer.assignment():
            await consumer.poll(0.1)
    consumer.commit_async({B: 1}, lambda error, offsets: told.append((error, offsets[B].offset)))
    async with asyncio.timeout(WAIT_S):
        while len(told) < 2:
            await consumer.poll(0.02)
    await consumer.close()
    assert told == [("assigned", {A, B}), (None, 1), ("revoked", {A, B})]
    assert cluster.committed("g")[A].offset == 1
    assert cluster.assignment("g") == {}


async def test_subscribed_before_there_was_a_loop(cluster):
    consumer = await asyncio.to_thread(
        lambda: cluster.async_consumer("t", group_id="g", auto_offset_reset="earliest")
    )
    await aio_fill(cluster, 2)
    assert len(await aio_take(consumer, 2)) == 2
    await consumer.close()


async def test_a_failing_deserializer(cluster, aio_consume):
    await aio_fill(cluster, 1)
    consumer = aio_consume(value_deserializer="UUIDDeserializer")
    consumer.assign([A])
    with pytest.raises(RecordDeserializationError):
        await consumer.poll(WAIT_S)


async def test_wakeup_from_a_thread(aio_consume):
    consumer = aio_consume()
    consumer.assign([A])
    polling = asyncio.create_task(consumer.poll(WAIT_S))
    await asyncio.sleep(0.05)
    await asyncio.to_thread(consumer.wakeup)
    with pytest.raises(WakeupError):
        await polling


async def test_a_second_task_is_refused(aio_consume):
    consumer = aio_consume()
    consumer.assign([A])
    polling = asyncio.create_task(consumer.poll(WAIT_S))
    await asyncio.sleep(0.02)
    with pytest.raises(ConcurrentUseError, match="another task"):
        await consumer.poll(0)
    polling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await polling
    assert await consumer.poll(0) == {}


async def test_a_cancelled_poll_loses_no_record(cluster, aio_consume):
    consumer = aio_consume()
    consumer.assign([A])
    for _ in range(5):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await consumer.poll(WAIT_S)
    await aio_fill(cluster, 3)
    assert offsets(await aio_take(consumer, 3)) == [0, 1, 2]


async def test_closed_and_refused(cluster, aio_consume):
    consumer = aio_consume()
    with pytest.raises(SubscriptionError, match="nothing to read"):
        await consumer.poll(0)
    await consumer.close()
    await consumer.close()
    with pytest.raises(ConsumerClosedError):
        await consumer.poll(0)
    with pytest.raises(SubscriptionError, match="needs a group_id"):
        cluster.async_consumer("t")


async def test_from_config(cluster):
    config = {"bootstrap.servers": ",".join(cluster.bootstrap_servers), "group.id": "g"}
    async with Consumer.from_config(config, "t", transport=cluster.transport()) as consumer:
        assert await consumer.poll(0) == {}
