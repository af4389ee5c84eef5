"""One partition of the fake cluster: record batches in memory, with a broker's checks.

What a producer can notice is as at a broker: a batch is validated, sequences are held to Kafka's
rules, a retry gets its first offsets again, and a newer producer epoch fences the older one. A
transaction is open until its marker comes (KIP-98).
"""

import time
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ottla_protocol.control_records import EndMarker, encode_end_marker
from ottla_protocol.errors import (
    ConcurrentTransactionsError,
    DuplicateSequenceNumberError,
    InvalidProducerEpochError,
    InvalidTransactionStateError,
    OffsetOutOfRangeError,
    OutOfOrderSequenceNumberError,
)
from ottla_protocol.models import AppendedBatch
from ottla_protocol.record_batch import (
    MAX_SEQUENCE,
    BatchHeader,
    Buffer,
    add_sequence,
    patch_batch,
    read_header,
    validate_batch,
)
from ottla_protocol.record_codec import decode_batch

MAX_INFLATED_BYTES: Final = 256 << 20
"""Records of one batch, uncompressed, that are looked into."""

REMEMBERED_BATCHES: Final = 5
"""Batches that a broker remembers of each producer."""


@dataclass(frozen=True, slots=True)
class _Appended:
    """A batch that stands in the log, as its producer numbered it."""

    base_sequence: int
    last_sequence: int
    base_offset: int
    timestamp: int


@dataclass(slots=True)
class _Producer:
    epoch: int
    batches: list[_Appended] = field(default_factory=list)


class _Aborted(NamedTuple):
    producer_id: int
    first_offset: int
    end_offset: int


class FakePartition:
    """The batches of one partition, whoever leads it.

    Attributes:
        topic, partition: what it is called.
        replicas: node ids, the preferred leader first.
        leader: node id; None while it has none.
        leader_epoch: rises with every change of the leader.
        batches: in the order of their offsets, which are patched in.
        start_offset: nothing below it is read, though the first batch may have some.
        end_offset: of the next record.
        open_transactions: the first offset of each, by producer id, oldest first.
    """

    def __init__(self, topic: str, partition: int, replicas: list[int]) -> None:
        self.topic = topic
        self.partition = partition
        self.replicas = replicas
        self.leader: int | None = replicas[0]
        self.leader_epoch = 0
        self.batches: list[bytearray] = []
        self.start_offset = 0
        self.end_offset = 0
        self.open_transactions: dict[int, int] = {}
        self._aborted: list[_Aborted] = []
        self._producers: dict[int, _Producer] = {}

    @property
    def name(self) -> str:
        """As logs and errors call it."""
        return f"{self.topic}-{self.partition}"

    def lead(self, node_id: int | None) -> None:
        """Make this broker the leader, under the next epoch, if it is not already."""
        if self.leader != node_id:
            self.leader = node_id
            self.leader_epoch += 1

    def append(self, buffer: Buffer) -> AppendedBatch:
        """Append one batch, or find that it is a retry.

        Raises:
            CorruptMessageError: it is no batch.
            ConflictError: its producer epoch or sequence is not what is due, or it is of no
                transaction although its producer has one open here.
        """
        header = validate_batch(buffer, on_append=True)
        known = self._appended_before(header) if header.has_producer else None
        if known is not None:
            return self._result(header, known.base_offset, known.timestamp, duplicate=True)
        if header.is_transactional:
            self.open_transactions.setdefault(header.producer_id, self.end_offset)
        base_offset = self.end_offset
        batch = bytearray(buffer)
        patch_batch(batch, base_offset=base_offset, leader_epoch=self.leader_epoch)
        self.batches.append(batch)
        self.end_offset += header.record_count
        if header.has_producer:
            self._remember(header, base_offset)
        return self._result(header, base_offset, header.max_timestamp, duplicate=False)

    def end_transaction(
        self, producer_id: int, marker_epoch: int, *, is_commit: bool, coordinator_epoch: int
    ) -> None:
        """Append the marker that ends a producer's transaction here."""
        marker = encode_end_marker(
            EndMarker(is_commit, coordinator_epoch),
            producer_id=producer_id,
            producer_epoch=marker_epoch,
            timestamp_ms=int(time.time() * 1000),
        )
        patch_batch(marker, base_offset=self.end_offset, leader_epoch=self.leader_epoch)
        self.batches.append(marker)
        self.end_offset += 1
        self._producers[producer_id] = _Producer(marker_epoch)
        first_offset = self.open_transactions.pop(producer_id, None)
        if first_offset is not None and not is_commit:
            self._aborted.append(_Aborted(producer_id, first_offset, self.end_offset))

    def trim(self, offset: int) -> None:
        """Let nobody read below an offset any more."""
        self.start_offset = max(self.start_offset, offset)
        while self.batches and read_header(self.batches[0]).next_offset <= self.start_offset:
            del self.batches[0]

    @property
    def last_stable_offset(self) -> int:
        """Everything below is committed or aborted."""
        return min(self.open_transactions.values(), default=self.end_offset)

    def read_committed(self, offset: int, max_bytes: int) -> tuple[list[memoryview], int]:
        """As `read`, without what is open or aborted and without markers; and where to go on.

        Raises:
            OffsetOutOfRangeError: as `read`.
        """
        found: list[memoryview] = []
        next_offset = offset
        for batch in self.read(offset, max_bytes):
            header = read_header(batch)
            if header.base_offset >= self.last_stable_offset:
                break
            next_offset = header.next_offset
            if not (header.is_control or self._is_aborted(header)):
                found.append(batch)
        return found, next_offset

    def readable(self, *, is_committed: bool) -> list[bytearray]:
        """Every batch of records, or those of committed transactions and of none."""
        headers = [(batch, read_header(batch)) for batch in self.batches]
        return [
            batch
            for batch, header in headers
            if not header.is_control
            and not (
                is_committed
                and (self._is_aborted(header) or header.base_offset >= self.last_stable_offset)
            )
        ]

    def _is_aborted(self, header: BatchHeader) -> bool:
        return header.is_transactional and any(
            each.producer_id == header.producer_id
            and each.first_offset <= header.base_offset < each.end_offset
            for each in self._aborted
        )

    def read(self, offset: int, max_bytes: int) -> list[memoryview]:
        """Whole batches from the one that holds `offset`; one at least, where there is one.

        Raises:
            OffsetOutOfRangeError: it is below the start or beyond the end.
        """
        if not self.start_offset <= offset <= self.end_offset:
            raise OffsetOutOfRangeError(
                f"offset {offset} is outside {self.start_offset} to {self.end_offset}",
                log_start_offset=self.start_offset,
                log_end_offset=self.end_offset,
            )
        found: list[memoryview] = []
        size = 0
        for batch in self.batches:
            if read_header(batch).next_offset <= offset:
                continue
            if found and size + len(batch) > max_bytes:
                break
            found.append(memoryview(batch))
            size += len(batch)
        return found

    def first_since(self, timestamp: int) -> tuple[int, int | None]:
        """Offset and timestamp of the first record that is not older.

        Where there is none: the end, and None.
        """
        for batch in self.batches:
            if read_header(batch).max_timestamp >= timestamp:
                for record in decode_batch(batch, max_inflated_bytes=MAX_INFLATED_BYTES):
                    if record.timestamp >= timestamp and record.offset >= self.start_offset:
                        return record.offset, record.timestamp
        return self.end_offset, None

    def _appended_before(self, header: BatchHeader) -> _Appended | None:
        """The batch that this one repeats; None if it is new and its turn has come."""
        producer = self._producers.get(header.producer_id)
        if producer is None:
            if header.is_transactional and header.base_sequence > 0:
                # Records of the transaction before this batch are missing.
                raise _out_of_order(header, 0)
            return None
        if header.producer_epoch < producer.epoch:
            raise InvalidProducerEpochError(
                f"producer {header.producer_id} epoch {header.producer_epoch} is older than "
                f"epoch {producer.epoch}",
                producer_epoch=producer.epoch,
            )
        if header.producer_id in self.open_transactions:
            self._check_open_transaction(header, producer)
        base, last = header.base_sequence, header.last_sequence
        if header.producer_epoch > producer.epoch:
            if base != 0:
                raise _out_of_order(header, 0)
            return None
        for batch in producer.batches:
            if (batch.base_sequence, batch.last_sequence) == (base, last):
                return batch
        # A producer known only by a marker has no sequence yet.
        expected = add_sequence(producer.batches[-1].last_sequence, 1) if producer.batches else 0
        if base == expected:
            return None
        oldest = producer.batches[0].base_sequence if producer.batches else expected
        distance = add_sequence(oldest, -last)
        if 0 < distance <= MAX_SEQUENCE // 2:
            raise DuplicateSequenceNumberError(
                f"producer {header.producer_id} sequences {base} to {last} are older than its "
                f"last {len(producer.batches)} batches",
                expected_sequence=expected,
            )
        raise _out_of_order(header, expected)

    def _check_open_transaction(self, header: BatchHeader, producer: _Producer) -> None:
        if not header.is_transactional:
            raise InvalidTransactionStateError(
                f"producer {header.producer_id} has a transaction open in {self.name}"
            )
        if header.producer_epoch > producer.epoch:
            raise ConcurrentTransactionsError(
                f"producer {header.producer_id} has its last transaction open in {self.name}"
            )

    def _remember(self, header: BatchHeader, base_offset: int) -> None:
        producer = self._producers.get(header.producer_id)
        if producer is None or producer.epoch != header.producer_epoch:
            producer = self._producers[header.producer_id] = _Producer(header.producer_epoch)
        producer.batches.append(
            _Appended(header.base_sequence, header.last_sequence, base_offset, header.max_timestamp)
        )
        del producer.batches[:-REMEMBERED_BATCHES]

    def _result(
        self, header: BatchHeader, base_offset: int, timestamp: int, *, duplicate: bool
    ) -> AppendedBatch:
        return AppendedBatch(
            self.topic, self.partition, base_offset, header.record_count, timestamp, duplicate
        )


def _out_of_order(header: BatchHeader, expected: int) -> OutOfOrderSequenceNumberError:
    return OutOfOrderSequenceNumberError(
        f"producer {header.producer_id} epoch {header.producer_epoch} sent sequence "
        f"{header.base_sequence}, {expected} is next",
        expected_sequence=expected,
    )
