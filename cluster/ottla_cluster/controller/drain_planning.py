"""Where the replicas of a drained broker go.

Each of its partitions keeps all other replicas and gets one new one in its place: on the rack that
the others use least, then on the broker with the fewest replicas of the topic, then with the fewest
in the cluster, as for a new topic (`placement`). Where the drained broker was the preferred leader,
that replica follows which leads least, of the topic first; the others keep their order.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ottla_cluster.controller.image import MetadataImage, Partition, Topic
from ottla_cluster.controller.placement import broker_load, load_of

if TYPE_CHECKING:
    from random import Random


@dataclass(frozen=True, slots=True)
class Move:
    """A partition and the replicas that it is to have, none of them on a drained broker.

    `target` is None where there are not enough brokers for it.
    """

    partition: Partition
    target: tuple[int, ...] | None


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


def plan_moves(image: MetadataImage, random: "Random", *, count: int) -> Iterator[Move]:
    """Moves for the first `count` partitions that have to leave drained brokers.

    Args:
        image: what is decided on; `image.drains` says which brokers those are.
        random: breaks ties.
        count: how many partitions to move at most; those that cannot be moved are not counted.
    """
    brokers = [broker for broker in image.brokers_for_replicas() if not broker.is_full]
    racks = {broker.node_id: broker.rack for broker in image.brokers.values()}
    load = broker_load(image)
    replicas, leaders = dict(load.replicas), dict(load.leaders)
    of_topic: dict[str, tuple[dict[int, int], dict[int, int]]] = {}
    for topic, partition in misplaced(image, image.drains):
        if count == 0:
            return
        if topic.topic_id not in of_topic:
            found = load_of(topic.partitions)
            of_topic[topic.topic_id] = dict(found.replicas), dict(found.leaders)
        topic_replicas, topic_leaders = of_topic[topic.topic_id]
        wanted = wanted_replicas(partition)
        kept = [node_id for node_id in wanted if node_id not in image.drains]
        candidates = [broker.node_id for broker in brokers if broker.node_id not in kept]
        random.shuffle(candidates)
        new: list[int] = []
        while len(kept) + len(new) < len(wanted) and candidates:
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
        if len(kept) + len(new) < len(wanted):
            yield Move(partition, None)
            continue
        count -= 1
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
