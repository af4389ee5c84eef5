"""Settings and limits of one partition's log, and what an append answers."""

from dataclasses import dataclass
from enum import StrEnum

from ottla_broker.storage.policy.compaction import CompactionConfig
from ottla_broker.storage.policy.idempotency_window import (
    IDEMPOTENCY_ENTRIES_MAX,
    IDEMPOTENCY_WINDOW_MS,
)
from ottla_broker.storage.policy.producer_state import (
    PRODUCER_ID_EXPIRATION_MS,
    PRODUCERS_MAX,
)
from ottla_broker.storage.policy.retention import NEVER, RetentionLimits
from ottla_broker.storage.sqlite import Durability

SEGMENT_BYTES = 1 << 30
SEGMENT_MS = 7 * 24 * 60 * 60 * 1000
MAX_BATCH_BYTES = 8 * 1024 * 1024
GROUP_COMMIT_MAX_BYTES = 16 * 1024 * 1024
PENDING_MAX_BYTES = 64 * 1024 * 1024
TIMESTAMP_AFTER_MAX_MS = 60 * 60 * 1000


class TimestampType(StrEnum):
    """Whose clock stamps records (topic config `message.timestamp.type`)."""

    CREATE_TIME = "CreateTime"
    """The producer's."""
    LOG_APPEND_TIME = "LogAppendTime"
    """The leader's, when it appends."""


@dataclass(frozen=True, slots=True)
class LogConfig:
    """Per-partition limits; a topic's configs override the defaults.

    Attributes:
        segment_bytes: batch bytes after which a segment is sealed (`segment.bytes`).
        segment_ms: span of record timestamps after which it is (`segment.ms`).
        retention_ms: age of a segment's newest record beyond which it goes (`retention.ms`).
        retention_bytes: how much of the log is kept at least when it is bounded
            (`retention.bytes`); NEVER, as for `retention_ms`, where it is not.
        compaction: how a compacted topic's log is (`cleanup.policy`); None for any other topic's.
        durability: `fsync` or `os`, what an acknowledgement promises.
        timestamp_type: of what a leader appends (`message.timestamp.type`).
        timestamp_after_max_ms: how far ahead of the leader's clock a producer's may be
            (`message.timestamp.after.max.ms`).
        max_batch_bytes: largest batch that a leader appends.
        group_commit_max_bytes: most batch bytes in one transaction, save for one larger batch.
        pending_max_bytes: batch bytes queued for the disk beyond which appends are refused.
        producers_max: producer ids remembered.
        producer_id_expiration_ms: how long a silent one is (`producer.id.expiration.ms`).
        idempotency_entries_max: Idempotency-Keys remembered.
        idempotency_window_ms: how long one is remembered.
    """

    segment_bytes: int = SEGMENT_BYTES
    segment_ms: int = SEGMENT_MS
    retention_ms: int = NEVER
    retention_bytes: int = NEVER
    compaction: CompactionConfig | None = None
    durability: str = Durability.FSYNC
    timestamp_type: str = TimestampType.CREATE_TIME
    timestamp_after_max_ms: int = TIMESTAMP_AFTER_MAX_MS
    max_batch_bytes: int = MAX_BATCH_BYTES
    group_commit_max_bytes: int = GROUP_COMMIT_MAX_BYTES
    pending_max_bytes: int = PENDING_MAX_BYTES
    producers_max: int = PRODUCERS_MAX
    producer_id_expiration_ms: int = PRODUCER_ID_EXPIRATION_MS
    idempotency_entries_max: int = IDEMPOTENCY_ENTRIES_MAX
    idempotency_window_ms: int = IDEMPOTENCY_WINDOW_MS

    @property
    def retention(self) -> RetentionLimits:
        """What the log lets go."""
        return RetentionLimits(self.retention_ms, self.retention_bytes)


@dataclass(frozen=True, slots=True)
class AppendInfo:
    """Where a batch is in the log.

    `duplicate` says that it was there before this append: nothing was added. `timestamp` is the
    batch's largest, in ms. `base_offset` is -1 for lines of a stream that are there, but
    it is not known any more where; they are before `last_offset`.
    """

    base_offset: int
    last_offset: int
    timestamp: int
    duplicate: bool = False

    @property
    def next_offset(self) -> int:
        """What `wait_durable` and the high watermark must reach for the batch to be safe."""
        return self.last_offset + 1


@dataclass(frozen=True, slots=True)
class RemovedSegments:
    """What retention has removed: files, and their bytes."""

    count: int = 0
    size_bytes: int = 0
