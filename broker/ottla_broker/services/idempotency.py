"""Finds where an Idempotency-Key was used, in any partition of a topic.

A batch that a retry repeats meets its original in the same partition, and the append itself
recognises it. Another body may go to other partitions, and so may the same body once the topic has
more of them, so those are asked before anything is appended. What this cannot see is two first uses
of one key, with two bodies, at the same moment.

The first attempt may be on its way yet when a retry finds nothing of it, and would be divided among
fewer partitions. So nothing is appended of a request that nothing is known to be stored of unless
the leader, too, knows of as many partitions as it was divided among (`partition_count` of a batch),
and whoever looks a key up in a topic that has grown hears only from leaders that know so. A leader
that has said 'nothing' appends nothing from then on that was divided among fewer, and no later
leader does: its metadata is newer than its leadership (decision 52).
"""

import asyncio
from collections.abc import Sequence

from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.peer_client import PeerBusyError, PeerClient, Purpose
from ottla_broker.drivers.peer_messages import IdempotencyHit, IdempotencyLookup, encode
from ottla_broker.drivers.racing import Unless
from ottla_broker.drivers.replica_manager import ReplicaManager
from ottla_broker.services.produce import RETRY_INTERVAL_MS
from ottla_broker.services.produce_options import ProduceOptions
from ottla_cluster.controller.features import PARTITION_COUNTS, is_enabled
from ottla_cluster.controller.image import Topic
from ottla_protocol import routes
from ottla_protocol.errors import (
    IdempotencyKeyReusedError,
    LeaderNotAvailableError,
    OffsetNotAvailableError,
    OttlaError,
    Outcome,
    UnavailableError,
    UnknownTopicOrPartitionError,
)
from ottla_protocol.idempotency import Idempotency

METADATA_WAIT_MS = 5_000
"""How long a leader waits to hear of what an asker knows, before it says that it has not."""


class IdempotencyService:
    """Looks keys up at the leaders of a topic's partitions."""

    def __init__(
        self,
        *,
        node_id: int,
        metadata: MetadataCache,
        replicas: ReplicaManager,
        peers: PeerClient,
    ) -> None:
        self._node_id = node_id
        self._metadata = metadata
        self._replicas = replicas
        self._peers = peers

    def counted(self, count: int) -> int | None:
        """The `partition_count` of a batch of which nothing is known to be stored.

        None while there are brokers that would refuse to be told.
        """
        return count if is_enabled(self._metadata.image, PARTITION_COUNTS) else None

    async def answer(self, lookup: IdempotencyLookup) -> list[IdempotencyHit]:
        """As `look_up_here`, with metadata as new as the asker's.

        Raises:
            OttlaError: as there.
            UnavailableError: this broker did not hear of it in time.
        """
        version = lookup.metadata_version
        if version is not None and not await self._metadata.reached(
            version, timeout_ms=METADATA_WAIT_MS
        ):
            raise UnavailableError("this broker has not heard yet of what the other one knows")
        return self.look_up_here(lookup)

    def look_up_here(self, lookup: IdempotencyLookup) -> list[IdempotencyHit]:
        """Which of these partitions, all led here, hold the key's records.

        Raises:
            IdempotencyKeyReusedError: one holds it with another body.
            RoutingError, UnavailableError: this broker does not lead one of them now.
            OffsetNotAvailableError: with `metadata_version`: one holds it, and may lose it yet.
        """
        idempotency = Idempotency.from_bytes(lookup.idempotency)
        hits = []
        for number in lookup.partitions:
            partition = self._replicas.by_topic_id(lookup.topic_id, number)
            partition.leading()
            info = partition.log.check_idempotency(idempotency.key_digest, idempotency.body_digest)
            if info is None:
                continue
            if lookup.metadata_version is not None and (
                info.last_offset >= partition.high_watermark
            ):
                raise OffsetNotAvailableError(
                    f"what {partition.name} holds of the Idempotency-Key is not committed yet"
                )
            hits.append(IdempotencyHit(number, info.base_offset, info.last_offset, info.timestamp))
        return hits

    async def look_up(
        self,
        topic: Topic,
        partitions: Sequence[int],
        idempotency: Idempotency,
        options: ProduceOptions,
        *,
        for_good: bool = False,
    ) -> list[IdempotencyHit]:
        """Ask the leaders of `partitions`, through a failover if need be.

        Args:
            topic: whose partitions.
            partitions: all that the key may be in.
            idempotency: the key and the body.
            options: until when.
            for_good: wait until what is found is committed, and have what is not found found by
                nobody later: see above.

        Returns:
            Where the key was used with this body.

        Raises:
            IdempotencyKeyReusedError: the key was used with another body.
            PeerBusyError: too many questions wait at a leader; told at once.
            UnavailableError: a leader could not be asked in time; nothing was applied.
        """
        while partitions:
            try:
                return await self._ask_all(
                    topic, partitions, idempotency, options, for_good=for_good
                )
            except IdempotencyKeyReusedError as error:
                raise error.with_outcome(Outcome.NOT_APPLIED) from None
            except PeerBusyError:
                raise
            except OttlaError as error:
                # Asking changes nothing, whatever became of the question.
                error.outcome = Outcome.NOT_APPLIED
                if not error.retriable or options.remaining_ms <= 0:
                    raise
                await self._metadata.wait_for_change(
                    timeout_ms=min(RETRY_INTERVAL_MS, options.remaining_ms)
                )
        return []

    async def _ask_all(
        self,
        topic: Topic,
        partitions: Sequence[int],
        idempotency: Idempotency,
        options: ProduceOptions,
        *,
        for_good: bool,
    ) -> list[IdempotencyHit]:
        by_leader: dict[int, list[int]] = {}
        image = self._metadata.image
        if topic.topic_id not in image.topics:
            raise UnknownTopicOrPartitionError(f"the topic {topic.name!r} was deleted")
        for number in partitions:
            leader = image.partition_by_id(topic.topic_id, number).leader
            if leader is None:
                raise LeaderNotAvailableError(f"{topic.name}-{number} has no leader at this moment")
            by_leader.setdefault(leader, []).append(number)
        answers = await asyncio.gather(
            *(
                self._ask(
                    leader,
                    IdempotencyLookup(
                        topic.topic_id,
                        numbers,
                        idempotency.to_bytes(),
                        image.version if for_good else None,
                    ),
                    options,
                )
                for leader, numbers in by_leader.items()
            )
        )
        return [hit for hits in answers for hit in hits]

    async def _ask(
        self, leader: int, lookup: IdempotencyLookup, options: ProduceOptions
    ) -> list[IdempotencyHit]:
        if leader == self._node_id:
            return await self.answer(lookup)
        registration = self._metadata.image.brokers.get(leader)
        if registration is None:
            raise LeaderNotAvailableError(f"broker {leader} is not registered")
        with Unless(
            self._metadata.replacement_of(leader, registration.broker_epoch),
            LeaderNotAvailableError(f"broker {leader} was fenced before it answered"),
        ):
            return await self._peers.call(
                registration.url,
                routes.INTERNAL_IDEMPOTENCY,
                encode(lookup),
                timeout_ms=max(1, options.remaining_ms),
                answer=list[IdempotencyHit],
                purpose=Purpose.CLIENT,
            )
