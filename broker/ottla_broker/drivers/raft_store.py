"""What a voter must never forget, in one SQLite file with `synchronous=FULL`.

One call of `persist` is one transaction: hard state, snapshot, truncation and new entries are there
together or not at all, and fsynced when the call returns. A vote that was answered is on disk.

A snapshot replaces the one before, and the entries up to where the log was cut go with it. SQLite
fills the pages that they leave, so the file stays about as large as two snapshots and the entries
between them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import google_crc32c

from ottla_broker.storage.segment_meta import Transaction
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
from ottla_cluster.raft.messages import (
    FORMER_STARTS_MAX,
    Compaction,
    Entry,
    EntryKind,
    HardState,
    RememberedStart,
    Snapshot,
)
from ottla_protocol.errors import StorageError

FORMAT = 2
"""The highest `user_version` of a file. 0 is the format before snapshots, which is brought up when
opened. 2 is that of a file whose log names its voters, which a version of format 1 would not know:
the first such entry or snapshot makes it one."""

FORMAT_WITHOUT_CONFIGURATIONS = 1
"""A version that knows this format may open the file: what it does not know is in other tables."""

SNAPSHOT_TABLE = (
    'CREATE TABLE snapshot (id INTEGER PRIMARY KEY CHECK (id = 1), "index" INTEGER NOT NULL,'
    " term INTEGER NOT NULL, compacted_index INTEGER NOT NULL, compacted_term INTEGER NOT NULL,"
    " crc INTEGER NOT NULL, data BLOB NOT NULL)"
)
ADDED_TABLES = (
    # Of the entries that are not the state machine's.
    'CREATE TABLE IF NOT EXISTS entry_kinds ("index" INTEGER PRIMARY KEY, kind INTEGER NOT NULL)',
    "CREATE TABLE IF NOT EXISTS snapshot_configuration (id INTEGER PRIMARY KEY CHECK (id = 1),"
    " snapshot_index INTEGER NOT NULL, configuration BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS starts (id INTEGER PRIMARY KEY CHECK (id = 1),"
    " start_count INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS remembered_starts (node_id INTEGER PRIMARY KEY,"
    " directory_id TEXT NOT NULL, start_count INTEGER NOT NULL, incarnation TEXT NOT NULL,"
    " term INTEGER NOT NULL)",
    # A version that does not know it counts starts whose incarnations are missing here.
    "CREATE TABLE IF NOT EXISTS start_incarnations (start_count INTEGER PRIMARY KEY,"
    " incarnation TEXT NOT NULL)",
)

SCHEMA = (
    "CREATE TABLE hard_state (id INTEGER PRIMARY KEY CHECK (id = 1), term INTEGER NOT NULL,"
    " voted_for INTEGER, commit_index INTEGER NOT NULL)",
    'CREATE TABLE entries ("index" INTEGER PRIMARY KEY, term INTEGER NOT NULL,'
    " payload BLOB NOT NULL)",
    SNAPSHOT_TABLE,
    *ADDED_TABLES,
    f"PRAGMA user_version={FORMAT_WITHOUT_CONFIGURATIONS}",
)


@dataclass(frozen=True, slots=True)
class PersistedState:
    """Everything that the file holds; `entries` in order of their indexes.

    `start_count` is that of the present start: each `load` counts one. `remembered` is what other
    voters' directories told last, by node id. `former_incarnations` are as in `Origin`.
    """

    hard_state: HardState
    compaction: Compaction | None
    entries: tuple[Entry, ...]
    start_count: int = 1
    remembered: Mapping[int, RememberedStart] = field(default_factory=dict)
    former_incarnations: tuple[str, ...] = ()


class RaftStore:
    """The file `raft.sqlite`; created at the first start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: SegmentConnection | None = None

    async def load(self, incarnation: str) -> PersistedState:
        """Open the file, bring it up to the present format, count this start and read everything.

        The count is durable before anything is said in this start's name, and so is `incarnation`,
        which tells this start from every other.

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
        await self._connection.run("count the start", partial(_count_start, incarnation))
        return await self._connection.run("read the Raft state", _read)

    async def persist(
        self,
        hard_state: HardState,
        truncate_from: int | None,
        entries: Sequence[Entry],
        compaction: Compaction | None = None,
        remembered: Sequence[tuple[int, RememberedStart]] = (),
    ) -> None:
        """Write all of it in one transaction; durable on return.

        Raises:
            StorageError: nothing may be said to peers from here on.
        """
        assert self._connection is not None, "load() comes first"
        await self._connection.run(
            "persist the Raft state",
            lambda connection: _write(
                connection, hard_state, truncate_from, entries, compaction, remembered
            ),
        )

    async def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            await self._connection.close()

    async def set_aside(self) -> Path:
        """Close the file and move it out of the way, in place of one moved before; its new path.

        Raises:
            StorageError: it cannot be moved.
        """
        await self.close()
        moved = self._path.with_suffix(".set-aside")
        try:
            self._path.replace(moved)
            for suffix in ("-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            fsync_directory(self._path.parent)
        except OSError as error:
            raise storage_error(self._path, "set aside", error) from error
        return moved

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
    with Transaction(connection):
        if version < FORMAT_WITHOUT_CONFIGURATIONS:
            connection.execute(SNAPSHOT_TABLE)
            connection.execute(f"PRAGMA user_version={FORMAT_WITHOUT_CONFIGURATIONS}")
        for statement in ADDED_TABLES:
            connection.execute(statement)


def _count_start(incarnation: str, connection: Any) -> None:
    with Transaction(connection):
        connection.execute(
            "INSERT INTO starts VALUES (1, 1)"
            " ON CONFLICT (id) DO UPDATE SET start_count = start_count + 1"
        )
        connection.execute(
            "INSERT INTO start_incarnations SELECT start_count, ? FROM starts", (incarnation,)
        )
        connection.execute(
            "DELETE FROM start_incarnations"
            " WHERE start_count < (SELECT start_count FROM starts) - ?",
            (FORMER_STARTS_MAX,),
        )


def _read_former_incarnations(connection: Any, start_count: int) -> tuple[str, ...]:
    known = dict(
        connection.execute("SELECT start_count, incarnation FROM start_incarnations").fetchall()
    )
    oldest = min(known, default=start_count)
    return tuple(known.get(count, "") for count in range(start_count - 1, oldest - 1, -1))


def _read(connection: Any) -> PersistedState:
    rows = connection.execute("SELECT term, voted_for, commit_index FROM hard_state").fetchall()
    hard_state = HardState(*rows[0]) if rows else HardState()
    entries = connection.execute(
        'SELECT "index", term, payload, kind FROM entries LEFT JOIN entry_kinds USING ("index")'
        " ORDER BY 1"
    ).fetchall()
    ((start_count,),) = connection.execute("SELECT start_count FROM starts").fetchall()
    remembered = connection.execute(
        "SELECT node_id, directory_id, start_count, incarnation, term FROM remembered_starts"
    ).fetchall()
    return PersistedState(
        hard_state,
        _read_compaction(connection),
        tuple(Entry(index, term, payload, _kind(kind)) for index, term, payload, kind in entries),
        start_count,
        {node_id: RememberedStart(*row) for node_id, *row in remembered},
        _read_former_incarnations(connection, start_count),
    )


def _kind(value: int | None) -> EntryKind:
    if value is None:
        return EntryKind.STATE_MACHINE
    try:
        return EntryKind(value)
    except ValueError:
        raise StorageError(f"the metadata log holds an entry of the unknown kind {value}") from None


def _read_compaction(connection: Any) -> Compaction | None:
    rows = connection.execute(
        'SELECT "index", term, compacted_index, compacted_term, crc, data, configuration'
        ' FROM snapshot LEFT JOIN snapshot_configuration ON snapshot_index = "index"'
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
    remembered: Sequence[tuple[int, RememberedStart]],
) -> None:
    with Transaction(connection):
        if compaction is not None:
            _write_compaction(connection, compaction)
        if truncate_from is not None:
            connection.execute('DELETE FROM entries WHERE "index" >= ?', (truncate_from,))
            connection.execute('DELETE FROM entry_kinds WHERE "index" >= ?', (truncate_from,))
        _write_entries(connection, entries)
        connection.executemany(
            "INSERT OR REPLACE INTO remembered_starts VALUES (?, ?, ?, ?, ?)",
            [
                (node_id, start.directory_id, start.start_count, start.incarnation, start.term)
                for node_id, start in remembered
            ],
        )
        connection.execute(
            "INSERT OR REPLACE INTO hard_state VALUES (1, ?, ?, ?)",
            (hard_state.term, hard_state.voted_for, hard_state.commit_index),
        )


def _write_entries(connection: Any, entries: Sequence[Entry]) -> None:
    connection.executemany(
        "INSERT INTO entries VALUES (?, ?, ?)",
        [(entry.index, entry.term, entry.payload) for entry in entries],
    )
    kinds = [(each.index, each.kind) for each in entries if each.kind != EntryKind.STATE_MACHINE]
    if kinds:
        connection.executemany("INSERT INTO entry_kinds VALUES (?, ?)", kinds)
        _now_with_configurations(connection)


def _now_with_configurations(connection: Any) -> None:
    connection.execute(f"PRAGMA user_version={FORMAT}")


def _write_compaction(connection: Any, compaction: Compaction) -> None:
    snapshot = compaction.snapshot
    connection.execute(
        "INSERT OR REPLACE INTO snapshot VALUES (1, ?, ?, ?, ?, ?, ?)",
        (
            snapshot.index,
            snapshot.term,
            compaction.compacted_index,
            compaction.compacted_term,
            google_crc32c.value(snapshot.data),
            snapshot.data,
        ),
    )
    if snapshot.configuration is not None:
        connection.execute(
            "INSERT OR REPLACE INTO snapshot_configuration VALUES (1, ?, ?)",
            (snapshot.index, encode_configuration(snapshot.configuration)),
        )
        _now_with_configurations(connection)
    for table in ("entries", "entry_kinds"):
        connection.execute(
            f'DELETE FROM {table} WHERE "index" <= ?',  # noqa: S608  constant names
            (compaction.compacted_index,),
        )
