"""Where partitions begin, at a client's word (KIP-107, decision 51).

The leader knows what is committed and where a time is; it asks the controller, whose decision binds
every replica. A trim is answered when that is committed and this leader reads nothing below any
more. It may be asked for again: what is done already changes nothing.

The end of a log, or a time, is another offset at each moment. So the leader is first asked which
one it is, and all attempts at the trim name that one: an attempt that arrives late takes nothing
that was appended since (decision 59). Nor do they go on to another topic that has got the name.
"""

import asyncio
from typing import Final

import structlog

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.partition import Partition
from ottla_broker.drivers.peer_client import PeerClient, PeerUnavailableError, Purpose
from ottla_broker.drivers.peer_messages import TrimCall, encode
from ottla_broker.drivers.purgatory import Purgatory
from ottla_broker.drivers.racing import Unless
from ottla_broker.drivers.replica_manager import ReplicaManager
from ottla_broker.services.controller_commands import DECISION_TIMEOUT_MS, ControllerCommands
from ottla_broker.services.reading import watermark_known
from ottla_broker.services.timestamps import find_by_timestamp
from ottla_broker.services.topics import TopicService
from ottla_cluster.controller.commands import PartitionTrimmedResponse, TrimPartition
from ottla_cluster.controller.features import TRIMS, require
from ottla_cluster.controller.image import Partition as PartitionState
from ottla_cluster.controller.trim_handlers import require_trimmable
from ottla_protocol import routes
from ottla_protocol.errors import (
    FencedLeaderEpochError,
    LeaderNotAvailableError,
    OffsetNotAvailableError,
    OffsetOutOfRangeError,
    OttlaError,
    Outcome,
    RequestTimedOutError,
    RoutingError,
    UnknownTopicIdError,
)
from ottla_protocol.models_trims import TrimmedPartition, TrimPartitionRequest, require_one_end

LEADER_WAIT_MS: Final = 5_000
"""How long a trim waits for a leader that takes it."""

RETRY_INTERVAL_MS: Final = 50

APPLY_TIMEOUT_MS: Final = 5_000
"""How long the leader's replica may take to begin where the metadata says."""

TIMESTAMP_TIMEOUT_MS: Final = 20_000
"""How long the leader may take to find a time in its segments."""

PEER_TIMEOUT_MS: Final = DECISION_TIMEOUT_MS + APPLY_TIMEOUT_MS + TIMESTAMP_TIMEOUT_MS

log = structlog.get_logger()


class TrimService:
    """Serves `…/partitions/{partition}/trim`."""

    def __init__(
        self,
        *,
        node_id: int,
        metadata: MetadataCache,
        topics: TopicService,
        replicas: ReplicaManager,
        commands: ControllerCommands,
        peers: PeerClient,
        purgatory: Purgatory,
    ) -> None:
        self._node_id = node_id
        self._metadata = metadata
        self._topics = topics
        self._replicas = replicas
        self._commands = commands
        self._peers = peers
        self._purgatory = purgatory

    async def trim(
        self, topic: str, partition: int, request: TrimPartitionRequest
    ) -> TrimmedPartition:
        """Have a partition begin further up, wherever it is led.

        Raises:
            UnknownTopicOrPartitionError: there is no such partition.
            UnknownTopicIdError: it was deleted meanwhile, and another topic has its name.
            UnsupportedFeatureLevelError: the cluster does not know trims yet.
            InvalidTopicError, PolicyViolationError, TopicBeingRestoredError: the topic is none that
                is trimmed; see `require_trimmable`.
            InvalidRequestError: not one of the three ends is named.
            OffsetOutOfRangeError: the offset is above the high watermark.
            OffsetNotAvailableError: a new leader does not know the high watermark, or a transaction
                below the offset is not over.
            UnavailableError: no leader, or no controller, decided in time; `outcome` says whether
                it may be done yet.
        """
        require_one_end(request)
        if not request.dry_run:
            # What has the name now is meant; an older topic that is known here would be missed, and
            # the one that is meant be taken for its namesake.
            await self._commands.catch_up(outcome=Outcome.NOT_APPLIED, patience_ms=LEADER_WAIT_MS)
        deadline_ms = monotonic_ms() + LEADER_WAIT_MS
        # Of all attempts together: a later refusal says nothing of an earlier one.
        outcome = Outcome.NOT_APPLIED
        before_offset = request.before_offset
        topic_id: str | None = None
        while True:
            state = await self._topics.find_partition(topic, partition)
            image = self._metadata.image
            topic_id = topic_id or state.topic_id
            if state.topic_id != topic_id and not request.dry_run:
                raise UnknownTopicIdError(
                    f"the topic {topic!r} that is to be trimmed is gone; another one has its name",
                    outcome=outcome,
                )
            # Without an offset it is a question only.
            call = TrimCall(
                state.topic_id,
                partition,
                before_offset=before_offset,
                before_timestamp=request.before_timestamp if before_offset is None else None,
                dry_run=request.dry_run or before_offset is None,
            )
            try:
                require(image, TRIMS)
                require_trimmable(image.topics[state.topic_id])
                told = await self._at_leader(state, call)
                if call.dry_run == request.dry_run:
                    return told
                before_offset = told.log_start_offset
                continue
            except (
                RoutingError,
                LeaderNotAvailableError,
                FencedLeaderEpochError,
                UnknownTopicIdError,
                PeerUnavailableError,
            ) as error:
                if error.outcome is Outcome.UNKNOWN and not call.dry_run:
                    outcome = Outcome.UNKNOWN
                if monotonic_ms() >= deadline_ms:
                    raise LeaderNotAvailableError(
                        f"no leader of {topic}-{partition} has taken the trim: {error.detail}",
                        outcome=outcome,
                    ) from error
            except OttlaError as error:
                if call.dry_run or outcome is Outcome.UNKNOWN:
                    error.outcome = outcome
                raise error.with_outcome(outcome) from error
            await self._metadata.wait_for_change(timeout_ms=RETRY_INTERVAL_MS)

    async def _at_leader(self, state: PartitionState, call: TrimCall) -> TrimmedPartition:
        leader = state.leader
        if leader == self._node_id:
            return await self.trim_here(call)
        registration = None if leader is None else self._metadata.image.brokers.get(leader)
        if leader is None or registration is None:
            raise LeaderNotAvailableError(
                f"{state.topic}-{state.partition} has no leader at this moment"
            )
        with Unless(
            self._metadata.replacement_of(leader, registration.broker_epoch),
            LeaderNotAvailableError(
                f"broker {leader} was fenced before it answered", outcome=Outcome.UNKNOWN
            ),
        ):
            return await self._peers.call(
                registration.url,
                routes.INTERNAL_TRIM,
                encode(call),
                timeout_ms=PEER_TIMEOUT_MS,
                answer=TrimmedPartition,
                purpose=Purpose.CLIENT,
            )

    async def trim_here(self, call: TrimCall) -> TrimmedPartition:
        """As `trim`, of a partition that this broker leads."""
        partition = self._replicas.by_topic_id(call.topic_id, call.partition)
        await watermark_known(partition, self._purgatory)
        leader = partition.leading()
        first_offset = await _first_offset(partition, call)
        former = partition.log.log_start_offset
        going = partition.log.cleanup.segments_below(first_offset)
        # What retention let go may be read again after a crash (decision 14); not what was trimmed.
        if not call.dry_run and first_offset > partition.state.first_offset:
            response = await self._commands.change(
                TrimPartition(call.topic_id, call.partition, leader.leader_epoch, first_offset),
                repeatable=True,
            )
            assert isinstance(response, PartitionTrimmedResponse)
            await self._applied(partition, response.first_offset)
            log.info(
                "partition_trimmed", partition=partition.name, before=former, after=first_offset
            )
        return TrimmedPartition(
            topic=partition.state.topic,
            partition=call.partition,
            former_log_start_offset=former,
            log_start_offset=max(first_offset, partition.log.log_start_offset),
            records=max(0, first_offset - former),
            segments=going.count,
            size_bytes=going.size_bytes,
            dry_run=call.dry_run,
        )

    async def _applied(self, partition: Partition, first_offset: int) -> None:
        """Wait until the replica here begins at `first_offset`, or above.

        The controller's answer may come before the metadata that has the decision.
        """
        try:
            async with asyncio.timeout(APPLY_TIMEOUT_MS / 1000):
                await self._replicas.wait_applied(self._metadata.image.version)
                while partition.log.log_start_offset < first_offset:
                    await self._metadata.wait_for_change(timeout_ms=RETRY_INTERVAL_MS)
                    await self._replicas.wait_applied(self._metadata.image.version)
        except TimeoutError:
            raise RequestTimedOutError(
                f"the trim of {partition.name} is decided, and its leader does not keep to it yet",
                outcome=Outcome.UNKNOWN,
            ) from None


async def _first_offset(partition: Partition, call: TrimCall) -> int:
    """Where the partition is to begin: at most where readers of committed records end.

    A transaction that is not over goes as a whole or not at all: its marker would decide about
    records of which nobody knows the beginning.
    """
    high_watermark = partition.latest_offset()
    stable = partition.last_stable_offset
    if call.before_timestamp is not None:
        found = await find_by_timestamp(
            partition, call.before_timestamp, isolation="read_committed"
        )
        return found.offset
    if call.before_offset is None:
        return stable
    if call.before_offset > high_watermark:
        raise OffsetOutOfRangeError(
            f"offset {call.before_offset} of {partition.name} is above the high watermark, "
            f"{high_watermark}: only what is committed is trimmed",
            log_start_offset=partition.log.log_start_offset,
            log_end_offset=partition.log.next_offset,
            high_watermark=high_watermark,
        )
    if call.before_offset > stable:
        raise OffsetNotAvailableError(
            f"{partition.name} has a transaction that is not over, from offset {stable} on: it is "
            "not trimmed before it is",
            last_stable_offset=stable,
        )
    return call.before_offset
