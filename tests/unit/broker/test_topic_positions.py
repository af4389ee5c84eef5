"""Cursors are resumed where the topic is known that they were given out for, with all it has."""

from types import SimpleNamespace

import pytest

from ottla_broker.drivers.peer_messages import PartitionBounds
from ottla_broker.services.topic_positions import TopicPositions
from ottla_protocol.cursors import Cursor
from ottla_protocol.errors import (
    ControllerNotAvailableError,
    CursorOfDeletedTopicError,
    InvalidRequestError,
)

TOPIC_ID = "0123456789abcdef0123456789abcdef"


class Broker:
    """Knows a topic of some partitions, and of more once it has caught up with its controller."""

    def __init__(self, partitions, *, news=None, is_certain=True):
        self._partitions = partitions
        self._news = news
        self._is_certain = is_certain

    async def find(self, name):
        return SimpleNamespace(name=name, topic_id=TOPIC_ID, partitions=(None,) * self._partitions)

    async def catch_up(self):
        self._partitions = self._news or self._partitions
        return self._is_certain

    async def look_up(self, names, *, wait_ms):
        return {name: PartitionBounds(name.topic_id, name.partition, 7, 9, 8) for name in names}

    async def begin(self, cursor, partition=None, **options):
        positions = TopicPositions(topics=self, controller=self, bounds=self)
        found = await positions.begin("t", partition, cursor, **options)
        assert len(found.epochs) == len(found.positions)
        return found.positions


def cursor(*offsets, topic_id=TOPIC_ID, first_partition=0):
    return Cursor(topic_id, first_partition, offsets)


async def test_partitions_that_a_cursor_has_not_begin_at_their_earliest():
    assert await Broker(3).begin(cursor(1, 2)) == (1, 2, 7)


async def test_latest_is_the_last_stable_offset_for_whoever_reads_committed_records():
    assert await Broker(2).begin("latest") == (9, 9)
    assert await Broker(2).begin("latest", isolation="read_committed") == (8, 8)
    assert await Broker(2).begin(-1, isolation="read_committed") == (7, 7)


async def test_partitions_of_which_only_the_cursor_knows_are_asked_for():
    """Left out, they would be told from their beginning once this broker hears of them."""
    assert await Broker(1, news=3).begin(cursor(1, 2, 3)) == (1, 2, 3)
    assert await Broker(1, news=3).begin(cursor(5, first_partition=2), partition=2) == (5,)


async def test_where_nobody_can_be_asked_for_them_the_reader_is_to_come_back():
    with pytest.raises(ControllerNotAvailableError):
        await Broker(1, is_certain=False).begin(cursor(1, 2, 3))
    with pytest.raises(ControllerNotAvailableError):
        await Broker(1, is_certain=False).begin(cursor(1, topic_id="f" * 32))


async def test_a_cursor_of_what_there_never_was_is_refused():
    with pytest.raises(InvalidRequestError) as refused:
        await Broker(1).begin(cursor(1, 2, 3))
    assert refused.value.members["parameter"] == "cursor"
    with pytest.raises(CursorOfDeletedTopicError):
        await Broker(1).begin(cursor(1, topic_id="f" * 32))
