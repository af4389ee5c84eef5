"""What a voter must never forget, in one SQLite file with `synchronous=FULL`.

One call of `persist` is one transaction: hard state, truncation and new entries are there together
or not at all, and fsynced when the call returns. A vote that was answered is on disk.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ottla_broker.storage.sqlite import (
    Durability,
    SegmentConnection,
    connect,
    connect_active,
    connect_new,
    fsync_directory,
)
from ottla_cluster.raft.messages import Entry, HardState

SCHEMA = (
    "CREATE TABLE hard_state (id INTEGER PRIMARY KEY CHECK (id = 1), term INTEGER NOT NULL,"
    " voted_for INTEGER, commit_index INTEGER NOT NULL)",
    'CREATE TABLE entries ("index" INTEGER PRIMARY KEY, term INTEGER NOT NULL,'
    " payload BLOB NOT NULL)",
)


class RaftStore:
    """The file `raft.sqlite`; created at the first start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: SegmentConnection | None = None

    async def load(self) -> tuple[HardState, tuple[Entry, ...]]:
        """Open the file and read everything.

        Raises:
            StorageError: the file cannot be opened or read.
        """
        if not self._path.exists():
            await self._create()
        self._connection = await connect(
            self._path, lambda: connect_active(self._path, Durability.FSYNC)
        )
        return await self._connection.run("read the Raft state", _read)

    async def persist(
        self, hard_state: HardState, truncate_from: int | None, entries: Sequence[Entry]
    ) -> None:
        """Write all of it in one transaction; durable on return.

        Raises:
            StorageError: nothing may be said to peers from here on.
        """
        assert self._connection is not None, "load() comes first"
        await self._connection.run(
            "persist the Raft state",
            lambda connection: _write(connection, hard_state, truncate_from, entries),
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
        draft.rename(self._path)
        fsync_directory(self._path.parent)


def _create_tables(connection: Any) -> None:
    for statement in SCHEMA:
        connection.execute(statement)


def _read(connection: Any) -> tuple[HardState, tuple[Entry, ...]]:
    rows = connection.execute("SELECT term, voted_for, commit_index FROM hard_state").fetchall()
    hard_state = HardState(*rows[0]) if rows else HardState()
    entries = connection.execute('SELECT "index", term, payload FROM entries ORDER BY 1').fetchall()
    return hard_state, tuple(Entry(*row) for row in entries)


def _write(
    connection: Any, hard_state: HardState, truncate_from: int | None, entries: Sequence[Entry]
) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        if truncate_from is not None:
            connection.execute('DELETE FROM entries WHERE "index" >= ?', (truncate_from,))
        connection.executemany(
            "INSERT INTO entries VALUES (?, ?, ?)",
            [(entry.index, entry.term, entry.payload) for entry in entries],
        )
        connection.execute(
            "INSERT OR REPLACE INTO hard_state VALUES (1, ?, ?, ?)",
            (hard_state.term, hard_state.voted_for, hard_state.commit_index),
        )
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
