"""One moment of a segment, to read, whether or not a broker has the file open.

A sealed segment never changes, so it is read where it lies. The active one cannot be: its broker
holds an exclusive lock, its newest commits are in the write-ahead log, and opening it would replay
that into the file. So it is copied, and SQLite opens the copy.

A copy, first of the database and then of its write-ahead log, is one moment in either of two cases:

- The log had frames before, and has the same header afterwards. It begins anew under another one,
  otherwise it only grows. What a checkpoint has written into the database meanwhile lies in the log
  as well, whose copy is younger: SQLite replays it over whatever was copied half old and half new.
  Where the copy of the log ends within a transaction, SQLite ignores that part.
- The log was empty or not there, and still is, and the database did not change. That shows in its
  modification time. Times are told in ticks of the kernel's clock, so a file that was changed a
  moment ago is let come to rest first. A rollback journal that is copied after the database can
  only restore what the copy has anyway.

If neither holds the copy is made again, COPY_ATTEMPTS_MAX times: at once where the log began anew,
because the time until it does so again has then just begun.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ottla_broker.storage import segment as segments
from ottla_broker.storage import sqlite
from ottla_broker.storage.wal_inspection import WalState, inspect_wal
from ottla_protocol.errors import StorageError

COPY_ATTEMPTS_MAX = 40
ATTEMPT_PAUSE_S = 0.05
COPY_CHUNK_BYTES = 4 << 20
"""What is copied between two looks at whether it is still worth it."""

REST_NS = 30_000_000
"""How long ago the last change must be: more than one tick of any kernel's clock."""

_WAL_HEADER_BYTES = 32


class SegmentBusyError(StorageError):
    """The file changes so often, or changed while it was read, that no moment of it was seen."""


@dataclass(frozen=True, slots=True)
class OpenedSegment:
    """A segment to read.

    Attributes:
        path: the segment's own file, for messages; the connection may be to a copy.
        connection: the driver connection.
        sealed: whether it will never be written again.
        wal: what lies in the write-ahead log beyond what SQLite replayed.
    """

    path: Path
    connection: Any
    sealed: bool
    wal: WalState = field(default_factory=WalState)


@contextmanager
def open_segment(path: Path) -> Iterator[OpenedSegment]:
    """One moment of a segment for as long as the block lasts.

    Raises:
        FileNotFoundError: it is not there, or not any more.
        SegmentBusyError: its broker writes too much for a moment to be caught.
        StorageError: it cannot be opened, or copied.
    """
    with tempfile.TemporaryDirectory(prefix="ottla-segment-") as directory:
        for _ in range(COPY_ATTEMPTS_MAX):
            if segments.is_sealed(path):
                yield from _sealed(path)
                return
            wal_header = _wal_header(path)
            if wal_header:
                copy = _copy_under_log(path, Path(directory), wal_header)
            else:
                copy = _copy_at_rest(path, Path(directory))
            if copy is not None:
                yield from _copied(path, copy)
                return
            if not wal_header:
                time.sleep(ATTEMPT_PAUSE_S)
    raise SegmentBusyError(
        f"{path}: the broker writes to it all the time; stop the broker, or read from the cluster"
    )


def _sealed(path: Path) -> Iterator[OpenedSegment]:
    before = path.stat()
    with closing(sqlite.connect_sealed(path)) as connection:
        yield OpenedSegment(path, connection, sealed=True)
    try:
        after = path.stat()
    except FileNotFoundError:
        # Retention or compaction took the name away; what was read stayed as it was.
        return
    if after.st_ino == before.st_ino and after.st_mtime_ns != before.st_mtime_ns:
        raise SegmentBusyError(f"{path}: its broker truncated it meanwhile; try again")


def _copied(path: Path, copy: Path) -> Iterator[OpenedSegment]:
    # With the lighter durability: nobody needs the copy after this.
    with closing(sqlite.connect_active(copy, sqlite.Durability.OS)) as connection:
        wal = inspect_wal(connection, copy)
        yield OpenedSegment(path, connection, sealed=False, wal=wal)


def _copy_under_log(path: Path, directory: Path, wal_header: bytes) -> Path | None:
    """Copy the file and its write-ahead log; None if the log began anew meanwhile."""

    def is_same_log() -> bool:
        return _wal_header(path) == wal_header

    target = directory / path.name
    if not _copy_while(is_same_log, path, target):
        return None
    _copy_sidecars(path, directory)
    return target if is_same_log() else None


def _copy_at_rest(path: Path, directory: Path) -> Path | None:
    """Copy the file and its rollback journal; None if that caught no single moment."""
    before = path.stat()
    if 0 <= time.time_ns() - before.st_mtime_ns < REST_NS:
        return None

    def is_at_rest() -> bool:
        after = path.stat()
        return (before.st_ino, before.st_mtime_ns, before.st_size) == (
            after.st_ino,
            after.st_mtime_ns,
            after.st_size,
        )

    target = directory / path.name
    if not _copy_while(is_at_rest, path, target):
        return None
    _copy_sidecars(path, directory)
    return target if is_at_rest() and not _wal_header(path) else None


def _wal_header(path: Path) -> bytes:
    """The header of the write-ahead log; empty where there is no log, or an empty one."""
    try:
        with path.with_name(path.name + "-wal").open("rb") as file:
            return file.read(_WAL_HEADER_BYTES)
    except FileNotFoundError:
        return b""


def _copy_while(is_unchanged: Callable[[], bool], source: Path, target: Path) -> bool:
    """Copy a file for as long as that holds; whether it was copied to its end."""
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(COPY_CHUNK_BYTES):
            if not is_unchanged():
                return False
            writer.write(chunk)
    return True


def _copy_sidecars(path: Path, directory: Path) -> None:
    for sidecar in sqlite.sidecars(path):
        target = directory / sidecar.name
        target.unlink(missing_ok=True)
        # Shared memory is only an index of the log, which SQLite makes anew.
        if not sidecar.name.endswith("-shm"):
            _copy_if_there(sidecar, target)


def _copy_if_there(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError:
        target.unlink(missing_ok=True)
