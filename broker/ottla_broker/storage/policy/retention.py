"""Which segments a topic's retention lets go.

A segment goes whole and only from the log's beginning, so that what is kept has no holes. Its age
is that of its newest record: nothing goes before all of it may. As in Kafka, a log keeps at least
`retention.bytes`, and the active segment and what is above the high watermark always stay: a record
that may yet be lost or taken back must not be known to be old.
"""

from typing import NamedTuple

from ottla_broker.storage.policy.rolling import SegmentFill

NEVER = -1
"""A retention that lets nothing go."""


class RetentionLimits(NamedTuple):
    """`retention.ms` and `retention.bytes` of a topic; NEVER where there is no bound."""

    retention_ms: int = NEVER
    retention_bytes: int = NEVER


class SealedSegment(NamedTuple):
    """What retention must know of a segment.

    `end_offset` follows its last offset, `size_bytes` is its file's size, and `newest_timestamp`
    the largest of its records', in ms.
    """

    end_offset: int
    size_bytes: int
    newest_timestamp: int


def may_go(
    oldest: SealedSegment,
    limits: RetentionLimits,
    *,
    log_bytes: int,
    high_watermark: int,
    now_ms: int,
) -> bool:
    """Whether the oldest segment of a log goes.

    Args:
        oldest: the log's first segment; never the active one.
        limits: the topic's.
        log_bytes: size of the whole log, this segment included.
        high_watermark: everything below is committed.
        now_ms: the wall clock.
    """
    if oldest.end_offset > high_watermark:
        return False
    too_old = (
        limits.retention_ms != NEVER and now_ms - oldest.newest_timestamp > limits.retention_ms
    )
    too_much = (
        limits.retention_bytes != NEVER and log_bytes - oldest.size_bytes >= limits.retention_bytes
    )
    return too_old or too_much


def active_must_roll(
    active: SegmentFill, limits: RetentionLimits, *, segment_ms: int, now_ms: int
) -> bool:
    """Whether the active segment is sealed without an append, so that it can go.

    Segments roll when a batch is appended. Where no more are, records would stay for ever; so one
    is rolled too once the wall clock says what the next append's timestamp would: that it spans
    `segment_ms`; or when all of it is older than the topic keeps. Records without timestamps have
    no age.
    """
    if active.batches == 0 or active.newest_timestamp < 0 or limits.retention_ms == NEVER:
        return False
    oldest = active.first_timestamp if active.first_timestamp >= 0 else active.newest_timestamp
    return now_ms - oldest >= segment_ms or now_ms - active.newest_timestamp > limits.retention_ms
