"""Opening a partition's directory after a clean stop, a crash or damage.

What a crash can leave: a file that was being made (removed), batches in the write-ahead log
(replayed by SQLite), a segment sealed without a successor, or several, newest last (each is whole).
What a disk can do besides: SQLite ends its replay silently at the first bad byte of the log, and a
flipped bit in the file changes a batch or hides rows. So after anything but a clean stop every
batch past the last verified offset is read: its CRC, its columns against its header, and whether
it follows the one before. Then SQLite checks the pages: what is wrong in a list of free room shows
in no batch, until the next one is written there. The log is cut at the first batch that fails, and
the report says so: a replica with damage must refetch and never lead.

A damaged file is not repaired in place, since deleting rows through damaged pages can destroy good
ones: the good rows are copied into a new file that replaces it, and the old one is kept under
another name for the operator.

Everything here blocks and runs on a thread.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ottla_broker.storage import segment as segments
from ottla_broker.storage import sqlite
from ottla_broker.storage.disk_full import is_disk_full
from ottla_broker.storage.log_state import LogState, StateLimits, empty_state, load_state
from ottla_broker.storage.loss_note import is_loss_noted, note_loss
from ottla_broker.storage.segment import Segment, SegmentIdentity
from ottla_broker.storage.segment_header import check_header
from ottla_broker.storage.segment_meta import HAS_GAPS, VERIFIED_END, get_meta
from ottla_broker.storage.segment_pages import page_findings
from ottla_broker.storage.segment_rebuild import (
    is_damage,
    is_marked_for_rebuild,
    keep_good_rows,
    open_state,
    read_state,
)
from ottla_broker.storage.segment_replacement import finish_replacements
from ottla_broker.storage.segment_snapshot import Snapshot, read_epochs, read_snapshot
from ottla_broker.storage.stored_batch import (
    COLUMNS,
    DamagedSegmentError,
    StoredBatch,
    damaged,
    verified_batch,
)
from ottla_broker.storage.wal_inspection import WalState, inspect_wal

_ALL = ", ".join(COLUMNS)
"""Columns of `batches` as a select list."""


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """What opening the log found.

    `damaged_from` is the first offset that was, or may have been, in the log and is not any more;
    None when nothing points to a loss. `suspect_tail` says that the last transaction in the
    write-ahead log was whole in length but failed its checksum: after a loss of power that may be
    a commit that never finished, and was then never acknowledged, or damage to one that was.
    """

    end_offset: int
    verified_batches: int = 0
    damaged_from: int | None = None
    suspect_tail: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RecoveredLog:
    """The segments, oldest first, the last one active, and the state at the end."""

    segments: list[Segment]
    state: LogState
    report: RecoveryReport


def recover(
    directory: Path,
    identity: SegmentIdentity,
    durability: sqlite.Durability,
    limits: StateLimits,
    *,
    first_offset: int = 0,
) -> RecoveredLog:
    """Open every segment of a directory, or begin an empty log at `first_offset`.

    Raises:
        StorageError: a file belongs to another topic id, has a newer format, or cannot be used.
    """
    try:
        recovered = _recover(directory, identity, durability, limits, first_offset)
        return _with_earlier_loss(directory, recovered)
    except (sqlite.DriverError, OSError) as error:
        raise sqlite.storage_error(directory, "recovery", error) from error


def _with_earlier_loss(directory: Path, recovered: RecoveredLog) -> RecoveredLog:
    """Report a loss of an earlier opening that nobody has written down."""
    report = recovered.report
    if report.reason or not is_loss_noted(directory):
        return recovered
    reason = "it was cut at damage when it was opened before"
    return replace(recovered, report=replace(report, damaged_from=report.end_offset, reason=reason))


def _recover(
    directory: Path,
    identity: SegmentIdentity,
    durability: sqlite.Durability,
    limits: StateLimits,
    first_offset: int,
) -> RecoveredLog:
    paths = _remove_leftovers(directory)
    if not paths:
        path = segments.segment_path(directory, first_offset)
        return _begin(path, identity, durability, limits)
    for path in paths[:-1]:
        _require_sealed(path, durability)
    active_path = paths[-1]
    opened = _open_clean(active_path, identity, limits)
    if opened is None:
        previous = paths[-2] if len(paths) > 1 else None
        was_sealed = segments.is_sealed(active_path)
        try:
            opened = _open_unclean(active_path, identity, durability, previous, limits)
        except (sqlite.DriverError, OSError) as error:
            if not is_disk_full(error):
                raise
            if was_sealed:
                segments.seal_again(active_path)
            opened = _open_clean(active_path, identity, limits, has_no_room=True)
            if opened is None:
                raise
    state, report = opened
    log_segments = [
        Segment(
            path=path,
            base_offset=segments.required_base_offset(path),
            identity=identity,
            durability=durability,
            # The last one, too, where there was no room to make it writable: that is tried again
            # when it is written.
            sealed=segments.is_sealed(path),
            size_bytes=path.stat().st_size if path != active_path else state.fill.bytes_used,
        )
        for path in paths
    ]
    return RecoveredLog(log_segments, state, report)


def _begin(
    path: Path, identity: SegmentIdentity, durability: sqlite.Durability, limits: StateLimits
) -> RecoveredLog:
    """Make the first segment of a log that has none: there is nothing to recover."""
    segments.create_file(path, identity, Snapshot())
    base_offset = segments.required_base_offset(path)
    segment = Segment(path, base_offset, identity, durability, sealed=False)
    return RecoveredLog(
        [segment], empty_state(base_offset, limits), RecoveryReport(end_offset=base_offset)
    )


def _open_clean(
    path: Path, identity: SegmentIdentity, limits: StateLimits, *, has_no_room: bool = False
) -> tuple[LogState, RecoveryReport] | None:
    """Open a file that was closed in order, without writing to it; None for any other.

    Where the disk has no room, also one that is sealed, or holds batches that no close has marked
    as verified; they are read each time then.

    Without a log or a journal beside it the file is all that there is. A broker with thousands of
    idle partitions opens them like this, at a small part of the price.
    """
    if any(sidecar.exists() for sidecar in sqlite.sidecars(path)):
        return None
    if segments.is_sealed(path) and not has_no_room:
        return None
    if is_marked_for_rebuild(path):
        return None
    try:
        check_header(path)
        with closing(sqlite.connect_sealed(path)) as connection:
            found = segments.read_identity(connection, path)
            end_offset, batches, damage = _verify_rows(connection, path)
            if (
                found != identity
                or damage is not None
                or (batches > 0 and not has_no_room)
                or segments.has_epochs_after(connection, end_offset)
            ):
                # The other way says what is wrong, or writes down what was found.
                return None
            return load_state(connection, path, limits), RecoveryReport(
                end_offset, verified_batches=batches
            )
    except Exception as error:
        if not is_damage(error):
            raise
        return None


def _open_unclean(
    path: Path,
    identity: SegmentIdentity,
    durability: sqlite.Durability,
    previous: Path | None,
    limits: StateLimits,
) -> tuple[LogState, RecoveryReport]:
    """Open a file that may have a log to replay, or be damaged."""
    verification = _verify_active(path, identity, durability)
    state = None
    if verification.damage is None:
        try:
            state = open_state(path, durability, limits)
        except Exception as error:
            if not is_damage(error):
                raise
            # Below the last verified offset, which nobody has read.
            verification = replace(verification, damage=error, good_end=None)
    if state is None:
        # From here on the log looks sound.
        note_loss(path.parent)
        keep_good_rows(path, identity, durability, previous, limits, verification.good_end)
        state = read_state(path, limits)
    return state, _report(verification, state.next_offset)


@dataclass(frozen=True, slots=True)
class _Verification:
    """`damage` is why batches from `good_end` on are not good; None where it cannot say."""

    good_end: int | None = None
    batches: int = 0
    damage: Exception | None = None
    wal: WalState = field(default_factory=WalState)


def _verify_active(
    path: Path, identity: SegmentIdentity, durability: sqlite.Durability
) -> _Verification:
    """Let SQLite replay its log, then read every batch past the last verified offset."""
    base_offset = segments.required_base_offset(path)
    if segments.is_sealed(path):
        segments.unseal(path)
    if is_marked_for_rebuild(path):
        return _Verification(damage=damaged(path, None, "a commit came upon damage"))
    try:
        check_header(path)
        with closing(sqlite.connect_active(path, durability)) as connection:
            found = segments.read_identity(connection, path)
            if found != identity:
                # A file of another partition, whose batches are good ones and not ours.
                error = damaged(path, base_offset, f"it belongs to {found}, not to {identity}")
                return _Verification(base_offset, damage=error)
            wal = inspect_wal(connection, path)
            if wal.lost:
                # What shows it goes with the write-ahead log.
                note_loss(path.parent)
            read_snapshot(connection, path)
            end_offset, batches, damage = _verify_rows(connection, path)
            return _Verification(end_offset, batches, damage or _page_damage(connection, path), wal)
    except Exception as error:
        if not is_damage(error):
            raise
        return _Verification(damage=error)


def _page_damage(connection: Any, path: Path) -> Exception | None:
    """What SQLite finds wrong with the pages."""
    findings = page_findings(connection)
    return damaged(path, None, f"SQLite: {findings[0]}") if findings else None


def _verify_rows(connection: Any, path: Path) -> tuple[int, int, Exception | None]:
    """The end of the good batches, how many were read, and the damage after them if any."""
    base_offset = segments.required_base_offset(path)
    has_gaps = bool(get_meta(connection, HAS_GAPS))
    verified_end = get_meta(connection, VERIFIED_END) or base_offset
    expected = base_offset
    last_before = connection.execute(
        "SELECT last_offset FROM batches WHERE base_offset < ? ORDER BY base_offset DESC LIMIT 1",
        (verified_end,),
    ).fetchall()
    if last_before:
        expected = last_before[0][0] + 1
    if expected != verified_end and not has_gaps:
        return expected, 0, damaged(path, expected, f"the log was verified up to {verified_end}")
    batches = 0
    epochs = read_epochs(connection)
    try:
        for batch in read_verified(connection, path, verified_end):
            if batch.base_offset < expected or (batch.base_offset > expected and not has_gaps):
                raise damaged(path, expected, f"the next batch begins at {batch.base_offset}")
            if batch.leader_epoch != epochs.epoch_at(batch.base_offset):
                raise damaged(path, expected, "the leader epochs do not have the batch's")
            batches += 1
            expected = batch.last_offset + 1
    except DamagedSegmentError as error:
        return expected, batches, error
    except sqlite.DriverError as error:
        if not sqlite.is_damage(error):
            raise
        return expected, batches, error
    return expected, batches, None


def read_verified(connection: Any, path: Path, offset: int) -> Iterator[StoredBatch]:
    """Every batch that begins at `offset` or later; DamagedSegmentError at the first bad one."""
    cursor = connection.execute(
        f"SELECT {_ALL} FROM batches WHERE base_offset >= ? "  # noqa: S608 # constant names
        "ORDER BY base_offset",
        (offset,),
    )
    for row in cursor:
        yield verified_batch(path, row)[0]


def _report(verification: _Verification, end_offset: int) -> RecoveryReport:
    if verification.damage is not None:
        reason = str(verification.damage)
    elif verification.wal.lost:
        reason = "synced transactions in the write-ahead log are damaged"
    else:
        reason = ""
    return RecoveryReport(
        end_offset,
        verified_batches=verification.batches,
        damaged_from=end_offset if reason else None,
        suspect_tail=verification.wal.suspect_tail,
        reason=reason,
    )


def _require_sealed(path: Path, durability: sqlite.Durability) -> None:
    """Seal an older segment that is not: a copy or a restore may have lost its mode."""
    if segments.is_sealed(path):
        return
    with closing(sqlite.connect_active(path, durability)) as connection:
        segments.seal(connection, path, has_gaps=False)


def _remove_leftovers(directory: Path) -> list[Path]:
    """Remove half-made files and logs without their database; returns the segments in order."""
    finish_replacements(directory)
    paths = sorted(
        path for path in directory.iterdir() if segments.base_offset_of(path) is not None
    )
    names = {path.name for path in paths}
    removed = False
    for path in directory.iterdir():
        owner = path.name
        for suffix in sqlite.SIDECAR_SUFFIXES:
            owner = owner.removesuffix(suffix)
        if owner.endswith(segments.CREATING_SUFFIX) or (
            owner.endswith(segments.SUFFIX) and owner != path.name and owner not in names
        ):
            path.unlink()
            removed = True
    if paths or removed:
        # A process that ended may have left names that are not on the disk yet. A new log has none,
        # and is synced when it gets its first segment.
        sqlite.fsync_directory(directory)
    return paths
