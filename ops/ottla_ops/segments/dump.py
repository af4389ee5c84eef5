"""Batches of segments, one by one, with what their headers say."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from ottla_ops.records.selection import Bounds, Selection
from ottla_ops.records.stored_records import read_stored_batches, wanted_segments
from ottla_ops.segments.found_segments import FoundReplica
from ottla_protocol.control_records import read_end_marker
from ottla_protocol.json_records import render_record
from ottla_protocol.record_batch import BatchHeader, Buffer, read_header
from ottla_protocol.record_codec import Record, decode_validated_batch

INFLATED_BYTES_MAX: Final = 256 << 20
"""What the records of one batch may take uncompressed."""


Marker = Literal["commit", "abort"]


@dataclass(frozen=True, slots=True)
class DumpedBatch:
    """One batch.

    Attributes:
        topic, partition, segment: where it lies; `segment` is the file's name, None where it came
            from a broker.
        header: what it says of itself.
        marker: what a control batch is the end of, "commit" or "abort"; None for any other.
        has_idempotency_key: whether it came with one; None where that is not known.
        records: decoded, where that was asked for; control records too.
    """

    topic: str
    partition: int
    segment: str | None
    header: BatchHeader
    marker: Marker | None
    has_idempotency_key: bool | None
    records: tuple[Record, ...] | None = None

    def document(self) -> dict[str, Any]:
        """The batch as one JSON object."""
        header = self.header
        document: dict[str, Any] = {
            "topic": self.topic,
            "partition": self.partition,
            "segment": self.segment,
            "base_offset": header.base_offset,
            "last_offset": header.last_offset,
            "leader_epoch": header.leader_epoch,
            "record_count": header.record_count,
            "size_bytes": header.size_bytes,
            "crc": header.crc,
            "compression": header.compression.name.lower(),
            "base_timestamp": header.base_timestamp,
            "max_timestamp": header.max_timestamp,
            "log_append_time": header.is_log_append_time,
            "transactional": header.is_transactional,
            "control": header.is_control,
            "marker": self.marker,
            "producer_id": header.producer_id,
            "producer_epoch": header.producer_epoch,
            "base_sequence": header.base_sequence,
            "idempotency_key": self.has_idempotency_key,
        }
        if self.records is not None:
            document["records"] = [render_record(record, "auto") for record in self.records]
        return document

    def rendered_records(self) -> Iterator[bytes]:
        """Each record as a line of JSON; none where they were not decoded."""
        for record in self.records or ():
            yield msgspec.json.encode(render_record(record, "auto"))


def marker_of(data: Buffer, header: BatchHeader) -> Marker | None:
    """What a validated batch says about its producer's transaction, if it is a marker.

    Raises:
        CorruptMessageError: it does not decode.
    """
    if not header.is_control:
        return None
    for record in decode_validated_batch(data, header, max_inflated_bytes=INFLATED_BYTES_MAX):
        marker = read_end_marker(record)
        if marker is not None:
            return "commit" if marker.is_commit else "abort"
    return None


def dump_replica(
    replica: FoundReplica, first: int | None, last: int | None, *, decode: bool
) -> Iterator[DumpedBatch]:
    """The batches of a replica that hold an offset from `first` to `last`, both included.

    Raises:
        StorageError: a file is damaged, out of reach, or written too fast to be copied.
        CorruptMessageError: a record does not decode.
    """
    selection = Selection(offset=Bounds(first, last))
    for path in wanted_segments(replica.segments, selection.offset):
        for batch in read_stored_batches(path, selection):
            header = read_header(batch.data)
            records = None
            if decode:
                records = tuple(
                    decode_validated_batch(
                        batch.data, header, max_inflated_bytes=INFLATED_BYTES_MAX
                    )
                )
            yield DumpedBatch(
                replica.topic,
                replica.partition,
                path.name,
                header,
                marker_of(batch.data, header),
                batch.idempotency is not None,
                records,
            )
