"""A backup of topics of a running cluster.

Order matters. What groups have committed is read first, then where every partition ends, then the
records: so no group is ahead of the records that are restored with it, and what is written
meanwhile is not a part of the backup. The manifest comes last.

Of transactions it has what readers of committed records are shown, at its offsets: a partition ends
before the first transaction that is open, aborted records and markers are left out, and committed
batches are of no transaction any more.
"""

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final, Protocol

import msgspec

from ottla_broker.storage.atomic_file import write_atomically
from ottla_broker.storage.sqlite import fsync_directory
from ottla_ops.backup.chunk_files import CHUNK_BYTES, ChunkWriter
from ottla_ops.backup.manifest import (
    FORMAT,
    MANIFEST,
    VERSION,
    BackupExistsError,
    Chunk,
    GroupBackup,
    Manifest,
    PartitionBackup,
    TopicBackup,
    chunk_path,
    encode_manifest,
)
from ottla_ops.backup.pace import Pace
from ottla_protocol.counted_nouns import counted
from ottla_protocol.errors import (
    OffsetOutOfRangeError,
    RequestTimedOutError,
    UnknownTopicIdError,
)
from ottla_protocol.models import FetchedPartition, TopicDescription
from ottla_protocol.record_batch import (
    BatchHeader,
    Buffer,
    read_header,
    take_out_of_transaction,
    validate_batch,
)

FETCH_BYTES: Final = 8 << 20
"""Asked for at once, and so about what a backup holds in memory."""

EMPTY_ANSWERS_MAX: Final = 3
"""After so many answers without a batch, from a leader that knows the end, there is none."""


class Source(Protocol):
    """Where a backup comes from; see `ClusterSource`, which keeps to it."""

    def cluster_id(self) -> str:
        """The cluster's id."""

    def topics(self, names: list[str]) -> list[TopicDescription]:
        """The topics of these names; all without any."""

    def own_configs(self, topic: str) -> dict[str, str | int | float | bool]:
        """The configs that the topic sets itself."""

    def offset(self, topic: str, partition: int, at: str) -> int:
        """An end of a partition: `earliest`, `latest`, or `stable`, of what is committed."""

    def fetch(
        self, topic: str, partition: int, offset: int, max_bytes: int, last_epoch: int | None
    ) -> FetchedPartition:
        """Whole batches; `last_epoch` is the leader epoch of the last batch before `offset`."""

    def groups(self, partitions: dict[str, int]) -> list[GroupBackup]:
        """Committed offsets."""


@dataclass(frozen=True, slots=True)
class _Range:
    """What is to be read of one partition."""

    topic: str
    topic_id: str
    partition: int
    start: int
    end: int


def require_empty(directory: Path) -> None:
    """Refuse a directory that has anything in it.

    Raises:
        BackupExistsError: it holds files.
    """
    if not directory.exists():
        return
    if (directory / MANIFEST).exists():
        raise BackupExistsError(f"{directory}: there is a backup already")
    if not directory.is_dir() or any(directory.iterdir()):
        raise BackupExistsError(
            f"{directory}: there are files, an unfinished backup perhaps; remove them, or name "
            "another directory"
        )


class BackupCreation:
    """Makes one backup.

    Args:
        source: the cluster.
        directory: empty, or not there yet.
        pace: bounds how fast records are read.
        timeout_s: how long a partition may stand still before the backup fails.
        wall_clock_ms, monotonic_s: clocks.
        on_total, on_records: told how many offsets there are to read, and how many records were.
        on_note: told what whoever makes the backup should know.
    """

    def __init__(
        self,
        source: Source,
        directory: Path,
        *,
        pace: Pace,
        timeout_s: float,
        wall_clock_ms: Callable[[], int],
        monotonic_s: Callable[[], float],
        on_total: Callable[[int], None] = lambda _: None,
        on_records: Callable[[int], None] = lambda _: None,
        on_note: Callable[[str], None] = lambda _: None,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self._source = source
        self._directory = directory
        self._pace = pace
        self._timeout_s = timeout_s
        self._wall_clock_ms = wall_clock_ms
        self._monotonic_s = monotonic_s
        self._on_total = on_total
        self._on_records = on_records
        self._on_note = on_note
        self._chunk_bytes = chunk_bytes
        # Of the last batch of the partition that is being read: a leader that has not got it, after
        # an unclean election, must not go on with other records in the middle of the backup.
        self._last_epoch: int | None = None

    def create(self, names: list[str], *, with_groups: bool) -> Manifest:
        """Back the topics of these names up; without any, all.

        Raises:
            BackupExistsError: the directory is not empty.
            OttlaError, CommandError: the cluster does not give what is asked for.
            OSError: a file cannot be written.
        """
        require_empty(self._directory)
        self._directory.mkdir(parents=True, exist_ok=True)
        began_ms = self._wall_clock_ms()
        cluster_id = self._source.cluster_id()
        topics = self._source.topics(names)
        configs = [self._source.own_configs(topic.name) for topic in topics]
        counts = {topic.name: len(topic.partitions) for topic in topics}
        groups = self._source.groups(counts) if with_groups else []
        ranges = [self._ranges(topic) for topic in topics]
        groups = [_not_ahead(group, ranges) for group in groups]
        self._on_total(sum(each.end - each.start for topic in ranges for each in topic))
        manifest = Manifest(
            format=FORMAT,
            version=VERSION,
            id=uuid.uuid4().hex,
            ottla_version=version("ottla"),
            cluster_id=cluster_id,
            began_ms=began_ms,
            topics=[
                TopicBackup(
                    name=topic.name,
                    topic_id=topic.topic_id,
                    replication_factor=len(topic.partitions[0].replicas),
                    configs=own,
                    partitions=[self._partition(each) for each in wanted],
                )
                for topic, own, wanted in zip(topics, configs, ranges, strict=True)
            ],
            groups=groups,
            finished_ms=self._wall_clock_ms(),
        )
        self._sync_directories()
        write_atomically(self._directory / MANIFEST, encode_manifest(manifest))
        return manifest

    def _ranges(self, topic: TopicDescription) -> list[_Range]:
        found = []
        for partition in range(len(topic.partitions)):
            # The end first: what retention removes in between only makes the range shorter.
            latest = self._source.offset(topic.name, partition, "latest")
            end = self._source.offset(topic.name, partition, "stable")
            behind = latest - end
            if behind > 0:
                self._on_note(
                    f"{topic.name}-{partition} ends at offset {end}, before a transaction that is "
                    f"open: {counted(behind, 'offset')} behind it not in the backup"
                )
            start = self._source.offset(topic.name, partition, "earliest")
            found.append(_Range(topic.name, topic.topic_id, partition, start, max(start, end)))
        return found

    def _partition(self, wanted: _Range) -> PartitionBackup:
        start, end = wanted.start, wanted.end
        while True:
            chunks: list[Chunk] = []
            try:
                self._read(wanted, start, end, chunks)
                break
            except OffsetOutOfRangeError:
                first = self._source.offset(wanted.topic, wanted.partition, "earliest")
                if first <= start:
                    raise
            # Retention came first. What was read before the hole is gone from the cluster too.
            for chunk in chunks:
                (self._directory / chunk.file).unlink()
            start, end = first, max(first, end)
        end = max(end, chunks[-1].next_offset) if chunks else end
        return PartitionBackup(wanted.partition, start, end, chunks)

    def _read(self, wanted: _Range, start: int, end: int, chunks: list[Chunk]) -> None:
        """Read `start` to `end` into chunks; a chunk that is not finished is removed."""
        position = start
        self._last_epoch = None
        while position < end:
            file = chunk_path(wanted.topic, wanted.partition, position)
            writer = ChunkWriter(self._directory, file, position)
            try:
                position = self._fill(writer, wanted, position, end)
            except BaseException:
                writer.discard()
                raise
            chunks.append(writer.finish(position))

    def _fill(self, writer: ChunkWriter, wanted: _Range, position: int, end: int) -> int:
        """Read into one chunk until it is full; the position behind it."""
        progressed_s = self._monotonic_s()
        empty_answers = 0
        while position < end and writer.size_bytes < self._chunk_bytes:
            max_bytes = self._pace.bounded(FETCH_BYTES)
            found = self._source.fetch(
                wanted.topic, wanted.partition, position, max_bytes, self._last_epoch
            )
            if found.topic_id != wanted.topic_id:
                raise UnknownTopicIdError(f"{wanted.topic} was deleted and created again")
            before = position
            position = self._write(writer, found, position, end)
            if position > before:
                progressed_s, empty_answers = self._monotonic_s(), 0
                continue
            if _end_of(found) >= end:
                empty_answers += 1
                if empty_answers == EMPTY_ANSWERS_MAX:
                    # Offsets that the leader itself has skipped, after damage.
                    return end
            elif self._monotonic_s() - progressed_s > self._timeout_s:
                raise RequestTimedOutError(
                    f"{wanted.topic}-{wanted.partition} is stuck at offset {position} of {end} "
                    f"since {self._timeout_s:g} s"
                )
        return position

    def _write(self, writer: ChunkWriter, found: FetchedPartition, position: int, end: int) -> int:
        records = size_bytes = 0
        for batch in found.batches:
            header = validate_batch(batch, on_append=False)
            if header.next_offset <= position:
                continue
            if header.base_offset >= end:
                # Compacted away up to the end: what is there now came later.
                position = end
                break
            writer.write(*_plain(batch, header))
            records += header.record_count
            size_bytes += len(batch)
            position = header.next_offset
            self._last_epoch = header.leader_epoch
        if found.next_offset is not None and found.next_offset > position:
            # What is between was aborted, or ends transactions.
            position = min(found.next_offset, end)
            self._last_epoch = found.leader_epoch
        self._on_records(records)
        self._pace.moved(size_bytes)
        return position

    def _sync_directories(self) -> None:
        # The files are synced; so must be the names of the directories that lead to them.
        for path, _, _ in os.walk(self._directory, topdown=False):
            fsync_directory(Path(path))
        fsync_directory(self._directory.absolute().parent)


def _plain(batch: memoryview, header: BatchHeader) -> tuple[Buffer, BatchHeader]:
    """A committed batch as one of no transaction, since the marker that says so is left out."""
    if not header.is_transactional:
        return batch, header
    plain = bytearray(batch)
    take_out_of_transaction(plain)
    return plain, read_header(plain)


def _end_of(found: FetchedPartition) -> int:
    """Where the leader's committed records end, as it answers."""
    stable = found.last_stable_offset
    return found.high_watermark if stable is None else stable


def _not_ahead(group: GroupBackup, ranges: list[list[_Range]]) -> GroupBackup:
    """The group with no offset behind what is backed up.

    One that reads what is not committed may have been told of records that are left out.
    """
    ends = {(each.topic, each.partition): each.end for topic in ranges for each in topic}
    offsets = [
        msgspec.structs.replace(
            each, offset=min(each.offset, ends.get((each.topic, each.partition), each.offset))
        )
        for each in group.offsets
    ]
    return msgspec.structs.replace(group, offsets=offsets)
