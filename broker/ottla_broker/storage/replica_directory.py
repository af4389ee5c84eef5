"""One replica's directory: whose it is, known without opening a segment.

`partition.json` is written before the first segment, so that the scan at start-up can tell an old
namesake's files from the topic's own. All functions block; call them on a thread.
"""

import shutil
from pathlib import Path

import msgspec

from ottla_broker.storage import sqlite
from ottla_broker.storage.atomic_file import write_atomically
from ottla_broker.storage.segment import base_offset_of
from ottla_protocol.errors import StorageError

PARTITION_FILE = "partition.json"


class PartitionMetadata(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Content of `partition.json`."""

    topic: str
    topic_id: str
    partition: int
    version: int = 1


def prepare_replica_directory(directory: Path, topic: str, topic_id: str, partition: int) -> None:
    """Make the directory with its `partition.json`, or check that it is this partition's.

    Raises:
        StorageError: it belongs to another topic id, or cannot be made or read.
    """
    wanted = PartitionMetadata(topic, topic_id, partition)
    try:
        if not directory.exists():
            directory.mkdir(mode=sqlite.DIRECTORY_MODE, parents=True)
            sqlite.fsync_directory(directory.parent)
        found = read_partition_metadata(directory)
        if found is None:
            write_atomically(directory / PARTITION_FILE, msgspec.json.encode(wanted))
        elif found != wanted:
            raise StorageError(f"{directory}: belongs to {found}, not to {wanted}")
    except OSError as error:
        raise sqlite.storage_error(directory, "open", error) from error


def read_partition_metadata(directory: Path) -> PartitionMetadata | None:
    """Whose directory this is; None when it was being made and holds nothing.

    Raises:
        StorageError: `partition.json` is damaged, or absent beside segments.
    """
    path = directory / PARTITION_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=PartitionMetadata)
    except FileNotFoundError:
        if any(base_offset_of(entry) is not None for entry in directory.iterdir()):
            raise StorageError(f"{directory}: has segments but no {PARTITION_FILE}") from None
        return None
    except msgspec.MsgspecError as error:
        raise StorageError(f"{path}: {error}") from error


def remove_directory(directory: Path) -> None:
    """Remove a replica's directory with everything in it, durably.

    Files go newest segment first, so that a crash on the way leaves a shorter log that is whole.
    """
    if not directory.exists():
        return
    for path in sorted(directory.iterdir(), reverse=True):
        if base_offset_of(path) is not None:
            sqlite.remove_database(path)
    shutil.rmtree(directory)
    sqlite.fsync_directory(directory.parent)
