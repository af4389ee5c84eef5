"""From batches of many partitions to the records of one poll: a fair share of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ottla_broker.services.batch_decoding import decode_records
from ottla_broker.services.leader_reads import Results, TopicPartition
from ottla_broker.services.poll_acks import MAX_ACK_PARTITIONS
from ottla_protocol.errors import OttlaError
from ottla_protocol.record_codec import Record

MAX_POLL_BYTES = 16 << 20
"""The keys and values of one poll: it takes no further partition once it has so many."""


@dataclass(frozen=True, slots=True)
class PolledPartition:
    """Records of one partition, and where the next read goes on."""

    key: TopicPartition
    records: Sequence[Record]
    next_offset: int


async def take_records(
    results: Results, positions: Mapping[TopicPartition, int], *, max_records: int
) -> list[PolledPartition]:
    """At most `max_records` records of what was read, in the order in which it was read.

    Each partition may fill an equal share of the room that those before it left, so that a long
    backlog in one does not keep the others back. One where there was nothing but what is passed
    over has no records, and its next offset tells how far that is.

    Raises:
        CorruptMessageError, MessageTooLargeError: a batch cannot be decoded.
    """
    found: list[PolledPartition] = []
    left, size_bytes = max_records, 0
    readable = [
        (key, result)
        for key, result in results.items()
        if not isinstance(result, OttlaError)
        and (result.batches or (result.next_offset or 0) > positions[key])
    ][:MAX_ACK_PARTITIONS]
    for index, (key, result) in enumerate(readable):
        if left <= 0 or size_bytes >= MAX_POLL_BYTES:
            break
        share = -(-left // (len(readable) - index))
        decoded = await decode_records(
            result.batches, positions[key], max_records=share, end_offset=result.next_offset
        )
        found.append(PolledPartition(key, decoded.records, decoded.next_offset))
        left -= len(decoded.records)
        size_bytes += sum(
            len(record.value or b"") + len(record.key or b"") for record in decoded.records
        )
    return found
