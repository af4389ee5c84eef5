"""Opening a partition's directory after a clean stop, a crash or damage.

What a crash can leave: a file that was being made (removed), batches in the write-ahead log
(replayed by SQLite), a segment sealed without a successor, or several, newest last (each is whole).
What a disk can do besides: SQLite ends its replay silently at the first bad byte of the log, and a
flipped bit in the file changes a batch or hides rows. So after anything but a clean stop every
batch past the last verified offset is read: its CRC, its columns against its header, and whether
it follows the one before. The log is cut at the first that fails, and the report says so: a
replica with damage must refetch and never lead.

A damaged file is not repaired in place, since deleting rows through damaged pages can destroy good
ones: the good rows are copied into a new file that replaces it, and the old one is kept under
another name for the operator.

Everything here blocks and runs on a thread.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from ottla_broker.storage import segment as segments
from ottla_broker.storage import sqlite
from ottla_broker.storage.log_state import LogState, StateLimits, load_state
from ottla_broker.storage.segment import Segment, SegmentIdentity, Snapshot
from ottla_broker.storage.stored_batch import (
    COLUMNS,
    DamagedSegmentError,
    Row,
    StoredBatch,
    damaged,
    verified_batch,
)
from ottla_broker.storage.wal_inspection import WalState, inspect_wal
from ottla_protocol.errors import StorageError

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
) -> RecoveredLog:
    """Open every segment of a directory, or begin an empty log at offset 0.

    Raises:
        StorageError: a file belongs to another topic id, has a newer format, or cannot be used.
    """
    try:
        return _recover(directory, identity, durability, limits)
    except (sqlite.DriverError, OSError) as error:
        raise sqlite.storage_error(directory, "recovery", error) from error


def _recover(
    directory: Path,
    identity: SegmentIdentity,
    durability: sqlite.Durability,
    limits: StateLimits,
) -> RecoveredLog:
    paths = _remove_leftovers(directory)
    if not paths:
        paths = [segments.segment_path(directory, 0)]
        segments.create_file(paths[0], identity, Snapshot())
    for path in paths[:-1]:
        _require_sealed(path, durability)
    active_path = paths[-1]
    verification = _verify_active(active_path, identity, durability)
    if verification.damage is not None:
        previous = paths[-2] if len(paths) > 1 else None
        _replace_damaged(
            active_path, identity, durability, previous, limits, verification.end_offset
        )
    with closing(sqlite.connect_active(active_path, durability)) as connection:
        end_offset = segments.end_offset_of(connection, segments.required_base_offset(active_path))
        with segments.Transaction(connection):
            segments.drop_epochs_after(connection, end_offset)
            segments.mark_verified(connection, end_offset)
        state = load_state(connection, active_path, limits)
    report = _report(verification, end_offset)
    log_segments = [
        Segment(
            path=path,
            base_offset=segments.required_base_offset(path),
            identity=identity,
            durability=durability,
            sealed=path != active_path,
            size_bytes=path.stat().st_size if path != active_path else state.fill.bytes_used,
        )
        for path in paths
    ]
    return RecoveredLog(log_segments, state, report)


@dataclass(frozen=True, slots=True)
class _Verification:
    """`end_offset` follows the last good batch; `damage` is why the next one is not good."""

    end_offset: int
    batches: int = 0
    damage: Exception | None = None
    wal: WalState = field(default_factory=WalState)


def _verify_active(
    path: Path, identity: SegmentIdentity, durability: sqlite.Durability
) -> _Verification:
    """Let SQLite replay its log, then read every batch past the last verified offset."""
    if segments.is_sealed(path):
        segments.unseal(path)
    try:
        with closing(sqlite.connect_active(path, durability)) as connection:
            found = segments.read_identity(connection, path)
            if found != identity:
                raise StorageError(f"{path}: belongs to {found}, not to {identity}")
            wal = inspect_wal(connection, path)
            segments.read_snapshot(connection, path)
            end_offset, batches, damage = _verify_rows(connection, path)
            return _Verification(end_offset, batches, damage, wal)
    except sqlite.DriverError as error:
        if not sqlite.is_damage(error):
            raise
        return _Verification(segments.required_base_offset(path), damage=error)
    except DamagedSegmentError as error:
        return _Verification(segments.required_base_offset(path), damage=error)


def _verify_rows(connection: Any, path: Path) -> tuple[int, int, Exception | None]:
    """The end of the good batches, how many were read, and the damage after them if any."""
    base_offset = segments.required_base_offset(path)
    has_gaps = bool(segments.get_meta(connection, segments.HAS_GAPS))
    verified_end = segments.get_meta(connection, segments.VERIFIED_END) or base_offset
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
    epochs = segments.read_epochs(connection)
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


def _replace_damaged(
    path: Path,
    identity: SegmentIdentity,
    durability: sqlite.Durability,
    previous: Path | None,
    limits: StateLimits,
    good_end: int,
) -> None:
    """Put the batches below `good_end` into a new file, and keep the damaged one aside."""
    creating = None
    try:
        with closing(sqlite.connect_active(path, durability)) as connection:
            snapshot = segments.read_snapshot(connection, path)
            creating = segments.write_file(
                path, identity, snapshot, _good_rows(connection, path, good_end)
            )
    except (sqlite.DriverError, ValueError, StorageError, msgspec.MsgspecError) as error:
        if isinstance(error, sqlite.DriverError) and not sqlite.is_damage(error):
            raise
        # Not even the snapshot can be read: the log ends where the previous segment does.
        snapshot = Snapshot() if previous is None else _snapshot_at_end(previous, limits)
        creating = segments.write_file(path, identity, snapshot)
    segments.link_damaged(path)
    segments.publish_file(creating, path)


def _good_rows(connection: Any, path: Path, good_end: int) -> Iterator[Row]:
    """The segment's rows below `good_end`, up to the first that is damaged or does not follow.

    Those below the last verified offset have not been read before.
    """
    has_gaps = bool(segments.get_meta(connection, segments.HAS_GAPS))
    expected = segments.required_base_offset(path)
    cursor = connection.execute(
        f"SELECT {_ALL} FROM batches ORDER BY base_offset"  # noqa: S608 # constant names
    )
    while True:
        try:
            row = cursor.fetchone()
            if row is None:
                return
            batch, _ = verified_batch(path, row)
        except DamagedSegmentError:
            return
        except sqlite.DriverError as error:
            if not sqlite.is_damage(error):
                raise
            return
        if batch.base_offset < expected or (batch.base_offset > expected and not has_gaps):
            return
        if batch.last_offset >= good_end:
            return
        expected = batch.last_offset + 1
        yield row


def _snapshot_at_end(path: Path, limits: StateLimits) -> Snapshot:
    """The log's state at a sealed segment's end, as the snapshot of the next one."""
    with closing(sqlite.connect_sealed(path)) as connection:
        return load_state(connection, path, limits).snapshot()


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
    paths = sorted(
        path for path in directory.iterdir() if segments.base_offset_of(path) is not None
    )
    names = {path.name for path in paths}
    for path in directory.iterdir():
        owner = path.name
        for suffix in sqlite.SIDECAR_SUFFIXES:
            owner = owner.removesuffix(suffix)
        if owner.endswith(segments.CREATING_SUFFIX) or (
            owner.endswith(segments.SUFFIX) and owner != path.name and owner not in names
        ):
            path.unlink()
    sqlite.fsync_directory(directory)
    return paths
