"""Is a segment what was written? Every finding names the file and, where it is known, the offset.

A broker stops at the first damaged batch, because nothing behind it may be served. An operator
wants to know how much there is, so this goes on: each batch's CRC-32C, its columns against its
header, whether it follows the one before, the leader epochs, the snapshot that the segment begins
with, whether segments follow one another, and SQLite's own integrity check, which sees the pages
that no batch's CRC covers.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ottla_broker.storage import segment as segments
from ottla_broker.storage import sqlite
from ottla_broker.storage.segment import SegmentIdentity
from ottla_broker.storage.stored_batch import COLUMNS, Row, verified_batch
from ottla_cluster.replication.leader_epochs import LeaderEpochs
from ottla_ops.segments.found_segments import FoundReplica
from ottla_ops.segments.segment_snapshot import OpenedSegment, open_segment
from ottla_protocol.errors import OttlaError, StorageError
from ottla_protocol.record_codec import decode_validated_batch

FINDINGS_MAX: Final = 100
"""Findings of one segment after which the rest of it is left alone."""

INFLATED_BYTES_MAX: Final = 256 << 20
"""What the records of one batch may take uncompressed, where they are decoded."""

_ALL = ", ".join(COLUMNS)
_BASE_OFFSET = COLUMNS.index("base_offset")
_LAST_OFFSET = COLUMNS.index("last_offset")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it was written; `offset` is None where none can be named."""

    path: Path
    offset: int | None
    reason: str


@dataclass(slots=True)
class SegmentVerification:
    """What one file holds and what is wrong with it.

    Attributes:
        path: the file.
        sealed: whether it will never be written again.
        base_offset, end_offset: its first offset, and the one after the last that was read.
        batches, records: how many there are, the damaged ones left out.
        suspect_tail: the last transaction in the write-ahead log is not whole. That is what a
            running broker's commit looks like, or one that a loss of power cut short; it is damage
            only if it was acknowledged, which the file cannot tell.
        findings: what is wrong, in the order of the file.
        is_complete: False when the rest could not be read, or after FINDINGS_MAX findings.
    """

    path: Path
    sealed: bool
    base_offset: int
    end_offset: int
    batches: int = 0
    records: int = 0
    suspect_tail: bool = False
    findings: list[Finding] = field(default_factory=list)
    is_complete: bool = True
    has_gaps: bool = False

    def find(self, offset: int | None, reason: str) -> None:
        """Note what is wrong."""
        self.findings.append(Finding(self.path, offset, reason))


def verify_replica(replica: FoundReplica, *, decode: bool = False) -> Iterator[SegmentVerification]:
    """Verify a replica's segments, oldest first, and that they follow one another.

    A segment that retention removes meanwhile is left out.

    Args:
        replica: what to read.
        decode: decode every record too: a batch with a good CRC may hold what its producer got
            wrong, since brokers do not look inside.

    Raises:
        SegmentBusyError: a running broker writes too much for the active segment to be copied.
    """
    identity = SegmentIdentity(replica.topic, replica.topic_id, replica.partition)
    previous: SegmentVerification | None = None
    for path in replica.segments:
        try:
            current = verify_segment(path, identity, decode=decode)
        except FileNotFoundError:
            continue
        if previous is not None and previous.is_complete:
            _check_succession(previous, current)
        yield current
        previous = current


def verify_segment(
    path: Path, identity: SegmentIdentity, *, decode: bool = False
) -> SegmentVerification:
    """Verify one file; see `verify_replica`.

    Raises:
        FileNotFoundError: it is gone.
        SegmentBusyError: it cannot be copied.
    """
    base_offset = segments.required_base_offset(path)
    result = SegmentVerification(path, segments.is_sealed(path), base_offset, base_offset)
    try:
        with open_segment(path) as opened:
            result.sealed = opened.sealed
            _verify_opened(opened, identity, result, decode=decode)
    except sqlite.DriverError as error:
        if not sqlite.is_damage(error):
            raise sqlite.storage_error(path, "read", error) from error
        result.find(result.end_offset, f"SQLite: {error}")
        result.is_complete = False
    return result


def _verify_opened(
    opened: OpenedSegment, identity: SegmentIdentity, result: SegmentVerification, *, decode: bool
) -> None:
    connection, path = opened.connection, opened.path
    if opened.wal.lost:
        result.find(None, "synced transactions in the write-ahead log are damaged")
    result.suspect_tail = opened.wal.suspect_tail
    try:
        found = segments.read_identity(connection, path)
    except StorageError as error:
        result.find(None, _reason(error, path))
        result.is_complete = False
        return
    if found != identity:
        result.find(None, f"belongs to {found}, not to {identity}")
    try:
        segments.read_snapshot(connection, path)
    except StorageError as error:
        result.find(result.base_offset, _reason(error, path))
    result.has_gaps = bool(segments.get_meta(connection, segments.HAS_GAPS))
    _verify_rows(connection, result, decode=decode)
    if not result.is_complete:
        return
    verified_end = segments.get_meta(connection, segments.VERIFIED_END)
    if verified_end is not None and verified_end > result.end_offset:
        result.find(result.end_offset, f"batches up to offset {verified_end} were here once")
    for (line,) in connection.execute(f"PRAGMA integrity_check({FINDINGS_MAX})").fetchall():
        if line != "ok":
            result.find(None, f"SQLite: {' '.join(str(line).split())}")


def _verify_rows(connection: Any, result: SegmentVerification, *, decode: bool) -> None:
    """Read every batch; `end_offset` follows the last one, damaged or not."""
    epochs = segments.read_epochs(connection)
    cursor = connection.execute(
        f"SELECT {_ALL} FROM batches ORDER BY base_offset"  # noqa: S608  constant names
    )
    for row in cursor:
        if len(result.findings) >= FINDINGS_MAX:
            result.is_complete = False
            break
        base_offset = row[_BASE_OFFSET]
        if base_offset < result.end_offset:
            result.find(base_offset, f"overlaps the batch that ends at {result.end_offset - 1}")
        elif base_offset > result.end_offset and not result.has_gaps:
            result.find(
                result.end_offset, f"offsets {result.end_offset} to {base_offset - 1} are missing"
            )
        _verify_batch(row, epochs, result, decode=decode)
        last_offset = row[_LAST_OFFSET]
        is_plausible = isinstance(last_offset, int) and last_offset >= base_offset
        result.end_offset = (last_offset if is_plausible else base_offset) + 1
    cursor.close()


def _verify_batch(
    row: Row, epochs: LeaderEpochs, result: SegmentVerification, *, decode: bool
) -> None:
    try:
        batch, header = verified_batch(result.path, row)
        if decode:
            decode_validated_batch(batch.data, header, max_inflated_bytes=INFLATED_BYTES_MAX)
    except OttlaError as error:
        result.find(row[_BASE_OFFSET], _reason(error, result.path))
        return
    if batch.leader_epoch != epochs.epoch_at(batch.base_offset):
        result.find(
            batch.base_offset,
            f"leader epoch {batch.leader_epoch}, where the segment's table says "
            f"{epochs.epoch_at(batch.base_offset)}",
        )
    result.batches += 1
    result.records += header.record_count


def _check_succession(previous: SegmentVerification, current: SegmentVerification) -> None:
    if current.base_offset < previous.end_offset:
        current.find(
            current.base_offset,
            f"overlaps {previous.path.name}, which ends at offset {previous.end_offset - 1}",
        )
    elif current.base_offset > previous.end_offset and not previous.has_gaps:
        current.find(
            previous.end_offset,
            f"offsets {previous.end_offset} to {current.base_offset - 1} are missing "
            f"after {previous.path.name}",
        )


def _reason(error: OttlaError, path: Path) -> str:
    """The detail without the file and offset that the finding names itself."""
    detail = error.detail.removeprefix(f"{path}: ")
    offset = error.members.get("offset")
    return detail.removeprefix(f"damaged at offset {offset}: ")
