"""Consumer instances of the REST Proxy API: any broker serves any of them.

An instance is the coordinator's record; see `ottla_cluster.groups.instance_commands`. A request for
records begins by telling it that the client is done with what it got before, reads at the leaders,
and has the coordinator write down what is about to be sent. What was sent counts as read once it
has left this broker, and is read again where it has not. So a broker that dies loses nothing of an
instance: whoever is asked next goes on from what has certainly been sent.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar
from uuid import uuid4

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.peer_messages import PartitionBounds, PartitionName
from ottla_broker.services.coordinator_calls import CoordinatorCalls
from ottla_broker.services.leader_reads import TopicPartition
from ottla_broker.services.partition_bounds import SETTLING_WAIT_MS, PartitionBoundsService
from ottla_broker.services.poll_membership import by_topic
from ottla_broker.services.polled_records import PolledPartition
from ottla_broker.services.rest_consumer_reads import ConsumerReads
from ottla_cluster.controller.features import CONSUMER_INSTANCES, require
from ottla_cluster.groups.commands import (
    FetchedOffset,
    FetchOffsets,
    FetchOffsetsResponse,
    LeaveResponse,
)
from ottla_cluster.groups.instance_commands import (
    AssignInstance,
    CommitInstance,
    CreateInstance,
    DescribeInstance,
    InstanceCommand,
    InstancePartition,
    InstanceResponse,
    InstanceSettings,
    MoveInstance,
    OfferRecords,
    PendingDelivery,
    PollInstance,
    RemoveInstance,
    SettleDelivery,
    SubscribeInstance,
    TopicPartitionName,
)
from ottla_cluster.groups.limits import MAX_OFFSETS_PER_COMMIT
from ottla_cluster.groups.messages import OffsetToCommit
from ottla_protocol.errors import (
    ConflictError,
    FencedMemberEpochError,
    LeaderNotAvailableError,
    OttlaError,
    UnavailableError,
    UnknownTopicOrPartitionError,
)

KnownT = TypeVar("KnownT", PartitionBounds, int)

DELIVERY_WAIT_MS = 15_000
"""How long a request waits until an earlier one's records have left their broker. Then they count
as not sent, although the broker lives: its client takes its time."""

DELIVERY_POLL_MS = 20
"""How often it looks meanwhile."""

SETTLE_ATTEMPTS = 6
"""How often a broker tries to tell that records have left it, ten seconds each time."""

MAX_SETTLING = 10_000
"""Deliveries whose end is being told; those of others end with their requests' waiting."""


@dataclass(frozen=True, slots=True)
class DeliveredRecords:
    """Records for an instance's client; whoever sends them must `settle` the delivery."""

    delivery_id: str | None
    """None where there are no records."""
    body: bytes
    """The records as the client is to have them."""


Render = Callable[
    [Sequence[PolledPartition], str], Awaitable[tuple[Sequence[PolledPartition], bytes]]
]
"""Makes a body of records in an instance's format; tells which records it has, too. Those of a
partition may end early, and what is left out is not read."""


class RestConsumerService:
    """Serves `/consumers`.

    Below the feature level of CONSUMER_INSTANCES everything is refused with
    UnsupportedFeatureLevelError: there are no instances yet, nor is a coordinator asked for one.

    Args:
        node_id: this broker.
        idle_timeout_ms: how long instances live that nobody asks for.
    """

    def __init__(
        self,
        *,
        node_id: int,
        idle_timeout_ms: int,
        metadata: MetadataCache,
        calls: CoordinatorCalls,
        bounds: PartitionBoundsService,
        reads: ConsumerReads,
    ) -> None:
        self.idle_timeout_ms = idle_timeout_ms
        self._node_id = node_id
        self._metadata = metadata
        self._calls = calls
        self._bounds = bounds
        self._reads = reads
        self._delivering: set[str] = set()
        self._settling: set[asyncio.Task[None]] = set()

    async def stop(self) -> None:
        """Stop telling of deliveries; other brokers see that this one has gone."""
        for task in self._settling:
            task.cancel()
        await asyncio.gather(*self._settling, return_exceptions=True)

    # --- instances --------------------------------------------------------------------------

    async def create(self, group: str, instance_id: str, settings: InstanceSettings) -> None:
        """Make an instance that reads nothing yet.

        Raises:
            ConflictError: there is one of that name, or a member.
            InvalidRequestError: a name breaks its rule.
            UnavailableError: no coordinator decided in time.
        """
        await self._ask(group, CreateInstance(group, instance_id, str(uuid4()), settings))

    async def remove(self, group: str, instance_id: str) -> None:
        """End an instance; with auto commit, what was read is committed.

        Raises:
            NotFoundError: there is none.
            UnavailableError: no coordinator decided in time.
        """
        require(self._metadata.image, CONSUMER_INSTANCES)
        command = RemoveInstance(group, instance_id)
        response, _ = await self._calls.decide(group, command, repeatable=False)
        assert isinstance(response, LeaveResponse)

    async def describe(self, group: str, instance_id: str) -> InstanceResponse:
        """Tell an instance.

        Raises:
            NotFoundError: there is none.
            UnavailableError: no coordinator answered in time.
        """
        return await self._ask(group, DescribeInstance(group, instance_id))

    async def subscribe(
        self, group: str, instance_id: str, *, topics: Sequence[str] | None, pattern: str | None
    ) -> None:
        """Have an instance read topics as a member of the group; neither of both ends that.

        Raises:
            NotFoundError: there is no such instance.
            ConflictError: it reads in another way.
            InvalidRequestError: a name or the pattern breaks a rule.
            UnavailableError: no coordinator decided in time.
        """
        names = None if topics is None else tuple(topics)
        await self._ask(group, SubscribeInstance(group, instance_id, names, pattern))

    async def assign(
        self, group: str, instance_id: str, partitions: Iterable[TopicPartition]
    ) -> None:
        """Have an instance read these partitions, without the group.

        Raises:
            NotFoundError: there is no such instance, or no such topic or partition.
            ConflictError: it subscribes.
            UnavailableError: no coordinator decided in time.
        """
        chosen = tuple(TopicPartitionName(topic, partition) for topic, partition in partitions)
        await self._ask(group, AssignInstance(group, instance_id, chosen))

    # --- positions and offsets --------------------------------------------------------------

    async def seek(
        self, group: str, instance_id: str, offsets: Mapping[TopicPartition, int]
    ) -> None:
        """Go on at these offsets.

        Raises:
            NotFoundError: there is no such instance.
            ConflictError: it does not read one of the partitions.
            UnavailableError: no coordinator decided in time.
        """
        if not offsets:
            await self.describe(group, instance_id)
            return
        entries = [
            OffsetToCommit(topic, partition, offset)
            for (topic, partition), offset in offsets.items()
        ]
        # An instance may read more partitions than one command moves.
        for start in range(0, len(entries), MAX_OFFSETS_PER_COMMIT):
            piece = tuple(entries[start : start + MAX_OFFSETS_PER_COMMIT])
            await self._move(group, instance_id, piece)

    async def _move(
        self, group: str, instance_id: str, offsets: tuple[OffsetToCommit, ...]
    ) -> None:
        await self._when_settled(
            lambda void: self._ask(group, MoveInstance(group, instance_id, offsets, void))
        )

    async def ends_of(
        self, partitions: Iterable[TopicPartition]
    ) -> Mapping[TopicPartition, PartitionBounds]:
        """Where partitions begin and end.

        Raises:
            UnknownTopicOrPartitionError: there is no such topic.
            LeaderNotAvailableError: a leader does not answer now.
        """
        names = self._names_of(partitions)
        found = await self._bounds.look_up(names.values(), wait_ms=SETTLING_WAIT_MS)
        return {key: _known(key, found.get(name)) for key, name in names.items()}

    async def offsets_at(
        self, partitions: Iterable[TopicPartition], timestamp: int
    ) -> Mapping[TopicPartition, int]:
        """Where a time, in ms since the epoch, begins in partitions.

        Raises:
            UnknownTopicOrPartitionError, LeaderNotAvailableError: as `ends_of`.
        """
        names = self._names_of(partitions)
        found = await self._bounds.look_up_timestamp(
            names.values(), timestamp, wait_ms=SETTLING_WAIT_MS
        )
        return {key: _known(key, found.get(name)) for key, name in names.items()}

    async def commit(
        self, group: str, instance_id: str, offsets: Sequence[OffsetToCommit] | None
    ) -> None:
        """Commit next offsets, or all that was read; returns once they are durable.

        Raises:
            NotFoundError: there is no such instance, topic or partition.
            ConflictError: the instance does not hold one of the partitions, or the group has
                members and it is none.
            UnavailableError: no coordinator decided in time.
        """
        entries = None if offsets is None else tuple(offsets)
        await self._when_settled(
            lambda void: self._ask(group, CommitInstance(group, instance_id, entries, void)),
            waits=entries is None,
        )

    async def committed(
        self, group: str, instance_id: str, partitions: Iterable[TopicPartition]
    ) -> Sequence[FetchedOffset]:
        """What the group has committed, in the order of the partitions.

        Raises:
            NotFoundError: there is no such instance.
            UnavailableError: no coordinator answered in time.
        """
        await self.describe(group, instance_id)
        wanted = list(dict.fromkeys(partitions))
        command = FetchOffsets(group, by_topic(wanted))
        response, _ = await self._calls.decide(group, command, repeatable=True)
        assert isinstance(response, FetchOffsetsResponse)
        found = {(each.topic, each.partition): each for each in response.offsets}
        return [found[key] for key in wanted]

    # --- records ----------------------------------------------------------------------------

    async def read(
        self,
        group: str,
        instance_id: str,
        *,
        max_bytes: int,
        timeout_ms: int,
        render: Render,
    ) -> DeliveredRecords:
        """Records that the instance has not read yet; none when the time is up.

        The time begins when the instance has its place in the group, and does not end before the
        leaders were asked once.

        Raises:
            NotFoundError: there is no such instance.
            ConflictError: it reads nothing.
            OffsetOutOfRangeError: there is no offset to go on from, and `auto.offset.reset` is
                `none`.
            UnavailableError: the coordinator, or the leaders, did not answer in time.
            Exception: what `render` raises; nothing is read then.
        """
        deadline_ms: int | None = None
        while True:
            state = await self._poll(group, instance_id)
            if not (state.topics or state.pattern or state.is_assigned):
                raise ConflictError(
                    "Consumer is not subscribed to any topics or assigned any partitions."
                )
            if deadline_ms is None:
                deadline_ms = monotonic_ms() + timeout_ms
            found = await self._reads.gather(
                group, state, self.seek, max_bytes=max_bytes, deadline_ms=deadline_ms
            )
            if found is None:
                continue  # It reads something else now.
            sent, body = await render(found, state.settings.record_format)
            if not sent:
                return DeliveredRecords(None, body)
            try:
                delivery_id = await self._offer(group, instance_id, state, sent)
            except FencedMemberEpochError:
                continue
            return DeliveredRecords(delivery_id, body)

    def settle(
        self, group: str, instance_id: str, delivery_id: str, *, is_delivered: bool
    ) -> "asyncio.Task[None]":
        """Tell the coordinator what became of records; goes on whoever waits for it."""
        task = asyncio.create_task(
            self._settle(group, instance_id, delivery_id, is_delivered=is_delivered)
        )
        if len(self._settling) < MAX_SETTLING:
            self._settling.add(task)
            task.add_done_callback(self._settling.discard)
        return task

    async def _settle(
        self, group: str, instance_id: str, delivery_id: str, *, is_delivered: bool
    ) -> None:
        command = SettleDelivery(group, instance_id, delivery_id, is_delivered)
        try:
            for _ in range(SETTLE_ATTEMPTS):
                try:
                    await self._ask(group, command)
                except UnavailableError:
                    continue
                except OttlaError:
                    # The instance is gone, and all that it had read.
                    return
                return
        finally:
            self._delivering.discard(delivery_id)

    async def _poll(self, group: str, instance_id: str) -> InstanceResponse:
        return await self._when_settled(
            lambda void: self._ask(group, PollInstance(group, instance_id, void))
        )

    async def _offer(
        self,
        group: str,
        instance_id: str,
        state: InstanceResponse,
        found: Sequence[PolledPartition],
    ) -> str:
        held = {(each.topic, each.partition): each for each in state.partitions}
        starts = tuple(held[each.key] for each in found)
        ends = tuple(
            InstancePartition(
                start.topic, start.topic_id, start.partition, start.generation, each.next_offset
            )
            for start, each in zip(starts, found, strict=True)
        )
        delivery_id = str(uuid4())
        epoch = self._metadata.image.brokers[self._node_id].broker_epoch
        command = OfferRecords(group, instance_id, delivery_id, self._node_id, epoch, starts, ends)
        self._delivering.add(delivery_id)
        try:
            await self._ask(group, command)
        except BaseException:
            # It may be written down all the same; nobody is to wait for it.
            self.settle(group, instance_id, delivery_id, is_delivered=False)
            raise
        return delivery_id

    async def _when_settled(
        self,
        ask: Callable[[str | None], Awaitable[InstanceResponse]],
        *,
        waits: bool = True,
    ) -> InstanceResponse:
        """Repeat a command until no delivery of another request stands in its way."""
        void: str | None = None
        end_ms = monotonic_ms() + DELIVERY_WAIT_MS
        while True:
            response = await ask(void)
            pending = response.pending
            if pending is None or not waits:
                return response
            if self._is_over(pending) or monotonic_ms() >= end_ms:
                void = pending.delivery_id
            else:
                await self._wait_for(pending)

    def _is_over(self, pending: PendingDelivery) -> bool:
        """Whether nobody will tell any more what became of a delivery."""
        if pending.node_id == self._node_id:
            return pending.delivery_id not in self._delivering
        return self._metadata.replacement_of(pending.node_id, pending.broker_epoch).done()

    async def _wait_for(self, pending: PendingDelivery) -> None:
        gone = self._metadata.replacement_of(pending.node_id, pending.broker_epoch)
        await asyncio.wait({gone}, timeout=DELIVERY_POLL_MS / 1000)

    async def _ask(self, group: str, command: InstanceCommand) -> InstanceResponse:
        # A coordinator of an older version would not know the command.
        require(self._metadata.image, CONSUMER_INSTANCES)
        response, _ = await self._calls.decide(group, command, repeatable=True)
        assert isinstance(response, InstanceResponse)
        return response

    def _names_of(
        self, partitions: Iterable[TopicPartition]
    ) -> dict[TopicPartition, PartitionName]:
        topic_ids = self._metadata.image.topic_ids
        names = {}
        for topic, partition in partitions:
            if topic not in topic_ids:
                raise UnknownTopicOrPartitionError(f"There is no topic {topic!r}.")
            names[topic, partition] = PartitionName(topic_ids[topic], partition)
        return names


def _known(key: TopicPartition, found: KnownT | None) -> KnownT:
    if found is None:
        topic, partition = key
        raise LeaderNotAvailableError(f"The leader of {topic}-{partition} does not answer now.")
    return found
