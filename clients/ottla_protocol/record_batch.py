"""The header of Kafka's RecordBatch v2: what a broker must know of a batch without decoding it.

A record batch is the unit of append, storage, replication, fetch and checksum. It begins with 61
fixed bytes, then come its records, compressed together. The broker reads, checks and patches only
those 61 bytes; decoding records is `ottla_protocol.record_codec`'s work.

    offset  bytes  field                          covered by the CRC
    0       8      base offset                    no: the leader assigns it
    8       4      batch length (after this)      no
    12      4      partition leader epoch         no: the leader assigns it
    16      1      magic, always 2                no
    17      4      CRC-32C                        no
    21      2      attributes                     yes
    23      4      last offset delta              yes
    27      8      base timestamp, ms             yes
    35      8      max timestamp, ms              yes
    43      8      producer id                    yes
    51      2      producer epoch                 yes
    53      4      base sequence                  yes
    57      4      record count                   yes
    61      ...    records                        yes

    attributes: bits 0-2 compression, 3 log append time, 4 transactional, 5 control,
                6 delete horizon (set by compaction), 7-15 unused

Because the two fields that the leader assigns lie outside the CRC, one checksum made by the
producer protects a batch until the consumer reads it. Layout and rules are those of KIP-98 and
Kafka's `DefaultRecordBatch`.
"""

import ctypes
import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple, TypeAlias

import google_crc32c

from ottla_protocol.errors import CorruptMessageError

Buffer: TypeAlias = bytes | bytearray | memoryview
"""Contiguous bytes; a memoryview has the format `B`."""

HEADER_BYTES = 61
"""Size of the fixed header, and so of the smallest batch."""

LENGTH_OVERHEAD_BYTES = 12
"""What `batch_length` does not count: the base offset and itself."""

ATTRIBUTES_OFFSET = 21
"""Where the bytes that the CRC covers begin."""

MAGIC = 2
NO_PRODUCER_ID = -1
NO_PRODUCER_EPOCH = -1
NO_SEQUENCE = -1
NO_TIMESTAMP = -1
NO_LEADER_EPOCH = -1
MAX_SEQUENCE = 2**31 - 1
"""Sequences run from 0 to this and then begin again at 0."""

COMPRESSION_MASK = 0x07
LOG_APPEND_TIME_BIT = 0x08
TRANSACTIONAL_BIT = 0x10
CONTROL_BIT = 0x20
DELETE_HORIZON_BIT = 0x40
APPENDABLE_ATTRIBUTES = COMPRESSION_MASK | TRANSACTIONAL_BIT
"""Attribute bits that a producer may set; the broker itself sets the others."""
KNOWN_ATTRIBUTES = APPENDABLE_ATTRIBUTES | LOG_APPEND_TIME_BIT | CONTROL_BIT | DELETE_HORIZON_BIT

_HEADER = struct.Struct(">qiibIhiqqqhii")
_OFFSET_AND_LENGTH = struct.Struct(">qi")
_BASE_OFFSET = struct.Struct(">q")
_BATCH_LENGTH = struct.Struct(">i")
_BATCH_LENGTH_OFFSET = 8
_LEADER_EPOCH = struct.Struct(">i")
_LEADER_EPOCH_OFFSET = 12
_MAGIC_OFFSET = 16
_CRC = struct.Struct(">I")
_CRC_OFFSET = 17
_RECORD_COUNT = slice(57, HEADER_BYTES)
_ATTRIBUTES = struct.Struct(">h")
_MAX_TIMESTAMP = struct.Struct(">q")
_MAX_TIMESTAMP_OFFSET = 35
_PRODUCER = struct.Struct(">qhi")
_PRODUCER_OFFSET = 43

# Below this size one slice copy is cheaper than a window object.
_CRC_COPY_BYTES = 64 * 1024
_CRC_WINDOW_BYTES = 256 * 1024
_CrcWindow = ctypes.c_char * _CRC_WINDOW_BYTES


class Compression(IntEnum):
    """Bits 0-2 of the attributes."""

    NONE = 0
    GZIP = 1
    SNAPPY = 2
    LZ4 = 3
    ZSTD = 4


_COMPRESSIONS = tuple(Compression)


class BatchHeader(NamedTuple):
    """The fixed fields of one batch, as they stand in it.

    `last_offset_delta` is `record_count - 1` when a producer sends the batch, and may be larger
    once compaction has taken records out: offsets never move, so a batch keeps its range. A batch
    may even be left without records, for what its header says of producer and epoch.
    """

    base_offset: int
    batch_length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    record_count: int

    @property
    def size_bytes(self) -> int:
        """Size of the whole batch, header included."""
        return self.batch_length + LENGTH_OVERHEAD_BYTES

    @property
    def last_offset(self) -> int:
        """Offset of the last record that the batch was appended with."""
        return self.base_offset + self.last_offset_delta

    @property
    def next_offset(self) -> int:
        """The offset that follows the batch; where a reader goes on."""
        return self.base_offset + self.last_offset_delta + 1

    @property
    def compression(self) -> Compression:
        """How the records are compressed; CorruptMessageError if the codec is unknown."""
        codec = self.attributes & COMPRESSION_MASK
        if codec >= len(_COMPRESSIONS):
            raise CorruptMessageError(f"record batch has unknown compression {codec}")
        return _COMPRESSIONS[codec]

    @property
    def is_transactional(self) -> bool:
        """Whether the batch is part of a transaction."""
        return self.attributes & TRANSACTIONAL_BIT != 0

    @property
    def is_control(self) -> bool:
        """Whether its records are markers of the broker and never given to consumers."""
        return self.attributes & CONTROL_BIT != 0

    @property
    def delete_horizon_ms(self) -> int | None:
        """Wall clock from which on compaction may take the batch's tombstones out (KIP-534).

        The horizon stands in place of the base timestamp; the records' timestamp deltas count from
        it. None before the first compaction of a batch that has tombstones.
        """
        return self.base_timestamp if self.attributes & DELETE_HORIZON_BIT else None

    @property
    def is_log_append_time(self) -> bool:
        """Whether `max_timestamp` is the leader's append time and holds for every record."""
        return self.attributes & LOG_APPEND_TIME_BIT != 0

    @property
    def has_producer(self) -> bool:
        """Whether an idempotent or transactional producer sent it."""
        return self.producer_id != NO_PRODUCER_ID

    @property
    def last_sequence(self) -> int:
        """Sequence of the last record, NO_SEQUENCE if the batch has none; 0 follows 2**31-1."""
        if self.base_sequence == NO_SEQUENCE:
            return NO_SEQUENCE
        return add_sequence(self.base_sequence, self.last_offset_delta)


def add_sequence(sequence: int, increment: int) -> int:
    """The sequence `increment` records on, wrapping from 2**31-1 to 0 as Kafka's do."""
    return (sequence + increment) % (MAX_SEQUENCE + 1)


def read_header(buffer: Buffer) -> BatchHeader:
    """Read the header at the buffer's beginning; the rest is neither needed nor checked.

    Raises:
        CorruptMessageError: the buffer is shorter than a header, or the magic is not 2.
    """
    if len(buffer) < HEADER_BYTES:
        raise CorruptMessageError(
            f"record batch of {len(buffer)} bytes is shorter than its header of {HEADER_BYTES}"
        )
    header = BatchHeader._make(_HEADER.unpack_from(buffer))
    if header.magic != MAGIC:
        raise CorruptMessageError(f"record batch has magic {header.magic}, only 2 is supported")
    return header


def record_count(buffer: Buffer) -> int:
    """How many records a batch that was validated says it has."""
    return int.from_bytes(buffer[_RECORD_COUNT], "big", signed=True)


def validate_batch(buffer: Buffer, *, on_append: bool) -> BatchHeader:
    """Check one whole batch, its CRC included, without decoding its records.

    Args:
        buffer: exactly one batch.
        on_append: hold it to what a producer may send. Without it, what a log may hold is
            accepted: control batches, log append time, and offset gaps left by compaction.

    Returns:
        The header, whose size, counts and compression can now be trusted. What is inside the
        records cannot: `record_codec` checks that when it decodes them.

    Raises:
        CorruptMessageError: naming the first rule that the batch breaks.
    """
    header = read_header(buffer)
    if header.batch_length + LENGTH_OVERHEAD_BYTES != len(buffer):
        raise CorruptMessageError(
            f"record batch claims {header.batch_length + LENGTH_OVERHEAD_BYTES} bytes, "
            f"it has {len(buffer)}"
        )
    crc = checksum(buffer)
    if crc != header.crc:
        raise CorruptMessageError(
            f"record batch has CRC-32C {header.crc:#010x}, its content {crc:#010x}"
        )
    rule = _broken_rule(header) or (_broken_append_rule(header) if on_append else None)
    if rule is not None:
        raise CorruptMessageError(f"record batch {rule}")
    return header


def _broken_rule(header: BatchHeader) -> str | None:
    """The first rule for every batch that the header breaks, as the end of a sentence."""
    attributes = header.attributes
    count = header.record_count
    delta = header.last_offset_delta
    if attributes & ~KNOWN_ATTRIBUTES:
        return f"has unknown attribute bits {attributes & ~KNOWN_ATTRIBUTES & 0xFFFF:#06x}"
    if attributes & COMPRESSION_MASK >= len(_COMPRESSIONS):
        return f"has unknown compression {attributes & COMPRESSION_MASK}"
    if count < 0 or delta < 0:
        return f"has record count {count} and last offset delta {delta}"
    if delta < count - 1:
        return f"has last offset delta {delta}, too small for {count} records"
    if header.base_offset < 0:
        return f"has base offset {header.base_offset}"
    if header.producer_id < NO_PRODUCER_ID:
        return f"has producer id {header.producer_id}"
    if header.producer_id != NO_PRODUCER_ID and header.producer_epoch < 0:
        return f"has producer id {header.producer_id} with producer epoch {header.producer_epoch}"
    return None


def _broken_append_rule(header: BatchHeader) -> str | None:
    """The first rule for what a producer may send that the header breaks."""
    attributes = header.attributes
    if attributes & CONTROL_BIT:
        return "is a control batch, which only brokers write"
    if attributes & ~APPENDABLE_ATTRIBUTES:
        return f"has attribute bits {attributes & ~APPENDABLE_ATTRIBUTES:#06x} that brokers set"
    if header.record_count < 1:
        return f"has record count {header.record_count}, at least 1 is needed"
    if header.last_offset_delta != header.record_count - 1:
        return f"has last offset delta {header.last_offset_delta} for {header.record_count} records"
    if header.base_timestamp < NO_TIMESTAMP or header.max_timestamp < header.base_timestamp:
        return f"has timestamps {header.base_timestamp} to {header.max_timestamp}"
    if header.producer_id == NO_PRODUCER_ID:
        return "is transactional without a producer id" if header.is_transactional else None
    if header.base_sequence < 0 and not (
        # A plain HTTP client's, which numbers nothing.
        header.is_transactional and header.base_sequence == NO_SEQUENCE
    ):
        return f"has producer id {header.producer_id} with base sequence {header.base_sequence}"
    return None


def checksum(buffer: Buffer) -> int:
    """CRC-32C of a whole batch from its attributes on, what its CRC field should hold.

    google_crc32c takes only objects whose buffer needs no release: bytes and ctypes arrays, no
    memoryview and no bytearray. A small batch is copied once; a large writable one is seen
    through ctypes windows of one fixed size, without a copy (a type per length would be made
    anew for every batch); a large read-only one is copied window by window, so that the copy
    stays in the processor's cache.
    """
    size = len(buffer)
    if size <= _CRC_COPY_BYTES:
        return int(google_crc32c.value(bytes(memoryview(buffer)[ATTRIBUTES_OFFSET:])))
    view = memoryview(buffer)
    extend = google_crc32c.extend
    crc = 0
    position = ATTRIBUTES_OFFSET
    if not view.readonly:
        while position + _CRC_WINDOW_BYTES <= size:
            crc = extend(crc, _CrcWindow.from_buffer(view, position))
            position += _CRC_WINDOW_BYTES
    while position < size:
        crc = extend(crc, bytes(view[position : position + _CRC_WINDOW_BYTES]))
        position += _CRC_WINDOW_BYTES
    return int(crc)


def iterate_batches(buffer: Buffer) -> Iterator[memoryview]:
    """Yield the batches that stand one after the other in `buffer`, without copying.

    Only lengths and magic are checked; see `validate_batch` for the rest.

    Raises:
        CorruptMessageError: at a batch that is cut short or not a batch.
    """
    view = memoryview(buffer)
    end = len(view)
    position = 0
    while position < end:
        if end - position < HEADER_BYTES:
            raise CorruptMessageError(
                f"{end - position} bytes at position {position} are shorter than a record batch"
            )
        _, batch_length = _OFFSET_AND_LENGTH.unpack_from(view, position)
        size = batch_length + LENGTH_OVERHEAD_BYTES
        if size < HEADER_BYTES or size > end - position:
            raise CorruptMessageError(
                f"record batch at position {position} claims {size} bytes, "
                f"{end - position} are there"
            )
        if view[position + _MAGIC_OFFSET] != MAGIC:
            raise CorruptMessageError(
                f"record batch at position {position} has magic "
                f"{view[position + _MAGIC_OFFSET]}, only 2 is supported"
            )
        yield view[position : position + size]
        position += size


def split_batches(buffer: Buffer) -> list[memoryview]:
    """All batches of a buffer that holds nothing else; see `iterate_batches`."""
    return list(iterate_batches(buffer))


def patch_batch(buffer: bytearray | memoryview, *, base_offset: int, leader_epoch: int) -> None:
    """Write what the leader assigns, in place; the CRC does not cover it and stays right."""
    _BASE_OFFSET.pack_into(buffer, 0, base_offset)
    _LEADER_EPOCH.pack_into(buffer, _LEADER_EPOCH_OFFSET, leader_epoch)


def set_producer(
    buffer: bytearray, *, producer_id: int, producer_epoch: int, base_sequence: int
) -> None:
    """Write what an idempotent producer numbers its batches with, in place, and renew the CRC.

    For a producer's own batch that has to be sent under another number.
    """
    _PRODUCER.pack_into(buffer, _PRODUCER_OFFSET, producer_id, producer_epoch, base_sequence)
    seal_batch(buffer)


def take_out_of_transaction(buffer: bytearray) -> None:
    """Make a transactional batch one of no transaction and no producer, in place; renew the CRC.

    For what is copied elsewhere without the marker that ends its transaction.
    """
    (attributes,) = _ATTRIBUTES.unpack_from(buffer, ATTRIBUTES_OFFSET)
    _ATTRIBUTES.pack_into(buffer, ATTRIBUTES_OFFSET, attributes & ~TRANSACTIONAL_BIT)
    set_producer(
        buffer,
        producer_id=NO_PRODUCER_ID,
        producer_epoch=NO_PRODUCER_EPOCH,
        base_sequence=NO_SEQUENCE,
    )


def make_batch(header: BatchHeader, records: Buffer) -> bytearray:
    """A batch with the fields of `header` around its encoded records; length and CRC are made anew.

    For compaction, which leaves out records of a batch that it has validated.
    """
    batch = bytearray(HEADER_BYTES + len(records))
    _HEADER.pack_into(batch, 0, *header)
    batch[HEADER_BYTES:] = records
    seal_batch(batch)
    return batch


def seal_batch(buffer: bytearray | memoryview) -> None:
    """Make the batch length and the CRC those of the buffer, in place, after changing its content.

    Never call it on what someone else sent: it makes any damage look right.
    """
    _BATCH_LENGTH.pack_into(buffer, _BATCH_LENGTH_OFFSET, len(buffer) - LENGTH_OVERHEAD_BYTES)
    _CRC.pack_into(buffer, _CRC_OFFSET, checksum(buffer))


def set_log_append_time(buffer: bytearray | memoryview, timestamp_ms: int) -> None:
    """Give every record of the batch the leader's time, in place, and renew the CRC.

    As in Kafka, the records keep their own timestamp deltas; readers go by the attribute bit and
    take `max_timestamp` for each record. Call it after `validate_batch`, which would otherwise be
    handed a CRC that vouches for nothing.
    """
    (attributes,) = _ATTRIBUTES.unpack_from(buffer, ATTRIBUTES_OFFSET)
    _ATTRIBUTES.pack_into(buffer, ATTRIBUTES_OFFSET, attributes | LOG_APPEND_TIME_BIT)
    _MAX_TIMESTAMP.pack_into(buffer, _MAX_TIMESTAMP_OFFSET, timestamp_ms)
    _CRC.pack_into(buffer, _CRC_OFFSET, checksum(buffer))
