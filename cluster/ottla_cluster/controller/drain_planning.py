"""Where the replicas of a drained broker go.

Each of its partitions keeps all other replicas and gets one new one in its place: on the rack that
the others use least, then on the broker with the fewest replicas of the topic, then with the fewest
in the cluster, as for a new topic (`placement`). Where the drained broker was the preferred leader,
that replica follows which leads least, of the topic first; the others keep their order.

A few partitions move at a time, so one that cannot come to its end must not take another's place.
It can while somebody leads it, for there is nothing else to copy it from, and while each replica
that it is to have is in sync, or there and with room for what it lacks. What cannot is not begun: a
partition that nobody leads would only look as if its empty replica could. What is under way and
cannot go on does not count. It counts again when a broker is back, so for a while more may move
than should.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ottla_cluster.controller.image import BrokerRegistration, MetadataImage, Partition, Topic
from ottla_cluster.controller.placement import broker_load, load_of
from ottla_cluster.controller.reassignment_handlers import heir_of, is_to_hand_over

if TYPE_CHECKING:
    from random import Random


@dataclass(frozen=True, slots=True)
class Move:
    """A partition and the replicas that it is to have, none of them on a drained broker."""

    partition: Partition
    target: tuple[int, ...]


def wanted_replicas(partition: Partition) -> tuple[int, ...]:
    """The replicas that the partition has, or will have when its reassignment is at its end."""
    return partition.target_replicas or partition.replicas


def replicas_on(image: MetadataImage, node_id: int) -> int:
    """How many partitions have a replica on the broker, or are to get one."""
    return sum(
        node_id in partition.replicas or node_id in partition.target_replicas
        for _, partition in image.all_partitions()
    )


def misplaced(image: MetadataImage, drained: Iterable[int]) -> Iterator[tuple[Topic, Partition]]:
    """The partitions that have to leave these brokers and are not on their way yet."""
    leaving = set(drained)
    for topic, partition in image.all_partitions():
        if not leaving.isdisjoint(wanted_replicas(partition)):
            yield topic, partition


def is_moving(image: MetadataImage, partition: Partition) -> bool:
    """Whether a reassignment is under way that can go on as things are."""
    return (
        partition.is_reassigning
        and _can_go_on(image, partition, partition.target_replicas)
        and not awaits_heir(image, partition)
    )


def awaits_heir(image: MetadataImage, partition: Partition) -> bool:
    """Whether a reassignment is at its end, and none of its replicas can take leadership over."""
    return is_to_hand_over(partition) and heir_of(image, partition) is None


def is_in_sync_only_where_it_leaves(image: MetadataImage, partition: Partition) -> bool:
    """Whether a reassignment added all that is in sync to brokers that are drained, too.

    It cannot be given another target: what is committed would be lost.
    """
    return set(partition.isr) <= set(partition.adding_replicas) & image.drains.keys()


def hindrances(
    image: MetadataImage, partition: Partition, replicas: Iterable[int]
) -> Iterator[int]:
    """Those of the replicas that are not in sync, and cannot be as things are."""
    for node_id in replicas:
        if node_id not in partition.isr and not image.takes_appends(node_id):
            yield node_id


def kept_replicas(image: MetadataImage, partition: Partition) -> list[int]:
    """The replicas that the partition has, or will have, and that are not to be left."""
    return [node_id for node_id in wanted_replicas(partition) if node_id not in image.drains]


def brokers_with_room(image: MetadataImage) -> list[BrokerRegistration]:
    """The brokers that may get replicas and can take what is to be copied."""
    return [broker for broker in image.brokers_for_replicas() if not broker.is_full]


def lacks_brokers(
    image: MetadataImage, partition: Partition, brokers: Iterable[BrokerRegistration]
) -> bool:
    """Whether these brokers are too few for the replicas that the partition is to have."""
    having = {*kept_replicas(image, partition), *(broker.node_id for broker in brokers)}
    return len(having) < len(wanted_replicas(partition))


def begins_at_once(image: MetadataImage, partition: Partition, *, room: int) -> bool:
    """Whether a misplaced partition may be given other replicas now.

    One that is moving has its place already, whatever its new target is.
    """
    if is_in_sync_only_where_it_leaves(image, partition):
        return False
    return is_moving(image, partition) or (
        room > 0 and _can_go_on(image, partition, kept_replicas(image, partition))
    )


def plan_moves(image: MetadataImage, random: "Random", *, room: int) -> Iterator[Move]:
    """Moves for partitions that have to leave drained brokers, as far as there is room for them.

    Args:
        image: what is decided on; `image.drains` says which brokers those are.
        random: breaks ties.
        room: how many more may move than do; one that has its place already needs none, and one
            that lacks brokers is left out.
    """
    brokers = brokers_with_room(image)
    racks = {broker.node_id: broker.rack for broker in image.brokers.values()}
    load = broker_load(image)
    replicas, leaders = dict(load.replicas), dict(load.leaders)
    of_topic: dict[str, tuple[dict[int, int], dict[int, int]]] = {}
    for topic, partition in misplaced(image, image.drains):
        if not begins_at_once(image, partition, room=room):
            continue
        if lacks_brokers(image, partition, brokers):
            continue
        if topic.topic_id not in of_topic:
            found = load_of(topic.partitions)
            of_topic[topic.topic_id] = dict(found.replicas), dict(found.leaders)
        topic_replicas, topic_leaders = of_topic[topic.topic_id]
        wanted = wanted_replicas(partition)
        kept = kept_replicas(image, partition)
        candidates = [broker.node_id for broker in brokers if broker.node_id not in kept]
        random.shuffle(candidates)
        new: list[int] = []
        while len(kept) + len(new) < len(wanted):
            uses = [racks[node_id] for node_id in (*kept, *new)]
            chosen = min(
                candidates,
                key=lambda n: (
                    uses.count(racks[n]),
                    topic_replicas.get(n, 0),
                    replicas.get(n, 0),
                ),
            )
            candidates.remove(chosen)
            new.append(chosen)
        room -= not is_moving(image, partition)
        target = [*kept, *new]
        if wanted[0] in image.drains:
            leader = min(
                target,
                key=lambda n: (topic_leaders.get(n, 0), leaders.get(n, 0), replicas.get(n, 0)),
            )
            target.remove(leader)
            target.insert(0, leader)
            for counts in (topic_leaders, leaders):
                counts[leader] = counts.get(leader, 0) + 1
        for node_id in new:
            for counts in (topic_replicas, replicas):
                counts[node_id] = counts.get(node_id, 0) + 1
        yield Move(partition, tuple(target))


def _can_go_on(image: MetadataImage, partition: Partition, replicas: Iterable[int]) -> bool:
    """Whether the partition could come to its end with these replicas."""
    return _has_a_source(partition) and not any(hindrances(image, partition, replicas))


def _has_a_source(partition: Partition) -> bool:
    return partition.leader is not None
