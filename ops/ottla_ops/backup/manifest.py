"""What a backup says of itself: `manifest.json`. Pure.

A backup is a directory. Each partition's record batches stand in chunks, files of whole batches one
behind the other, byte for byte as the cluster stored them; those of committed transactions have
become batches of none. The manifest names every chunk with its range of offsets, size and SHA-256,
and is written last: a directory without one holds no backup, or one that was not finished.

The chunks of a partition tile the range from its log's start to the last stable offset as it was
when the backup began. Inside a chunk offsets may be missing, where the topic is compacted or a
transaction was aborted or ended, and only there: what a reader of committed records was shown from
a position up to the next one is what the chunk holds.
"""

import re
from collections.abc import Sequence
from typing import Final, TypeVar

import msgspec

from ottla_protocol.errors import (
    ConflictError,
    InvalidRequestError,
    InvalidTopicError,
    NotFoundError,
    StorageError,
)
from ottla_protocol.topic_names import validate_topic_name

MANIFEST: Final = "manifest.json"
FORMAT: Final = "ottla-backup"
VERSION: Final = 1
"""Rises when a reader of the former version would misread a backup."""

_SHA256 = re.compile(r"[0-9a-f]{64}")

T = TypeVar("T")


class UnfinishedBackupError(StorageError):
    """The directory has no manifest: no backup, or one that was broken off."""

    code = "UNFINISHED_BACKUP"
    title = "Unfinished backup"


class DamagedBackupError(StorageError):
    """The backup is not what was written, or its ranges have a hole; `detail` names the file."""

    code = "DAMAGED_BACKUP"
    title = "Damaged backup"


class BackupExistsError(ConflictError):
    """There are files in the directory already."""

    code = "BACKUP_EXISTS"
    title = "Backup exists"


class NotInBackupError(NotFoundError):
    """The backup has no such topic."""

    code = "NOT_IN_BACKUP"
    title = "Not in the backup"


class UnsupportedBackupError(InvalidRequestError):
    """The backup is of a version that this one does not read."""

    code = "UNSUPPORTED_BACKUP"
    title = "Unsupported backup"


class Chunk(msgspec.Struct, frozen=True):
    """A file of whole record batches of one partition.

    Attributes:
        file: its path within the backup.
        first_offset: where reading began for it.
        next_offset: where the next chunk begins.
        batches, records: how many it has; compaction may have left fewer records than offsets.
        size_bytes: of the file.
        sha256: of the file, 64 lower-case hex digits.
    """

    file: str
    first_offset: int
    next_offset: int
    batches: int
    records: int
    size_bytes: int
    sha256: str


class PartitionBackup(msgspec.Struct, frozen=True):
    """One partition, from `log_start_offset` up to `end_offset` exclusively."""

    partition: int
    log_start_offset: int
    end_offset: int
    chunks: list[Chunk]

    @property
    def records(self) -> int:
        """How many there are."""
        return sum(chunk.records for chunk in self.chunks)

    @property
    def size_bytes(self) -> int:
        """What its chunks take."""
        return sum(chunk.size_bytes for chunk in self.chunks)


class TopicBackup(msgspec.Struct, frozen=True):
    """One topic; `configs` are those that the topic sets itself."""

    name: str
    topic_id: str
    replication_factor: int
    configs: dict[str, str | int | float | bool]
    partitions: list[PartitionBackup]

    @property
    def records(self) -> int:
        """How many there are."""
        return sum(partition.records for partition in self.partitions)

    @property
    def size_bytes(self) -> int:
        """What its chunks take."""
        return sum(partition.size_bytes for partition in self.partitions)


class GroupOffset(msgspec.Struct, frozen=True):
    """What a group had committed for one partition: the next offset that it reads."""

    topic: str
    partition: int
    offset: int
    leader_epoch: int | None
    metadata: str
    commit_timestamp: int


class GroupBackup(msgspec.Struct, frozen=True):
    """The committed offsets of one group, for topics of the backup alone."""

    group: str
    offsets: list[GroupOffset]


class Manifest(msgspec.Struct, frozen=True):
    """All that a backup says.

    Attributes:
        id: 32 hex digits; no two backups have the same.
        began_ms, finished_ms: wall clock, milliseconds since the epoch. Partitions end where they
            ended after the former; groups were read before that.
    """

    format: str
    version: int
    id: str
    ottla_version: str
    cluster_id: str
    began_ms: int
    finished_ms: int
    topics: list[TopicBackup]
    groups: list[GroupBackup]

    @property
    def records(self) -> int:
        """How many there are."""
        return sum(topic.records for topic in self.topics)

    @property
    def size_bytes(self) -> int:
        """What the chunks take."""
        return sum(topic.size_bytes for topic in self.topics)


class _Version(msgspec.Struct, frozen=True):
    format: str
    version: int


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest as JSON that a person can read."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def decode_manifest(content: bytes) -> Manifest:
    """The manifest that `encode_manifest` wrote, checked: every range and name is sound.

    Raises:
        UnsupportedBackupError: it is of another version.
        DamagedBackupError: it does not parse, or contradicts itself.
    """
    version = _parsed(content, _Version)
    if version.format != FORMAT:
        raise DamagedBackupError(f"{MANIFEST}: no manifest of a backup")
    if version.version != VERSION:
        raise UnsupportedBackupError(
            f"{MANIFEST} is of version {version.version}; this version of Ottla reads {VERSION}"
        )
    manifest = _parsed(content, Manifest)
    for problem in (_name_problem(manifest), *map(_topic_problem, manifest.topics)):
        if problem is not None:
            raise DamagedBackupError(f"{MANIFEST}: {problem}")
    return manifest


def _parsed(content: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DamagedBackupError(f"{MANIFEST}: {error}") from error


def chunk_path(topic: str, partition: int, first_offset: int) -> str:
    """The file of a chunk within the backup."""
    return f"topics/{topic}/{partition}/{first_offset:020d}.batches"


def _name_problem(manifest: Manifest) -> str | None:
    names = [topic.name for topic in manifest.topics]
    if len(set(names)) != len(names):
        return "a topic occurs twice"
    partitions = {topic.name: len(topic.partitions) for topic in manifest.topics}
    for group in manifest.groups:
        for offset in group.offsets:
            if not 0 <= offset.partition < partitions.get(offset.topic, 0) or offset.offset < 0:
                return f"the group {group.group} has an offset of none of the partitions"
    return None


def _topic_problem(topic: TopicBackup) -> str | None:
    try:
        # It becomes a part of paths.
        validate_topic_name(topic.name)
    except InvalidTopicError as error:
        return error.detail
    if topic.replication_factor < 1 or not topic.partitions:
        return f"{topic.name}: it has no partition or no replica"
    if [each.partition for each in topic.partitions] != list(range(len(topic.partitions))):
        return f"{topic.name}: its partitions are not 0 to {len(topic.partitions) - 1}"
    problems = (_partition_problem(topic.name, partition) for partition in topic.partitions)
    return next(filter(None, problems), None)


def _partition_problem(topic: str, partition: PartitionBackup) -> str | None:
    name = f"{topic}-{partition.partition}"
    if not 0 <= partition.log_start_offset <= partition.end_offset:
        return f"{name} ends at {partition.end_offset}, before {partition.log_start_offset}"
    hole = hole_in(partition)
    if hole is not None:
        return f"{name} has no chunk of the offsets {hole[0]} to {hole[1] - 1}"
    for chunk in partition.chunks:
        # The path is not taken from the file: it could lead anywhere.
        if chunk.file != chunk_path(topic, partition.partition, chunk.first_offset):
            return f"{name} has a chunk {chunk.file}"
        if chunk.next_offset <= chunk.first_offset:
            return f"{chunk.file} ends at {chunk.next_offset}"
        if min(chunk.batches, chunk.records, chunk.size_bytes) < 0:
            return f"{chunk.file} has less than nothing"
        if not _SHA256.fullmatch(chunk.sha256):
            return f"{chunk.file} has the SHA-256 {chunk.sha256!r}"
    return None


def hole_in(partition: PartitionBackup) -> tuple[int, int] | None:
    """The first offsets, end exclusively, that no chunk is for; None if the chunks tile the range.

    An overlap counts as a hole too: (where the next chunk should begin, where it does), turned
    round where that comes to less.
    """
    position = partition.log_start_offset
    for chunk in partition.chunks:
        if chunk.first_offset != position:
            return _range(position, chunk.first_offset)
        position = chunk.next_offset
    return None if position == partition.end_offset else _range(position, partition.end_offset)


def _range(one: int, other: int) -> tuple[int, int]:
    return min(one, other), max(one, other)


def chosen_topics(manifest: Manifest, names: Sequence[str]) -> list[TopicBackup]:
    """The topics of these names; all without any.

    Raises:
        NotInBackupError: it has no such topic.
    """
    by_name = {topic.name: topic for topic in manifest.topics}
    missing = [name for name in names if name not in by_name]
    if missing:
        raise NotInBackupError(f"the backup has no topic {missing[0]}")
    return [by_name[name] for name in dict.fromkeys(names)] if names else list(manifest.topics)
