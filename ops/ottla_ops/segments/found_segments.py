"""Which segments lie under a path: a data directory, one replica's directory, or one file.

Nothing is locked and nothing is written, so this may look at the directory of a running broker. The
broker's own scan is not used, because that takes the directory's lock and tidies up.
"""

from dataclasses import dataclass
from pathlib import Path

from ottla_broker.storage import segment as segments
from ottla_broker.storage.replica_directory import PARTITION_FILE, read_partition_metadata
from ottla_ops.segments.segment_snapshot import open_segment
from ottla_protocol.errors import StorageError


class NoSegmentsError(StorageError):
    """There is nothing of the kind under the path."""


@dataclass(frozen=True, slots=True)
class FoundReplica:
    """One partition's segments on disk.

    Attributes:
        topic, topic_id, partition: whose they are.
        segments: the files, oldest first.
        damaged: files that a recovery has put aside for the operator.
    """

    topic: str
    topic_id: str
    partition: int
    segments: tuple[Path, ...]
    damaged: tuple[Path, ...] = ()


def find_replicas(path: Path) -> list[FoundReplica]:
    """The replicas under `path`, by topic and partition.

    Raises:
        NoSegmentsError: there is no such path, or no replica there.
        StorageError: a directory does not say whose it is.
    """
    if not path.exists():
        raise NoSegmentsError(f"{path}: there is no such file or directory")
    if path.is_file():
        return [_lone_file(path)]
    directories = [path]
    if not (path / PARTITION_FILE).exists():
        directories = [entry for entry in path.iterdir() if (entry / PARTITION_FILE).exists()]
    found = [replica for each in directories if (replica := _replica(each)) is not None]
    if not found:
        raise NoSegmentsError(f"{path}: neither a data directory with replicas nor a replica's own")
    return sorted(found, key=lambda replica: (replica.topic, replica.partition))


def choose(
    replicas: list[FoundReplica], topic: str | None, partition: int | None
) -> list[FoundReplica]:
    """Those of one topic or partition, where they are named.

    Raises:
        NoSegmentsError: none is.
    """
    chosen = [
        replica
        for replica in replicas
        if topic in (None, replica.topic) and partition in (None, replica.partition)
    ]
    if not chosen:
        wanted = " ".join(
            f"{name} {value}"
            for name, value in (("topic", topic), ("partition", partition))
            if value is not None
        )
        raise NoSegmentsError(f"there is no replica of {wanted} here")
    return chosen


def _replica(directory: Path) -> FoundReplica | None:
    """The replica in a directory; None when it went away meanwhile."""
    try:
        metadata = read_partition_metadata(directory)
        if metadata is None:
            return None
        entries = sorted(directory.iterdir())
    except FileNotFoundError:
        return None
    return FoundReplica(
        metadata.topic,
        metadata.topic_id,
        metadata.partition,
        tuple(entry for entry in entries if segments.base_offset_of(entry) is not None),
        tuple(entry for entry in entries if entry.name.endswith(segments.DAMAGED_SUFFIX)),
    )


def _lone_file(path: Path) -> FoundReplica:
    """One segment as a replica of its own."""
    if segments.base_offset_of(path) is None:
        raise NoSegmentsError(
            f"{path}: a segment's file name is its base offset, "
            f"{segments.BASE_OFFSET_DIGITS} digits and {segments.SUFFIX}"
        )
    with open_segment(path) as opened:
        identity = segments.read_identity(opened.connection, path)
    return FoundReplica(identity.topic, identity.topic_id, identity.partition, (path,))
