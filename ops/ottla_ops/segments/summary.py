"""What a segment holds, told from its columns: no record is read."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ottla_broker.storage import segment as segments
from ottla_broker.storage import sqlite
from ottla_broker.storage.segment_aborts import read_aborts
from ottla_ops.segments.found_segments import FoundReplica
from ottla_ops.segments.segment_snapshot import open_segment


class SegmentState(StrEnum):
    """Where a file is in its life."""

    ACTIVE = "active"
    SEALED = "sealed"
    UNREADABLE = "unreadable"
    """`ottla segment verify` says why."""
    PUT_ASIDE = "put-aside"
    """A recovery replaced it by its good batches and kept it for the operator."""


@dataclass(frozen=True, slots=True)
class SegmentSummary:
    """One file.

    Attributes:
        topic, partition: whose it is.
        path: the file.
        state: where it is in its life.
        base_offset: the offset in its name.
        size_bytes: of the file and its write-ahead log, which is where an active segment's
            records mostly are.
        end_offset: the offset after its last record; None where it was not opened.
        batches, records: how many; 0 where it was not opened.
        first_timestamp, last_timestamp: lowest and highest of its batches' latest timestamps, ms;
            None where there are no batches.
        leader_epoch: of the last batch, None where there is none.
        aborted_transactions: how many were aborted by markers in it.
    """

    topic: str
    partition: int
    path: Path
    state: SegmentState
    base_offset: int
    size_bytes: int
    end_offset: int | None = None
    batches: int = 0
    records: int = 0
    first_timestamp: int | None = None
    last_timestamp: int | None = None
    leader_epoch: int | None = None
    aborted_transactions: int = 0


def summarize_replica(replica: FoundReplica) -> Iterator[SegmentSummary]:
    """Summarize a replica's files, oldest first; one that retention removes meanwhile is left out.

    Raises:
        SegmentBusyError: a running broker writes too much for the active segment to be copied.
        StorageError: a file is out of reach.
    """
    for path in replica.segments:
        try:
            yield _summary(replica, path)
        except FileNotFoundError:
            continue
    for path in replica.damaged:
        name = path.name.removesuffix(segments.DAMAGED_SUFFIX)
        yield SegmentSummary(
            replica.topic,
            replica.partition,
            path,
            SegmentState.PUT_ASIDE,
            int(name) if name.isdecimal() else 0,
            path.stat().st_size,
        )


def _summary(replica: FoundReplica, path: Path) -> SegmentSummary:
    base_offset = segments.required_base_offset(path)
    size_bytes = path.stat().st_size + _write_ahead_log_bytes(path)
    try:
        with open_segment(path) as opened:
            rows = opened.connection.execute(
                "SELECT count(*), coalesce(sum(record_count), 0), min(max_timestamp), "
                "max(max_timestamp) FROM batches"
            ).fetchall()
            last = opened.connection.execute(
                "SELECT last_offset, leader_epoch FROM batches ORDER BY base_offset DESC LIMIT 1"
            ).fetchall()
            aborted = read_aborts(opened.connection).aborted_count
            state = SegmentState.SEALED if opened.sealed else SegmentState.ACTIVE
    except sqlite.DriverError as error:
        if not sqlite.is_damage(error):
            raise sqlite.storage_error(path, "read", error) from error
        return SegmentSummary(
            replica.topic,
            replica.partition,
            path,
            SegmentState.UNREADABLE,
            base_offset,
            size_bytes,
        )
    [(batches, records, first_timestamp, last_timestamp)] = rows
    return SegmentSummary(
        replica.topic,
        replica.partition,
        path,
        state,
        base_offset,
        size_bytes,
        end_offset=last[0][0] + 1 if last else base_offset,
        batches=batches,
        records=records,
        first_timestamp=first_timestamp,
        last_timestamp=last_timestamp,
        leader_epoch=last[0][1] if last else None,
        aborted_transactions=aborted,
    )


def _write_ahead_log_bytes(path: Path) -> int:
    try:
        return path.with_name(path.name + "-wal").stat().st_size
    except FileNotFoundError:
        return 0
