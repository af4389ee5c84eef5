"""A restore of a backup into a running cluster: the same partitions, offsets, records and groups.

Nothing is created before every chosen file was read and found sound, and every name found free. The
topics are for the restore alone until all of it is there: then groups get their offsets, and then
everybody gets the topics. A restore that broke off goes on where it was when it is run again.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from ottla_cluster.groups.limits import MAX_COMMIT_METADATA_LENGTH, MAX_OFFSET_METADATA_LENGTH
from ottla_ops.backup.chunk_files import read_chunk
from ottla_ops.backup.manifest import GroupBackup, Manifest, PartitionBackup, TopicBackup
from ottla_ops.backup.pace import Pace
from ottla_ops.backup.verification import damage_in
from ottla_protocol.errors import StorageError, TopicAlreadyExistsError
from ottla_protocol.models import TopicDescription
from ottla_protocol.models_groups import OffsetToCommit
from ottla_protocol.models_restores import BeginRestoreRequest
from ottla_protocol.record_batch import (
    MAGIC,
    NO_LEADER_EPOCH,
    NO_PRODUCER_EPOCH,
    NO_PRODUCER_ID,
    NO_SEQUENCE,
    BatchHeader,
    make_batch,
)

APPEND_BYTES: Final = 4 << 20
"""A request has about so much; a batch that is larger goes alone."""

LAST_OFFSET_DELTA_MAX: Final = 2**31 - 1

COMMIT_OFFSETS_MAX: Final = MAX_COMMIT_METADATA_LENGTH // MAX_OFFSET_METADATA_LENGTH
"""Of one group, in one request: so many fit, however long their metadata is."""


class Target(Protocol):
    """Where a restore goes to; see `ClusterTarget`, which keeps to it."""

    def topic(self, name: str) -> TopicDescription | None:
        """The topic of that name."""

    def begin(self, name: str, request: BeginRestoreRequest) -> None:
        """Create the topic for this restore."""

    def append(
        self,
        topic: str,
        partition: int,
        restore_id: str,
        position: int,
        batches: Sequence[bytes],
    ) -> int:
        """Append batches; where the partition ends then."""

    def commit(self, group: str, offsets: Sequence[OffsetToCommit]) -> None:
        """Set what a group has committed."""

    def finish(self, name: str, restore_id: str) -> None:
        """Give the topic to everybody."""

    def is_restored(self, name: str, restore_id: str) -> bool:
        """Whether the topic is there and that restore has finished it."""


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """What is to be other than in the backup.

    Attributes:
        new_names: of topics, by their former ones.
        configs: set on every topic, beside its own or in their place.
        replication_factor: of every topic; that of the backup if None.
        with_groups: whether groups get their offsets.
    """

    new_names: Mapping[str, str]
    configs: Mapping[str, str]
    replication_factor: int | None
    with_groups: bool


class Restoration:
    """Restores topics of one backup.

    Args:
        directory: of the backup.
        manifest: of the backup.
        target: the cluster.
        options: what is to be other than in the backup.
        pace: bounds how fast records are written.
        on_records: told how many records were written, or found there.
    """

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        target: Target,
        options: RestoreOptions,
        *,
        pace: Pace,
        on_records: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._directory = directory
        self._manifest = manifest
        self._target = target
        self._options = options
        self._pace = pace
        self._on_records = on_records

    def name_of(self, topic: str) -> str:
        """What a topic of the backup is called in the cluster."""
        return self._options.new_names.get(topic, topic)

    def restore(self, topics: Sequence[TopicBackup]) -> list[str]:
        """Restore these topics of the manifest; the groups that got offsets.

        Raises:
            TopicAlreadyExistsError: there is a topic of that name; nothing was changed.
            DamagedBackupError: a file is not what was written; nothing was changed.
            OttlaError, CommandError: the cluster does not take it. Run again, it goes on.
            OSError: a file cannot be read.
        """
        left = self._left(topics)
        damage = damage_in(self._directory, left, lambda _: None)
        if damage:
            raise damage[0]
        for topic in left:
            self._begin(topic)
        for topic in left:
            for partition in topic.partitions:
                self._fill(self.name_of(topic.name), partition)
        # All groups came before the first topic was given away. Since then its members commit.
        groups = self._commit({topic.name for topic in topics}) if left == list(topics) else []
        for topic in left:
            self._target.finish(self.name_of(topic.name), self._manifest.id)
        return groups

    def _left(self, topics: Sequence[TopicBackup]) -> list[TopicBackup]:
        """Those that are to be restored: all, or what a restore that broke off at the end left.

        Raises:
            TopicAlreadyExistsError: there is a topic that did not come from this restore.
        """
        found = {topic.name: self._target.topic(self.name_of(topic.name)) for topic in topics}
        goes_on = any(
            each is not None and each.restore_id == self._manifest.id for each in found.values()
        )
        left = []
        for topic in topics:
            there = found[topic.name]
            if goes_on and there is not None and self._is_finished(there):
                self._on_records(_records_of(topic))
                continue
            self._require_free(self.name_of(topic.name), there)
            left.append(topic)
        return left

    def _is_finished(self, there: TopicDescription) -> bool:
        return there.restore_id is None and self._target.is_restored(there.name, self._manifest.id)

    def _require_free(self, name: str, found: TopicDescription | None) -> None:
        if found is None or found.restore_id == self._manifest.id:
            return
        if found.restore_id is not None:
            raise TopicAlreadyExistsError(f"the topic {name} is being restored from another backup")
        raise TopicAlreadyExistsError(
            f"there is a topic {name}, and a restore overwrites none: --rename OLD=NEW restores "
            "under another name"
        )

    def _begin(self, topic: TopicBackup) -> None:
        request = BeginRestoreRequest(
            restore_id=self._manifest.id,
            first_offsets=[partition.log_start_offset for partition in topic.partitions],
            replication_factor=self._options.replication_factor or topic.replication_factor,
            configs={**topic.configs, **self._options.configs},
        )
        self._target.begin(self.name_of(topic.name), request)

    def _fill(self, topic: str, partition: PartitionBackup) -> None:
        def append(position: int, batches: Sequence[bytes]) -> int:
            number = partition.partition
            found = self._target.append(topic, number, self._manifest.id, position, batches)
            self._pace.moved(sum(map(len, batches)))
            return found

        position = append(partition.log_start_offset, ())
        for batches, records, next_offset in self._requests(partition, position):
            reached = append(position, batches) if batches else next_offset
            if reached < next_offset:
                raise StorageError(
                    f"{topic}-{partition.partition} ends at {reached}, not at {next_offset}"
                )
            position = max(position, next_offset)
            self._on_records(records)
        while position < partition.end_offset:
            position = append(position, [padding(position, partition.end_offset, self._time_ms)])

    @property
    def _time_ms(self) -> int:
        return self._manifest.began_ms

    def _requests(
        self, partition: PartitionBackup, start: int
    ) -> Iterator[tuple[list[bytes], int, int]]:
        """Batches from `start` on, as many as go into a request, their records, and their end.

        Without batches: records that are there already, up to an offset that is not above `start`.
        """
        batches: list[bytes] = []
        records = size_bytes = 0
        next_offset = start
        for chunk in partition.chunks:
            if chunk.next_offset <= start:
                yield [], chunk.records, chunk.next_offset
                continue
            for batch, header in read_chunk(self._directory, chunk):
                records += header.record_count
                if header.next_offset <= start:
                    continue
                if batches and size_bytes + len(batch) > APPEND_BYTES:
                    yield batches, records - header.record_count, next_offset
                    batches, records, size_bytes = [], header.record_count, 0
                batches.append(batch)
                size_bytes += len(batch)
                next_offset = header.next_offset
        if batches or records:
            yield batches, records, next_offset

    def _commit(self, topics: set[str]) -> list[str]:
        if not self._options.with_groups:
            return []
        found = []
        for group in self._manifest.groups:
            offsets = self._offsets(group, topics)
            for first in range(0, len(offsets), COMMIT_OFFSETS_MAX):
                self._target.commit(group.group, offsets[first : first + COMMIT_OFFSETS_MAX])
            if offsets:
                found.append(group.group)
        return found

    def _offsets(self, group: GroupBackup, topics: set[str]) -> list[OffsetToCommit]:
        # Leader epochs count anew in the new topic: those of the backup mean nothing there.
        return [
            OffsetToCommit(
                topic=self.name_of(each.topic),
                partition=each.partition,
                offset=each.offset,
                metadata=each.metadata,
            )
            for each in group.offsets
            if each.topic in topics
        ]


def _records_of(topic: TopicBackup) -> int:
    return sum(chunk.records for partition in topic.partitions for chunk in partition.chunks)


def padding(position: int, end: int, timestamp_ms: int) -> bytes:
    """A batch without records for the offsets from `position` up to `end`, or as many as it may.

    So that the partition ends where it did, though its last offsets had no records.
    """
    header = BatchHeader(
        base_offset=position,
        batch_length=0,
        leader_epoch=NO_LEADER_EPOCH,
        magic=MAGIC,
        crc=0,
        attributes=0,
        last_offset_delta=min(end - position - 1, LAST_OFFSET_DELTA_MAX),
        base_timestamp=timestamp_ms,
        max_timestamp=timestamp_ms,
        producer_id=NO_PRODUCER_ID,
        producer_epoch=NO_PRODUCER_EPOCH,
        base_sequence=NO_SEQUENCE,
        record_count=0,
    )
    return bytes(make_batch(header, b""))
