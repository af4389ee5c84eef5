"""One segment of a partition's log: one SQLite file of consecutive record batches.

The newest segment is active: it is written, in WAL mode, by group commits. Older ones are sealed:
out of WAL, with a time index, read-only, so that sqlite3, Datasette and backups can open them.

A file is complete or absent: it is made under another name, with its leader epochs and with the
snapshot of producers and idempotent requests as of its first offset, and renamed into place. So
the newest segment alone, its snapshot (`segment_snapshot`) and its rows, rebuilds all state of the
log. Which transactions were aborted in it is in a table of its own (`segment_aborts`).

Functions that take a driver connection run on the connection's thread; the rest runs on the event
loop.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ottla_broker.storage import sqlite
from ottla_broker.storage.disk_full import is_disk_full
from ottla_broker.storage.policy.abort_index import IndexedAbort
from ottla_broker.storage.segment_aborts import SegmentAborts, insert_aborted, sum_up_aborted
from ottla_broker.storage.segment_header import check_header, check_length
from ottla_broker.storage.segment_meta import (
    BATCH_COUNT,
    HAS_GAPS,
    VERIFIED_END,
    Transaction,
    get_meta,
    set_meta,
)
from ottla_broker.storage.segment_snapshot import Snapshot, write_snapshot
from ottla_broker.storage.stored_batch import COLUMNS, DamagedSegmentError, Row
from ottla_cluster.replication.leader_epochs import EpochStart
from ottla_protocol.errors import StorageError

FORMAT_VERSION = 1
"""Version of the schema below, in `meta`; a newer one is refused."""

SUFFIX = ".sqlite"
CREATING_SUFFIX = ".sqlite.creating"
DAMAGED_SUFFIX = ".sqlite.damaged"

BASE_OFFSET_DIGITS = 20

_VARIABLES_MAX = 32_766
ROWS_PER_INSERT_MAX = _VARIABLES_MAX // len(COLUMNS)
"""Rows of one INSERT, by SQLite's limit on variables."""

# STRICT would refuse the NULLs of older writers; plain types suffice, the reader checks each row.
_SCHEMA = (
    """CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID""",
    """CREATE TABLE batches (
        base_offset INTEGER PRIMARY KEY,
        last_offset INTEGER NOT NULL,
        leader_epoch INTEGER NOT NULL,
        max_timestamp INTEGER NOT NULL,
        record_count INTEGER NOT NULL,
        producer_id INTEGER NOT NULL,
        producer_epoch INTEGER NOT NULL,
        base_sequence INTEGER NOT NULL,
        attributes INTEGER NOT NULL,
        idempotency BLOB,
        size INTEGER NOT NULL,
        data BLOB NOT NULL)""",
    """CREATE TABLE leader_epochs (epoch INTEGER PRIMARY KEY, start_offset INTEGER NOT NULL)""",
    """CREATE TABLE producer_snapshot (
        position INTEGER PRIMARY KEY,
        producer_id INTEGER NOT NULL,
        epoch INTEGER NOT NULL,
        last_batches BLOB NOT NULL,
        transaction_start INTEGER,
        last_timestamp INTEGER NOT NULL)""",
    """CREATE TABLE idempotency_snapshot (
        position INTEGER PRIMARY KEY,
        key_digest BLOB NOT NULL,
        body_digest BLOB NOT NULL,
        base_offset INTEGER NOT NULL,
        last_offset INTEGER NOT NULL,
        timestamp INTEGER NOT NULL,
        seen_ms INTEGER NOT NULL)""",
    """CREATE TABLE aborted_transactions (
        last_offset INTEGER PRIMARY KEY,
        producer_id INTEGER NOT NULL,
        first_offset INTEGER NOT NULL,
        last_stable_offset INTEGER NOT NULL)""",
)

_TIME_INDEX = (
    # Those of an earlier sealing, or of an earlier version.
    "DROP TABLE IF EXISTS time_index",
    "DROP INDEX IF EXISTS batches_by_time",
    "CREATE TABLE time_index (max_timestamp INTEGER PRIMARY KEY, base_offset INTEGER NOT NULL)",
    """INSERT INTO time_index SELECT max_timestamp, base_offset FROM (
        SELECT base_offset, max_timestamp, max(max_timestamp) OVER (
            ORDER BY base_offset ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
        FROM batches)
        WHERE before IS NULL OR max_timestamp > before ORDER BY base_offset""",
)
"""The batches that are later than all before them in the segment, by time.

The first batch at or after some time is always one of them, however timestamps go back and forth.
"""


@dataclass(frozen=True, slots=True)
class SegmentIdentity:
    """Whose segment a file is."""

    topic: str
    topic_id: str
    partition: int


@dataclass(slots=True)
class Segment:
    """One file of the log. Mutable: the log that owns it keeps it in step with the file."""

    path: Path
    base_offset: int
    identity: SegmentIdentity
    durability: sqlite.Durability
    sealed: bool
    size_bytes: int = 0
    newest_timestamp: int | None = None
    """Of a sealed segment, in ms, once it has been asked for."""
    first_timestamp: int | None = None
    """As above, that of its first batch; -1 where that has none."""
    aborts: SegmentAborts | None = None
    """Of a sealed segment, once it has been asked for."""
    to_create: Snapshot | None = None
    """The state that a segment not made yet begins with; opening it makes the file."""

    async def open(self) -> sqlite.SegmentConnection:
        """Open the file's one connection; use the handle pool instead of calling this."""
        path, durability = self.path, self.durability
        identity, to_create = self.identity, self.to_create
        if to_create is not None:

            def create() -> Any:
                create_file(path, identity, to_create)
                return sqlite.connect_active(path, durability)

            return await sqlite.connect(path, create)
        if self.sealed:

            def map_whole() -> Any:
                check_header(path)
                check_length(path)
                return sqlite.connect_sealed(path)

            return await sqlite.connect(path, map_whole)
        return await sqlite.connect(path, lambda: sqlite.connect_active(path, durability))


def segment_path(directory: Path, base_offset: int) -> Path:
    """The file of the segment that begins at `base_offset`."""
    assert base_offset >= 0, base_offset
    return directory / f"{base_offset:0{BASE_OFFSET_DIGITS}d}{SUFFIX}"


def base_offset_of(path: Path) -> int | None:
    """The base offset in a segment's file name; None for any other file."""
    stem = path.name.removesuffix(SUFFIX)
    if stem == path.name or len(stem) != BASE_OFFSET_DIGITS or not stem.isdecimal():
        return None
    return int(stem)


def required_base_offset(path: Path) -> int:
    """The base offset of a path that is known to be a segment's."""
    base_offset = base_offset_of(path)
    assert base_offset is not None, path
    return base_offset


def creating_path(path: Path) -> Path:
    """Where the segment at `path` is made, before it gets its name."""
    return path.with_name(path.name.removesuffix(SUFFIX) + CREATING_SUFFIX)


def create_file(path: Path, identity: SegmentIdentity, snapshot: Snapshot) -> None:
    """Create an empty segment, durably and all at once. Blocking."""
    publish_file(write_file(path, identity, snapshot), path)


def write_file(
    path: Path, identity: SegmentIdentity, snapshot: Snapshot, rows: Iterable[Row] = ()
) -> Path:
    """Write a whole segment under another name, synced; returns that name. Blocking.

    Args:
        path: the segment's own name, for `publish_file`.
        identity: for `meta`.
        snapshot: the log's state at the segment's base offset.
        rows: batches to copy in, for recovery.
    """
    creating = creating_path(path)
    fill_file(creating, identity, snapshot, rows)
    return creating


def fill_file(
    path: Path,
    identity: SegmentIdentity,
    snapshot: Snapshot,
    rows: Iterable[Row],
    finish: Callable[[Any], None] = lambda _: None,
) -> None:
    """Write a whole segment, synced, in place of any file of that name. Blocking.

    Nothing is left of one that fails, not even where its rows do.

    Args:
        path: not the segment's own name: see `publish_file`.
        identity: for `meta`.
        snapshot: the log's state at the segment's base offset.
        rows: its batches.
        finish: called with the connection behind the last row, before all of it is committed.
    """
    path.unlink(missing_ok=True)
    try:
        _fill_new(path, identity, snapshot, rows, finish)
    except BaseException:
        # Half a file would keep the room that it did not find enough of.
        path.unlink(missing_ok=True)
        raise


def _fill_new(
    path: Path,
    identity: SegmentIdentity,
    snapshot: Snapshot,
    rows: Iterable[Row],
    finish: Callable[[Any], None],
) -> None:
    with closing(sqlite.connect_new(path)) as connection:
        # The file is synced once, below: nobody knows it before that.
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("BEGIN")
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.executemany(
            "INSERT INTO meta VALUES (?, ?)",
            (
                ("format_version", FORMAT_VERSION),
                ("topic", identity.topic),
                ("topic_id", identity.topic_id),
                ("partition", identity.partition),
            ),
        )
        write_snapshot(connection, snapshot)
        for row in rows:
            connection.execute(_insert_statement(1), row)
        finish(connection)
        connection.execute("COMMIT")
    sqlite.fsync_file(path)


def publish_file(creating: Path, path: Path) -> None:
    """Give a written segment its own name, durably, in place of any file there. Blocking."""
    # A log left by an earlier file of this name would be replayed into the new one.
    for sidecar in sqlite.sidecars(path):
        sidecar.unlink(missing_ok=True)
    creating.replace(path)
    sqlite.fsync_directory(path.parent)


def read_identity(connection: Any, path: Path) -> SegmentIdentity:
    """Whose segment this is.

    Raises:
        StorageError: the format is newer than this program's.
        DamagedSegmentError: `meta` misses rows.
    """
    meta = dict(connection.execute("SELECT name, value FROM meta").fetchall())
    try:
        version = meta["format_version"]
        identity = SegmentIdentity(meta["topic"], meta["topic_id"], meta["partition"])
    except KeyError as error:
        raise DamagedSegmentError(f"{path}: meta has no {error}", path=path) from error
    if version != FORMAT_VERSION:
        raise StorageError(f"{path}: format version {version}, this broker reads {FORMAT_VERSION}")
    return identity


def insert(
    connection: Any,
    rows: Sequence[Row],
    epochs: Sequence[EpochStart],
    *,
    has_gaps: bool,
    aborted: Sequence[IndexedAbort] = (),
) -> None:
    """Commit one group: all rows, epochs and aborted transactions or nothing, and one fsync."""
    if len(rows) <= ROWS_PER_INSERT_MAX and not (epochs or has_gaps or aborted):
        insert_rows(connection, rows)
        return
    with Transaction(connection):
        if has_gaps:
            set_meta(connection, HAS_GAPS, 1)
        for epoch in epochs:
            # As LeaderEpochs.assign: an epoch replaces those that appended nothing.
            connection.execute(
                "DELETE FROM leader_epochs WHERE start_offset >= ?", (epoch.start_offset,)
            )
            # The one before them may be the epoch itself, which goes on then.
            connection.execute(
                "INSERT OR IGNORE INTO leader_epochs VALUES (?, ?)",
                (epoch.epoch, epoch.start_offset),
            )
        for start in range(0, len(rows), ROWS_PER_INSERT_MAX):
            insert_rows(connection, rows[start : start + ROWS_PER_INSERT_MAX])
        insert_aborted(connection, aborted)


def delete_from(connection: Any, offset: int) -> int:
    """Remove every batch that reaches `offset`, and every epoch that began there or later.

    Returns:
        Where the log ends now: `offset`, or the beginning of the batch that held it.
    """
    with Transaction(connection):
        # Batches do not overlap, so at most one begins below the offset and reaches it.
        found = connection.execute(
            "SELECT base_offset, last_offset FROM batches WHERE base_offset < ? "
            "ORDER BY base_offset DESC LIMIT 1",
            (offset,),
        ).fetchall()
        end = found[0][0] if found and found[0][1] >= offset else offset
        connection.execute("DELETE FROM batches WHERE base_offset >= ?", (end,))
        connection.execute("DELETE FROM leader_epochs WHERE start_offset >= ?", (end,))
        connection.execute("DELETE FROM aborted_transactions WHERE last_offset >= ?", (end,))
        verified_end = get_meta(connection, VERIFIED_END)
        if verified_end is not None and verified_end > end:
            set_meta(connection, VERIFIED_END, end)
    return int(end)


def seal(connection: Any, path: Path, *, has_gaps: bool) -> int:
    """Build the time index, leave WAL and make the file read-only. Close the connection next.

    Returns:
        The file's size in bytes.
    """
    if has_gaps:
        set_meta(connection, HAS_GAPS, 1)
    with Transaction(connection):
        # Of a compacted segment that was cut, and has gone on since.
        connection.execute("DELETE FROM meta WHERE name = ?", (BATCH_COUNT,))
        build_time_index(connection)
        sum_up_aborted(connection)
    sqlite.leave_wal(connection, path)
    # Everything is in the file now; a rollback journal is kept, empty, while the lock is held.
    for sidecar in sqlite.sidecars(path):
        sidecar.unlink(missing_ok=True)
    path.chmod(sqlite.SEALED_FILE_MODE)
    sqlite.fsync_directory(path.parent)
    return path.stat().st_size


def build_time_index(connection: Any) -> None:
    """Make the index by time of the batches that are there."""
    for statement in _TIME_INDEX:
        connection.execute(statement)


def unseal(path: Path) -> None:
    """Make a sealed, closed file writable again; the next open for writing puts it into WAL."""
    path.chmod(sqlite.FILE_MODE)


def seal_again(path: Path) -> None:
    """Undo `unseal`, for a file that was not written since."""
    path.chmod(sqlite.SEALED_FILE_MODE)


def is_sealed(path: Path) -> bool:
    """Whether the file's mode says that it was sealed."""
    return path.stat().st_mode & 0o200 == 0


def mark_verified(connection: Any, end_offset: int) -> None:
    """Record that every batch below `end_offset` is good, so that opening need not read them."""
    set_meta(connection, VERIFIED_END, end_offset)


def mark_before_close(connection: Any, end_offset: int) -> None:
    """`mark_verified`, for the close that comes next.

    A disk without room for it does no harm, and a damaged file must not get it: without the mark,
    opening reads what was written since the last one.
    """
    try:
        mark_verified(connection, end_offset)
    except sqlite.DriverError as error:
        if not (is_disk_full(error) or sqlite.is_damage(error)):
            raise


def end_offset_of(connection: Any, base_offset: int) -> int:
    """The offset that follows the segment's last batch; its base offset when it is empty."""
    last = connection.execute(
        "SELECT last_offset FROM batches ORDER BY base_offset DESC LIMIT 1"
    ).fetchall()
    return int(last[0][0]) + 1 if last else base_offset


def has_time_index(connection: Any) -> bool:
    """Whether a sealed segment has the index by time; the first versions wrote another."""
    found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'time_index'").fetchall()
    return bool(found)


def newest_timestamp(connection: Any, path: Path) -> int:
    """The largest timestamp of a sealed segment, in ms.

    That of the file's last change where no record has one: it was sealed then. A segment without
    records is as old as can be.
    """
    table = "time_index" if has_time_index(connection) else "batches"
    [(newest,)] = connection.execute(
        f"SELECT max(max_timestamp) FROM {table}"  # noqa: S608 # constant names
    ).fetchall()
    if newest is None:
        return 0
    if newest >= 0:
        return int(newest)
    return path.stat().st_mtime_ns // 1_000_000


def has_epochs_after(connection: Any, end_offset: int) -> bool:
    """Whether `drop_epochs_after` would remove any."""
    found = connection.execute(
        "SELECT 1 FROM leader_epochs WHERE start_offset > ? LIMIT 1", (end_offset,)
    ).fetchall()
    return bool(found)


def first_timestamp(connection: Any) -> int:
    """The largest timestamp of a segment's first batch, in ms; -1 without batch or timestamp."""
    first = connection.execute(
        "SELECT max_timestamp FROM batches ORDER BY base_offset LIMIT 1"
    ).fetchall()
    return int(first[0][0]) if first else -1


def drop_epochs_after(connection: Any, end_offset: int) -> None:
    """Remove epochs that were recorded ahead of batches that never became durable."""
    connection.execute("DELETE FROM leader_epochs WHERE start_offset > ?", (end_offset,))


@lru_cache(maxsize=64)
def _insert_statement(rows: int) -> str:
    row = f"({', '.join('?' * len(COLUMNS))})"
    return f"INSERT INTO batches VALUES {', '.join([row] * rows)}"  # noqa: S608 # only marks


def insert_rows(connection: Any, rows: Sequence[Row]) -> None:
    """Insert at most ROWS_PER_INSERT_MAX rows in one statement."""
    if rows:
        values = rows[0] if len(rows) == 1 else [value for row in rows for value in row]
        connection.execute(_insert_statement(len(rows)), values)


def remove_file(path: Path) -> None:
    """Remove a closed segment, durably. Blocking."""
    sqlite.remove_database(path)


def quarantine_name(path: Path) -> Path:
    """Where a damaged segment is kept for the operator."""
    return path.with_name(path.name.removesuffix(SUFFIX) + DAMAGED_SUFFIX)
