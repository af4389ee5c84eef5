"""What a voter must never forget, in one SQLite file with `synchronous=FULL`.

One call of `persist` is one transaction: hard state, snapshot, truncation and new entries are there
together or not at all, and fsynced when the call returns. A vote that was answered is on disk.

A snapshot replaces the one before, and the entries up to where the log was cut go with it. SQLite
fills the pages that they leave, so the file stays about as large as two snapshots and the entries
between them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c

from ottla_broker.storage.sqlite import (
    Durability,
    SegmentConnection,
    connect,
    connect_active,
    connect_new,
    fsync_directory,
    storage_error,
)
from ottla_cluster.raft.configuration import (
    Configuration,
    decode_configuration,
    encode_configuration,
)
from ottla_cluster.raft.messages import Compaction, Entry, EntryKind, HardState, Snapshot
from ottla_protocol.errors import StorageError

FORMAT = 2
"""The file's `user_version`. 0 is the format before snapshots, 1 that before the log named its
voters; both are brought up when opened."""

SNAPSHOT_TABLE = (
    'CREATE TABLE snapshot (id INTEGER PRIMARY KEY CHECK (id = 1), "index" INTEGER NOT NULL,'
    " term INTEGER NOT NULL, compacted_index INTEGER NOT NULL, compacted_term INTEGER NOT NULL,"
    " crc INTEGER NOT NULL, data BLOB NOT NULL)"
)
SNAPSHOT_CONFIGURATION = "ALTER TABLE snapshot ADD COLUMN configuration BLOB"
ENTRY_KIND = "ALTER TABLE entries ADD COLUMN kind INTEGER NOT NULL DEFAULT 0"

SCHEMA = (
    "CREATE TABLE hard_state (id INTEGER PRIMARY KEY CHECK (id = 1), term INTEGER NOT NULL,"
    " voted_for INTEGER, commit_index INTEGER NOT NULL)",
    'CREATE TABLE entries ("index" INTEGER PRIMARY KEY, term INTEGER NOT NULL,'
    " payload BLOB NOT NULL)",
    SNAPSHOT_TABLE,
    SNAPSHOT_CONFIGURATION,
    ENTRY_KIND,
    f"PRAGMA user_version={FORMAT}",
)


@dataclass(frozen=True, slots=True)
class PersistedState:
    """Everything that the file holds; `entries` in order of their indexes."""

    hard_state: HardState
    compaction: Compaction | None
    entries: tuple[Entry, ...]


class RaftStore:
    """The file `raft.sqlite`; created at the first start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: SegmentConnection | None = None

    async def load(self) -> PersistedState:
        """Open the file, bring it up to the present format and read everything.

        Raises:
            StorageError: the file cannot be opened or read, its snapshot is damaged, or a newer
                version wrote it.
        """
        if not self._path.exists():
            await self._create()
        self._connection = await connect(
            self._path, lambda: connect_active(self._path, Durability.FSYNC)
        )
        await self._connection.run("upgrade the Raft state", _upgrade)
        return await self._connection.run("read the Raft state", _read)

    async def persist(
        self,
        hard_state: HardState,
        truncate_from: int | None,
        entries: Sequence[Entry],
        compaction: Compaction | None = None,
    ) -> None:
        """Write all of it in one transaction; durable on return.

        Raises:
            StorageError: nothing may be said to peers from here on.
        """
        assert self._connection is not None, "load() comes first"
        await self._connection.run(
            "persist the Raft state",
            lambda connection: _write(connection, hard_state, truncate_from, entries, compaction),
        )

    async def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            await self._connection.close()

    async def _create(self) -> None:
        """Make the file under another name first, so that a crash leaves none or a whole one."""
        draft = self._path.with_suffix(".new")
        draft.unlink(missing_ok=True)
        connection = await connect(draft, lambda: connect_new(draft))
        await connection.run("create", _create_tables)
        await connection.close()
        try:
            draft.rename(self._path)
            fsync_directory(self._path.parent)
        except OSError as error:
            raise storage_error(self._path, "create", error) from error


def _create_tables(connection: Any) -> None:
    for statement in SCHEMA:
        connection.execute(statement)


def _upgrade(connection: Any) -> None:
    ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    if version > FORMAT:
        raise StorageError(
            f"the Raft state is of format {version}, and this version reads up to {FORMAT}"
        )
    if version < FORMAT:
        connection.execute("BEGIN IMMEDIATE")
        try:
            if version < 1:
                connection.execute(SNAPSHOT_TABLE)
            connection.execute(SNAPSHOT_CONFIGURATION)
            connection.execute(ENTRY_KIND)
            connection.execute(f"PRAGMA user_version={FORMAT}")
            connection.execute("COMMIT")
        except BaseException:
            _roll_back(connection)
            raise


def _read(connection: Any) -> PersistedState:
    rows = connection.execute("SELECT term, voted_for, commit_index FROM hard_state").fetchall()
    hard_state = HardState(*rows[0]) if rows else HardState()
    entries = connection.execute(
        'SELECT "index", term, payload, kind FROM entries ORDER BY 1'
    ).fetchall()
    return PersistedState(
        hard_state,
        _read_compaction(connection),
        tuple(Entry(index, term, payload, _kind(kind)) for index, term, payload, kind in entries),
    )


def _kind(value: int) -> EntryKind:
    try:
        return EntryKind(value)
    except ValueError:
        raise StorageError(f"the metadata log holds an entry of the unknown kind {value}") from None


def _read_compaction(connection: Any) -> Compaction | None:
    rows = connection.execute(
        'SELECT "index", term, compacted_index, compacted_term, crc, data, configuration'
        " FROM snapshot"
    ).fetchall()
    if not rows:
        return None
    index, term, compacted_index, compacted_term, crc, data, configuration = rows[0]
    if google_crc32c.value(data) != crc:
        raise StorageError(f"the metadata snapshot of index {index} is damaged: its CRC is wrong")
    snapshot = Snapshot(index, term, data, _read_configuration(index, configuration))
    return Compaction(snapshot, compacted_index, compacted_term)


def _read_configuration(index: int, configuration: bytes | None) -> Configuration | None:
    if configuration is None:
        return None
    try:
        return decode_configuration(configuration)
    except ValueError as error:
        raise StorageError(f"the metadata snapshot of index {index} is damaged: {error}") from error


def _write(
    connection: Any,
    hard_state: HardState,
    truncate_from: int | None,
    entries: Sequence[Entry],
    compaction: Compaction | None,
) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        if compaction is not None:
            _write_compaction(connection, compaction)
        if truncate_from is not None:
            connection.execute('DELETE FROM entries WHERE "index" >= ?', (truncate_from,))
        connection.executemany(
            "INSERT INTO entries VALUES (?, ?, ?, ?)",
            [(entry.index, entry.term, entry.payload, entry.kind) for entry in entries],
        )
        connection.execute(
            "INSERT OR REPLACE INTO hard_state VALUES (1, ?, ?, ?)",
            (hard_state.term, hard_state.voted_for, hard_state.commit_index),
        )
        connection.execute("COMMIT")
    except BaseException:
        _roll_back(connection)
        raise


def _write_compaction(connection: Any, compaction: Compaction) -> None:
    snapshot = compaction.snapshot
    connection.execute(
        "INSERT OR REPLACE INTO snapshot VALUES (1, ?, ?, ?, ?, ?, ?, ?)",
        (
            snapshot.index,
            snapshot.term,
            compaction.compacted_index,
            compaction.compacted_term,
            google_crc32c.value(snapshot.data),
            snapshot.data,
            encode_configuration(snapshot.configuration) if snapshot.configuration else None,
        ),
    )
    connection.execute('DELETE FROM entries WHERE "index" <= ?', (compaction.compacted_index,))


def _roll_back(connection: Any) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")
