"""Records to batches and back.

The work inside the batch is done by the compiled codec of aiokafka, an order of magnitude faster
than Python can. It is built for a trusted broker, so it is fenced in here:

- It sees a buffer only after `record_batch.validate_batch` has: shorter ones crash it.
- It never decompresses: we inflate with a bound and hand it an uncompressed batch.
- It checks lengths against the end of its buffer, but reads each varint before that check, and
  those of record headers without one: up to some twenty bytes past the end. Every buffer that it
  gets is therefore a view that ends MARGIN_BYTES of zeros before its memory does; a zero ends any
  varint, so the stray read stays inside and then fails its next check.
- It believes the offset deltas; we check that offsets rise and stay inside the batch.
- Whatever it raises becomes CorruptMessageError.

aiokafka is a whole Kafka client whose package imports asyncio, sockets and more (160 ms). Only its
record module is wanted, so that is imported with bare stand-ins for the packages above it, which
are taken away again: a program that imports aiokafka itself still gets all of it.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import PurePath
from types import ModuleType
from typing import Any, TypeAlias, TypeVar

import msgspec

from ottla_protocol.compression import deflate, inflate
from ottla_protocol.errors import CorruptMessageError, InvalidRequestError, MessageTooLargeError
from ottla_protocol.record_batch import (
    ATTRIBUTES_OFFSET,
    CONTROL_BIT,
    HEADER_BYTES,
    LENGTH_OVERHEAD_BYTES,
    MAGIC,
    NO_LEADER_EPOCH,
    NO_PRODUCER_EPOCH,
    NO_PRODUCER_ID,
    NO_SEQUENCE,
    NO_TIMESTAMP,
    BatchHeader,
    Buffer,
    Compression,
    patch_batch,
    seal_batch,
    validate_batch,
)

MARGIN_BYTES = 64
"""Zeros behind what the codec decodes; more than two varints of ten bytes."""

MAX_BATCH_BYTES = 2**31 - 1
"""The batch length is an int32. Brokers set far lower limits."""

RecordT = TypeVar("RecordT")

RecordHeaders: TypeAlias = tuple[tuple[str, bytes | None], ...]
"""In order; names may repeat."""

RecordMaker: TypeAlias = Callable[
    [str, int, int, int, bytes | None, bytes | None, RecordHeaders, int], RecordT
]
"""(topic, partition, offset, timestamp, key, value, headers, leader epoch) to a record."""

_MARGIN = bytes(MARGIN_BYTES)
_NO_HEADERS: list[tuple[str, bytes | None]] = []
_COMPRESSION_BYTE = ATTRIBUTES_OFFSET + 1


class Record(msgspec.Struct, frozen=True, gc=False):
    """One record as it stands in the log.

    A Struct and no dataclass: it is made for every record that is read, and costs a tenth.

    Attributes:
        offset: position in the partition.
        timestamp: ms since the epoch, by the producer (CreateTime) or the leader (LogAppendTime);
            -1 if the batch has none.
        key: what decides its partition and, on compacted topics, what it replaces.
        value: None is a tombstone.
        headers: in order; names may repeat.
    """

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()


class RecordData(msgspec.Struct, frozen=True, gc=False):
    """One record on its way to a log, without an offset yet; fields as in Record.

    `timestamp` is at least 0.
    """

    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()


@contextmanager
def _bare_packages(*names: str) -> Iterator[None]:
    """Let submodules of `names` be imported without running the packages' own code."""
    bare: list[str] = []
    for name in names:
        if name in sys.modules:
            continue
        parent, _, child = name.rpartition(".")
        if parent:
            paths = [str(PurePath(path, child)) for path in sys.modules[parent].__path__]
        else:
            spec = find_spec(name)
            if spec is None or spec.submodule_search_locations is None:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            paths = list(spec.submodule_search_locations)
        package = ModuleType(name)
        package.__path__ = paths
        sys.modules[name] = package
        bare.append(name)
    try:
        yield
    finally:
        for name in bare:
            del sys.modules[name]


def _compiled_codec() -> Any:
    with _bare_packages("aiokafka", "aiokafka.record"):
        return import_module("aiokafka.record._crecords.default_records")


_codec = _compiled_codec()


def encode_batch(
    records: Sequence[RecordData],
    *,
    compression: Compression = Compression.NONE,
    producer_id: int = NO_PRODUCER_ID,
    producer_epoch: int = NO_PRODUCER_EPOCH,
    base_sequence: int = NO_SEQUENCE,
    base_offset: int = 0,
    leader_epoch: int = NO_LEADER_EPOCH,
    is_transactional: bool = False,
    is_control: bool = False,
) -> bytearray:
    """Make one batch of `records`, in their order, at consecutive offsets.

    Raises:
        InvalidRequestError: there are no records, or the first one's timestamp is negative.
        MessageTooLargeError: the batch does not fit its length field.
    """
    if not records:
        raise InvalidRequestError("a record batch needs at least one record")
    if records[0].timestamp < 0:
        # The codec takes -1 for "not set yet" and would give the record its successor's time.
        raise InvalidRequestError(f"record timestamp {records[0].timestamp} is negative")
    builder = _codec.DefaultRecordBatchBuilder(
        MAGIC,
        Compression.NONE,
        is_transactional,
        producer_id,
        producer_epoch,
        base_sequence,
        MAX_BATCH_BYTES,
    )
    append = builder.append
    for delta, record in enumerate(records):
        headers = list(record.headers) if record.headers else _NO_HEADERS
        if append(delta, record.timestamp, record.key, record.value, headers) is None:
            raise MessageTooLargeError(f"record batch is larger than {MAX_BATCH_BYTES} bytes")
    if builder.size() > MAX_BATCH_BYTES:  # The codec never refuses the first record.
        raise MessageTooLargeError(f"record batch is larger than {MAX_BATCH_BYTES} bytes")
    batch: bytearray = builder.build()
    if compression is not Compression.NONE:
        _compress(batch, compression)
    if is_control:
        batch[_COMPRESSION_BYTE] |= CONTROL_BIT
    if is_control or compression is not Compression.NONE:
        seal_batch(batch)
    patch_batch(batch, base_offset=base_offset, leader_epoch=leader_epoch)
    return batch


class BatchBuilder:
    """A batch that grows record by record, for a producer that encodes as records come.

    Args:
        limit_bytes: the size at which the batch is full. The first record is taken whatever its
            size, so its caller has to check that.

    Attributes:
        append: `(delta, timestamp, key, value, headers)`; None when the record does not fit any
            more, anything else when it is in. It is the codec's own method, because one more
            Python call for each record is what a fast producer cannot afford; so nothing is
            checked here: deltas run from 0 without gaps, timestamps are at least 0, keys and values
            are bytes or None, headers a list of (str, bytes or None).
    """

    __slots__ = ("_builder", "append")

    def __init__(self, limit_bytes: int, *, is_transactional: bool = False) -> None:
        self._builder = _codec.DefaultRecordBatchBuilder(
            MAGIC,
            Compression.NONE,
            is_transactional,
            NO_PRODUCER_ID,
            NO_PRODUCER_EPOCH,
            NO_SEQUENCE,
            limit_bytes,
        )
        self.append: Callable[
            [int, int, bytes | None, bytes | None, list[tuple[str, bytes | None]]], object | None
        ] = self._builder.append

    @property
    def size_bytes(self) -> int:
        """The batch's size so far, header included and uncompressed."""
        return int(self._builder.size())

    def build(
        self,
        *,
        compression: Compression = Compression.NONE,
        producer_id: int = NO_PRODUCER_ID,
        producer_epoch: int = NO_PRODUCER_EPOCH,
        base_sequence: int = NO_SEQUENCE,
    ) -> bytearray:
        """The finished batch; the builder must not be used any more."""
        self._builder.set_producer_state(producer_id, producer_epoch, base_sequence)
        batch: bytearray = self._builder.build()
        if compression is not Compression.NONE:
            _compress(batch, compression)
            seal_batch(batch)
        patch_batch(batch, base_offset=0, leader_epoch=NO_LEADER_EPOCH)
        return batch


def _compress(batch: bytearray, compression: Compression) -> None:
    """Compress the records in place; the batch has to be sealed afterwards."""
    with memoryview(batch) as view:
        compressed = deflate(compression, view[HEADER_BYTES:])
    batch[HEADER_BYTES:] = compressed
    batch[_COMPRESSION_BYTE] |= compression


def decode_batch(buffer: Buffer, *, max_inflated_bytes: int) -> list[Record]:
    """All records of one batch, control records too.

    Args:
        buffer: exactly one batch, from wherever; it is validated first.
        max_inflated_bytes: what its records may take uncompressed.

    Raises:
        CorruptMessageError: the batch or a record in it is not what Kafka's format says.
        MessageTooLargeError: it inflates to more than `max_inflated_bytes`.
    """
    return decode_validated_batch(
        buffer, validate_batch(buffer, on_append=False), max_inflated_bytes=max_inflated_bytes
    )


def decode_validated_batch(
    buffer: Buffer, header: BatchHeader, *, max_inflated_bytes: int
) -> list[Record]:
    """As `decode_batch`, for a buffer that `validate_batch` returned `header` for just before."""
    assert header.batch_length + LENGTH_OVERHEAD_BYTES == len(buffer)
    if header.record_count == 0:
        return _no_records(buffer)
    plain, size = _uncompressed(buffer, header, max_inflated_bytes)
    try:
        batch = _codec.DefaultRecordBatch(memoryview(plain)[:size])
        records = [
            Record(
                record.offset,
                # The codec says None where the timestamp is -1.
                NO_TIMESTAMP if (timestamp := record.timestamp) is None else timestamp,
                record.key,
                record.value,
                tuple(headers) if (headers := record.headers) else (),
            )
            for record in batch
        ]
    except Exception as error:
        raise CorruptMessageError(f"record batch does not decode: {error}") from error
    _check_offsets(records, header)
    return records


def decode_consumed_batch(
    buffer: Buffer,
    header: BatchHeader,
    make: "RecordMaker[RecordT]",
    topic: str,
    partition: int,
    *,
    max_inflated_bytes: int,
) -> list[RecordT]:
    """The records of a batch in a reader's own form, without another one in between.

    As `decode_validated_batch`, for readers that take a million records a second: each becomes what
    `make` returns, and nothing else is called for it. What it makes must have an `offset`.

    Args:
        buffer: what `validate_batch` was given just before.
        header: what it returned.
        make: called once for each record, by position.
        topic: handed through to `make`.
        partition: as above.
        max_inflated_bytes: what the records may take uncompressed.

    Raises:
        CorruptMessageError: a record in the batch is not what Kafka's format says.
        MessageTooLargeError: it inflates to more than `max_inflated_bytes`.
    """
    assert header.batch_length + LENGTH_OVERHEAD_BYTES == len(buffer)
    if header.record_count == 0:
        return _no_records(buffer)
    plain, size = _uncompressed(buffer, header, max_inflated_bytes)
    epoch = header.leader_epoch
    due = range(header.base_offset, header.next_offset)
    is_dense = header.record_count == len(due)
    try:
        batch = _codec.DefaultRecordBatch(memoryview(plain)[:size])
        # A batch without gaps has the offsets that are due, and comparing them on the way costs
        # least. The batch comes first in the zip: it checks its end when it is asked for one more.
        pairs = zip(batch, due, strict=False) if is_dense else ((one, one.offset) for one in batch)
        records = [
            make(
                topic,
                partition,
                offset,
                NO_TIMESTAMP if (timestamp := record.timestamp) is None else timestamp,
                record.key,
                record.value,
                tuple(headers) if (headers := record.headers) else (),
                epoch,
            )
            for record, offset in pairs
            if record.offset == offset
        ]
    except Exception as error:
        raise CorruptMessageError(f"record batch does not decode: {error}") from error
    if not is_dense:
        _check_offsets(records, header)
    elif len(records) != len(due):
        # Some lie; this decodes once more and says which.
        decode_validated_batch(buffer, header, max_inflated_bytes=max_inflated_bytes)
        raise CorruptMessageError("record batch has offsets that are not due")
    return records


def _no_records(buffer: Buffer) -> list[Any]:
    """Compaction leaves a batch without records as its header alone."""
    if len(buffer) != HEADER_BYTES:
        raise CorruptMessageError(
            f"record batch without records has {len(buffer) - HEADER_BYTES} bytes of them"
        )
    return []


def _uncompressed(
    buffer: Buffer, header: BatchHeader, max_inflated_bytes: int
) -> tuple[bytes, int]:
    """The batch uncompressed, with the codec's margin behind it, and its size without that."""
    view = memoryview(buffer)
    compression = header.compression
    if compression is Compression.NONE:
        if len(view) - HEADER_BYTES > max_inflated_bytes:
            raise MessageTooLargeError(f"records take more than {max_inflated_bytes} bytes")
        return b"".join((view, _MARGIN)), len(view)
    inflated = inflate(compression, view[HEADER_BYTES:], max_inflated_bytes)
    head = bytearray(view[:HEADER_BYTES])
    head[_COMPRESSION_BYTE] &= ~int(header.compression)
    return b"".join((head, inflated, _MARGIN)), HEADER_BYTES + len(inflated)


def _check_offsets(records: Sequence[Any], header: BatchHeader) -> None:
    """Offsets must rise and lie in the batch's range, with no gap unless compaction left one."""
    base_offset = header.base_offset
    if len(records) == header.last_offset_delta + 1:
        due = range(base_offset, header.next_offset)
        if [record.offset for record in records] != list(due):
            for expected, record in zip(due, records, strict=True):
                if record.offset != expected:
                    raise CorruptMessageError(
                        f"record batch has offset {record.offset} where {expected} is due"
                    )
        return
    previous = base_offset - 1
    for record in records:
        if not previous < record.offset <= header.last_offset:
            raise CorruptMessageError(
                f"record batch from {base_offset} to {header.last_offset} "
                f"has offset {record.offset} after {previous}"
            )
        previous = record.offset
