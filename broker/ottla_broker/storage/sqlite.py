"""The SQLite driver and every setting that durability rests on, in one place.

One segment file has exactly one connection, and that connection has one thread (aiosqlite's). All
work on a file is a plain function run on that thread by `SegmentConnection.run`: one hop for any
number of statements, and the event loop never waits for a disk.

The driver is pysqlite3, which bundles a current SQLite. SQLite 3.7.0 to 3.51.2 can corrupt a
database in WAL mode when two connections race to reset the log (fixed in 3.51.3, 3.50.7 and
3.44.6); the interpreter's own library is usually one of these. It is used, with a warning, only
where pysqlite3 has no wheel: one connection per file keeps the race from happening.
"""

import asyncio
import importlib
import os
import sqlite3
import warnings
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, Generic, TypeVar

import aiosqlite

from ottla_broker.storage.disk_full import (
    DiskFullError,
    NoDescriptorError,
    is_disk_full,
    is_out_of_descriptors,
)
from ottla_broker.storage.stored_batch import DamagedSegmentError
from ottla_protocol.errors import StorageError

PAGE_BYTES = 16384
"""Page size of a segment: large enough for megabyte batches, small enough for small commits."""

WAL_CHECKPOINT_PAGES = 512
"""Pages in the write-ahead log after which SQLite copies them into the file, in the commit that
passes the bound. Never 0 and never large: a checkpoint of 256 MiB stalls a commit for a second."""

PAGE_CACHE_KIB = 256
"""Page cache of one connection; the kernel's page cache serves reads."""

MMAP_BYTES = 1 << 40
"""How much of a sealed segment may be mapped: all of it."""

FILE_MODE = 0o600
SEALED_FILE_MODE = 0o400
DIRECTORY_MODE = 0o700

SIDECAR_SUFFIXES = ("-wal", "-shm", "-journal")
"""Endings of the files that SQLite may keep beside a database."""

_ITER_CHUNK_ROWS = 64
_FIXED_SINCE = (3, 51, 3)
_FIXED_BACKPORTS = ((3, 50, 7), (3, 44, 6))

_DAMAGE_CODES = (1, 11, 18, 20, 26)
"""SQLITE_CORRUPT and SQLITE_NOTADB; and ERROR, TOOBIG and MISMATCH, which statements that never
change get only where a flipped bit has changed the schema, or a length, that they work on."""

_UNDECODABLE = "Could not decode"
"""How the driver's error begins for a text that is no UTF-8; it has no code."""

T = TypeVar("T")


class Durability(StrEnum):
    """What an acknowledgement of one replica promises (topic config `durability`)."""

    FSYNC = "fsync"
    """The record is on the disk: it survives power loss."""
    OS = "os"
    """The record is with the operating system, as in Kafka: it survives the process."""


def has_wal_reset_bug(version: tuple[int, ...]) -> bool:
    """Whether this SQLite version has the race described in the module's header."""
    if version < (3, 7, 0) or version >= _FIXED_SINCE:
        return False
    return not any(version[:2] == fix[:2] and version >= fix for fix in _FIXED_BACKPORTS)


def _load_driver() -> Any:
    try:
        return importlib.import_module("pysqlite3.dbapi2")
    except ImportError:
        if has_wal_reset_bug(sqlite3.sqlite_version_info):
            warnings.warn(
                f"pysqlite3 is not installed; the standard library's SQLite "
                f"{sqlite3.sqlite_version} has the WAL-reset corruption bug (fixed in 3.51.3). "
                f"Ottla keeps one connection per file, which avoids it; keep other tools away "
                f"from a running broker's files.",
                RuntimeWarning,
                stacklevel=2,
            )
        return sqlite3


driver: Any = _load_driver()
"""The DB-API module in use; untyped, because pysqlite3 ships no types."""

DriverError: type[Exception] = driver.Error
"""Base of the driver's errors. Not `aiosqlite.Error`: that is the standard library's."""


def sqlite_version() -> str:
    """The version of the SQLite library in use, for /version and the start-up log."""
    return str(driver.sqlite_version)


def is_damage(error: BaseException) -> bool:
    """Whether the driver says that the file's content is wrong, rather than out of reach.

    A full disk or a failed read is no damage.
    """
    if isinstance(error, UnicodeDecodeError):
        # The driver's own message quoted what should have been a name.
        return True
    if not isinstance(error, DriverError):
        return False
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return str(error).startswith(_UNDECODABLE)
    return code & 0xFF in _DAMAGE_CODES


def storage_error(path: Path, action: str, error: BaseException) -> StorageError:
    """The typed error for a failed operation on `path`; raise it `from error`."""
    if isinstance(error, StorageError):
        return error
    if is_damage(error):
        return DamagedSegmentError(
            f"{path}: {action} found damage: {type(error).__name__}: {error}", path=path
        )
    kind = StorageError
    if is_disk_full(error):
        kind = DiskFullError
    elif is_out_of_descriptors(error):
        kind = NoDescriptorError
    return kind(f"{path}: {action} failed: {type(error).__name__}: {error}")


class _Work(Generic[T]):
    """One call of a function, which lets go of the function and of its result.

    A connection's thread keeps what it did last, and what came of it, until it does something else:
    with hundreds of open files that would be the batches of hundreds of reads and commits.
    """

    __slots__ = ("_function", "_results")

    def __init__(self, function: Callable[[Any], T]) -> None:
        self._function: Callable[[Any], T] | None = function
        self._results: list[T] = []

    def __call__(self, connection: Any) -> None:
        function, self._function = self._function, None
        assert function is not None, "called twice"
        self._results.append(function(connection))

    def take_result(self) -> T:
        """What the function returned; call it once."""
        return self._results.pop()


class SegmentConnection(aiosqlite.Connection):
    """A connection with its thread, and the one way to use it."""

    def __init__(self, connector: Callable[[], Any], path: Path) -> None:
        super().__init__(connector, _ITER_CHUNK_ROWS)
        self.path = path
        self.is_bulk = False
        """Whether an active segment is out of WAL for large commits; see `set_bulk`."""
        self.before_close: Callable[[Any], object] | None = None
        """What `close` does first, on the connection's thread: a last write."""
        self._stopped: asyncio.Future[Any] | None = None

    async def run(self, action: str, function: Callable[[Any], T]) -> T:
        """Run `function(driver connection)` on the connection's thread.

        A cancelled caller stops waiting; the function runs to its end all the same.

        Args:
            action: what is being done, for the error's text.
            function: must not keep the connection, and must leave no transaction open.

        Raises:
            StorageError: the driver or the operating system failed, or the function found damage.
        """
        work = _Work(function)
        try:
            await self._execute(work, self._conn)  # type: ignore[no-untyped-call] # aiosqlite's own
        except DamagedSegmentError as error:
            error.path = error.path or self.path
            raise
        except (DriverError, OSError, UnicodeDecodeError) as error:
            raise storage_error(self.path, action, error) from error
        return work.take_result()

    async def close(self) -> None:
        """Do what is left to do, close the file with a checkpoint, and end the thread.

        Raises:
            StorageError: the last write failed; the file is closed all the same.
        """
        try:
            if self.before_close is not None:
                await self.run("last write", self.before_close)
        finally:
            await super().close()

    def stop(self) -> asyncio.Future[Any] | None:
        """Have the thread end; aiosqlite calls it, also where the file cannot be opened."""
        self._stopped = super().stop()
        return self._stopped

    async def wait_stopped(self) -> None:
        """Wait for the last that the thread tells: it fails where the loop is gone by then."""
        if self._stopped is not None:
            await self._stopped


async def connect(path: Path, connector: Callable[[], Any]) -> SegmentConnection:
    """Start a connection's thread and run `connector`, which opens the file, on it.

    Raises:
        StorageError: the file cannot be opened.
    """
    connection = SegmentConnection(connector, path)
    try:
        await connection
    except (DriverError, OSError, UnicodeDecodeError) as error:
        await connection.wait_stopped()
        raise storage_error(path, "open", error) from error
    return connection


def connect_active(path: Path, durability: Durability) -> Any:
    """Open an existing segment for writing. Runs on the connection's thread."""
    connection = _open(f"{path.absolute().as_uri()}?mode=rw")
    try:
        # EXCLUSIVE before WAL: the index of the write-ahead log is then in this process's memory
        # and no -shm file exists.
        _pragma(connection, "locking_mode=EXCLUSIVE")
        _require(connection, path, "journal_mode=WAL", "wal")
        # NORMAL syncs at checkpoints only: what a crash of the machine loses is the newest
        # transactions, never the file.
        _pragma(connection, f"synchronous={'FULL' if durability is Durability.FSYNC else 'NORMAL'}")
        _pragma(connection, f"wal_autocheckpoint={WAL_CHECKPOINT_PAGES}")
        _pragma(connection, f"cache_size=-{PAGE_CACHE_KIB}")
    except BaseException:
        connection.close()
        raise
    return connection


def connect_sealed(path: Path) -> Any:
    """Open a sealed segment for reading. Runs on the connection's thread.

    `immutable`: nobody changes a sealed file, so no locks and no checks for changes are needed.
    """
    try:
        connection = _open(f"{path.absolute().as_uri()}?mode=ro&immutable=1")
    except DriverError:
        # SQLite does not tell why it cannot open a file; the operating system does.
        os.close(os.open(path, os.O_RDONLY))
        raise
    _pragma(connection, f"cache_size=-{PAGE_CACHE_KIB}")
    _pragma(connection, f"mmap_size={MMAP_BYTES}")
    return connection


def connect_new(path: Path) -> Any:
    """Create a file to be filled in one transaction and renamed; a crash loses only the file."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, FILE_MODE))
    connection = _open(f"{path.absolute().as_uri()}?mode=rw")
    _pragma(connection, f"page_size={PAGE_BYTES}")
    _pragma(connection, "auto_vacuum=NONE")
    _pragma(connection, "locking_mode=EXCLUSIVE")
    _pragma(connection, "journal_mode=OFF")
    _pragma(connection, f"cache_size=-{PAGE_CACHE_KIB}")
    return connection


def checkpoint(connection: Any, path: Path) -> None:
    """Copy the whole write-ahead log into the file and sync it. Runs on the thread."""
    (busy, _, _), *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    if busy:
        raise StorageError(f"{path}: checkpoint found the file busy")


def set_bulk(connection: Any, path: Path, *, bulk: bool) -> None:
    """Change an active segment to the rollback journal, or back to WAL. Runs on the thread.

    With an exclusive lock DELETE does not delete: a commit ends by overwriting the journal's
    header, and synchronous=FULL syncs that, so the commit is durable when it returns.
    """
    mode = "DELETE" if bulk else "WAL"
    _require(connection, path, f"journal_mode={mode}", mode.lower())


def leave_wal(connection: Any, path: Path) -> None:
    """Checkpoint and turn the file into a plain one that any SQLite reads. Runs on the thread."""
    checkpoint(connection, path)
    _require(connection, path, "journal_mode=DELETE", "delete")


def fsync_directory(path: Path) -> None:
    """Make the creation, renaming and removal of entries of a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_file(path: Path) -> None:
    """Make a file's content durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sidecars(path: Path) -> tuple[Path, ...]:
    """The files that SQLite may keep beside a database."""
    return tuple(path.with_name(path.name + suffix) for suffix in SIDECAR_SUFFIXES)


def remove_database(path: Path) -> None:
    """Remove a closed database, durably. What stays after a crash is never a stale log alone.

    The write-ahead log goes first: an orphaned one would be replayed into the next file of that
    name.
    """
    for sidecar in sidecars(path):
        sidecar.unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    fsync_directory(path.parent)


def _open(uri: str) -> Any:
    # Without a statement cache: it would keep the last INSERT's blobs alive in every connection.
    return driver.connect(uri, uri=True, isolation_level=None, cached_statements=0)


def _pragma(connection: Any, setting: str) -> list[Any]:
    # Rows must be read to the end: an unread PRAGMA holds a lock that blocks sealing.
    rows: list[Any] = connection.execute(f"PRAGMA {setting}").fetchall()
    return rows


def _require(connection: Any, path: Path, setting: str, expected: str) -> None:
    rows = _pragma(connection, setting)
    if not rows or rows[0][0] != expected:
        raise StorageError(f"{path}: PRAGMA {setting} answered {rows}, not {expected!r}")


def read_blob(connection: Any, table: str, column: str, row: int) -> bytes:
    """One value, copied once from the file's pages. Runs on the thread."""
    with _open_blob(connection, table, column, row) as blob:
        data: bytes = blob.read()
    return data


def _open_blob(connection: Any, table: str, column: str, row: int) -> Any:
    # pysqlite3 has its own name for what the standard library calls blobopen.
    opener = getattr(connection, "open_blob", None) or connection.blobopen
    return opener(table, column, row, readonly=True)
