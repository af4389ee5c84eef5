"""Is a segment what was written? Every finding names the file and, where it is known, the offset.

A reader stops at the first damaged batch, because nothing behind it may be served. Whoever verifies
wants to know how much there is, so this goes on: each batch's CRC-32C, its columns against its
header, whether it follows the one before, the leader epochs, the snapshot that the segment
begins with, and the aborted transactions.

A segment can be checked in steps: each begins at `SegmentVerification.end_offset`, and what is
between two steps may change at the log's end. Everything here runs on a connection's thread.
"""

from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ottla_broker.storage import segment as segments
from ottla_broker.storage import sqlite
from ottla_broker.storage.segment import SegmentIdentity
from ottla_broker.storage.segment_meta import BATCH_COUNT, HAS_GAPS, VERIFIED_END, get_meta
from ottla_broker.storage.segment_pages import (
    FINDINGS_MAX,
    page_findings,
    small_page_findings,
)
from ottla_broker.storage.segment_rebuild import is_damage
from ottla_broker.storage.segment_snapshot import read_epochs, read_snapshot
from ottla_broker.storage.segment_transactions import read_index, replayed, require_indexed
from ottla_broker.storage.stored_batch import COLUMNS, Row, verified_batch
from ottla_cluster.replication.leader_epochs import LeaderEpochs
from ottla_protocol.errors import CorruptMessageError, OttlaError, StorageError
from ottla_protocol.record_codec import decode_validated_batch

_ALL = ", ".join(COLUMNS)
_BASE_OFFSET = COLUMNS.index("base_offset")
_LAST_OFFSET = COLUMNS.index("last_offset")
_SIZE = COLUMNS.index("size")


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
        has_gaps: the segment says that offsets may be missing in it or behind it.
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

    def find_unreadable(self, error: BaseException) -> None:
        """Note that the rest cannot be read."""
        if isinstance(error, OttlaError):
            reason = _reason(error, self.path)
        else:
            by = "SQLite: " if isinstance(error, sqlite.DriverError) else ""
            reason = f"{by}{error}"
        self.find(self.end_offset, reason)
        self.is_complete = False


def check_description(
    connection: Any, identity: SegmentIdentity, result: SegmentVerification
) -> None:
    """Check what the segment says of itself: whose it is, and the state it begins with."""
    try:
        found = segments.read_identity(connection, result.path)
    except StorageError as error:
        result.find(None, _reason(error, result.path))
        result.is_complete = False
        return
    if found != identity:
        result.find(None, f"belongs to {found}, not to {identity}")
    try:
        read_snapshot(connection, result.path)
    except StorageError as error:
        result.find(result.base_offset, _reason(error, result.path))
    if result.sealed:
        try:
            read_index(connection, result.path)
        except StorageError as error:
            result.find(None, _reason(error, result.path))


def check_small_pages(connection: Any, result: SegmentVerification) -> None:
    """Have SQLite check the pages of all tables but the batches: a few, however long the file."""
    for finding in small_page_findings(connection):
        result.find(None, f"SQLite: {finding}")


def check_batches(
    connection: Any,
    result: SegmentVerification,
    *,
    max_bytes: int | None = None,
    decoded_bytes_max: int | None = None,
) -> tuple[int, bool]:
    """Read batches from `end_offset` on; it then follows the last one read, damaged or not.

    A batch that reaches `end_offset` from below is read too: the log's end may have been cut there
    and written anew since the step before.

    Args:
        connection: the driver connection.
        result: what is known of the segment; changed.
        max_bytes: about how much to read in this step, at least one batch; None for all.
        decoded_bytes_max: decode every record too, up to so many bytes of a batch uncompressed.

    Returns:
        Bytes read, and whether there may be more to read.
    """
    result.has_gaps = bool(get_meta(connection, HAS_GAPS))
    epochs = read_epochs(connection)
    result.end_offset = _start(connection, result.end_offset)
    cursor = connection.execute(
        f"SELECT {_ALL} FROM batches "  # noqa: S608  constant names
        "WHERE base_offset >= ? ORDER BY base_offset",
        (result.end_offset,),
    )
    read_bytes = 0
    try:
        for row in cursor:
            if len(result.findings) >= FINDINGS_MAX:
                result.is_complete = False
                return read_bytes, False
            _check_place(row, result)
            _check_batch(row, epochs, result, decoded_bytes_max)
            size_bytes = row[_SIZE]
            read_bytes += size_bytes if isinstance(size_bytes, int) and size_bytes > 0 else 1
            if max_bytes is not None and read_bytes >= max_bytes:
                return read_bytes, True
    finally:
        cursor.close()
    return read_bytes, False


def check_end(connection: Any, result: SegmentVerification) -> None:
    """Check, once all batches were read, that none is missing that was there once.

    Where offsets may be missing, a segment says how many batches compaction has left in it.
    """
    wanted = get_meta(connection, BATCH_COUNT)
    if result.sealed and wanted is not None:
        # One that was cut since, and is written again, has the number until it is sealed.
        [(count,)] = connection.execute("SELECT count(*) FROM batches").fetchall()
        if count != wanted:
            result.find(None, f"{count} batches, where compaction left {wanted}")
    if result.sealed and result.has_gaps:
        # The last batches may be gone by compaction.
        return
    verified_end = get_meta(connection, VERIFIED_END)
    if verified_end is not None and verified_end > result.end_offset:
        result.find(result.end_offset, f"batches up to offset {verified_end} were here once")


def check_aborted(connection: Any, result: SegmentVerification) -> None:
    """Check that the aborted transactions are those of the batches; it takes a look at all rows."""
    try:
        snapshot = read_snapshot(connection, result.path)
        require_indexed(connection, result.path, replayed(connection, snapshot))
    except (StorageError, CorruptMessageError) as error:
        result.find(None, _reason(error, result.path))


def check_pages(connection: Any, result: SegmentVerification) -> None:
    """Have SQLite check its pages, which no batch's CRC covers: it reads the whole file."""
    for finding in page_findings(connection):
        result.find(None, f"SQLite: {finding}")


def check_sealed_pages(path: Path) -> list[Finding]:
    """SQLite's check of a sealed file, over a connection of its own; blocking.

    Nothing for a file that has been removed meanwhile.

    Raises:
        StorageError: the file cannot be read, though it is not damaged.
    """
    result = SegmentVerification(path, sealed=True, base_offset=0, end_offset=0)
    try:
        with closing(sqlite.connect_sealed(path)) as connection:
            check_pages(connection, result)
    except (sqlite.DriverError, OSError, UnicodeDecodeError) as error:
        if sqlite.is_damage(error):
            result.find(None, f"SQLite: {error}")
        elif path.exists():
            raise sqlite.storage_error(path, "check pages", error) from error
    return result.findings


def check_succession(previous: SegmentVerification, current: SegmentVerification) -> None:
    """Check that the segment after one that was read to its end begins where that ends."""
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


def damage_of(error: BaseException) -> BaseException | None:
    """The error that says that a file is damaged, if this one does or was raised from such."""
    for each in (error.__cause__, error):
        if each is not None and is_damage(each):
            return each
    return None


def _start(connection: Any, offset: int) -> int:
    before = connection.execute(
        "SELECT base_offset, last_offset FROM batches WHERE base_offset < ? "
        "ORDER BY base_offset DESC LIMIT 1",
        (offset,),
    ).fetchall()
    return int(before[0][0]) if before and before[0][1] >= offset else offset


def _check_place(row: Row, result: SegmentVerification) -> None:
    base_offset, last_offset = row[_BASE_OFFSET], row[_LAST_OFFSET]
    if base_offset < result.end_offset:
        result.find(base_offset, f"overlaps the batch that ends at {result.end_offset - 1}")
    elif base_offset > result.end_offset and not result.has_gaps:
        result.find(
            result.end_offset, f"offsets {result.end_offset} to {base_offset - 1} are missing"
        )
    is_plausible = isinstance(last_offset, int) and last_offset >= base_offset
    result.end_offset = (last_offset if is_plausible else base_offset) + 1


def _check_batch(
    row: Row, epochs: LeaderEpochs, result: SegmentVerification, decoded_bytes_max: int | None
) -> None:
    try:
        batch, header = verified_batch(result.path, row)
        if decoded_bytes_max is not None:
            decode_validated_batch(batch.data, header, max_inflated_bytes=decoded_bytes_max)
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


def _reason(error: OttlaError, path: Path) -> str:
    """The detail without the file and offset that the finding names itself."""
    detail = error.detail.removeprefix(f"{path}: ")
    offset = error.members.get("offset")
    return detail.removeprefix(f"damaged at offset {offset}: ")
