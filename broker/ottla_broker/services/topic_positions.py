"""Where readers of a whole topic, or of one partition of it, begin: by word, by time or by cursor.

Positions are one next offset for each partition that is read, in the order of the partitions. They
are looked up at the leaders, wherever these are, so any broker may be asked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ottla_broker.drivers.controller_client import ControllerClient
from ottla_broker.drivers.peer_messages import PartitionName
from ottla_broker.services.partition_bounds import PartitionBoundsService
from ottla_broker.services.record_read import AtTimestamp, Position
from ottla_broker.services.topics import TopicService
from ottla_cluster.controller.image import Topic
from ottla_protocol.cursors import MAX_CURSOR_PARTITIONS, Cursor
from ottla_protocol.errors import (
    ControllerNotAvailableError,
    CursorOfDeletedTopicError,
    InvalidRequestError,
    LeaderNotAvailableError,
)
from ottla_protocol.missing_partitions import missing_partition
from ottla_protocol.models import Isolation
from ottla_protocol.record_batch import NO_LEADER_EPOCH

LEADER_WAIT_MS = 5_000
"""How long a reader that has no positions yet waits for leaders to tell them."""

Start = Position | Cursor
"""Where to begin; an offset is for one partition alone."""


@dataclass(frozen=True, slots=True)
class ReadScope:
    """What is read: one partition, or all that the topic has and will have (`partition` None)."""

    topic: str
    topic_id: str
    partition: int | None
    isolation: Isolation = "read_uncommitted"

    @property
    def first_partition(self) -> int:
        """The partition that the first of the positions belongs to."""
        return self.partition or 0


Positions = tuple[int, ...]
"""Next offsets, in the order of the partitions from `first_partition` on."""

Epochs = tuple[int, ...]
"""Leader epochs in which positions were reached, in their order; NO_LEADER_EPOCH if not known."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """What is read, and from where."""

    scope: ReadScope
    positions: Positions
    epochs: Epochs


class TopicPositions:
    """Finds positions to begin at."""

    def __init__(
        self,
        *,
        topics: TopicService,
        controller: ControllerClient,
        bounds: PartitionBoundsService,
    ) -> None:
        self._topics = topics
        self._controller = controller
        self._bounds = bounds

    async def begin(
        self,
        topic_name: str,
        partition: int | None,
        start: Start,
        *,
        isolation: Isolation = "read_uncommitted",
    ) -> Beginning:
        """What is read, and from where.

        Raises:
            UnknownTopicOrPartitionError: there is no such topic or partition.
            CursorOfDeletedTopicError: the cursor belongs to a former topic of this name.
            ControllerNotAvailableError: or perhaps to a new one; there is nobody to ask.
            InvalidRequestError: the cursor has not these partitions, there are too many for one, or
                an offset is given for several.
            LeaderNotAvailableError: no leader tells where a partition begins or ends.
        """
        topic = await self._topics.find(topic_name)
        if isinstance(start, Cursor) and not _fits(start, topic):
            topic = await self._after_news(topic_name, start)
        if partition is not None and partition >= len(topic.partitions):
            raise missing_partition(topic_name, partition, len(topic.partitions))
        if partition is None and len(topic.partitions) > MAX_CURSOR_PARTITIONS:
            raise InvalidRequestError(
                f"the topic '{topic_name}' has {len(topic.partitions)} partitions, and at most "
                f"{MAX_CURSOR_PARTITIONS} are read with one cursor: read them one by one",
                max_partitions=MAX_CURSOR_PARTITIONS,
            )
        scope = ReadScope(topic.name, topic.topic_id, partition, isolation)
        if isinstance(start, Cursor):
            return await self._resume(scope, start, len(topic.partitions))
        if isinstance(start, int) and start >= 0:
            if partition is None:
                raise InvalidRequestError(
                    "an offset is of one partition; a topic is read from earliest, latest, -N, a "
                    "timestamp or a cursor",
                    parameter="offset",
                )
            return Beginning(scope, (start,), (NO_LEADER_EPOCH,))
        numbers = range(len(topic.partitions)) if partition is None else (partition,)
        positions = await self._look_up(scope, numbers, start)
        return Beginning(scope, positions, (NO_LEADER_EPOCH,) * len(positions))

    async def _after_news(self, topic_name: str, cursor: Cursor) -> Topic:
        """The topic, which may be a new one or have got partitions without this broker knowing.

        Partitions of the cursor that it leaves out it would tell from the beginning later.
        """
        is_certain = await self._controller.catch_up()
        topic = await self._topics.find(topic_name)
        if topic.topic_id != cursor.topic_id:
            if not is_certain:
                raise ControllerNotAvailableError(
                    f"the cursor belongs to another topic than the '{topic_name}' that is known "
                    "here, and no controller can be asked which of them is the newer one"
                )
            raise CursorOfDeletedTopicError(
                f"the cursor belongs to another topic than the present '{topic_name}', which has "
                "been deleted since; begin anew without a cursor"
            )
        if not _fits(cursor, topic):
            if not is_certain:
                raise ControllerNotAvailableError(
                    f"the cursor has more partitions than the '{topic_name}' that is known here, "
                    "and no controller can be asked for the others"
                )
            raise InvalidRequestError(
                f"the cursor has more partitions than '{topic_name}'", parameter="cursor"
            )
        return topic

    async def _resume(self, scope: ReadScope, cursor: Cursor, partitions: int) -> Beginning:
        if scope.partition is not None:
            offset = cursor.offset_of(scope.partition)
            if offset is None:
                raise InvalidRequestError(
                    f"the cursor does not have partition {scope.partition}", parameter="cursor"
                )
            return Beginning(scope, (offset,), (cursor.epoch_of(scope.partition),))
        if cursor.first_partition != 0:
            raise InvalidRequestError(
                f"the cursor is of partition {cursor.first_partition} alone, not of the topic",
                parameter="cursor",
            )
        added = range(len(cursor.offsets), partitions)
        positions = cursor.offsets + await self._look_up(scope, added, "earliest")
        return Beginning(scope, positions, tuple(map(cursor.epoch_of, range(partitions))))

    async def _look_up(
        self, scope: ReadScope, partitions: Sequence[int], position: Position
    ) -> Positions:
        """The offsets of a word, a count from the end or a time, in the order of the partitions."""
        if not partitions:
            return ()
        found = await self._ask(scope, partitions, position)
        for number in partitions:
            if number not in found:
                raise LeaderNotAvailableError(
                    f"no leader of {scope.topic}-{number} tells its offsets at this moment"
                )
        return tuple(found[number] for number in partitions)

    async def _ask(
        self, scope: ReadScope, partitions: Sequence[int], position: Position
    ) -> Mapping[int, int]:
        names = [PartitionName(scope.topic_id, number) for number in partitions]
        if isinstance(position, AtTimestamp):
            times = await self._bounds.look_up_timestamp(
                names,
                position.timestamp,
                isolation=scope.isolation,
                wait_ms=LEADER_WAIT_MS,
            )
            return {name.partition: offset for name, offset in times.items()}
        bounds = await self._bounds.look_up(names, wait_ms=LEADER_WAIT_MS)
        return {
            name.partition: _offset(position, each.log_start_offset, each.latest(scope.isolation))
            for name, each in bounds.items()
        }


def _fits(cursor: Cursor, topic: Topic) -> bool:
    """Whether the topic is the cursor's, and has all of its partitions."""
    end = cursor.first_partition + len(cursor.offsets)
    return cursor.topic_id == topic.topic_id and end <= len(topic.partitions)


def _offset(position: Position, log_start_offset: int, latest_offset: int) -> int:
    if position == "earliest":
        return log_start_offset
    if position == "latest":
        return latest_offset
    assert isinstance(position, int)
    return max(log_start_offset, latest_offset + position)
