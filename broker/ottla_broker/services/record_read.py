"""Reads of plain records: from which offset, how many, and how they look."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ottla_broker.drivers.partition import Partition
from ottla_broker.drivers.purgatory import Purgatory
from ottla_broker.drivers.replica_manager import ReplicaManager
from ottla_broker.services.batch_decoding import decode_records
from ottla_broker.services.reading import LeaderRead, LocalRead, poll
from ottla_broker.services.timestamps import FoundOffset, find_by_timestamp
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
    """What a read found; `next_offset` is where the next one goes on."""

    records: Sequence[Record]
    next_offset: int
    high_watermark: int
    log_start_offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """Bounds of one read."""

    position: Position
    max_bytes: int
    max_records: int
    min_bytes: int
    max_wait_ms: int


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
            RoutingError, UnavailableError: this broker may not serve the read now.
        """
        replica = self._replicas.hosted(topic, partition)
        if isinstance(options.position, AtTimestamp):
            assert not local, "the leader alone knows the end"
            offset = (await find_by_timestamp(replica, options.position.timestamp)).offset
        else:
            offset = _resolve(replica, options.position, local=local)
        read = (LocalRead if local else LeaderRead)(replica, offset, options.max_bytes)
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
            [batch.data for batch in read.batches], read.offset, max_records=options.max_records
        )
        return RecordsRead(
            records=decoded.records,
            next_offset=decoded.next_offset,
            high_watermark=read.partition.high_watermark,
            log_start_offset=read.partition.log.log_start_offset,
            size_bytes=read.size_bytes,
        )

    async def offset_at(
        self, topic: str, partition: int, at: Literal["earliest", "latest"] | AtTimestamp
    ) -> FoundOffset:
        """The log start, the high watermark, or where the first record at or after a time is.

        Raises:
            OffsetNotAvailableError: a new leader does not know `latest` yet.
            RoutingError, UnavailableError: this broker does not lead the partition now.
        """
        replica = self._replicas.hosted(topic, partition)
        if isinstance(at, AtTimestamp):
            return await find_by_timestamp(replica, at.timestamp)
        replica.leading()
        return FoundOffset(_resolve(replica, at, local=False))


def _resolve(
    replica: Partition, position: int | Literal["earliest", "latest"], *, local: bool
) -> int:
    start = replica.log.log_start_offset
    if position == "earliest":
        return start
    if position == "latest" or position < 0:
        latest = replica.high_watermark if local else replica.latest_offset()
        return latest if position == "latest" else max(start, latest + position)
    return position
