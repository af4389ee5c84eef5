"""Is a backup on disk what was written, and all of it? Blocking."""

from collections.abc import Callable, Sequence
from pathlib import Path

from ottla_ops.backup.chunk_files import read_chunk
from ottla_ops.backup.manifest import (
    MANIFEST,
    DamagedBackupError,
    Manifest,
    TopicBackup,
    UnfinishedBackupError,
    decode_manifest,
)
from ottla_protocol.errors import NotFoundError


class BackupNotFoundError(NotFoundError):
    """There is no such directory."""

    code = "BACKUP_NOT_FOUND"
    title = "Backup not found"


def read_manifest(directory: Path) -> Manifest:
    """What the backup says of itself; its ranges have no hole.

    Raises:
        BackupNotFoundError: there is no such directory.
        UnfinishedBackupError: it has no manifest.
        UnsupportedBackupError: it is of another version.
        DamagedBackupError: the manifest does not parse, or a range has a hole.
        OSError: it cannot be read.
    """
    if not directory.is_dir():
        raise BackupNotFoundError(f"{directory}: there is no such directory")
    try:
        content = (directory / MANIFEST).read_bytes()
    except FileNotFoundError:
        raise UnfinishedBackupError(
            f"{directory}: without a {MANIFEST} it is no backup, or one that was broken off"
        ) from None
    return decode_manifest(content)


def damage_in(
    directory: Path, topics: Sequence[TopicBackup], on_records: Callable[[int], None]
) -> list[DamagedBackupError]:
    """Read every chunk of these topics; what is wrong, one error for each damaged file.

    Args:
        directory: of the backup.
        topics: of its manifest.
        on_records: told how many records were read.

    Raises:
        OSError: a file cannot be read.
    """
    found = []
    for topic in topics:
        for partition in topic.partitions:
            for chunk in partition.chunks:
                try:
                    for _, header in read_chunk(directory, chunk):
                        on_records(header.record_count)
                except DamagedBackupError as error:
                    found.append(error)
    return found
