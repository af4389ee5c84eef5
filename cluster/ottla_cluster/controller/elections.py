"""Who leads a partition, and who leaves its ISR when a broker goes.

Pure choices over one partition. The rules (Kafka's, with unclean election off): only an active
member of the ISR leads, earlier replicas first; a broker that goes leaves the ISR unless it is the
last member, for that member alone is known to hold every acknowledged record; a change of leader,
also to none, raises the leader epoch.
"""

from ottla_cluster.controller.image import MetadataImage, Partition, Topic
from ottla_cluster.controller.records import PartitionChanged
from ottla_cluster.controller.topic_configs import MIN_INSYNC_REPLICAS, integer_config

Change = tuple[PartitionChanged, ...]
"""One changed partition, or nothing."""


def effective_min_isr(topic: Topic, partition: Partition) -> int:
    """How many replicas must be in sync for an acks=all write.

    The smaller of `min.insync.replicas` and the number of replicas, so that a topic with one
    replica can be written under a cluster-wide setting of two. Replicas that a reassignment adds
    count from its end on: while they catch up they must not stop writes.
    """
    wanted = integer_config(topic.configs, MIN_INSYNC_REPLICAS)
    return min(wanted, len(partition.former_replicas))


def elect_leader(
    image: MetadataImage, partition: Partition, isr: tuple[int, ...], *, excluding: int
) -> int | None:
    """The first active replica within `isr`, in replica order, that is not `excluding`.

    One whose disk has room comes before all others; one without room still serves readers.
    """
    active = [
        node_id
        for node_id in partition.replicas
        if node_id in isr and node_id != excluding and image.is_active(node_id)
    ]
    with_room = (node_id for node_id in active if image.takes_appends(node_id))
    return next(with_room, active[0] if active else None)


def change(partition: Partition, *, isr: tuple[int, ...], leader: int | None) -> Change:
    """The record that gives the partition this ISR and leader; none if it has them."""
    if isr == partition.isr and leader == partition.leader:
        return ()
    return (changed(partition, isr=isr, leader=leader),)


def changed(partition: Partition, *, isr: tuple[int, ...], leader: int | None) -> PartitionChanged:
    """The same, if it has them too: whoever named its partition epoch is to look again."""
    return PartitionChanged(
        topic_id=partition.topic_id,
        partition=partition.partition,
        isr=isr,
        leader=leader,
        leader_epoch=partition.leader_epoch + (leader != partition.leader),
        partition_epoch=partition.partition_epoch + 1,
    )


def broker_fenced(image: MetadataImage, partition: Partition, node_id: int) -> Change:
    """What a partition becomes when this broker is fenced or its process is replaced.

    The last member of the ISR stays in it while the leader becomes none: it is elected again when
    it returns.
    """
    if node_id not in partition.isr:
        return ()
    isr = without(partition.isr, node_id) or partition.isr
    leader = partition.leader
    if leader == node_id:
        leader = elect_leader(image, partition, isr, excluding=node_id)
    return change(partition, isr=isr, leader=leader)


def broker_drains(image: MetadataImage, topic: Topic, partition: Partition, node_id: int) -> Change:
    """What a partition becomes while this broker is shutting down.

    Leadership goes to another active member of the ISR, if there is one. The broker leaves the ISR
    where enough active members remain, so that acks=all writes do not wait for it once it has
    stopped. Where too few would remain it stays until it is fenced: a whole cluster that shuts down
    then keeps every ISR wide, and any of its members can lead first when the cluster returns.
    """
    if node_id not in partition.isr:
        return ()
    leader = partition.leader
    if leader == node_id:
        successor = elect_leader(image, partition, partition.isr, excluding=node_id)
        leader = node_id if successor is None else successor
    isr = partition.isr
    remaining = without(isr, node_id)
    active_count = sum(1 for member in remaining if image.is_active(member))
    if leader != node_id and active_count >= effective_min_isr(topic, partition):
        isr = remaining
    return change(partition, isr=isr, leader=leader)


def broker_fills(image: MetadataImage, topic: Topic, partition: Partition, node_id: int) -> Change:
    """What a partition becomes while this broker's disk has no room.

    Leadership goes to a member of the ISR that has room, if there is one: where all are full,
    moving it would only interrupt readers. The broker leaves the ISR where enough members with
    room remain, so that acks=all writes do not wait for what it cannot store.
    """
    if node_id not in partition.isr:
        return ()
    remaining = without(partition.isr, node_id)
    with_room = tuple(member for member in remaining if image.takes_appends(member))
    leader = partition.leader
    if leader == node_id and with_room:
        leader = with_room[0]
    isr = partition.isr
    if leader != node_id and len(with_room) >= effective_min_isr(topic, partition):
        isr = remaining
    return change(partition, isr=isr, leader=leader)


def may_be_relieved(
    image: MetadataImage, node_id: int, *, is_draining: bool, is_full: bool, was_told_full: bool
) -> bool:
    """Whether this broker has to assume that others lead before it hears of it.

    The controller may know of leaderships and members of ISRs that this image has not. So a broker
    that shuts down has to assume the worst, and so has one whose disk has no room and that has not
    been answered yet since it began to tell so. One that tells it again goes by its image, for it
    may lead what nobody else has room for; it may miss that others got room a moment ago.
    """
    if is_draining or not is_full:
        return is_draining
    return not was_told_full or _loses_when_full(image, node_id)


def _loses_when_full(image: MetadataImage, node_id: int) -> bool:
    return any(
        broker_fills(image, topic, partition, node_id)
        for topic, partition in image.all_partitions()
    )


def broker_unfenced(partition: Partition, node_id: int) -> Change:
    """What a leaderless partition becomes when this broker is active again."""
    if partition.leader is not None or node_id not in partition.isr:
        return ()
    if partition.awaited_directory_id is not None:
        # Its log is elsewhere: as leader it would have the others cut theirs.
        return ()
    return change(partition, isr=partition.isr, leader=node_id)


def preferred_leader_returns(image: MetadataImage, partition: Partition) -> Change:
    """Gives leadership back to the first replica when it is active, in sync and has room.

    Not to one that a reassignment takes away: it would have to hand over again. Not where nobody
    leads: who is back leads at once (`broker_unfenced`), so a member of the ISR that is there may
    not lead, for its log lost its end or is in another directory. It would stand aside and lose the
    leadership again, each time.
    """
    if partition.leader is None:
        return ()
    preferred = partition.replicas[0]
    if preferred not in partition.isr or not image.takes_appends(preferred):
        return ()
    if preferred in partition.removing_replicas:
        return ()
    return change(partition, isr=partition.isr, leader=preferred)


def without(isr: tuple[int, ...], node_id: int) -> tuple[int, ...]:
    """The ISR without one member."""
    return tuple(member for member in isr if member != node_id)
