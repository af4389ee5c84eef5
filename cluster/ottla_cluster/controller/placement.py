"""Where a new topic's replicas go.

Replicas are dealt out greedily: each partition takes, one by one, the broker whose rack it uses
least and which has the fewest replicas of this topic, then the fewest in the whole cluster. Within
its replicas the broker that leads least becomes the preferred leader; a second pass evens out what
greed left uneven. So every topic is even in itself, and what cannot be even goes where there is
room. Ties fall at random for each partition anew, so that the partitions of a broker that fails are
taken over by all the others and not by one neighbour.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

    from ottla_cluster.controller.image import BrokerRegistration, MetadataImage, Partition


@dataclass(frozen=True, slots=True)
class BrokerLoad:
    """What brokers carry already, by node id; a missing one carries nothing."""

    replicas: Mapping[int, int] = field(default_factory=dict)
    leaders: Mapping[int, int] = field(default_factory=dict)
    """Counts preferred leaders, which is what leadership returns to."""


def broker_load(image: "MetadataImage") -> BrokerLoad:
    """The load of all topics in the image."""
    return load_of(partition for _, partition in image.all_partitions())


def load_of(partitions: "Iterable[Partition]") -> BrokerLoad:
    """The load of these partitions, as it will be when their reassignments are at their end."""
    replicas: dict[int, int] = {}
    leaders: dict[int, int] = {}
    for partition in partitions:
        wanted = partition.target_replicas or partition.replicas
        leaders[wanted[0]] = leaders.get(wanted[0], 0) + 1
        for node_id in wanted:
            replicas[node_id] = replicas.get(node_id, 0) + 1
    return BrokerLoad(replicas, leaders)


def place_partitions(
    brokers: "Sequence[BrokerRegistration]",
    partitions: int,
    replication_factor: int,
    load: BrokerLoad,
    random: "Random",
    of_topic: BrokerLoad = BrokerLoad(),
) -> tuple[tuple[int, ...], ...]:
    """The replicas of each partition, the preferred leader first.

    Args:
        brokers: those that may take replicas, at least `replication_factor` of them.
        partitions: how many partitions to place.
        replication_factor: replicas per partition.
        load: what the brokers carry already.
        random: breaks ties.
        of_topic: what they carry of this topic already, where it is to get more partitions.
    """
    assert 1 <= replication_factor <= len(brokers), (replication_factor, len(brokers))
    racks = {broker.node_id: broker.rack for broker in brokers}
    order = sorted(racks)
    replica_counts = {node_id: of_topic.replicas.get(node_id, 0) for node_id in order}
    leader_counts = {node_id: of_topic.leaders.get(node_id, 0) for node_id in order}
    placed: list[list[int]] = []
    for _ in range(partitions):
        random.shuffle(order)
        replicas = _pick_replicas(order, racks, replication_factor, replica_counts, load.replicas)
        leader = min(
            replicas, key=lambda n: (leader_counts[n], load.leaders.get(n, 0), replicas.index(n))
        )
        leader_counts[leader] += 1
        for node_id in replicas:
            replica_counts[node_id] += 1
        _lead(replicas, leader)
        placed.append(replicas)
    while _even_out_leaders(placed, leader_counts):
        pass
    return tuple(tuple(replicas) for replicas in placed)


def _pick_replicas(
    order: Sequence[int],
    racks: Mapping[int, str],
    replication_factor: int,
    replica_counts: Mapping[int, int],
    existing: Mapping[int, int],
) -> list[int]:
    """The least loaded brokers, on as many racks as there are; ties in the given order."""
    chosen: list[int] = []
    rack_uses: dict[str, int] = {}
    for _ in range(replication_factor):
        node_id = min(
            (candidate for candidate in order if candidate not in chosen),
            key=lambda n: (rack_uses.get(racks[n], 0), replica_counts[n], existing.get(n, 0)),
        )
        chosen.append(node_id)
        rack_uses[racks[node_id]] = rack_uses.get(racks[node_id], 0) + 1
    return chosen


def _lead(replicas: list[int], leader: int) -> None:
    """Puts the leader first and keeps the others' order."""
    replicas.remove(leader)
    replicas.insert(0, leader)


def _even_out_leaders(placed: list[list[int]], leader_counts: dict[int, int]) -> bool:
    """Moves one leadership from a broker with most of them to one with at least two fewer.

    Where the two share no partition it goes along a chain: each broker on the way gives one and
    takes one. Each move brings the counts closer, so repeating it ends, and when no chain is left
    no other choice of leaders is more even (the optimal semi-matching of the graph literature).

    Returns:
        Whether there was such a chain.
    """
    most = max(leader_counts.values())
    reached_through: dict[int, list[int] | None] = {
        node_id: None for node_id, count in leader_counts.items() if count == most
    }
    frontier = list(reached_through)
    for giver in frontier:
        for replicas in placed:
            if replicas[0] != giver:
                continue
            for taker in replicas[1:]:
                if taker in reached_through:
                    continue
                reached_through[taker] = replicas
                frontier.append(taker)
                if leader_counts[taker] <= most - 2:
                    _shift_leaders(taker, reached_through, leader_counts)
                    return True
    return False


def _shift_leaders(
    taker: int, reached_through: Mapping[int, list[int] | None], leader_counts: dict[int, int]
) -> None:
    """Walks the chain back from the taker, giving each broker the partition it was reached by."""
    leader_counts[taker] += 1
    replicas = reached_through[taker]
    while replicas is not None:
        giver = replicas[0]
        _lead(replicas, taker)
        taker, replicas = giver, reached_through[giver]
    leader_counts[taker] -= 1
