"""Record batches to records, for whoever does not take them whole."""

from collections.abc import Sequence
from dataclasses import dataclass

from ottla_broker.services.heavy_work import on_worker
from ottla_protocol.errors import MessageTooLargeError
from ottla_protocol.record_batch import Buffer, read_header
from ottla_protocol.record_codec import Record, decode_batch

MAX_INFLATED_BYTES = 64 << 20
"""What the records of one read may take uncompressed: it ends before the batch that takes more."""

BYTES_DECODED_INLINE = 64 << 10
"""More bytes than this are decoded on a thread, so that heartbeats go on meanwhile."""


@dataclass(frozen=True, slots=True)
class DecodedRecords:
    """Records in the order of their offsets; `next_offset` is where the next read goes on."""

    records: Sequence[Record]
    next_offset: int


async def decode_records(
    batches: Sequence[Buffer], offset: int, *, max_records: int, end_offset: int | None = None
) -> DecodedRecords:
    """Records from `offset` on; the first batch may begin below it.

    Control batches are stepped over.

    Args:
        batches: in the order of their offsets.
        offset: see above.
        max_records: most records.
        end_offset: where to go on behind all of the batches, where that is known to be further than
            the last of them reaches.

    Raises:
        CorruptMessageError: a batch is not what Kafka's format says.
        MessageTooLargeError: the first batch alone inflates to more than MAX_INFLATED_BYTES.
    """
    decoded = await _decoded(batches, offset, max_records)
    if end_offset is None or end_offset <= decoded.next_offset:
        return decoded
    reaches_end = not batches or decoded.next_offset >= read_header(batches[-1]).next_offset
    return DecodedRecords(decoded.records, end_offset) if reaches_end else decoded


async def _decoded(batches: Sequence[Buffer], offset: int, max_records: int) -> DecodedRecords:
    large = sum(len(batch) for batch in batches) > BYTES_DECODED_INLINE or any(
        read_header(batch).compression for batch in batches
    )
    if large:
        return await on_worker(_records, batches, offset, max_records)
    return _records(batches, offset, max_records)


def _records(batches: Sequence[Buffer], offset: int, max_records: int) -> DecodedRecords:
    found: list[Record] = []
    next_offset = offset
    budget_bytes = MAX_INFLATED_BYTES
    for batch in batches:
        header = read_header(batch)
        if header.is_control:
            next_offset = header.last_offset + 1
            continue
        try:
            records = decode_batch(batch, max_inflated_bytes=budget_bytes)
        except MessageTooLargeError:
            if not found:
                raise
            return DecodedRecords(found, next_offset)
        budget_bytes -= sum(len(record.value or b"") + len(record.key or b"") for record in records)
        budget_bytes = max(budget_bytes, 0)
        wanted = [record for record in records if record.offset >= offset]
        room = max_records - len(found)
        if len(wanted) > room:
            found.extend(wanted[:room])
            last = wanted[room].offset if room == 0 else found[-1].offset + 1
            return DecodedRecords(found, last)
        found.extend(wanted)
        next_offset = header.last_offset + 1
    return DecodedRecords(found, next_offset)
