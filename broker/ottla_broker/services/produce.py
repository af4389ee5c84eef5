"""Produce: append where this broker leads, forward to the leader where it does not.

A write has one of two fates, and every error says which: NOT_APPLIED errors come from before the
append, UNKNOWN ones from after it or from a forward that broke. The former are tried again here
until the request's own deadline, and with an Idempotency-Key the latter too: during a failover the
caller waits instead of failing. What is told in the end is what became of all attempts together.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import copy
from functools import partial
from typing import TypeVar

from ottla_broker.drivers.clock import monotonic_ms, wall_clock_ms
from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.partition import Partition
from ottla_broker.drivers.partition_acks import Appended
from ottla_broker.drivers.peer_client import PeerBusyError
from ottla_broker.drivers.purgatory import Purgatory
from ottla_broker.drivers.replica_manager import ReplicaManager
from ottla_broker.services.forwarder import ProduceForwarder
from ottla_broker.services.produce_options import ACKS_LABELS, ProduceOptions
from ottla_broker.services.required_keys import keyless, needs_keys
from ottla_broker.services.transaction_verification import (
    MAX_WAITING_BATCHES,
    Placed,
    TransactionalAppend,
    TransactionCoordinator,
    TransactionVerification,
)
from ottla_broker.telemetry import METRICS
from ottla_cluster.controller.features import TRANSACTIONS, require
from ottla_cluster.controller.topic_configs import MAX_MESSAGE_BYTES, integer_config
from ottla_cluster.controller.topic_names import refuse_internal
from ottla_protocol.errors import (
    InsufficientStorageError,
    InvalidRequestError,
    LeaderNotAvailableError,
    MessageTooLargeError,
    NotEnoughReplicasError,
    OttlaError,
    Outcome,
    PartitionCountChangedError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
)
from ottla_protocol.idempotency import Idempotency
from ottla_protocol.models import ACKS_ALL, AppendedBatch, BatchToAppend
from ottla_protocol.record_batch import BatchHeader, read_header, validate_batch

RETRY_INTERVAL_MS = 50
"""How soon a write that found no leader looks again; new metadata wakes it earlier."""

PINNED_BODY_FACTOR = 4
"""A batch may keep a body of this many times its size in memory, instead of being copied."""

NO_OFFSET = -1

ResultT = TypeVar("ResultT")


def measure_produce(acks: int, started_ms: int) -> None:
    """Count one produce to partitions that this broker leads, which began then and is over."""
    METRICS.produce_seconds.labels(ACKS_LABELS[acks]).observe((monotonic_ms() - started_ms) / 1000)


class ProduceService:
    """Appends record batches for whoever asks: binary clients, JSON clients, forwarding brokers."""

    def __init__(
        self,
        *,
        node_id: int,
        metadata: MetadataCache,
        replicas: ReplicaManager,
        forwarder: ProduceForwarder,
        purgatory: Purgatory,
        coordinator: TransactionCoordinator,
    ) -> None:
        self._node_id = node_id
        self._metadata = metadata
        self._replicas = replicas
        self._forwarder = forwarder
        self._purgatory = purgatory
        self._verification = TransactionVerification(coordinator)

    @property
    def verification_places(self) -> tuple[int, int]:
        """How many batches wait for transaction coordinators, and how many may."""
        return self._verification.waiting, MAX_WAITING_BATCHES

    async def append_here(
        self, batches: Sequence[BatchToAppend], options: ProduceOptions
    ) -> list[AppendedBatch | OttlaError]:
        """Append batches that this broker leads; each succeeds or fails for itself.

        All are appended before any is waited for, so they share group commits.
        """
        with nullcontext() if options.is_gathered else self._awaited_ack(options.acks):
            refused = await self._refuse_keyless(batches)
            if options.transactional_id is not None:
                pending = await self._append_in_transaction(batches, refused, options)
            else:
                pending = [
                    refused.get(index) or self._append(batch, options)
                    for index, batch in enumerate(batches)
                ]
            results: list[AppendedBatch | OttlaError] = [
                item
                if isinstance(item, OttlaError)
                else await self._acknowledge(batch, *item, options)
                for batch, item in zip(batches, pending, strict=True)
            ]
        return results

    @contextmanager
    def _awaited_ack(self, acks: int) -> Iterator[None]:
        """One produce to partitions that this broker leads, from here to its ack.

        Raises:
            OverloadedError: as many requests are parked as may be.
        """
        started_ms = monotonic_ms()
        with self._purgatory.parked_ack():
            yield
        measure_produce(acks, started_ms)

    async def _refuse_keyless(self, batches: Sequence[BatchToAppend]) -> dict[int, OttlaError]:
        """The errors of batches that compacted topics do not take, by position."""
        image = self._metadata.image
        refused: dict[int, OttlaError] = {}
        for index, batch in enumerate(batches):
            if needs_keys(image, batch.topic):
                error = await keyless(batch)
                if error is not None:
                    METRICS.produce_errors.labels(error.code).inc()
                    refused[index] = error
        return refused

    def _append(self, batch: BatchToAppend, options: ProduceOptions) -> Placed:
        try:
            partition = self._led_here(batch)
            header = validate_batch(batch.batch, on_append=True)
            if header.is_transactional:
                raise InvalidRequestError(
                    "transactional_id is missing: a batch is transactional",
                    field="transactional_id",
                )
            appended = self._append_to(partition, batch, header, options)
        except OttlaError as error:
            return _not_applied(error)
        return partition, appended

    def _led_here(self, batch: BatchToAppend) -> Partition:
        """The partition that a batch of this size is for."""
        # What a coordinator reads there decides for others.
        refuse_internal(batch.topic, field="topic")
        if batch.topic_id is not None:
            # A forwarder may know a topic before this broker does, which must not pass for
            # 'unknown topic': this error can be tried again.
            self._metadata.image.partition_by_id(batch.topic_id, batch.partition)
        partition = self._replicas.hosted(batch.topic, batch.partition)
        if batch.topic_id is not None and batch.topic_id != partition.state.topic_id:
            raise UnknownTopicIdError(f"{batch.topic} was deleted and created again")
        self._check_topic(partition, batch)
        return partition

    def _append_to(
        self,
        partition: Partition,
        batch: BatchToAppend,
        header: BatchHeader,
        options: ProduceOptions,
    ) -> Appended:
        appended = partition.append(
            _own(batch),
            header,
            acks_all=options.acks == ACKS_ALL,
            now_ms=wall_clock_ms(),
            idempotency=Idempotency.from_bytes(batch.idempotency)
            if batch.idempotency is not None
            else None,
        )
        if appended.info.duplicate:
            METRICS.duplicates.inc()
        else:
            METRICS.produced_batches.inc()
            METRICS.produced_records.inc(header.record_count)
            METRICS.produced_bytes.inc(header.size_bytes)
        return appended

    async def _append_in_transaction(
        self,
        batches: Sequence[BatchToAppend],
        refused: Mapping[int, OttlaError],
        options: ProduceOptions,
    ) -> list[Placed]:
        """As `_append` of each, once the coordinator has the partition in the transaction.

        Raises:
            UnsupportedFeatureLevelError: the cluster does not know transactions yet.
        """
        require(self._metadata.image, TRANSACTIONS)
        assert options.transactional_id is not None
        placed: dict[int, Placed] = dict(refused)
        waiting: dict[int, TransactionalAppend] = {}
        for index, batch in enumerate(batches):
            if index in placed:
                continue
            try:
                partition = self._led_here(batch)
                header = validate_batch(batch.batch, on_append=True)
                append = partial(self._append_in_turn, batch, header, partition.key, options)
                if header.is_transactional and not self._verification.may_append(partition, header):
                    # It need not wait for a broker that could not take it anyway.
                    partition.leading()
                    waiting[index] = TransactionalAppend(partition, header, append)
                else:
                    placed[index] = append()
            except OttlaError as error:
                placed[index] = _not_applied(error)
        if waiting:
            appended = await self._verification.append_in_turn(
                options.transactional_id,
                tuple(waiting.values()),
                deadline_ms=options.deadline_ms,
            )
            placed.update(zip(waiting, appended, strict=True))
        return [placed[index] for index in range(len(batches))]

    def _append_in_turn(
        self,
        batch: BatchToAppend,
        header: BatchHeader,
        verified: tuple[str, int],
        options: ProduceOptions,
    ) -> Placed:
        """Append a batch that was checked before, to the partition that was verified."""
        try:
            partition = self._led_here(batch)
            if partition.key != verified:
                raise UnknownTopicIdError(f"{batch.topic} was deleted and created again")
            return partition, self._append_to(partition, batch, header, options)
        except OttlaError as error:
            return _not_applied(error)

    def _check_topic(self, partition: Partition, batch: BatchToAppend) -> None:
        """Refuse a batch that is too large for its topic, or was made for fewer partitions."""
        topic = self._metadata.image.topics.get(partition.state.topic_id)
        if topic is None:
            raise UnknownTopicIdError(f"{batch.topic} was deleted")
        if batch.partition_count is not None:
            _check_count(len(topic.partitions), batch.partition_count, partition, batch)
        limit = integer_config(topic.configs, MAX_MESSAGE_BYTES)
        if len(batch.batch) > limit:
            raise MessageTooLargeError(
                f"a record batch of {len(batch.batch)} bytes is over {MAX_MESSAGE_BYTES} "
                f"({limit}) of {batch.topic}",
                limit_bytes=limit,
            )

    async def _acknowledge(
        self,
        batch: BatchToAppend,
        partition: Partition,
        appended: Appended,
        options: ProduceOptions,
    ) -> AppendedBatch | OttlaError:
        try:
            if options.acks == ACKS_ALL:
                await partition.committed(appended, deadline_ms=options.deadline_ms)
            elif options.acks == 1:
                await partition.durable(appended, deadline_ms=options.deadline_ms)
        except OttlaError as error:
            METRICS.produce_errors.labels(error.code).inc()
            return error.with_outcome(Outcome.UNKNOWN)
        acknowledged = options.acks != 0
        info = appended.info
        return AppendedBatch(
            topic=batch.topic,
            partition=batch.partition,
            # With acks=0 no offset is certain, and an uncertain one must not look like one.
            base_offset=info.base_offset if acknowledged else NO_OFFSET,
            count=(
                info.last_offset - info.base_offset + 1
                if info.base_offset != NO_OFFSET
                else read_header(batch.batch).record_count
            ),
            timestamp=info.timestamp if acknowledged else NO_OFFSET,
            duplicate=info.duplicate,
        )

    async def deliver(
        self, batches: Sequence[BatchToAppend], options: ProduceOptions
    ) -> list[AppendedBatch | OttlaError]:
        """Append batches wherever their leaders are, trying again what was not applied.

        Args:
            batches: at most one per partition, with their topic's id.
            options: acks and the deadline for all attempts together.

        Raises:
            UnsupportedFeatureLevelError: of a transaction, which the cluster does not know yet: a
                leader would refuse the forward.
        """
        if options.transactional_id is not None:
            require(self._metadata.image, TRANSACTIONS)
        results: dict[int, AppendedBatch | OttlaError] = {}
        todo = list(range(len(batches)))
        while True:
            attempt = await self._deliver_once([batches[index] for index in todo], options)
            if results:
                attempt = [
                    of_all_attempts(results[index], result)
                    for index, result in zip(todo, attempt, strict=True)
                ]
            results.update(zip(todo, attempt, strict=True))
            todo = [index for index in todo if self._may_try_again(batches[index], results[index])]
            if not todo or options.remaining_ms <= 0:
                return [results[index] for index in range(len(batches))]
            await self._metadata.wait_for_change(
                timeout_ms=min(RETRY_INTERVAL_MS, options.remaining_ms)
            )
            if options.remaining_ms <= 0:
                # No last attempt without time: it could only turn NOT_APPLIED into UNKNOWN.
                return [results[index] for index in range(len(batches))]

    def _may_try_again(self, batch: BatchToAppend, result: AppendedBatch | OttlaError) -> bool:
        """Whether another attempt may help and cannot double anything.

        What certainly was not applied can be sent again; with an Idempotency-Key so can what
        perhaps was, because the leader answers a batch that it holds with the original offsets.
        Too few in-sync replicas is told at once: it lasts longer than a caller wants to wait. So
        are too many produces that wait at the leader, which more attempts would only queue, and
        a full disk, unless leadership is about to move to one with room; and another number of
        partitions, among which the records have to be divided anew.
        """
        return (
            isinstance(result, OttlaError)
            and result.retriable
            and (result.outcome is Outcome.NOT_APPLIED or batch.idempotency is not None)
            and not isinstance(
                result, NotEnoughReplicasError | PeerBusyError | PartitionCountChangedError
            )
            and (
                not isinstance(result, InsufficientStorageError)
                or self._somebody_has_room_for(batch)
            )
        )

    def _somebody_has_room_for(self, batch: BatchToAppend) -> bool:
        """Whether the partition is led, or can be led, by a broker whose disk has room."""
        image = self._metadata.image
        try:
            assert batch.topic_id is not None
            partition = image.partition_by_id(batch.topic_id, batch.partition)
        except OttlaError:
            return False
        return any(
            image.takes_appends(node_id)
            for node_id in partition.isr
            if node_id != self._node_id or not self._replicas.disk_is_full
        )

    async def _deliver_once(
        self, batches: Sequence[BatchToAppend], options: ProduceOptions
    ) -> list[AppendedBatch | OttlaError]:
        results: dict[int, AppendedBatch | OttlaError] = {}
        by_leader: dict[int, list[int]] = {}
        for index, batch in enumerate(batches):
            leader = self._leader_of(batch)
            if isinstance(leader, OttlaError):
                results[index] = leader
            else:
                by_leader.setdefault(leader, []).append(index)
        deliveries = [
            self._deliver_to(leader, [batches[index] for index in indexes], options)
            for leader, indexes in by_leader.items()
        ]
        # One leader, the usual case, needs no task of its own.
        answers = (
            [await deliveries[0]] if len(deliveries) == 1 else await asyncio.gather(*deliveries)
        )
        for indexes, answer in zip(by_leader.values(), answers, strict=True):
            results.update(zip(indexes, answer, strict=True))
        return [results[index] for index in range(len(batches))]

    def _leader_of(self, batch: BatchToAppend) -> int | OttlaError:
        try:
            assert batch.topic_id is not None
            image = self._metadata.image
            if batch.topic_id not in image.topics:
                # It was there when the caller looked it up, so it was deleted meanwhile.
                raise UnknownTopicOrPartitionError(f"the topic {batch.topic!r} was deleted")
            leader = image.partition_by_id(batch.topic_id, batch.partition).leader
            if leader is None:
                raise LeaderNotAvailableError(
                    f"{batch.topic}-{batch.partition} has no leader at this moment"
                )
        except OttlaError as error:
            return error.with_outcome(Outcome.NOT_APPLIED)
        return leader

    async def _deliver_to(
        self, leader: int, batches: list[BatchToAppend], options: ProduceOptions
    ) -> list[AppendedBatch | OttlaError]:
        if leader != self._node_id:
            return await self._forwarder.forward(leader, batches, options)
        try:
            return await self.append_here(batches, options)
        except OttlaError as error:
            # Nothing of these was appended, but what goes to other leaders may be: so the error
            # belongs to each batch and not to the request.
            return [copy(error).with_outcome(Outcome.NOT_APPLIED) for _ in batches]


def of_all_attempts(former: object, latest: ResultT) -> ResultT:
    """The latest attempt's result; an error says `unknown` where that became of a former attempt.

    A later refusal says nothing of the former one: what that appended may be committed by the next
    leader yet.

    Args:
        former: the result of the attempts before, taken together.
        latest: of the same batch, sent once more.
    """
    if (
        isinstance(latest, OttlaError)
        and isinstance(former, OttlaError)
        and former.outcome is Outcome.UNKNOWN
    ):
        # Its own, because one error may tell of several batches.
        latest = copy(latest)
        latest.outcome = Outcome.UNKNOWN
    return latest


def _not_applied(error: OttlaError) -> OttlaError:
    METRICS.produce_errors.labels(error.code).inc()
    return error.with_outcome(Outcome.NOT_APPLIED)


def _check_count(count: int, expected: int, partition: Partition, batch: BatchToAppend) -> None:
    """Refuse a batch that was divided among `expected` partitions where there are `count`."""
    if count > expected and not _holds(partition, batch):
        raise PartitionCountChangedError(
            f"{batch.topic} has {count} partitions by now, and the records were divided among "
            f"{expected}: send the request again as it was, with its Idempotency-Key"
        )
    if count < expected:
        raise LeaderNotAvailableError(
            f"the leader of {batch.topic}-{batch.partition} does not know yet that there are "
            f"{expected} partitions"
        )


def _holds(partition: Partition, batch: BatchToAppend) -> bool:
    """Whether this very batch is stored there: then its append only tells where."""
    if batch.idempotency is None:
        return False
    told = Idempotency.from_bytes(batch.idempotency)
    return partition.log.check_idempotency(told.key_digest, told.body_digest) is not None


def _own(batch: BatchToAppend) -> memoryview | bytearray:
    """The batch as memory that the log may patch and keep.

    A view of a request's body is that already: nobody else looks at the body again. What was
    inflated is read-only and has to be copied, and so has what may be appended a second time, and
    what is a small part of a body that would otherwise stay in memory with it.
    """
    small_part = batch.batch.nbytes * PINNED_BODY_FACTOR < memoryview(batch.batch.obj).nbytes
    if batch.batch.readonly or batch.idempotency is not None or small_part:
        return bytearray(batch.batch)
    return batch.batch
