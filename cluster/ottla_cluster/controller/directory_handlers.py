"""What follows when a broker comes back with another data directory than it had.

Its replicas are empty then, or older than the ones that count. Like any process that is replaced it
has left every ISR that has another member. Where it is the last one, its log was the only one that
is known to hold what was acknowledged. It stays that member, and does not lead: as a leader it
would have the other replicas cut their logs to its own. The partition remembers the directory that
the log is in, so neither another controller nor another start with the new directory forgets it. It
waits for that directory, or for an unclean election.

A partition's only replica has no others that it could harm: it leads with what it has.
"""

from collections.abc import Iterable, Iterator

from ottla_cluster.controller.features import BROKER_DIRECTORIES, is_enabled
from ottla_cluster.controller.image import BrokerRegistration, MetadataImage, Partition
from ottla_cluster.controller.records import (
    BrokerDirectoryTold,
    MetadataRecord,
    PartitionChanged,
    PartitionDirectoryAwaited,
)


def directory_told(
    image: MetadataImage,
    former: BrokerRegistration | None,
    told: BrokerDirectoryTold,
    left: Iterable[PartitionChanged],
) -> Iterator[MetadataRecord]:
    """The records by which a registration says which directory its broker has.

    Args:
        image: what is decided on.
        former: the node id's registration before, if there was one.
        told: what the registration says.
        left: what the same registration changes, in the records before these.
    """
    if not is_enabled(image, BROKER_DIRECTORIES):
        return
    yield told
    if former is None or former.directory_id in ("", told.directory_id):
        return
    changed = {(change.topic_id, change.partition): change for change in left}
    for _, partition in image.all_partitions():
        change = changed.get((partition.topic_id, partition.partition))
        isr = partition.isr if change is None else change.isr
        if isr != (told.node_id,) or _is_harmless(partition):
            continue
        awaited = _awaited(partition, former.directory_id, told.directory_id)
        if awaited != partition.awaited_directory_id:
            before = partition if change is None else change
            yield PartitionDirectoryAwaited(
                topic_id=partition.topic_id,
                partition=partition.partition,
                directory_id=awaited,
                partition_epoch=before.partition_epoch + 1,
            )


def _is_harmless(partition: Partition) -> bool:
    """Whether nobody would have to cut its log to that of the last member."""
    # One that awaits a directory already had other replicas then, which were to be added.
    return len(partition.replicas) == 1 and partition.awaited_directory_id is None


def _awaited(partition: Partition, former: str, present: str) -> str | None:
    """The directory that the partition waits for from here on.

    While one is awaited nobody leads, so what lies in it is still all that was acknowledged,
    whichever directories the broker has had since.
    """
    awaited = partition.awaited_directory_id or former
    return None if awaited == present else awaited
