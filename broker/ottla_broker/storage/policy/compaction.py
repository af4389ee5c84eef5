"""Which part of a log is compacted, when, and which records stay.

A log with `cleanup.policy=compact` keeps the newest record of every key. It has a clean part, up to
where the last compaction got, in which each key is at most once, and a dirty part behind it. A
compaction looks through the dirty part for the newest offset of each key (`KeyOffsets`), then
copies every segment from the log's start on, and leaves out what has a newer record. Offsets never
change.

Out of bounds are the active segment, which is still written, and what is above the last stable
offset: a record that may yet be taken back must not replace one that was promised.

Below it every transaction is known to be committed or aborted. Records of an aborted one go, and
count for nothing. Those of a committed one are records like any other.

What stays beside the newest record of each key:

- a record behind the part whose keys were looked at;
- a tombstone, until `delete.retention.ms` after the first compaction that met it. By then nothing
  older of its key is left. Its batch carries that time (KIP-534), so it outlives restarts, merges
  and replication;
- batches that do not decode, and so cannot be judged. While one of them stands below a tombstone,
  it might hold what the tombstone deletes, and the tombstone stays too;
- the marker of a transaction, as long as any batch of it was there when the compaction began, and
  for `delete.retention.ms` after the first compaction that met none: a follower that has fetched
  such a batch is to meet the marker. One that tells the epoch of a producer that the log remembers
  stays too, and so does one whose transaction began in an earlier file, for the snapshot of its own
  says that it is open.

And as a batch without records, for what its header and its row say:

- the batches of producers and of Idempotency-Keys that the log still remembers, so that a replica
  that is filled from this one knows the same retries;
- the first batch of each leader epoch: a follower learns from it where the epoch began, and may
  have to truncate by that as a leader (KIP-101);
- the last batch of each segment, so that no segment ends in a gap: whoever reads or follows gets
  past the gap by the batch behind it.

A record without a key, from before the topic was compacted, can neither be replaced nor replace
anything, and goes, as in Kafka.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from ottla_broker.storage.policy.rolling import SEGMENT_BATCHES_MAX, SegmentFill
from ottla_protocol.record_codec import Record

DELETE_RETENTION_MS = 24 * 60 * 60 * 1000
MIN_DIRTY_RATIO = 0.5
NO_MAX_LAG_MS = 2**63 - 1


class CompactionConfig(NamedTuple):
    """What a compacted topic's configs say.

    `min_dirty_ratio` is a fraction of the log's bytes, the times are milliseconds.
    """

    min_dirty_ratio: float = MIN_DIRTY_RATIO
    min_lag_ms: int = 0
    max_lag_ms: int = NO_MAX_LAG_MS
    delete_retention_ms: int = DELETE_RETENTION_MS


class CompactableSegment(NamedTuple):
    """What must be known of a sealed segment.

    `end_offset` follows its last offset, `size_bytes` is its file's size; `first_timestamp` is that
    of its first batch and `newest_timestamp` the largest of its records', in ms.
    """

    base_offset: int
    end_offset: int
    size_bytes: int
    first_timestamp: int
    newest_timestamp: int


class CompactionProgress(NamedTuple):
    """How far a log is compacted.

    `cleaned_to` is the first offset whose key was not looked at yet. `last_horizon_ms` is the wall
    clock from which on every tombstone below may go; -1 when there is none. `cleaned_from` is where
    the log began at the time.
    """

    cleaned_to: int = 0
    last_horizon_ms: int = -1
    cleaned_from: int = 0


class CompactionPlan(NamedTuple):
    """Compact everything below `end_offset`; keys from `first_dirty_offset` on are new."""

    first_dirty_offset: int
    end_offset: int


def active_must_roll(active: SegmentFill, config: CompactionConfig, *, now_ms: int) -> bool:
    """Whether the active segment is sealed because its first record is too old to wait longer."""
    return (
        active.batches > 0
        and active.first_timestamp >= 0
        and now_ms - active.first_timestamp > config.max_lag_ms
    )


def plan_compaction(
    segments: Sequence[CompactableSegment],
    progress: CompactionProgress,
    config: CompactionConfig,
    *,
    last_stable_offset: int,
    now_ms: int,
) -> CompactionPlan | None:
    """What is to be compacted now; None when nothing is, or it is too little to be worth it.

    Args:
        segments: the log's sealed segments, oldest first.
        progress: what earlier compactions did.
        config: the topic's.
        last_stable_offset: everything below is committed, and of a transaction that is over.
        now_ms: the wall clock.
    """
    allowed = list(_allowed(segments, config, last_stable_offset, now_ms))
    if not allowed:
        return None
    end_offset = allowed[-1].end_offset
    first_dirty = allowed[0].base_offset
    # A log that begins further down than then found again, after a crash, what it had let go of:
    # records that no compaction has seen, and that may have newer ones in the clean part.
    if first_dirty >= progress.cleaned_from:
        first_dirty = max(first_dirty, progress.cleaned_to)
    dirty = [segment for segment in allowed if segment.end_offset > first_dirty]
    if not dirty:
        # Not of a part alone, while the last stable offset or a lag holds the rest back: what is
        # known of the rest would be forgotten.
        is_due = 0 <= progress.last_horizon_ms <= now_ms and end_offset >= progress.cleaned_to
        return CompactionPlan(end_offset, end_offset) if is_due else None
    dirty_bytes = sum(segment.size_bytes for segment in dirty)
    ratio = dirty_bytes / max(sum(segment.size_bytes for segment in allowed), 1)
    is_late = any(
        segment.first_timestamp >= 0 and now_ms - segment.first_timestamp > config.max_lag_ms
        for segment in dirty
    )
    if ratio < config.min_dirty_ratio and not is_late:
        return None
    return CompactionPlan(first_dirty, end_offset)


def _allowed(
    segments: Sequence[CompactableSegment],
    config: CompactionConfig,
    last_stable_offset: int,
    now_ms: int,
) -> Iterator[CompactableSegment]:
    """The segments up to the first that is not decided as a whole, or too young."""
    for segment in segments:
        is_young = config.min_lag_ms > 0 and now_ms - segment.newest_timestamp < config.min_lag_ms
        if segment.end_offset > last_stable_offset or is_young:
            return
        yield segment


class SegmentContent(NamedTuple):
    """What decides how many segments become one: batches, and their bytes."""

    batches: int
    size_bytes: int


def group_segments(
    contents: Sequence[SegmentContent], *, segment_bytes: int
) -> Iterator[tuple[int, int]]:
    """Which neighbours become one segment, as half-open ranges of their positions.

    What compaction leaves of them is at most what they have now, so files do not grow in number for
    ever, and none grows beyond `segment_bytes` by it.
    """
    start = batches = size_bytes = 0
    for position, content in enumerate(contents):
        is_full = (
            size_bytes + content.size_bytes > segment_bytes
            or batches + content.batches > SEGMENT_BATCHES_MAX
        )
        if position > start and is_full:
            yield start, position
            start, batches, size_bytes = position, 0, 0
        batches += content.batches
        size_bytes += content.size_bytes
    if contents:
        yield start, len(contents)


class Kept(NamedTuple):
    """What stays of a batch: the positions of its records, and how many are tombstones.

    `superseded`, `tombstones_removed` and `without_key` count what goes.
    """

    positions: Sequence[int]
    tombstones: int = 0
    superseded: int = 0
    tombstones_removed: int = 0
    without_key: int = 0


def kept_records(
    records: Sequence[Record],
    newest_of: Callable[[bytes], int],
    *,
    mapped_end: int,
    drop_tombstones: bool,
) -> Kept:
    """Which records of a batch stay.

    Args:
        records: all of its records.
        newest_of: `KeyOffsets.get`.
        mapped_end: keys were looked at up to here, exclusive: what is behind it stays.
        drop_tombstones: whether the time of the batch's tombstones is over.
    """
    positions: list[int] = []
    tombstones = superseded = removed = without_key = 0
    for position, record in enumerate(records):
        if record.offset < mapped_end:
            if record.key is None:
                without_key += 1
                continue
            if newest_of(record.key) > record.offset:
                superseded += 1
                continue
            if record.value is None and drop_tombstones:
                removed += 1
                continue
        if record.value is None:
            tombstones += 1
        positions.append(position)
    return Kept(positions, tombstones, superseded, removed, without_key)
