"""Produce of a stream of records: batch after batch, each record answered for itself.

One batch of a stream is under way at a time, and what comes meanwhile is the next one: so records
of one partition keep their order whatever fails and is tried again, and the faster they come the
larger the batches are.

With an Idempotency-Key each batch carries the numbers of its lines, and a partition's leader takes
only lines behind those that it has (`ottla_protocol.idempotency.LineNumbers`). A producer whose
connection broke sends from any line on that it is sure to have sent before, through any broker, and
the lines that are there are answered as duplicates. That holds only while no line is stored before
one that failed, so the first error ends such a stream; without a key each line is on its own.
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple, TypeAlias

from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.services.idempotency import IdempotencyService
from ottla_broker.services.produce import NO_OFFSET, of_all_attempts
from ottla_broker.services.produce_options import ProduceOptions
from ottla_broker.services.record_appends import halves, refuses_some_record
from ottla_broker.services.record_produce import ANONYMOUS, RecordProduceService
from ottla_broker.services.topics import TopicService
from ottla_broker.storage.policy.idempotency_window import LAST_LINE
from ottla_cluster.controller.features import STREAM_KEYS, require
from ottla_cluster.controller.image import Topic
from ottla_cluster.controller.topic_configs import MAX_MESSAGE_BYTES, integer_config
from ottla_protocol.errors import (
    DuplicateSequenceNumberError,
    InvalidRequestError,
    MessageTooLargeError,
    OttlaError,
    Outcome,
)
from ottla_protocol.idempotency import LineNumbers, key_within, stream_idempotency
from ottla_protocol.json_records import ParsedRecord
from ottla_protocol.missing_partitions import missing_partition
from ottla_protocol.models import ACKS_ALL, AppendedBatch
from ottla_protocol.partitioning import partition_for_key
from ottla_protocol.transaction_tokens import TransactionToken, encode_transaction

TOPICS_PER_STREAM_MAX = 1_000

CUTS_MAX = 3
"""How often a batch is cut where its partition's lines end before its error is told. Once is
enough, unless another connection goes on with the same stream."""


KEYS_REMEMBERED = 4_096
"""Partitions of keys: a stream has the same ones again and again, and hashing them costs most."""

_partition_for_key = lru_cache(KEYS_REMEMBERED)(partition_for_key)


class StreamLine(NamedTuple):
    """One record of a stream, with its number from 0 and its topic."""

    number: int
    topic: str
    record: ParsedRecord


class StoredLine(NamedTuple):
    """Where a record is; `offset` is -1 with acks=0, and for old duplicates."""

    partition: int
    offset: int
    duplicate: bool


LineResult: TypeAlias = StoredLine | OttlaError


@dataclass(slots=True)
class _Destination:
    """A topic as one stream writes to it: `count` partitions, for a stream with a key for ever.

    `is_settled`: some of the stream is committed, so whoever goes on with it elsewhere finds that
    and divides the lines among as many. Until then they are appended only while there are so many.
    """

    topic: Topic
    count: int
    is_settled: bool = False


@dataclass(slots=True)
class _Share:
    """What of one batch goes to one topic: positions of lines by partition.

    Those with neither key nor partition all go to `keyless`.
    """

    destination: _Destination
    keyless: int
    split: dict[int, list[int]] = field(default_factory=dict)


@dataclass(slots=True)
class ProduceStream:
    """What is remembered of one stream."""

    key: str | None
    partition: int | None
    transaction: TransactionToken | None = None
    destinations: dict[str, _Destination] = field(default_factory=dict)

    @property
    def digested_key(self) -> str:
        """The Idempotency-Key as its digest takes it; asked only where there is one."""
        assert self.key is not None
        token = None if self.transaction is None else encode_transaction(self.transaction)
        return key_within(token, self.key)

    @property
    def ends_at_an_error(self) -> bool:
        """Whether nothing may be stored behind a line that failed."""
        return self.key is not None


class StreamProduceService:
    """Serves NDJSON produce."""

    def __init__(
        self,
        *,
        metadata: MetadataCache,
        topics: TopicService,
        record_produce: RecordProduceService,
        idempotency: IdempotencyService,
    ) -> None:
        self._metadata = metadata
        self._topics = topics
        self._record_produce = record_produce
        self._idempotency = idempotency

    async def begin(
        self,
        options: ProduceOptions,
        *,
        topic: str | None,
        partition: int | None,
        key: str | None,
    ) -> ProduceStream:
        """A stream that has no records yet.

        Args:
            options: the stream's transaction, and the deadline for looking up what is there under
                the key.
            topic: of the path; None where each line names its own.
            partition: of the path.
            key: the Idempotency-Key.

        Raises:
            OttlaError: the topic or partition is not there, or cannot be asked.
        """
        if key is not None:
            require(self._metadata.image, STREAM_KEYS)
        stream = ProduceStream(key, partition, options.transaction)
        if topic is not None:
            await self._destination(stream, topic, options)
        return stream

    def batch_bytes_max(self, stream: ProduceStream, topic: str) -> int | None:
        """How large a batch the topic takes; None while the stream has not written to it."""
        destination = stream.destinations.get(topic)
        if destination is None:
            return None
        return integer_config(destination.topic.configs, MAX_MESSAGE_BYTES)

    async def append(
        self, stream: ProduceStream, lines: Sequence[StreamLine], options: ProduceOptions
    ) -> list[LineResult]:
        """Store some lines, the next ones of their stream; results in their order.

        Waits for the acknowledgement: call it for one batch after the other. Where the stream ends
        at an error, lines behind one that is refused unseen by any leader get no result.
        """
        results: list[LineResult | None] = [None] * len(lines)
        deliveries = [
            self._deliver(stream, share.destination, lines, share.split, results, options)
            for share in await self._split(stream, lines, results, options)
        ]
        # One topic, the usual case, needs no task of its own.
        if len(deliveries) == 1:
            await deliveries[0]
        else:
            await asyncio.gather(*deliveries)
        return [result for result in results if result is not None]

    async def _split(
        self,
        stream: ProduceStream,
        lines: Sequence[StreamLine],
        results: list[LineResult | None],
        options: ProduceOptions,
    ) -> list[_Share]:
        """The lines by topic and partition; those that have no place get an error in `results`."""
        shares: dict[str, _Share | OttlaError] = {}
        for position, line in enumerate(lines):
            share = shares.get(line.topic)
            if share is None:
                share = shares[line.topic] = await self._share(stream, line.topic, options)
            target: _Share | int | OttlaError = share
            if isinstance(share, _Share):
                target = _partition_of(stream, share, line)
                if isinstance(target, int):
                    share.split.setdefault(target, []).append(position)
                    continue
            assert isinstance(target, OttlaError)
            results[position] = target
            if stream.ends_at_an_error:
                break
        return [share for share in shares.values() if isinstance(share, _Share) and share.split]

    async def _share(
        self, stream: ProduceStream, topic: str, options: ProduceOptions
    ) -> _Share | OttlaError:
        try:
            destination = await self._destination(stream, topic, options)
        except OttlaError as error:
            return error.with_outcome(Outcome.NOT_APPLIED)
        count = destination.count
        if stream.key is None:
            return _Share(destination, random.randrange(count))
        return _Share(destination, partition_for_key(stream.key.encode(), count))

    async def _deliver(
        self,
        stream: ProduceStream,
        destination: _Destination,
        lines: Sequence[StreamLine],
        split: dict[int, list[int]],
        results: list[LineResult | None],
        options: ProduceOptions,
        cuts: int = 0,
    ) -> None:
        """Store the lines of one topic, and note what became of each in `results`."""
        records = [line.record for line in lines]
        marks = _marks(stream, destination, lines, split)
        partition_count = None
        if marks and stream.partition is None and not destination.is_settled:
            partition_count = self._idempotency.counted(destination.count)
        answers = await self._record_produce.deliver_split(
            destination.topic, records, split, marks, options, partition_count=partition_count
        )
        if options.acks == ACKS_ALL:
            destination.is_settled |= any(isinstance(each, AppendedBatch) for each in answers)
        for (partition, positions), answer in zip(split.items(), answers, strict=True):
            parts = _parts(lines, positions, answer, may_cut=cuts < CUTS_MAX)
            if not parts:
                _note(results, partition, positions, answer)
                continue
            next_cuts = cuts + isinstance(answer, DuplicateSequenceNumberError)
            for part in parts:
                await self._deliver(
                    stream, destination, lines, {partition: part}, results, options, next_cuts
                )
                for position in part:
                    results[position] = of_all_attempts(answer, results[position])
                failure = results[part[-1]]
                if stream.ends_at_an_error and isinstance(failure, OttlaError):
                    # Nothing may be stored behind a line that perhaps is not.
                    _note(results, partition, positions[positions.index(part[-1]) :], failure)
                    break

    async def _destination(
        self, stream: ProduceStream, name: str, options: ProduceOptions
    ) -> _Destination:
        """The topic, as it is now, and its number of partitions as this stream sees it."""
        topic = await self._topics.find(name)
        known = stream.destinations.get(name)
        if known is not None and known.topic.topic_id == topic.topic_id:
            known.topic = topic
            if stream.key is None:
                known.count = len(topic.partitions)
            elif not known.is_settled and len(topic.partitions) > known.count:
                # Nothing of it may be stored yet, and then its leaders want it divided anew.
                known = stream.destinations[name] = await self._begun(stream, topic, options)
            return known
        if known is None and len(stream.destinations) >= TOPICS_PER_STREAM_MAX:
            raise MessageTooLargeError(
                f"a stream writes to at most {TOPICS_PER_STREAM_MAX} topics",
                max_topics=TOPICS_PER_STREAM_MAX,
            )
        if stream.partition is not None and stream.partition >= len(topic.partitions):
            raise missing_partition(topic.name, stream.partition, len(topic.partitions))
        destination = stream.destinations[name] = await self._begun(stream, topic, options)
        return destination

    async def _begun(
        self, stream: ProduceStream, topic: Topic, options: ProduceOptions
    ) -> _Destination:
        """The topic with as many partitions as when the first line of this stream was stored.

        A line that comes again has to meet itself, though the topic has more partitions by now.
        """
        count = len(topic.partitions)
        if stream.key is None or stream.partition is not None:
            return _Destination(topic, count)
        for former in reversed(topic.former_partition_counts):
            idempotency = stream_idempotency(
                ANONYMOUS, topic.name, stream.digested_key, str(former), LineNumbers(0, 0)
            )
            hits = await self._idempotency.look_up(
                topic, range(count), idempotency, options, for_good=True
            )
            if hits:
                return _Destination(topic, former, is_settled=True)
        return _Destination(topic, count)


def _partition_of(stream: ProduceStream, share: _Share, line: StreamLine) -> int | OttlaError:
    """Where one line goes: as the path or it says, by its key, or with all that have none."""
    named = line.record.partition
    if stream.partition is not None:
        if named is not None and named != stream.partition:
            return InvalidRequestError(
                f"line {line.number}: partition is {named}, the path says {stream.partition}",
                outcome=Outcome.NOT_APPLIED,
            )
        return stream.partition
    if named is not None:
        count = len(share.destination.topic.partitions)
        if named >= count:
            return missing_partition(
                line.topic,
                named,
                count,
                where=f"line {line.number}: ",
                outcome=Outcome.NOT_APPLIED,
            )
        return named
    key = line.record.key
    return share.keyless if key is None else _partition_for_key(key, share.destination.count)


def _parts(
    lines: Sequence[StreamLine],
    positions: list[int],
    answer: AppendedBatch | OttlaError,
    *,
    may_cut: bool,
) -> list[list[int]]:
    """What to send anew, part after part, of a batch that was refused; nothing if it is answered.

    Where some lines are there and some are not, that is both of them. Where one line may be what
    the topic does not take, it is both halves, until that line stands alone: it does not cost its
    neighbours their place, and is the one that is named.
    """
    if isinstance(answer, DuplicateSequenceNumberError):
        if not may_cut:
            return []
        last_line = int(answer.members.get(LAST_LINE, -1))
        there = [each for each in positions if lines[each].number <= last_line]
        behind = [each for each in positions if lines[each].number > last_line]
        return [part for part in (there, behind) if part]
    if isinstance(answer, OttlaError) and refuses_some_record(answer) and len(positions) > 1:
        return [list(half) for half in halves(positions)]
    return []


def _marks(
    stream: ProduceStream,
    destination: _Destination,
    lines: Sequence[StreamLine],
    split: dict[int, list[int]],
) -> dict[int, bytes]:
    if stream.key is None:
        return {}
    # One partition has a path of its own, and so a stream of its own under the same key.
    divided = str(destination.count) if stream.partition is None else "path"
    key = stream.digested_key
    return {
        partition: stream_idempotency(
            ANONYMOUS,
            destination.topic.name,
            key,
            divided,
            LineNumbers(lines[positions[0]].number, lines[positions[-1]].number),
        ).to_bytes()
        for partition, positions in split.items()
    }


def _note(
    results: list[LineResult | None],
    partition: int,
    positions: Sequence[int],
    answer: AppendedBatch | OttlaError,
) -> None:
    if isinstance(answer, OttlaError):
        for position in positions:
            results[position] = answer
        return
    base_offset, duplicate = answer.base_offset, answer.duplicate
    for index, position in enumerate(positions):
        offset = NO_OFFSET if base_offset == NO_OFFSET else base_offset + index
        results[position] = StoredLine(partition, offset, duplicate)
