"""Transactions as the logs have them: which are open, and which hang.

A transaction hangs in a log that has its records and no marker, and will never get one, because no
coordinator has that partition in it: a defect, or a log that was brought back from long ago. Nobody
who reads committed records gets past it. What a log and the coordinators say is compared here, as
Kafka's tools do (KIP-664), and a marker is written by hand.
"""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple, Protocol

from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.peer_client import PeerClient
from ottla_broker.drivers.peer_messages import (
    OpenInLog,
    OpenTransactionLookup,
    OpenTransactionsOfLog,
    PartitionName,
    TransactionMarker,
    encode,
)
from ottla_broker.drivers.replica_manager import ReplicaManager
from ottla_broker.services.leader_questions import LeaderQuestions
from ottla_broker.services.topics import TopicService
from ottla_cluster.transactions.config import TransactionConfig
from ottla_cluster.transactions.known_ids import DECIDED
from ottla_cluster.transactions.records import (
    ProducerIdentity,
    TransactionalIdChanged,
    TransactionState,
)
from ottla_protocol import models_transactions as models
from ottla_protocol import routes
from ottla_protocol.errors import (
    InvalidTransactionStateError,
    LeaderNotAvailableError,
    OttlaError,
)

ASK_TIMEOUT_MS: Final = 10_000
"""How long a leader may take to look through its logs' open transactions."""

ALL_TIMES: Final = 2**63 - 1

HANGING_GRACE_MS: Final = 300_000
"""How much longer than a transaction may be open something must be, to be said to hang."""

MAX_TOLD: Final = 1_000
"""Open transactions of one log that are told, the oldest first."""

NO_COORDINATOR_EPOCH: Final = -1
"""What a marker carries that no coordinator decided."""


def hanging_after_ms(config: TransactionConfig) -> int:
    """Longer than any transaction may be open."""
    return config.max_timeout_ms + HANGING_GRACE_MS


class Markers(Protocol):
    """Writes markers, wherever the partition is led."""

    async def write_one(self, topic_id: str, partition: int, marker: TransactionMarker) -> bool:
        """Returns once the marker is committed, and whether none was there before this call."""


class KnownTransactions(Protocol):
    """What all coordinators know."""

    async def all_transactions(self) -> list[TransactionalIdChanged]:
        """Every transactional id."""


class _Open(NamedTuple):
    """Where something is open, and what."""

    name: PartitionName
    found: OpenInLog


class OpenTransactionService:
    """Serves `…/partitions/{partition}/transactions` and `/v1/hanging-transactions`."""

    def __init__(
        self,
        *,
        node_id: int,
        metadata: MetadataCache,
        topics: TopicService,
        replicas: ReplicaManager,
        peers: PeerClient,
        known: KnownTransactions,
        markers: Markers,
        config: TransactionConfig,
    ) -> None:
        self._node_id = node_id
        self._metadata = metadata
        self._topics = topics
        self._replicas = replicas
        self._leaders = LeaderQuestions(metadata, peers)
        self._known = known
        self._markers = markers
        self.hanging_after_ms = hanging_after_ms(config)
        """Without a word of its producer for so long, what is open somewhere hangs if no
        coordinator has it."""

    def look_up_here(self, lookup: OpenTransactionLookup) -> list[OpenTransactionsOfLog]:
        """What is open in those partitions that this broker leads and knows the end of."""
        answers = []
        for name in lookup.partitions:
            try:
                hosted = self._replicas.by_topic_id(name.topic_id, name.partition)
                high_watermark = hosted.latest_offset()
            except OttlaError:
                # Not led here (any more), or the end is not known yet: whoever asked tells so.
                continue
            found = [
                OpenInLog(
                    each.producer_id, each.producer_epoch, each.first_offset, each.last_timestamp
                )
                for each in hosted.log.open_transactions()
                if each.last_timestamp <= lookup.last_timestamp_max
            ]
            answers.append(
                OpenTransactionsOfLog(
                    name.topic_id,
                    name.partition,
                    hosted.last_stable_offset,
                    high_watermark,
                    found[:MAX_TOLD],
                )
            )
        return answers

    async def describe(
        self, topic: str, partition: int, *, now_ms: int
    ) -> models.PartitionTransactions:
        """What is open in one partition, as its leader has it; `now_ms` is the wall clock.

        Raises:
            UnknownTopicOrPartitionError: there is no such partition.
            LeaderNotAvailableError: its leader does not tell now.
        """
        leader, told = await self._ask_one(topic, partition)
        return models.PartitionTransactions(
            topic=topic,
            partition=partition,
            leader=leader,
            last_stable_offset=told.last_stable_offset,
            high_watermark=told.high_watermark,
            transactions=[
                models.OpenTransaction(
                    producer_id=each.producer_id,
                    producer_epoch=each.producer_epoch,
                    first_offset=each.first_offset,
                    last_timestamp=each.last_timestamp,
                    idle_ms=max(0, now_ms - each.last_timestamp),
                )
                for each in told.transactions
            ],
        )

    async def hanging(
        self, topic: str | None, *, idle_ms: int, now_ms: int
    ) -> models.HangingTransactionList:
        """Transactions that are open in a log and that no coordinator is going to end.

        Args:
            topic: only there; None for all topics.
            idle_ms: only those whose producers have written nothing for longer. As long as that is
                longer than any transaction may be open, what is found does hang.
            now_ms: the wall clock.

        Raises:
            UnknownTopicOrPartitionError: there is no such topic.
            UnavailableError: a coordinator did not answer in time.
        """
        names = await self._partitions_of(topic)
        # The logs first: what is in a transaction is so at its coordinator before it is in a log.
        told = await self._look_up(names, last_timestamp_max=now_ms - idle_ms)
        candidates = [
            _Open(name, each) for name in names if name in told for each in told[name].transactions
        ]
        known = await self._known.all_transactions() if candidates else []
        expected = _expected(known)
        holders = {each.granted.producer_id: each.transactional_id for each in known}
        return models.HangingTransactionList(
            transactions=[
                self._hanging(each, holders.get(each.found.producer_id), now_ms)
                for each in candidates
                if (each.name, _identity(each.found)) not in expected
            ],
            unavailable=[
                models.TransactionPartition(self._topic_name(name), name.partition)
                for name in names
                if name not in told
            ],
        )

    async def abort(
        self, topic: str, partition: int, producer_id: int, request: models.AbortHangingRequest
    ) -> models.AbortedHanging:
        """Write an abort marker to one log, where a producer's transaction hangs.

        Raises:
            UnknownTopicOrPartitionError: there is no such partition.
            InvalidTransactionStateError: a coordinator has the partition in that transaction, and
                is going to end it.
            UnavailableError: a leader or coordinator did not answer in time.
        """
        identity = ProducerIdentity(producer_id, request.producer_epoch)
        _, told = await self._ask_one(topic, partition)
        was_aborted = False
        if any(_identity(each) == identity for each in told.transactions):
            name = PartitionName(told.topic_id, partition)
            if (name, identity) in _expected(await self._known.all_transactions()):
                raise InvalidTransactionStateError(
                    f"producer {producer_id} epoch {request.producer_epoch} has "
                    f"{topic}-{partition} in a transaction of its coordinator: abort that by its "
                    "transactional id"
                )
            was_aborted = await self._markers.write_one(
                told.topic_id,
                partition,
                TransactionMarker(
                    producer_id,
                    request.producer_epoch + 1,
                    is_commit=False,
                    coordinator_epoch=NO_COORDINATOR_EPOCH,
                ),
            )
        return models.AbortedHanging(
            topic, partition, producer_id, request.producer_epoch, aborted=was_aborted
        )

    def _hanging(
        self, each: _Open, transactional_id: str | None, now_ms: int
    ) -> models.HangingTransaction:
        return models.HangingTransaction(
            topic=self._topic_name(each.name),
            partition=each.name.partition,
            producer_id=each.found.producer_id,
            producer_epoch=each.found.producer_epoch,
            first_offset=each.found.first_offset,
            last_timestamp=each.found.last_timestamp,
            idle_ms=max(0, now_ms - each.found.last_timestamp),
            transactional_id=transactional_id,
        )

    def _topic_name(self, name: PartitionName) -> str:
        topic = self._metadata.image.topics.get(name.topic_id)
        return name.topic_id if topic is None else topic.name

    async def _partitions_of(self, topic: str | None) -> list[PartitionName]:
        """All partitions, or those of one topic, by name and number."""
        if topic is None:
            topics = sorted(self._metadata.image.topics.values(), key=lambda each: each.name)
        else:
            topics = [await self._topics.find(topic)]
        return [
            PartitionName(each.topic_id, number)
            for each in topics
            for number in range(len(each.partitions))
        ]

    # --- asking leaders ---------------------------------------------------------------------

    async def _ask_one(self, topic: str, partition: int) -> tuple[int, OpenTransactionsOfLog]:
        state = await self._topics.find_partition(topic, partition)
        name = PartitionName(state.topic_id, partition)
        told = await self._look_up([name], last_timestamp_max=ALL_TIMES)
        if state.leader is None or name not in told:
            raise LeaderNotAvailableError(
                f"the leader of {topic}-{partition} does not tell at this moment"
            )
        return state.leader, told[name]

    async def _look_up(
        self, names: Iterable[PartitionName], *, last_timestamp_max: int
    ) -> Mapping[PartitionName, OpenTransactionsOfLog]:
        """What the leaders tell; partitions whose leader does not are left out."""
        answers = await asyncio.gather(
            *(
                self._ask(leader, OpenTransactionLookup(group, last_timestamp_max))
                for leader, group in self._leaders.by_leader(names).items()
            )
        )
        return {
            PartitionName(each.topic_id, each.partition): each
            for answer in answers
            for each in answer
        }

    async def _ask(self, leader: int, lookup: OpenTransactionLookup) -> list[OpenTransactionsOfLog]:
        if leader == self._node_id:
            return self.look_up_here(lookup)
        return await self._leaders.ask(
            leader,
            routes.INTERNAL_OPEN_TRANSACTIONS,
            encode(lookup),
            ASK_TIMEOUT_MS,
            list[OpenTransactionsOfLog],
        )


def _identity(found: OpenInLog) -> ProducerIdentity:
    return ProducerIdentity(found.producer_id, found.producer_epoch)


def _expected(
    known: Iterable[TransactionalIdChanged],
) -> set[tuple[PartitionName, ProducerIdentity]]:
    """Which producers have which partitions in a transaction that their coordinator will end."""
    expected = set()
    for each in known:
        if each.state is TransactionState.ONGOING:
            identity = each.granted
        elif each.state in DECIDED and each.ended is not None:
            identity = each.ended.identity
        else:
            continue
        expected |= {
            (PartitionName(partition.topic_id, partition.partition), identity)
            for partition in each.partitions
        }
    return expected
