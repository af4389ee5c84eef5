"""Two partitions, records in them, and what a consumer takes of these."""

import asyncio
import time

from ottla import TopicPartition
from tests.cluster.awaiting import eventually

WAIT_S = 20
A = TopicPartition("t", 0)
B = TopicPartition("t", 1)


def fill(cluster, count, *, topic="t", partition=0, first=0, **record):
    """Send that many records: their numbers, unless the record has a `value`."""
    with cluster.producer() as producer:
        for number in range(first, first + count):
            value = record.get("value", b"%d" % number)
            producer.send(topic, value, partition=partition)
        producer.flush(WAIT_S)


def take(consumer, count, **options):
    """Poll until `count` records came, or in vain for long enough."""
    records = []
    deadline_s = time.monotonic() + WAIT_S
    while len(records) < count and time.monotonic() < deadline_s:
        for part in consumer.poll(0.2, **options).values():
            records += part
    return records


def fetched(consumer):
    """Wait until records have come; returns the consumer.

    An iteration that ends after `consumer_timeout_ms` finds them then, however busy the machine.
    """
    eventually(lambda: consumer._core.positions.ready, WAIT_S)
    return consumer


async def aio_fill(cluster, count, *, partition=0):
    """Send that many records, their numbers."""
    async with cluster.async_producer() as producer:
        for number in range(count):
            await producer.send("t", b"%d" % number, partition=partition)


async def aio_take(consumer, count, **options):
    """Poll until `count` records came."""
    records = []
    async with asyncio.timeout(WAIT_S):
        while len(records) < count:
            for part in (await consumer.poll(0.2, **options)).values():
                records += part
    return records


def offsets(records):
    return [record.offset for record in records]
