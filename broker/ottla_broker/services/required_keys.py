"""Records for a compacted topic need a key: nothing could ever replace one without.

No other topic's records are decoded when they are appended; those of a compacted one are, for that.
"""

from ottla_broker.services.batch_decoding import BYTES_DECODED_INLINE, MAX_INFLATED_BYTES
from ottla_broker.services.heavy_work import on_worker
from ottla_cluster.controller.image import MetadataImage
from ottla_cluster.controller.topic_configs import CLEANUP_POLICY, COMPACT
from ottla_cluster.controller.topic_names import is_internal
from ottla_protocol.errors import OttlaError, Outcome, RecordWithoutKeyError
from ottla_protocol.models import BatchToAppend
from ottla_protocol.record_batch import Buffer, read_header, validate_batch
from ottla_protocol.record_codec import decode_validated_batch


def needs_keys(image: MetadataImage, topic: str) -> bool:
    """Whether the topic is compacted, and one that clients may write to at all."""
    if is_internal(topic):
        return False
    topic_id = image.topic_ids.get(topic)
    known = None if topic_id is None else image.topics.get(topic_id)
    return known is not None and COMPACT in str(known.configs.get(CLEANUP_POLICY, ""))


async def keyless(batch: BatchToAppend) -> OttlaError | None:
    """The error for a batch that has a record without key, or cannot be decoded; None if neither.

    Large batches are decoded on a thread.
    """
    try:
        if len(batch.batch) > BYTES_DECODED_INLINE or read_header(batch.batch).compression:
            await on_worker(_require_keys, batch.batch, batch.topic)
        else:
            _require_keys(batch.batch, batch.topic)
    except OttlaError as error:
        return error.with_outcome(Outcome.NOT_APPLIED)
    return None


def _require_keys(batch: Buffer, topic: str) -> None:
    header = validate_batch(batch, on_append=True)
    records = decode_validated_batch(batch, header, max_inflated_bytes=MAX_INFLATED_BYTES)
    for position, record in enumerate(records):
        if record.key is None:
            raise RecordWithoutKeyError(
                f"record {position} of the batch has no key, which every record of the compacted "
                f"topic {topic!r} needs",
                record_index=position,
            )
