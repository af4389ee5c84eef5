"""Produce of plain records: choose partitions, encode batches, deliver, and tell each its offset.

A request's records of one partition become one record batch, appended whole or not at all. With an
Idempotency-Key every batch carries the key's digest and the body's; the split into partitions is a
function of the request, the key and the number of partitions, so a retry finds its own batches
whichever broker it reaches and whoever leads by then. Where the topic has got more partitions, the
key's digest has their number in it, so that what is stored tells with which one its split was made.
"""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from ottla_broker.drivers.clock import wall_clock_ms
from ottla_broker.drivers.peer_messages import IdempotencyHit
from ottla_broker.services.heavy_work import on_worker
from ottla_broker.services.idempotency import IdempotencyService
from ottla_broker.services.produce import NO_OFFSET, ProduceService, of_all_attempts
from ottla_broker.services.produce_options import ProduceOptions
from ottla_broker.services.record_gathering import RecordGathering
from ottla_broker.services.shared_failure import shared_failure
from ottla_broker.services.topics import TopicService
from ottla_cluster.controller.image import Topic
from ottla_protocol.errors import (
    InvalidRequestError,
    InvalidTimestampError,
    OttlaError,
    Outcome,
    UnavailableError,
    UnknownTopicOrPartitionError,
)
from ottla_protocol.idempotency import Idempotency, divided_key, idempotency_for, key_within
from ottla_protocol.json_records import ParsedRecord
from ottla_protocol.missing_partitions import missing_partition
from ottla_protocol.models import (
    AppendedBatch,
    BatchToAppend,
    ProduceResponse,
    ProduceResult,
    RecordFailure,
    RecordPosition,
)
from ottla_protocol.partitioning import partition_for_key
from ottla_protocol.record_codec import RecordData, encode_batch
from ottla_protocol.transaction_tokens import TransactionToken

ANONYMOUS = "anonymous"
"""The principal of every client until there is authentication."""

RECORDS_ENCODED_INLINE = 2_000
"""What is done for each of more records than this is done on a thread, so that heartbeats go on
meanwhile."""


P = ParamSpec("P")
T = TypeVar("T")


class RecordProduceService:
    """Serves `POST …/records`."""

    def __init__(
        self,
        *,
        topics: TopicService,
        produce: ProduceService,
        idempotency: IdempotencyService,
        gathering: RecordGathering | None = None,
    ) -> None:
        self._topics = topics
        self._produce = produce
        self._idempotency = idempotency
        self._gathering = gathering

    async def produce(
        self,
        topic_name: str,
        records: Sequence[ParsedRecord],
        options: ProduceOptions,
        *,
        partition: int | None = None,
        idempotency_key: str | None = None,
        body: bytes = b"",
        numbers: Sequence[int] | None = None,
    ) -> ProduceResponse:
        """Append records and answer for each partition and each record.

        Args:
            topic_name: an existing topic.
            records: in the order of the request; not empty.
            options: acks, deadline and transaction.
            partition: the partition of the path; then no record may name another.
            idempotency_key: makes a retry with the same body harmless.
            body: the request's body, for the key's digest.
            numbers: of the records in the request, for errors, if these are not all of it.

        Raises:
            OttlaError: every partition failed with it (or it was refused as a whole); where some
                failed, or each in its own way, their results carry the errors.
        """
        topic = await self._topics.find(topic_name)
        if partition is not None:
            self._check_partition(topic, partition)
        if idempotency_key is None:
            count = len(topic.partitions)
            split = await _for_all(records, _split, topic, records, count, partition, None, numbers)
            placing = _Placing(split)
            gathered = await self._deliver_gathered(topic, records, split, options)
            if gathered is not None:
                return _response(topic, records, split, [gathered], numbers)
        else:
            request = _KeyedRequest(
                topic, records, partition, idempotency_key, body, options.token, numbers
            )
            placing = await self._place(request, options)
            split = placing.split
        results = await self.deliver_split(
            topic,
            records,
            split,
            {} if placing.stored is None else dict.fromkeys(split, placing.stored),
            options,
            partition_count=placing.partition_count,
        )
        return await _for_all(records, _response, topic, records, split, results, numbers)

    async def _deliver_gathered(
        self,
        topic: Topic,
        records: Sequence[ParsedRecord],
        split: Mapping[int, Sequence[int]],
        options: ProduceOptions,
    ) -> AppendedBatch | OttlaError | None:
        """Deliver a request with others; None where it is to be delivered alone."""
        if self._gathering is None or len(split) != 1:
            return None
        [partition] = split
        return await self._gathering.deliver(topic, partition, records, options)

    async def _place(self, request: "_KeyedRequest", options: ProduceOptions) -> "_Placing":
        """Where a request with an Idempotency-Key goes: to where it is, if it has been stored."""
        count = len(request.topic.partitions)
        split = await request.split(count)
        plain = request.idempotency()
        former = request.topic.former_partition_counts
        if request.partition is not None or not former:
            others = [number for number in range(count) if number not in split]
            await self._idempotency.look_up(request.topic, others, plain, options)
            partition_count = None
            if request.partition is None:
                partition_count = self._idempotency.counted(count)
            return _Placing(split, plain.to_bytes(), partition_count)
        tells_counts = self._idempotency.counted(count) is not None
        counts = (*former[1:], count) if tells_counts else ()
        marks = [(None, plain), *((number, request.idempotency(number)) for number in counts)]
        found = await asyncio.gather(
            *(
                self._idempotency.look_up(
                    request.topic, range(count), mark, options, for_good=tells_counts
                )
                for _, mark in marks
            )
        )
        for (divided, mark), hits in zip(marks, found, strict=True):
            if hits:
                known = (divided,) if divided is not None else (*former, count)
                return _Placing(await request.explained(hits, known), mark.to_bytes())
        mark = request.idempotency(count) if tells_counts else plain
        return _Placing(split, mark.to_bytes(), self._idempotency.counted(count))

    async def deliver_split(
        self,
        topic: Topic,
        records: Sequence[ParsedRecord],
        split: Mapping[int, Sequence[int]],
        marks: Mapping[int, bytes],
        options: ProduceOptions,
        *,
        partition_count: int | None = None,
    ) -> list[AppendedBatch | OttlaError]:
        """Encode and deliver each partition's records; results in the order of `split`.

        A record without a timestamp gets this broker's time. A leader that finds that too far
        ahead says what its own time is, and is sent the records again with that one: the client
        can do nothing about brokers whose clocks differ.

        Args:
            topic: where they go.
            records: all of them.
            split: positions in `records`, by partition.
            marks: the idempotency of partitions whose batch is to have one.
            options: acks, deadline and transaction.
            partition_count: how many partitions there have to be; None where it does not matter.
        """
        now_ms = wall_clock_ms()

        async def encode(split: Mapping[int, Sequence[int]], stamp_ms: int) -> list[BatchToAppend]:
            return await _encode(
                topic, records, split, marks, options.transaction, stamp_ms, partition_count
            )

        batches = await encode(split, now_ms)
        results = await self._produce.deliver(batches, options)
        for position, (number, indexes) in enumerate(split.items()):
            refused = results[position]
            leader_ms = _refused_stamp(refused, now_ms, is_keyed=number in marks)
            if leader_ms is not None:
                again = await encode({number: indexes}, leader_ms)
                [result] = await self._produce.deliver(again, options)
                results[position] = of_all_attempts(refused, result)
        return results

    def _check_partition(self, topic: Topic, partition: int) -> None:
        if not 0 <= partition < len(topic.partitions):
            raise missing_partition(topic.name, partition, len(topic.partitions))


@dataclass(frozen=True, slots=True)
class _Placing:
    """Where the records of a request go.

    Attributes:
        split: positions of records by partition.
        stored: what its batches leave behind; None without an Idempotency-Key.
        partition_count: how many partitions there have to be; None where it does not matter, since
            some of the request is known to be stored, or names its partition.
    """

    split: dict[int, list[int]]
    stored: bytes | None = None
    partition_count: int | None = None


@dataclass(frozen=True, slots=True)
class _KeyedRequest:
    """A request with an Idempotency-Key."""

    topic: Topic
    records: Sequence[ParsedRecord]
    partition: int | None
    key: str
    body: bytes
    token: str | None
    numbers: Sequence[int] | None

    async def split(self, count: int) -> dict[int, list[int]]:
        """The records by one of `count` partitions."""
        return await _for_all(
            self.records,
            _split,
            self.topic,
            self.records,
            count,
            self.partition,
            self.key,
            self.numbers,
        )

    def idempotency(self, divided: int | None = None) -> Idempotency:
        """Its digests, where it was divided among so many partitions.

        None stands for as many as the topic has had first, and for any number of them in what was
        stored before the cluster was at the feature level that tells them apart.
        """
        # The same body to the path of another partition is another request.
        body = self.body if self.partition is None else b"%d\n%b" % (self.partition, self.body)
        key = key_within(self.token, self.key)
        if divided is not None:
            key = divided_key(key, divided)
        return idempotency_for(ANONYMOUS, self.topic.name, key, body)

    async def explained(
        self, hits: Sequence[IdempotencyHit], counts: Sequence[int]
    ) -> dict[int, list[int]]:
        """The split that puts what is stored of the request where it is.

        Raises:
            UnavailableError: none does: this broker has not heard of all that were added.
        """
        for count in counts:
            try:
                split = await self.split(count)
            except UnknownTopicOrPartitionError:
                # A record names a partition that there was not: no attempt met this number.
                continue
            if _explains(split, hits):
                return split
        raise UnavailableError(
            f"the number of partitions of {self.topic.name} is changing",
            outcome=Outcome.NOT_APPLIED,
        )


def _refused_stamp(
    result: AppendedBatch | OttlaError, now_ms: int, *, is_keyed: bool
) -> int | None:
    """The leader's time, where what it refused is this broker's stamp `now_ms`; else None.

    A leader of an earlier version does not say. With a key the batch may be sent again though it
    may be there from an attempt before: with another stamp it is the same request still.
    """
    if not isinstance(result, InvalidTimestampError):
        return None
    if result.outcome is not Outcome.NOT_APPLIED and not is_keyed:
        return None
    leader_ms = result.members.get("broker_time")
    is_own_stamp = result.members.get("timestamp") == now_ms
    return leader_ms if is_own_stamp and isinstance(leader_ms, int) else None


def _explains(split: dict[int, list[int]], hits: Sequence[IdempotencyHit]) -> bool:
    """Whether everything that is stored of a request is where the split puts it."""
    return all(
        len(split.get(hit.partition, ())) == hit.last_offset - hit.base_offset + 1 for hit in hits
    )


def _split(
    topic: Topic,
    records: Sequence[ParsedRecord],
    count: int,
    partition: int | None,
    idempotency_key: str | None,
    numbers: Sequence[int] | None = None,
) -> dict[int, list[int]]:
    """Indexes of the records by one of `count` partitions, each in request order.

    A record goes where the path or it says, else where murmur2 of its key does. Those with neither
    go to one partition together: by the Idempotency-Key, so that a retry meets them, else any.
    """
    keyless = (
        random.randrange(count)
        if idempotency_key is None
        else partition_for_key(idempotency_key.encode(), count)
    )
    split: dict[int, list[int]] = {}
    for index, record in enumerate(records):
        if partition is not None:
            if record.partition not in (None, partition):
                number = index if numbers is None else numbers[index]
                raise InvalidRequestError(
                    f"records[{number}].partition is {record.partition}, the path says {partition}",
                    index=number,
                )
            target = partition
        elif record.partition is not None:
            if record.partition >= count:
                number = index if numbers is None else numbers[index]
                raise missing_partition(
                    topic.name,
                    record.partition,
                    count,
                    where=f"records[{number}].partition: ",
                    index=number,
                )
            target = record.partition
        elif record.key is not None:
            target = partition_for_key(record.key, count)
        else:
            target = keyless
        split.setdefault(target, []).append(index)
    return split


async def _encode(
    topic: Topic,
    records: Sequence[ParsedRecord],
    split: Mapping[int, Sequence[int]],
    marks: Mapping[int, bytes],
    transaction: TransactionToken | None,
    now_ms: int,
    partition_count: int | None,
) -> list[BatchToAppend]:
    def encode_all() -> list[BatchToAppend]:
        return [
            BatchToAppend(
                topic=topic.name,
                partition=partition,
                batch=memoryview(
                    _encode_batch(
                        [_record_data(records[index], now_ms) for index in indexes], transaction
                    )
                ),
                topic_id=topic.topic_id,
                idempotency=marks.get(partition),
                partition_count=partition_count,
            )
            for partition, indexes in split.items()
        ]

    return await _for_all(records, encode_all)


def _encode_batch(records: Sequence[RecordData], transaction: TransactionToken | None) -> bytearray:
    """A batch without a sequence: the Idempotency-Key, if any, is what tells a repetition."""
    if transaction is None:
        return encode_batch(records)
    return encode_batch(
        records,
        producer_id=transaction.producer_id,
        producer_epoch=transaction.producer_epoch,
        is_transactional=True,
    )


async def _for_all(
    records: Sequence[ParsedRecord], work: Callable[P, T], *args: P.args, **options: P.kwargs
) -> T:
    """Do what takes time for each of the records: on a thread where there are many."""
    if len(records) > RECORDS_ENCODED_INLINE:
        return await on_worker(work, *args, **options)
    return work(*args, **options)


def _record_data(record: ParsedRecord, now_ms: int) -> RecordData:
    return RecordData(
        timestamp=now_ms if record.timestamp is None else record.timestamp,
        key=record.key,
        value=record.value,
        headers=record.headers,
    )


def record_failure(error: OttlaError, index: int) -> RecordFailure:
    """What an error means for the record of that number."""
    outcome = None if error.outcome is None else error.outcome.value
    return RecordFailure(index, error.code, error.detail, error.retriable, outcome)


def _response(
    topic: Topic,
    records: Sequence[ParsedRecord],
    split: dict[int, list[int]],
    results: Sequence[AppendedBatch | OttlaError],
    numbers: Sequence[int] | None = None,
) -> ProduceResponse:
    failure = shared_failure(results)
    if failure is not None:
        raise failure
    positions: list[RecordPosition | None] = [None] * len(records)
    answers: list[ProduceResult] = []
    for (partition, indexes), result in zip(split.items(), results, strict=True):
        error = result if isinstance(result, OttlaError) else None
        appended = None if isinstance(result, OttlaError) else result
        base_offset = appended.base_offset if appended else NO_OFFSET
        for position, index in enumerate(indexes):
            offset = NO_OFFSET if base_offset == NO_OFFSET else base_offset + position
            failed = None
            if error is not None:
                failed = record_failure(error, index if numbers is None else numbers[index])
            positions[index] = RecordPosition(partition, offset, failed)
        answers.append(
            ProduceResult(
                partition=partition,
                base_offset=base_offset,
                count=len(indexes),
                timestamp=appended.timestamp if appended else NO_OFFSET,
                duplicate=appended.duplicate if appended else False,
                error=error.problem() if error else None,
            )
        )
    answers.sort(key=lambda answer: answer.partition)
    return ProduceResponse(
        topic=topic.name,
        results=answers,
        records=[position for position in positions if position is not None],
    )
