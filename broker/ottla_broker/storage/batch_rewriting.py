"""Record batches with records left out.

Offsets and timestamps of records are stored as differences to their batch's, so the encoded records
that stay are copied as they are, and the header keeps its offsets, producer and epoch. Nothing is
encoded anew, save for the timestamps of a batch that gets its delete horizon: that takes the place
of the base timestamp (KIP-534).
"""

from collections.abc import Iterator, Sequence

from ottla_protocol.compression import deflate, inflate
from ottla_protocol.errors import CorruptMessageError
from ottla_protocol.record_batch import (
    COMPRESSION_MASK,
    DELETE_HORIZON_BIT,
    HEADER_BYTES,
    BatchHeader,
    Buffer,
    make_batch,
)

_VARINT_BYTES_MAX = 10
_MASK_64 = (1 << 64) - 1


def without_records(header: BatchHeader) -> bytearray:
    """The batch without any: its header keeps offsets, times, producer and leader epoch."""
    return make_batch(
        header._replace(
            attributes=header.attributes & ~(COMPRESSION_MASK | DELETE_HORIZON_BIT),
            base_timestamp=header.max_timestamp,
            record_count=0,
        ),
        b"",
    )


def with_records(
    batch: Buffer,
    header: BatchHeader,
    positions: Sequence[int],
    *,
    max_timestamp: int,
    delete_horizon_ms: int | None,
    max_inflated_bytes: int,
) -> bytearray:
    """The batch with the records at these positions alone, under its own compression.

    Args:
        batch: a whole batch that was validated and decoded before.
        header: its header.
        positions: which records stay, rising; not empty.
        max_timestamp: the largest timestamp of those, or the leader's where that holds for all.
        delete_horizon_ms: from when on the batch's tombstones may go, None for what it says now.
        max_inflated_bytes: what its records may take uncompressed.

    Raises:
        CorruptMessageError: the records are not laid out as Kafka's format says.
    """
    plain = inflate(header.compression, memoryview(batch)[HEADER_BYTES:], max_inflated_bytes)
    spans = list(_record_spans(plain, header.record_count))
    kept: Iterator[bytes] = (plain[start:end] for start, end in map(spans.__getitem__, positions))
    header = header._replace(record_count=len(positions), max_timestamp=max_timestamp)
    if delete_horizon_ms is not None and delete_horizon_ms != header.delete_horizon_ms:
        later_ms = header.base_timestamp - delete_horizon_ms
        kept = (_with_later_timestamp(record, later_ms) for record in kept)
        header = header._replace(
            attributes=header.attributes | DELETE_HORIZON_BIT, base_timestamp=delete_horizon_ms
        )
    return make_batch(header, deflate(header.compression, b"".join(kept)))


def _record_spans(records: bytes, count: int) -> Iterator[tuple[int, int]]:
    """Where each record begins, its length included, and ends."""
    position = 0
    for _ in range(count):
        length, body = _read_varint(records, position)
        end = body + length
        if length < 0 or end > len(records):
            raise CorruptMessageError(f"record at byte {position} of its batch is cut short")
        yield position, end
        position = end
    if position != len(records):
        raise CorruptMessageError(f"{len(records) - position} bytes follow the last record")


def _with_later_timestamp(record: bytes, later_ms: int) -> bytes:
    """An encoded record whose timestamp is `later_ms` more after its batch's base timestamp.

    A record is its length, one byte of attributes, the timestamp's difference, and the rest.
    """
    _, attributes = _read_varint(record, 0)
    delta_ms, rest = _read_varint(record, attributes + 1)
    body = b"".join(
        (record[attributes : attributes + 1], _varint(delta_ms + later_ms), record[rest:])
    )
    return _varint(len(body)) + body


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    """A zigzag varint, and where it ends."""
    value = 0
    for index in range(position, min(position + _VARINT_BYTES_MAX, len(data))):
        byte = data[index]
        value |= (byte & 0x7F) << 7 * (index - position)
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), index + 1
    raise CorruptMessageError(f"number at byte {position} of a batch's records does not end")


def _varint(number: int) -> bytes:
    """A signed 64-bit number as a zigzag varint."""
    value = (number << 1 ^ number >> 63) & _MASK_64
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
