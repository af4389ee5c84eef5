"""Reads of plain records: from which offset, how many, and how they look."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ottla_broker.drivers.partition import Partition
from ottla_broker.drivers.purgatory import Purgatory
from ottla_broker.drivers.replica_manager import ReplicaManager
from ottla_broker.services.reading import LeaderRead, LocalRead, PartitionRead, poll
from ottla_broker.storage.stored_batch import StoredBatch
from ottla_protocol.errors import MessageTooLargeError
from ottla_protocol.record_batch import read_header
from ottla_protocol.record_codec import Record, decode_batch

MAX_INFLATED_BYTES = 64 << 20
"""What the records of one read may take uncompressed: it ends before the batch that takes more."""

BYTES_DECODED_INLINE = 64 << 10
"""More bytes than this are decoded on a thread, so that heartbeats go on meanwhile."""

Position = int | Literal["earliest", "latest"]
"""Where to read: an offset, a word, or a negative number that counts back from the latest."""


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

        Raises:
            OffsetOutOfRangeError: with both bounds.
            RoutingError, UnavailableError: this broker may not serve the read now.
        """
        replica = self._replicas.hosted(topic, partition)
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
        return await _decode(read, options.max_records)

    def offset_at(self, topic: str, partition: int, at: Literal["earliest", "latest"]) -> int:
        """The log start or the high watermark.

        Raises:
            OffsetNotAvailableError: a new leader does not know `latest` yet.
            RoutingError, UnavailableError: this broker does not lead the partition now.
        """
        replica = self._replicas.hosted(topic, partition)
        replica.leading()
        return _resolve(replica, at, local=False)


def _resolve(replica: Partition, position: Position, *, local: bool) -> int:
    start = replica.log.log_start_offset
    if position == "earliest":
        return start
    if position == "latest" or position < 0:
        latest = replica.high_watermark if local else replica.latest_offset()
        return latest if position == "latest" else max(start, latest + position)
    return position


async def _decode(read: PartitionRead, max_records: int) -> RecordsRead:
    batches = read.batches
    large = read.size_bytes > BYTES_DECODED_INLINE or any(
        read_header(batch.data).compression for batch in batches
    )
    if large:
        records, next_offset = await asyncio.to_thread(_records, batches, read.offset, max_records)
    else:
        records, next_offset = _records(batches, read.offset, max_records)
    return RecordsRead(
        records=records,
        next_offset=next_offset,
        high_watermark=read.partition.high_watermark,
        log_start_offset=read.partition.log.log_start_offset,
        size_bytes=read.size_bytes,
    )


def _records(
    batches: Sequence[StoredBatch], offset: int, max_records: int
) -> tuple[list[Record], int]:
    """Records from `offset` on; the first batch may begin below it."""
    found: list[Record] = []
    next_offset = offset
    budget_bytes = MAX_INFLATED_BYTES
    for batch in batches:
        if read_header(batch.data).is_control:
            next_offset = batch.last_offset + 1
            continue
        try:
            records = decode_batch(batch.data, max_inflated_bytes=budget_bytes)
        except MessageTooLargeError:
            if not found:
                raise
            return found, next_offset
        budget_bytes -= sum(len(record.value or b"") + len(record.key or b"") for record in records)
        budget_bytes = max(budget_bytes, 0)
        wanted = [record for record in records if record.offset >= offset]
        room = max_records - len(found)
        if len(wanted) > room:
            found.extend(wanted[:room])
            return found, wanted[room].offset if room == 0 else found[-1].offset + 1
        found.extend(wanted)
        next_offset = batch.last_offset + 1
    return found, next_offset
