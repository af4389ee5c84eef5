"""Where partitions begin and end, and where a time is in them, whoever leads them.

A group's lag is measured by the former, and a group seeks by both.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.peer_client import PeerClient, Purpose
from ottla_broker.drivers.peer_messages import (
    PartitionBounds,
    PartitionName,
    TimestampLookup,
    TimestampOffset,
    encode,
)
from ottla_broker.drivers.racing import Unless
from ottla_broker.drivers.replica_manager import ReplicaManager
from ottla_broker.services.timestamps import find_by_timestamp
from ottla_protocol import routes
from ottla_protocol.errors import (
    LeaderNotAvailableError,
    NotFoundError,
    OttlaError,
    RoutingError,
    UnavailableError,
)
from ottla_protocol.models import Isolation

AnswerT = TypeVar("AnswerT")

ASK_TIMEOUT_MS = 2_000
"""How long a leader may take to tell its bounds."""

TIMESTAMP_TIMEOUT_MS = 20_000
"""How long it may take to look for a time in its segments."""


class PartitionBoundsService:
    """Asks the leaders of partitions for their log starts and ends."""

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

    def look_up_here(self, partitions: Sequence[PartitionName]) -> list[PartitionBounds]:
        """The bounds of those partitions that this broker leads and knows the end of."""
        found = []
        for name in partitions:
            try:
                hosted = self._replicas.by_topic_id(name.topic_id, name.partition)
                latest = hosted.latest_offset()
            except OttlaError:
                # Not led here (any more), or the end is not known yet: no bounds are the answer.
                continue
            found.append(
                PartitionBounds(
                    name.topic_id,
                    name.partition,
                    hosted.log.log_start_offset,
                    latest,
                    hosted.last_stable_offset,
                )
            )
        return found

    async def look_up_timestamp_here(self, lookup: TimestampLookup) -> list[TimestampOffset]:
        """Where a time begins in those partitions that this broker leads and knows the end of."""
        found = []
        for name in lookup.partitions:
            try:
                hosted = self._replicas.by_topic_id(name.topic_id, name.partition)
                place = await find_by_timestamp(
                    hosted, lookup.timestamp, isolation=lookup.isolation
                )
            except (RoutingError, UnavailableError, NotFoundError):
                continue
            found.append(TimestampOffset(name.topic_id, name.partition, place.offset))
        return found

    async def look_up(
        self, partitions: Iterable[PartitionName]
    ) -> Mapping[PartitionName, PartitionBounds]:
        """The bounds of partitions anywhere; those whose leader does not tell are left out."""
        answers = await asyncio.gather(
            *(self._ask(leader, names) for leader, names in self._by_leader(partitions).items())
        )
        return {
            PartitionName(bounds.topic_id, bounds.partition): bounds
            for answer in answers
            for bounds in answer
        }

    async def look_up_timestamp(
        self,
        partitions: Iterable[PartitionName],
        timestamp: int,
        *,
        isolation: Isolation = "read_uncommitted",
    ) -> Mapping[PartitionName, int]:
        """Where a time, in ms since the epoch, begins in partitions anywhere.

        That is the first record at or after it, or the end as such readers see it; partitions whose
        leader does not tell are left out.
        """
        answers = await asyncio.gather(
            *(
                self._ask_timestamp(leader, TimestampLookup(names, timestamp, isolation))
                for leader, names in self._by_leader(partitions).items()
            )
        )
        return {
            PartitionName(found.topic_id, found.partition): found.offset
            for answer in answers
            for found in answer
        }

    def _by_leader(self, partitions: Iterable[PartitionName]) -> dict[int, list[PartitionName]]:
        by_leader: dict[int, list[PartitionName]] = {}
        for name in partitions:
            leader = self._leader_of(name)
            if leader is not None:
                by_leader.setdefault(leader, []).append(name)
        return by_leader

    def _leader_of(self, name: PartitionName) -> int | None:
        topic = self._metadata.image.topics.get(name.topic_id)
        if topic is None or name.partition >= len(topic.partitions):
            return None
        return topic.partitions[name.partition].leader

    async def _ask(self, leader: int, names: Sequence[PartitionName]) -> list[PartitionBounds]:
        if leader == self._node_id:
            return self.look_up_here(names)
        return await self._ask_peer(
            leader, routes.INTERNAL_OFFSETS, encode(names), ASK_TIMEOUT_MS, list[PartitionBounds]
        )

    async def _ask_timestamp(self, leader: int, lookup: TimestampLookup) -> list[TimestampOffset]:
        if leader == self._node_id:
            return await self.look_up_timestamp_here(lookup)
        return await self._ask_peer(
            leader,
            routes.INTERNAL_TIMESTAMPS,
            encode(lookup),
            TIMESTAMP_TIMEOUT_MS,
            list[TimestampOffset],
        )

    async def _ask_peer(
        self, leader: int, path: str, body: bytes, timeout_ms: int, answer: type[list[AnswerT]]
    ) -> list[AnswerT]:
        """What another broker tells; nothing where it does not answer."""
        registration = self._metadata.image.brokers.get(leader)
        if registration is None:
            return []
        try:
            with Unless(
                self._metadata.replacement_of(leader, registration.broker_epoch),
                LeaderNotAvailableError(f"broker {leader} was fenced before it answered"),
            ):
                return await self._peers.call(
                    registration.url,
                    path,
                    body,
                    timeout_ms=timeout_ms,
                    answer=answer,
                    purpose=Purpose.CLIENT,
                )
        except OttlaError:
            # Told as unknown; the next look asks again.
            return []
