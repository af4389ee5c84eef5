"""The data directory of one broker: its lock, its identity, and whose replicas lie in it.

    <data>/.lock                        held by the process that uses the directory
    <data>/meta.json                    node id and cluster id
    <data>/directory.json               the directory's own id
    <data>/high-watermarks.json         checkpoint of every replica's high watermark
    <data>/clock.json                   the time that was believed last
    <data>/<topic>-<partition>/         one replica
    <data>/deleted/<id>-<partition>/    a replica on its way out

A topic can be deleted and made again under the same name while a broker is down. Its directory
then holds the old topic's records, so every replica says its topic id, and a stranger is moved
aside under its own id before anything reads it. Moving is one rename: after a crash the directory
is either still the topic's or is in `deleted`, which is emptied at start.

All methods block; call them at start-up or on a thread.
"""

import fcntl
import os
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from ottla_broker.storage import sqlite
from ottla_broker.storage.atomic_file import write_atomically
from ottla_broker.storage.policy.trusted_clock import KnownTime
from ottla_broker.storage.replica_directory import read_partition_metadata, remove_directory
from ottla_protocol.errors import StorageError

LOCK_FILE = ".lock"
IDENTITY_FILE = "meta.json"
DIRECTORY_ID_FILE = "directory.json"
HIGH_WATERMARKS_FILE = "high-watermarks.json"
CLOCK_FILE = "clock.json"
DELETED_DIRECTORY = "deleted"

_REPLICA_NAME = re.compile(r"[A-Za-z0-9._-]+-\d+")

T = TypeVar("T")


class DirectoryLockedError(StorageError):
    """Another process uses the data directory."""


class DirectoryIdentityError(StorageError):
    """The data directory belongs to another node or cluster."""


class DirectoryIdentity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Content of `meta.json`."""

    node_id: int
    cluster_id: str
    version: int = 1


class DirectoryId(msgspec.Struct, frozen=True):
    """Content of `directory.json`.

    It has a file of its own, because a version that knows of no directory ids refuses a `meta.json`
    with more in it, and must be able to take the directory back.
    """

    directory_id: str
    """Random."""


@dataclass(frozen=True, slots=True)
class ReplicaDirectory:
    """One replica found on disk."""

    topic: str
    topic_id: str
    partition: int
    path: Path


class LogDirectory:
    """The data directory, locked for as long as this object is open.

    Args:
        path: made, with mode 0700, if it is absent.

    Raises:
        DirectoryLockedError: another process has it open.
        StorageError: it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._directory_id = ""
        try:
            path.mkdir(mode=sqlite.DIRECTORY_MODE, parents=True, exist_ok=True)
            sqlite.fsync_directory(path.parent)
            self._lock = os.open(path / LOCK_FILE, os.O_CREAT | os.O_RDWR, sqlite.FILE_MODE)
        except OSError as error:
            raise sqlite.storage_error(path, "open", error) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise DirectoryLockedError(
                f"{path}: another process uses this data directory; stop it, or give this "
                f"broker a directory of its own (OTTLA_DATA_DIR)"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give up the lock; call it once, after every log is closed."""
        os.close(self._lock)

    def claim(self, node_id: int, cluster_id: str) -> None:
        """Check that the directory is this node's, or write so into a new one.

        A directory that has no id of its own yet gets one.

        Raises:
            DirectoryIdentityError: it is another node's or another cluster's.
            StorageError: `meta.json` or `directory.json` cannot be read or written.
        """
        path = self.path / IDENTITY_FILE
        found = _read_json(path, DirectoryIdentity)
        wanted = DirectoryIdentity(node_id, cluster_id)
        if found is None:
            _write_json(path, wanted)
        elif found != wanted:
            raise DirectoryIdentityError(
                f"{path}: belongs to node {found.node_id} of cluster {found.cluster_id!r}, not to "
                f"node {node_id} of cluster {cluster_id!r}"
            )
        known = _read_json(self.path / DIRECTORY_ID_FILE, DirectoryId)
        if known is None:
            self.renew_id()
        else:
            self._directory_id = known.directory_id

    @property
    def directory_id(self) -> str:
        """The directory's own id: another directory of the same node has another one."""
        assert self._directory_id, "claim() comes first"
        return self._directory_id

    def renew_id(self) -> str:
        """Give the directory another id: it no longer holds what was said in the former one's name.

        Raises:
            StorageError: `directory.json` cannot be written.
        """
        identifier = uuid.uuid4().hex
        _write_json(self.path / DIRECTORY_ID_FILE, DirectoryId(identifier))
        self._directory_id = identifier
        return identifier

    def replica_path(self, topic: str, partition: int) -> Path:
        """Where a replica's files lie."""
        return self.path / f"{topic}-{partition}"

    def replicas(self) -> tuple[ReplicaDirectory, ...]:
        """Every replica on disk, by name. A directory that was being made is removed.

        Raises:
            StorageError: a replica's files do not say whose they are, or lie under another name.
        """
        found: list[ReplicaDirectory] = []
        for path in sorted(self.path.iterdir()):
            if not path.is_dir() or _REPLICA_NAME.fullmatch(path.name) is None:
                continue
            metadata = read_partition_metadata(path)
            if metadata is None:
                remove_directory(path)
                continue
            if path != self.replica_path(metadata.topic, metadata.partition):
                raise StorageError(f"{path}: holds {metadata.topic}-{metadata.partition}")
            found.append(
                ReplicaDirectory(metadata.topic, metadata.topic_id, metadata.partition, path)
            )
        return tuple(found)

    def retire(self, replica: ReplicaDirectory) -> Path:
        """Move a closed replica to `deleted/<topic id>-<partition>`; returns its new place.

        Raises:
            StorageError: it cannot be moved.
        """
        deleted = self.path / DELETED_DIRECTORY
        target = deleted / f"{replica.topic_id}-{replica.partition}"
        try:
            deleted.mkdir(mode=sqlite.DIRECTORY_MODE, exist_ok=True)
            remove_directory(target)
            replica.path.rename(target)
            sqlite.fsync_directory(deleted)
            sqlite.fsync_directory(self.path)
        except OSError as error:
            raise sqlite.storage_error(replica.path, "retire", error) from error
        return target

    def remove_retired(self, retired: Path) -> None:
        """Remove what `retire` moved there, and nothing that another thread may be removing.

        Raises:
            StorageError: it cannot be removed.
        """
        try:
            remove_directory(retired)
        except OSError as error:
            raise sqlite.storage_error(retired, "remove", error) from error

    def remove_all_retired(self) -> None:
        """Remove what a crash left in `deleted`, while nobody else removes anything.

        Raises:
            StorageError: something cannot be removed.
        """
        deleted = self.path / DELETED_DIRECTORY
        try:
            left = sorted(deleted.iterdir()) if deleted.exists() else []
        except OSError as error:
            raise sqlite.storage_error(deleted, "remove", error) from error
        for path in left:
            self.remove_retired(path)

    def read_high_watermarks(self) -> dict[str, int]:
        """The checkpoint: high watermark by `<topic id>-<partition>`; empty before the first.

        Raises:
            StorageError: the file is damaged. It is a hint: without it, high watermarks begin at
                the log start and rise again as replicas fetch.
        """
        return _read_json(self.path / HIGH_WATERMARKS_FILE, dict[str, int]) or {}

    def write_high_watermarks(self, high_watermarks: Mapping[str, int]) -> None:
        """Replace the checkpoint, durably and all at once.

        Raises:
            StorageError: it cannot be written.
        """
        _write_json(self.path / HIGH_WATERMARKS_FILE, dict(sorted(high_watermarks.items())))

    def read_clock(self) -> KnownTime | None:
        """What the process before knew of the time; None where none has written it down.

        Raises:
            StorageError: the file is damaged.
        """
        return _read_json(self.path / CLOCK_FILE, KnownTime)

    def write_clock(self, known: KnownTime) -> None:
        """Replace what is known of the time, durably and all at once.

        Raises:
            StorageError: it cannot be written.
        """
        _write_json(self.path / CLOCK_FILE, known)


def high_watermark_key(topic_id: str, partition: int) -> str:
    """A replica's key in the high-watermark checkpoint."""
    return f"{topic_id}-{partition}"


def _read_json(path: Path, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise sqlite.storage_error(path, "read", error) from error


def _write_json(path: Path, value: object) -> None:
    try:
        write_atomically(path, msgspec.json.encode(value))
    except OSError as error:
        raise sqlite.storage_error(path, "write", error) from error
