"""Records as consumers get them, and the two steps that make them: decoding and deserializing.

A batch is decoded as a whole, in the thread of whoever polls. Keys and values that stay bytes cost
nothing more. Deserializers are called when records are handed out, so that one that fails stops at
its record, and those before it have been handed out.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from ottla._deserializers import Deserializer
from ottla._errors import RecordDeserializationError
from ottla_protocol.record_batch import Buffer, validate_batch
from ottla_protocol.record_codec import RecordHeaders, decode_consumed_batch

MAX_INFLATED_BYTES: Final = 256 << 20
"""What the records of one batch may take uncompressed."""


class ConsumerRecord(msgspec.Struct, frozen=True, gc=False):
    """One record of a topic.

    Attributes:
        topic, partition: where it stands.
        offset: its position there.
        timestamp: ms since the epoch, the producer's or the leader's; -1 if it has none.
        key, value: what the deserializers made of them; bytes without one. None stays None.
        headers: names and values in order; names may repeat.
        leader_epoch: of the leader that appended it.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: Any
    value: Any
    headers: RecordHeaders = ()
    leader_epoch: int = -1


class DecodedBatch(msgspec.Struct, frozen=True, gc=False):
    """What a batch has for a consumer.

    Attributes:
        records: from the offset that was asked for; keys and values are bytes.
        next_offset: where reading goes on, beyond offsets that no record has any more.
    """

    records: list[ConsumerRecord]
    next_offset: int


def decode(topic: str, partition: int, batch: Buffer, from_offset: int) -> DecodedBatch:
    """Check one fetched batch and decode it.

    Args:
        topic: where it was fetched.
        partition: as above.
        batch: the whole batch; it may begin below `from_offset`.
        from_offset: records before it are left out.

    Raises:
        CorruptMessageError: the batch or a record in it is damaged.
        MessageTooLargeError: it inflates to more than MAX_INFLATED_BYTES.
    """
    header = validate_batch(batch, on_append=False)
    next_offset = max(header.next_offset, from_offset)
    if header.is_control or header.next_offset <= from_offset:
        return DecodedBatch([], next_offset)
    records = decode_consumed_batch(
        batch, header, ConsumerRecord, topic, partition, max_inflated_bytes=MAX_INFLATED_BYTES
    )
    if records and records[0].offset < from_offset:
        records = [record for record in records if record.offset >= from_offset]
    return DecodedBatch(records, next_offset)


def deserialize(
    records: Sequence[ConsumerRecord], key_of: Deserializer, value_of: Deserializer
) -> tuple[list[ConsumerRecord], RecordDeserializationError | None]:
    """The records up to the first that a deserializer does not take, and its error."""
    made: list[ConsumerRecord] = []
    append = made.append
    for record in records:
        topic, is_key = record.topic, True
        try:
            key = key_of(topic, record.key)
            is_key = False
            value = value_of(topic, record.value)
        except Exception as error:  # noqa: BLE001  whatever a user's deserializer raises
            failure = RecordDeserializationError.of(record, is_key=is_key, cause=error)
            failure.__cause__ = error
            return made, failure
        append(
            ConsumerRecord(
                topic,
                record.partition,
                record.offset,
                record.timestamp,
                key,
                value,
                record.headers,
                record.leader_epoch,
            )
        )
    return made, None
