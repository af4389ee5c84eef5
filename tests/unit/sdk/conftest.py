"""A cluster in memory, and consumers of it that are closed after the test."""

import pytest

from ottla.testing import FakeCluster

FROM_THE_BEGINNING = {"auto_offset_reset": "earliest"}


@pytest.fixture
def cluster():
    """Three brokers with the topics `t` of two partitions and `wide` of six."""
    made = FakeCluster()
    made.create_topic("t", partitions=2)
    made.create_topic("wide", partitions=6)
    return made


@pytest.fixture
def consume(cluster):
    """Makes consumers that begin at the beginning, and closes them."""
    made = []

    def consume(*topics, **options):
        consumer = cluster.consumer(*topics, **FROM_THE_BEGINNING | options)
        made.append(consumer)
        return consumer

    yield consume
    for consumer in made:
        consumer.close(timeout=1)


@pytest.fixture
async def aio_consume(cluster):
    """The same with asyncio."""
    made = []

    def consume(*topics, **options):
        consumer = cluster.async_consumer(*topics, **FROM_THE_BEGINNING | options)
        made.append(consumer)
        return consumer

    yield consume
    for consumer in made:
        await consumer.close(timeout=1)
