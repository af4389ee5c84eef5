"""Control records: the marks in a log that end a transaction in one partition.

A control batch has one record. Its key is a version and a type, its value a version and the epoch
of the coordinator that decided, all big-endian as in Kafka. Only brokers write them, and readers
pass over them.
"""

import struct
from dataclasses import dataclass

from ottla_protocol.errors import CorruptMessageError
from ottla_protocol.record_codec import Record, RecordData, encode_batch

_KEY = struct.Struct(">hh")  # version, type
_VALUE = struct.Struct(">hi")  # version, coordinator epoch
_VERSION = 0
_ABORT = 0
_COMMIT = 1


@dataclass(frozen=True, slots=True)
class EndMarker:
    """The end of one producer's transaction in one partition."""

    is_commit: bool
    coordinator_epoch: int
    """The leader epoch in which the coordinator's partition was led."""


def encode_end_marker(
    marker: EndMarker, *, producer_id: int, producer_epoch: int, timestamp_ms: int
) -> bytearray:
    """The control batch of a marker, to append as any other batch."""
    key = _KEY.pack(_VERSION, _COMMIT if marker.is_commit else _ABORT)
    value = _VALUE.pack(_VERSION, marker.coordinator_epoch)
    return encode_batch(
        [RecordData(timestamp_ms, key, value)],
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        is_transactional=True,
        is_control=True,
    )


def read_end_marker(record: Record) -> EndMarker | None:
    """What a control record says; None where it is of another type, which readers pass over.

    Raises:
        CorruptMessageError: it has no key, or one that is too short, or no value that fits.
    """
    key, value = record.key, record.value
    if key is None or len(key) < _KEY.size:
        raise CorruptMessageError(f"the control record at offset {record.offset} has no type")
    version, kind = _KEY.unpack_from(key)
    if version < 0 or kind not in {_ABORT, _COMMIT}:
        return None
    if value is None or len(value) < _VALUE.size:
        raise CorruptMessageError(f"the end marker at offset {record.offset} has no coordinator")
    _, coordinator_epoch = _VALUE.unpack_from(value)
    return EndMarker(kind == _COMMIT, coordinator_epoch)
