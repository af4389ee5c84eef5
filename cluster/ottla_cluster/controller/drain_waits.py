"""Why partitions stay on a broker that is to have none: for whoever watches its drain.

What merely waits for its turn is not told, nor what is being copied. The rest waits for something
that only an operator can bring: a broker that is down, one more broker, room on a disk.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ottla_cluster.controller.drain_planning import (
    awaits_heir,
    brokers_with_room,
    hindrances,
    is_in_sync_only_where_it_leaves,
    kept_replicas,
    lacks_brokers,
    wanted_replicas,
)
from ottla_cluster.controller.image import BrokerRegistration, MetadataImage, Partition
from ottla_protocol.counted_nouns import counted


@dataclass(frozen=True, slots=True)
class WaitingMove:
    """A partition that has to leave a broker, and what it waits for."""

    partition: Partition
    detail: str


def waiting_moves(image: MetadataImage, node_id: int) -> Iterator[WaitingMove]:
    """The partitions on a drained broker whose moves cannot begin, or cannot go on, as things are.

    In the order of creation; none where the broker is not being drained.
    """
    if node_id not in image.drains:
        return
    brokers = brokers_with_room(image)
    for _, partition in image.all_partitions():
        if node_id in partition.replicas:
            detail = _waits_for(image, partition, brokers)
            if detail is not None:
                yield WaitingMove(partition, detail)


def _waits_for(
    image: MetadataImage, partition: Partition, brokers: list[BrokerRegistration]
) -> str | None:
    if partition.leader is None:
        return f"nobody leads it, so that it could be copied: {_last_in_sync(image, partition)}"
    missing = list(hindrances(image, partition, kept_replicas(image, partition)))
    if missing:
        return f"it waits for {' and '.join(_named(image, node_id) for node_id in missing)}"
    if awaits_heir(image, partition):
        heirs = " or ".join(_named(image, node_id) for node_id in partition.target_replicas)
        return f"it waits for {heirs}: one of its new replicas has to lead it"
    if image.drains.keys().isdisjoint(wanted_replicas(partition)):
        return None
    if lacks_brokers(image, partition, brokers):
        taken = counted(len(brokers), "broker")
        return f"each broker that may take a replica has one of it already ({taken})"
    if is_in_sync_only_where_it_leaves(image, partition):
        return (
            f"only {list(partition.isr)} of its replicas is in sync, which its present "
            "reassignment adds, and which is to be left as well"
        )
    return None


def _last_in_sync(image: MetadataImage, partition: Partition) -> str:
    """What became of the replicas that could lead."""
    if partition.awaited_directory_id is not None:
        return (
            f"broker {partition.isr[0]}, the last in-sync replica, came back without its log, "
            f"which is in the data directory with the id {partition.awaited_directory_id}"
        )
    for node_id in partition.isr:
        if image.is_active(node_id):
            # It would have been elected when it came.
            return (
                f"broker {node_id}, the last in-sync replica, is there and may not lead, for it "
                "lost the end of its log: the partition waits for an unclean election"
            )
    return f"it waits for {' or '.join(_named(image, node_id) for node_id in partition.isr)}"


def _named(image: MetadataImage, node_id: int) -> str:
    if image.is_active(node_id) and image.brokers[node_id].is_full:
        return f"broker {node_id}, whose disk is full"
    return f"broker {node_id}, which is {image.brokers[node_id].state.value}"
