"""Where partitions begin and end, whoever leads them: what a group's lag is measured by."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.peer_client import PeerClient
from ottla_broker.drivers.peer_messages import PartitionBounds, PartitionName, encode
from ottla_broker.drivers.racing import Unless
from ottla_broker.drivers.replica_manager import ReplicaManager
from ottla_protocol import routes
from ottla_protocol.errors import LeaderNotAvailableError, OttlaError

ASK_TIMEOUT_MS = 2_000
"""How long a leader may take to tell its bounds."""


class PartitionBoundsService:
    """Asks the leaders of partitions for their log starts and high watermarks."""

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
                PartitionBounds(name.topic_id, name.partition, hosted.log.log_start_offset, latest)
            )
        return found

    async def look_up(
        self, partitions: Iterable[PartitionName]
    ) -> Mapping[PartitionName, PartitionBounds]:
        """The bounds of partitions anywhere; those whose leader does not tell are left out."""
        by_leader: dict[int, list[PartitionName]] = {}
        for name in partitions:
            leader = self._leader_of(name)
            if leader is not None:
                by_leader.setdefault(leader, []).append(name)
        answers = await asyncio.gather(
            *(self._ask(leader, names) for leader, names in by_leader.items())
        )
        return {
            PartitionName(bounds.topic_id, bounds.partition): bounds
            for answer in answers
            for bounds in answer
        }

    def _leader_of(self, name: PartitionName) -> int | None:
        topic = self._metadata.image.topics.get(name.topic_id)
        if topic is None or name.partition >= len(topic.partitions):
            return None
        return topic.partitions[name.partition].leader

    async def _ask(self, leader: int, names: Sequence[PartitionName]) -> list[PartitionBounds]:
        if leader == self._node_id:
            return self.look_up_here(names)
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
                    routes.INTERNAL_OFFSETS,
                    encode(names),
                    timeout_ms=ASK_TIMEOUT_MS,
                    answer=list[PartitionBounds],
                )
        except OttlaError:
            # Told as unknown; the next look asks again.
            return []
