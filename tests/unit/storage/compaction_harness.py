"""Keyed records in and out of a log, and a plain model of what compaction leaves of them."""

from ottla_broker.storage.log_compactor import CompactionLimits
from ottla_broker.storage.partition_log import PartitionLog
from ottla_broker.storage.policy.compaction import CompactionConfig
from ottla_protocol.record_batch import Compression, read_header
from ottla_protocol.record_codec import Record, RecordData, decode_batch, encode_batch
from tests.unit.storage.log_harness import read_all

ALWAYS = CompactionConfig(min_dirty_ratio=0.0)
LIMITS = CompactionLimits(map_bytes=1 << 16)
MAX_INFLATED_BYTES = 1 << 20


def keyed_batch(
    pairs, *, timestamp=1_000, compression=Compression.NONE, producer=None, transactional=False
):
    """A batch of (key, value) pairs, as a producer sends it; `producer` is id, epoch, sequence."""
    producer_id, epoch, sequence = producer or (-1, -1, -1)
    records = [
        RecordData(timestamp + index, encoded(key), encoded(value), (("n", b"%d" % index),))
        for index, (key, value) in enumerate(pairs)
    ]
    return bytearray(
        encode_batch(
            records,
            compression=compression,
            producer_id=producer_id,
            producer_epoch=epoch,
            base_sequence=sequence,
            is_transactional=transactional,
        )
    )


def encoded(text):
    return None if text is None else str(text).encode()


async def put(log: PartitionLog, *pairs, leader_epoch=0, idempotency=None, **fields):
    """Append one batch durably; returns where it went."""
    batch = keyed_batch(pairs, **fields)
    info = log.append_as_leader(
        batch,
        read_header(batch),
        leader_epoch=leader_epoch,
        now_ms=0,
        idempotency=idempotency,
    )
    await log.wait_durable(info.next_offset)
    return info


async def records_of(log: PartitionLog) -> list[Record]:
    """Every record that a reader of the whole log sees."""
    return [
        record
        for batch in await read_all(log)
        if not read_header(batch.data).is_control
        for record in decode_batch(batch.data, max_inflated_bytes=MAX_INFLATED_BYTES)
    ]


async def values_of(log: PartitionLog) -> list[tuple[int, str, str | None]]:
    """(offset, key, value) of every record."""
    return [
        (record.offset, record.key and record.key.decode(), record.value and record.value.decode())
        for record in await records_of(log)
    ]


async def compact(log: PartitionLog, *, high_watermark=None, now_ms=0, limits=LIMITS):
    """Compact what is due; up to the log's end unless told otherwise."""
    return await log.cleanup.compact(
        high_watermark=log.log_end_offset if high_watermark is None else high_watermark,
        now_ms=now_ms,
        limits=limits,
    )
