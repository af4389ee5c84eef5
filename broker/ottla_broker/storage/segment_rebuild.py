"""Keeping of a damaged segment what is good: the batches before the first that is not.

A damaged file is not repaired in place, since deleting rows through damaged pages can destroy good
ones: the good rows are copied into a new file that replaces it. Each is checked on the way: CRC,
columns, continuity and leader epoch. What no batch's CRC covers comes from elsewhere where it is
damaged: the snapshot of producers and requests, and the epochs of earlier segments, are the state
at the end of the segment before. Of a compacted segment that lacks batches nothing is kept: among
its gaps nobody can tell which ones, and the rest would pass for whole.

The damaged file is kept under another name, at most DAMAGED_FILES_MAX of a replica, the newest: of
the only replica of a partition it may be all that is left of some records. A replica that has been
refilled by its leader removes them again (`remove_damaged_files`).

Everything here blocks and runs on a thread.
"""

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from ottla_broker.storage import segment as segments
from ottla_broker.storage import sqlite
from ottla_broker.storage.disk_full import is_disk_full
from ottla_broker.storage.log_state import LogState, StateLimits, load_state
from ottla_broker.storage.segment import SegmentIdentity
from ottla_broker.storage.segment_meta import BATCH_COUNT, HAS_GAPS, Transaction, get_meta, set_meta
from ottla_broker.storage.segment_snapshot import Snapshot, read_epochs, read_snapshot
from ottla_broker.storage.segment_transactions import index_aborted
from ottla_broker.storage.stored_batch import COLUMNS, DamagedSegmentError, Row, verified_batch
from ottla_cluster.replication.leader_epochs import EpochStart, LeaderEpochs
from ottla_protocol.errors import CorruptMessageError

DAMAGED_FILES_MAX: Final = 4
"""Damaged files that one replica keeps aside; an older one goes."""

REBUILD_SUFFIX: Final = "-rebuild"
"""Ending of the empty file beside a segment that must be rebuilt."""

_ALL: Final = ", ".join(COLUMNS)

_WRONG_CONTENT = (TypeError, ValueError, OverflowError, CorruptMessageError, msgspec.MsgspecError)
"""What code that expects a segment's columns raises when they hold something else."""


def is_damage(error: BaseException) -> bool:
    """Whether an error that came up while a segment was read means that its content is wrong."""
    return isinstance(error, (DamagedSegmentError, *_WRONG_CONTENT)) or sqlite.is_damage(error)


def keep_good_rows(
    path: Path,
    identity: SegmentIdentity,
    durability: sqlite.Durability,
    previous: Path | None,
    limits: StateLimits,
    good_end: int | None = None,
) -> None:
    """Replace a closed segment by one that holds its good rows, and keep the damaged file aside.

    The arguments and errors are those of `copy_good_rows`.
    """
    publish_good_rows(copy_good_rows(path, identity, durability, previous, limits, good_end), path)


def copy_good_rows(
    path: Path,
    identity: SegmentIdentity,
    durability: sqlite.Durability,
    previous: Path | None,
    limits: StateLimits,
    good_end: int | None = None,
) -> Path:
    """Copy the good rows of a closed segment to a file beside it, for `publish_good_rows`.

    The copy has no epochs that begin behind its rows, and its end is marked as verified.

    Args:
        path: the segment; writable and in WAL mode, or sealed.
        identity: whose it is.
        durability: of the log.
        previous: the segment before; None when this is the first.
        limits: bounds of the state that is rebuilt.
        good_end: keep no row at or above this offset; None for all good ones.

    Raises:
        DriverError, OSError: the disk failed, or has no room, which is no damage; the segment is
            as it was.
    """
    base_offset = segments.required_base_offset(path)
    before = None if previous is None else _state_at_end(previous, limits)
    creating = segments.creating_path(path)
    was_sealed = segments.is_sealed(path)
    if was_sealed:
        segments.unseal(path)
    try:
        try:
            with closing(sqlite.connect_active(path, durability)) as connection:
                snapshot, has_gaps = _description(connection, path, base_offset, before)
                if was_sealed and _lacks_batches(connection):
                    good_end = base_offset
                rows = _good_rows(connection, path, base_offset, good_end, has_gaps=has_gaps)
                finish = partial(_finish_copy, snapshot, base_offset, has_gaps=has_gaps)
                segments.fill_file(creating, identity, snapshot, rows, finish)
        except Exception as error:
            if not is_damage(error):
                raise
            # Nothing of it can be opened: the log ends where the previous segment does.
            snapshot = Snapshot() if before is None else before.snapshot()
            finish = partial(_finish_copy, snapshot, base_offset, has_gaps=False)
            segments.fill_file(creating, identity, snapshot, (), finish)
    except BaseException:
        if was_sealed:
            segments.seal_again(path)
        raise
    return creating


def _finish_copy(snapshot: Snapshot, base_offset: int, connection: Any, *, has_gaps: bool) -> None:
    index_aborted(connection, snapshot)
    end_offset = segments.end_offset_of(connection, base_offset)
    segments.drop_epochs_after(connection, end_offset)
    segments.mark_verified(connection, end_offset)
    if has_gaps:
        set_meta(connection, HAS_GAPS, 1)


def publish_good_rows(copied: Path, path: Path) -> None:
    """Put what `copy_good_rows` has made in the segment's place, and keep that aside."""
    keep_aside(path)
    segments.publish_file(copied, path)
    _mark_of(path).unlink(missing_ok=True)


def mark_for_rebuild(path: Path) -> None:
    """Have the next recovery copy the good rows of this segment, whatever its rows look like.

    A commit came upon damage in pages that no batch lies in, such as a page's list of free room:
    nobody who reads would see it, and every commit would fail again.
    """
    _mark_of(path).touch()
    sqlite.fsync_directory(path.parent)


def is_marked_for_rebuild(path: Path) -> bool:
    """Whether `mark_for_rebuild` was called, and the segment not rebuilt since."""
    return _mark_of(path).exists()


def _mark_of(path: Path) -> Path:
    return path.with_name(path.name + REBUILD_SUFFIX)


def open_state(path: Path, durability: sqlite.Durability, limits: StateLimits) -> LogState:
    """The log's state at the end of an active segment whose rows are good.

    Epochs that were recorded ahead of batches which never became durable are removed, and the end
    is marked as verified; where there is no room for the mark, the next start reads the rows again.
    """
    with closing(sqlite.connect_active(path, durability)) as connection:
        end_offset = segments.end_offset_of(connection, segments.required_base_offset(path))
        try:
            with Transaction(connection):
                segments.drop_epochs_after(connection, end_offset)
                segments.mark_verified(connection, end_offset)
        except sqlite.DriverError as error:
            if not is_disk_full(error) or segments.has_epochs_after(connection, end_offset):
                raise
        return load_state(connection, path, limits)


def read_state(path: Path, limits: StateLimits) -> LogState:
    """The log's state at the end of a closed segment with nothing beside it; writes nothing."""
    with closing(sqlite.connect_sealed(path)) as connection:
        return load_state(connection, path, limits)


def keep_aside(path: Path) -> None:
    """Keep a damaged file under its quarantine name, replacing an earlier one."""
    quarantined = segments.quarantine_name(path)
    quarantined.unlink(missing_ok=True)
    kept = sorted(damaged_files(path.parent), key=lambda each: each.stat().st_mtime_ns)
    for oldest in kept[: max(0, len(kept) + 1 - DAMAGED_FILES_MAX)]:
        oldest.unlink()
    os.link(path, quarantined)


def damaged_files(directory: Path) -> list[Path]:
    """The files of a replica that were put aside."""
    return sorted(directory.glob(f"*{segments.DAMAGED_SUFFIX}"))


def remove_damaged_files(directory: Path) -> int:
    """Remove what was put aside, for what it held has been fetched again; returns how many."""
    found = damaged_files(directory)
    for path in found:
        # The replica may be removed at the same time.
        path.unlink(missing_ok=True)
    return len(found)


def _description(
    connection: Any, path: Path, base_offset: int, before: LogState | None
) -> tuple[Snapshot, bool]:
    """The snapshot that the segment begins with, its own epochs included; and whether it has gaps.

    What is damaged of it is taken from the end of the segment before.
    """
    try:
        snapshot = read_snapshot(connection, path)
        memory = snapshot
        epochs = snapshot.leader_epochs
    except Exception as error:
        if not is_damage(error):
            raise
        memory = Snapshot() if before is None else before.snapshot()
        epochs = _readable_epochs(connection)
    if before is not None:
        inherited = before.leader_epochs.truncate_to(base_offset).entries
        epochs = (*inherited, *(entry for entry in epochs if entry.start_offset >= base_offset))
    return replace(memory, leader_epochs=_rising(epochs)), _has_gaps(connection)


def _readable_epochs(connection: Any) -> tuple[EpochStart, ...]:
    try:
        return read_epochs(connection).entries
    except Exception as error:
        if not is_damage(error):
            raise
        return ()


def _rising(epochs: tuple[EpochStart, ...]) -> tuple[EpochStart, ...]:
    """The entries up to the first that does not follow the one before it."""
    kept: list[EpochStart] = []
    for entry in epochs:
        if kept and (entry.epoch <= kept[-1].epoch or entry.start_offset <= kept[-1].start_offset):
            break
        kept.append(entry)
    return tuple(kept)


def _has_gaps(connection: Any) -> bool:
    try:
        return bool(get_meta(connection, HAS_GAPS))
    except Exception as error:
        if not is_damage(error):
            raise
        return False


def _lacks_batches(connection: Any) -> bool:
    """Whether fewer batches can be found than compaction has left in a sealed segment."""
    wanted = get_meta(connection, BATCH_COUNT)
    if wanted is None:
        return False
    try:
        [(count,)] = connection.execute("SELECT count(*) FROM batches").fetchall()
    except Exception as error:
        if not is_damage(error):
            raise
        return True
    return bool(count != wanted)


def _good_rows(
    connection: Any, path: Path, base_offset: int, good_end: int | None, *, has_gaps: bool
) -> Iterator[Row]:
    """The segment's rows, up to the first that is damaged or does not follow."""
    epochs = LeaderEpochs(_rising(_readable_epochs(connection)))
    expected = base_offset
    cursor = connection.execute(
        f"SELECT {_ALL} FROM batches ORDER BY base_offset"  # noqa: S608 # constant names
    )
    while True:
        try:
            row = cursor.fetchone()
            if row is None:
                return
            batch, _ = verified_batch(path, row)
        except Exception as error:
            if not is_damage(error):
                raise
            return
        if batch.base_offset < expected or (batch.base_offset > expected and not has_gaps):
            return
        if batch.leader_epoch != epochs.epoch_at(batch.base_offset):
            return
        if good_end is not None and batch.last_offset >= good_end:
            return
        expected = batch.last_offset + 1
        yield row


def _state_at_end(path: Path, limits: StateLimits) -> LogState | None:
    """The log's state at a sealed segment's end; None where that is damaged too."""
    try:
        return read_state(path, limits)
    except Exception as error:
        if not is_damage(error):
            raise
        return None
