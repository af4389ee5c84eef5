"""Reads of plain records: from which offset, how many, and how they look."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ottla_broker.drivers.partition import Partition
from ottla_broker.drivers.purgatory import Purgatory
from ottla_broker.drivers.replica_manager import ReplicaManager
from ottla_broker.services.batch_decoding import decode_records
from ottla_broker.services.consumer_reads import ConsumerRead, LeaderRead, LocalRead
from ottla_broker.services.filtered_read import read_filtered
from ottla_broker.services.reading import poll, watermark_known
from ottla_broker.services.record_filter import RecordFilter
from ottla_broker.services.timestamps import FoundOffset, find_by_timestamp
from ottla_protocol.models import Isolation
from ottla_protocol.record_codec import Record


@dataclass(frozen=True, slots=True)
class AtTimestamp:
    """The position of the first record whose timestamp is at or after this one, in ms."""

    timestamp: int


Position = int | Literal["earliest", "latest"] | AtTimestamp
"""Where to read: an offset, a word, a negative number that counts back from the latest, or a time;
behind the last record where none is as late."""


@dataclass(frozen=True, slots=True)
class RecordsRead:
    """What a read found.

    Attributes:
        topic_id: of the topic that was read; a later one of the same name has another.
        records: in the order of their offsets.
        offset: where the read began.
        next_offset: where the next one goes on, behind all that was looked at.
        is_full: what is appended later would not be part of it: there was more below the high
            watermark, or with `read_committed` below the last stable offset, when the records were
            read, or they are as many as were asked for.
        high_watermark: as it is now.
        log_start_offset: as it is now.
        last_stable_offset: as it is now; None with `read_uncommitted`.
        size_bytes: of the record batches read; with a filter, of the keys and values found.
    """

    topic_id: str
    records: Sequence[Record]
    offset: int
    next_offset: int
    is_full: bool
    high_watermark: int
    log_start_offset: int
    size_bytes: int
    last_stable_offset: int | None = None


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """Bounds of one read.

    With a `filter` they are bounds of what it lets through: `max_bytes` and `min_bytes` of keys and
    values, and not of batches. What is looked at has bounds of its own, in `filtered_read`.
    """

    position: Position
    max_bytes: int
    max_records: int
    min_bytes: int
    max_wait_ms: int
    isolation: Isolation = "read_uncommitted"
    filter: RecordFilter | None = None


class RecordReadService:
    """Serves reads of replicas on this broker."""

    def __init__(self, replicas: ReplicaManager, purgatory: Purgatory) -> None:
        self._replicas = replicas
        self._purgatory = purgatory

    async def read(
        self, topic: str, partition: int, options: ReadOptions, *, local: bool
    ) -> RecordsRead:
        """Read from the leader here, or from this broker's own copy (`local`).

        A timestamp can only be looked for at the leader.

        Raises:
            OffsetOutOfRangeError: with both bounds.
            OffsetNotAvailableError: a new leader does not know yet whether there is a record.
            RoutingError, UnavailableError: this broker may not serve the read now.
        """
        replica = self._replicas.hosted(topic, partition)
        if not local and needs_end(options.position):
            await watermark_known(replica, self._purgatory)
        if isinstance(options.position, AtTimestamp):
            assert not local, "the leader alone knows the end"
            found_offset = await find_by_timestamp(
                replica, options.position.timestamp, isolation=options.isolation
            )
            offset = found_offset.offset
        else:
            offset = _resolve(replica, options.position, options.isolation, local=local)
        records: Sequence[Record]
        if options.filter is not None:
            found = await read_filtered(
                lambda position, max_bytes: _open(
                    replica, position, max_bytes, options.isolation, local=local
                ),
                options.filter,
                offset,
                max_bytes=options.max_bytes,
                max_records=options.max_records,
                min_bytes=options.min_bytes,
                max_wait_ms=options.max_wait_ms,
                purgatory=self._purgatory,
            )
            records, next_offset, limit = found.records, found.next_offset, found.limit
            size_bytes = found.size_bytes
        else:
            read = _open(replica, offset, options.max_bytes, options.isolation, local=local)
            await poll(
                [read],
                min_bytes=options.min_bytes,
                max_bytes=options.max_bytes,
                max_wait_ms=options.max_wait_ms,
                purgatory=self._purgatory,
            )
            if read.error is not None:
                raise read.error
            decoded = await decode_records(
                [batch.data for batch in read.batches],
                offset,
                max_records=options.max_records,
                end_offset=read.next_offset,
            )
            records, next_offset, limit = decoded.records, decoded.next_offset, read.last_limit
            size_bytes = read.size_bytes
        return RecordsRead(
            topic_id=replica.key[0],
            records=records,
            offset=offset,
            next_offset=next_offset,
            is_full=next_offset < limit or len(records) >= options.max_records,
            high_watermark=replica.high_watermark,
            log_start_offset=replica.log.log_start_offset,
            size_bytes=size_bytes,
            last_stable_offset=(
                replica.last_stable_offset if options.isolation == "read_committed" else None
            ),
        )

    async def offset_at(
        self,
        topic: str,
        partition: int,
        at: Literal["earliest", "latest"] | AtTimestamp,
        *,
        isolation: Isolation = "read_uncommitted",
    ) -> FoundOffset:
        """The log start, the end, or where the first record at or after a time is.

        The end is the high watermark, or the last stable offset for who reads committed records.

        Raises:
            OffsetNotAvailableError: a new leader does not know `latest` soon enough.
            RoutingError, UnavailableError: this broker does not lead the partition now.
        """
        replica = self._replicas.hosted(topic, partition)
        if needs_end(at):
            await watermark_known(replica, self._purgatory)
        if isinstance(at, AtTimestamp):
            return await find_by_timestamp(replica, at.timestamp, isolation=isolation)
        replica.leading()
        return FoundOffset(_resolve(replica, at, isolation, local=False))


def _open(
    replica: Partition, offset: int, max_bytes: int, isolation: Isolation, *, local: bool
) -> ConsumerRead:
    kind = LocalRead if local else LeaderRead
    return kind(replica, offset, max_bytes, isolation=isolation)


def needs_end(position: Position) -> bool:
    """Whether a position is told by the end of what is committed."""
    return not (position == "earliest" or (isinstance(position, int) and position >= 0))


def _resolve(
    replica: Partition,
    position: int | Literal["earliest", "latest"],
    isolation: Isolation,
    *,
    local: bool,
) -> int:
    start = replica.log.log_start_offset
    if position == "earliest":
        return start
    if position == "latest" or position < 0:
        latest = replica.high_watermark if local else replica.latest_offset()
        if isolation == "read_committed":
            latest = replica.last_stable_offset
        return max(start, latest if position == "latest" else latest + position)
    return position
