"""Questions about partitions, put to the brokers that lead them.

What a leader does not answer is told as unknown: whoever needs it asks again.
"""

from collections.abc import Iterable
from typing import TypeVar

from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.peer_client import PeerClient, Purpose
from ottla_broker.drivers.peer_messages import PartitionName
from ottla_broker.drivers.racing import Unless
from ottla_protocol.errors import LeaderNotAvailableError, OttlaError

AnswerT = TypeVar("AnswerT")


class LeaderQuestions:
    """Asks other brokers, as the metadata knows them.

    Args:
        metadata: who leads what, and where brokers are.
        peers: the way to them.
    """

    def __init__(self, metadata: MetadataCache, peers: PeerClient) -> None:
        self._metadata = metadata
        self._peers = peers

    def by_leader(self, partitions: Iterable[PartitionName]) -> dict[int, list[PartitionName]]:
        """The partitions by who leads them; those that nobody leads are left out."""
        by_leader: dict[int, list[PartitionName]] = {}
        for name in partitions:
            leader = self._leader_of(name)
            if leader is not None:
                by_leader.setdefault(leader, []).append(name)
        return by_leader

    def exists(self, name: PartitionName) -> bool:
        """Whether there is such a partition, as far as is known here."""
        topic = self._metadata.image.topics.get(name.topic_id)
        return topic is not None and name.partition < len(topic.partitions)

    def _leader_of(self, name: PartitionName) -> int | None:
        if not self.exists(name):
            return None
        return self._metadata.image.topics[name.topic_id].partitions[name.partition].leader

    async def ask(
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
            return []
