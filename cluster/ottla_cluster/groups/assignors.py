"""Who is to own which partition: pure functions from subscriptions to a target.

Each takes what the members read, how many partitions each topic has, and the target before; each
gives every partition that has a reader to exactly one of its readers. Members that get nothing
stand by. The result depends on nothing but the arguments: members and topics are taken in the
order of their names.
"""

import heapq
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from ottla_cluster.groups.image import TopicPartition
from ottla_protocol.errors import UnsupportedAssignorError

Target = dict[str, list[TopicPartition]]
"""Partitions by member id, each list sorted; every member has one."""

Assignor = Callable[
    [Mapping[str, Sequence[str]], Mapping[str, int], Mapping[str, frozenset[TopicPartition]]],
    Target,
]
"""(topics by member id, partition counts by topic, target before) to the target."""


def assign_range(
    subscriptions: Mapping[str, Sequence[str]],
    partition_counts: Mapping[str, int],
    previous: Mapping[str, frozenset[TopicPartition]],  # noqa: ARG001  every assignor's signature
) -> Target:
    """Splits each topic into runs of partitions, so that equal numbers of topics meet.

    The first members get the longer runs of every topic: fit for joins of topics with the same
    number of partitions, uneven over many topics.
    """
    target: Target = {member_id: [] for member_id in sorted(subscriptions)}
    for topic, readers in _readers(subscriptions, partition_counts).items():
        short, longer = divmod(partition_counts[topic], len(readers))
        start = 0
        for number, member_id in enumerate(readers[: partition_counts[topic]]):
            end = start + short + (number < longer)
            target[member_id].extend((topic, partition) for partition in range(start, end))
            start = end
    return target


def assign_round_robin(
    subscriptions: Mapping[str, Sequence[str]],
    partition_counts: Mapping[str, int],
    previous: Mapping[str, frozenset[TopicPartition]],  # noqa: ARG001  every assignor's signature
) -> Target:
    """Deals all partitions to the members in turn, passing over members that do not read them."""
    target: Target = {member_id: [] for member_id in sorted(subscriptions)}
    in_turn = list(target)
    turn = 0
    shared: dict[int, frozenset[str]] = {}
    by_topic = _readers(subscriptions, partition_counts)
    for topic, readers in by_topic.items():
        if id(readers) not in shared:
            shared[id(readers)] = frozenset(readers)
        reads = shared[id(readers)]
        for partition in range(partition_counts[topic]):
            while in_turn[turn % len(in_turn)] not in reads:
                turn += 1
            target[in_turn[turn % len(in_turn)]].append((topic, partition))
            turn += 1
    return target


def assign_sticky(
    subscriptions: Mapping[str, Sequence[str]],
    partition_counts: Mapping[str, int],
    previous: Mapping[str, frozenset[TopicPartition]],
) -> Target:
    """Balances the members, and leaves as many partitions as it can where they are.

    Where all members read the same topics, no two differ by more than one partition and no
    assignment with that property moves fewer. Where they do not, no partition could move to a
    reader that has two fewer than its owner.
    """
    readers = _readers(subscriptions, partition_counts)
    kept = _still_valid(subscriptions, readers, partition_counts, previous)
    everybody = len(subscriptions)
    if all(len(of_topic) == everybody for of_topic in readers.values()):
        target = _fill_quotas(kept, readers, partition_counts)
    else:
        target = _fill_least_loaded(kept, readers, partition_counts)
        _level(target, readers)
    for partitions in target.values():
        partitions.sort()
    return target


ASSIGNORS: Mapping[str, Assignor] = MappingProxyType(
    {"range": assign_range, "round_robin": assign_round_robin, "sticky": assign_sticky}
)
"""By name."""

OTHER_SPELLINGS: Mapping[str, str] = MappingProxyType(
    {"round-robin": "round_robin", "roundrobin": "round_robin"}
)
"""What else they may be called."""


def canonical_name(name: str) -> str:
    """The name under which ASSIGNORS has it; other clients of the field spell one differently."""
    return OTHER_SPELLINGS.get(name, name)


def assignor(name: str) -> Assignor:
    """The assignor of that name.

    Raises:
        UnsupportedAssignorError: there is none.
    """
    found = ASSIGNORS.get(canonical_name(name))
    if found is None:
        raise UnsupportedAssignorError(
            f"assignor {name!r} is none of {', '.join(sorted(ASSIGNORS))}."
        )
    return found


def _readers(
    subscriptions: Mapping[str, Sequence[str]], partition_counts: Mapping[str, int]
) -> dict[str, list[str]]:
    """The members that read each topic, both sorted; only topics that exist.

    Most members of a group read the same, so members are looked at by subscription; topics with the
    same readers share one list.
    """
    alike: dict[tuple[str, ...], list[str]] = {}
    for member_id in sorted(subscriptions):
        alike.setdefault(tuple(subscriptions[member_id]), []).append(member_id)
    subscribers: dict[str, list[int]] = {}
    for number, topics in enumerate(alike):
        for topic in topics:
            if topic in partition_counts:
                subscribers.setdefault(topic, []).append(number)
    members = list(alike.values())
    merged: dict[tuple[int, ...], list[str]] = {}
    readers: dict[str, list[str]] = {}
    for topic in sorted(subscribers):
        numbers = tuple(subscribers[topic])
        if numbers not in merged:
            merged[numbers] = sorted(member for number in numbers for member in members[number])
        readers[topic] = merged[numbers]
    return readers


def _still_valid(
    subscriptions: Mapping[str, Sequence[str]],
    readers: Mapping[str, Sequence[str]],
    partition_counts: Mapping[str, int],
    previous: Mapping[str, frozenset[TopicPartition]],
) -> Target:
    """What each member may keep of the target before."""
    kept: Target = {}
    taken: set[TopicPartition] = set()
    shared: dict[tuple[str, ...], frozenset[str]] = {}
    for member_id in sorted(subscriptions):
        topics = tuple(subscriptions[member_id])
        if topics not in shared:
            shared[topics] = frozenset(topics)
        reads = shared[topics]
        kept[member_id] = [
            (topic, partition)
            for topic, partition in sorted(previous.get(member_id, ()))
            if topic in reads
            and topic in readers
            and partition < partition_counts[topic]
            and (topic, partition) not in taken
        ]
        taken.update(kept[member_id])
    return kept


def _unassigned(
    target: Target, readers: Mapping[str, Sequence[str]], partition_counts: Mapping[str, int]
) -> list[TopicPartition]:
    taken = {key for partitions in target.values() for key in partitions}
    return [
        (topic, partition)
        for topic in readers
        for partition in range(partition_counts[topic])
        if (topic, partition) not in taken
    ]


def _fill_quotas(
    kept: Target, readers: Mapping[str, Sequence[str]], partition_counts: Mapping[str, int]
) -> Target:
    """For members that all read the same: whoever keeps most gets the larger quotas."""
    small, larger = divmod(sum(partition_counts[topic] for topic in readers), max(len(kept), 1))
    by_size = sorted(kept, key=lambda member_id: (-len(kept[member_id]), member_id))
    quotas = {member_id: small + (rank < larger) for rank, member_id in enumerate(by_size)}
    target = {member_id: kept[member_id][: quotas[member_id]] for member_id in kept}
    free = iter(_unassigned(target, readers, partition_counts))
    for member_id, partitions in target.items():
        while len(partitions) < quotas[member_id]:
            partitions.append(next(free))
    return target


def _fill_least_loaded(
    kept: Target, readers: Mapping[str, Sequence[str]], partition_counts: Mapping[str, int]
) -> Target:
    """Gives each free partition to the reader of its topic that has least."""
    heaps: dict[int, list[tuple[int, str]]] = {}
    for topic, partition in _unassigned(kept, readers, partition_counts):
        of_topic = readers[topic]
        if id(of_topic) not in heaps:
            heaps[id(of_topic)] = [(len(kept[member_id]), member_id) for member_id in of_topic]
            heapq.heapify(heaps[id(of_topic)])
        heap = heaps[id(of_topic)]
        # Loads only rise here, and another heap may have raised one since: put it back in place.
        while heap[0][0] != len(kept[heap[0][1]]):
            member_id = heap[0][1]
            heapq.heapreplace(heap, (len(kept[member_id]), member_id))
        member_id = heap[0][1]
        kept[member_id].append((topic, partition))
        heapq.heapreplace(heap, (len(kept[member_id]), member_id))
    return kept


def _level(target: Target, readers: Mapping[str, Sequence[str]]) -> None:
    """Moves partitions to readers that have at least two fewer, until there are none.

    Each move brings two members' loads closer, so it ends.
    """
    moved = True
    while moved:
        moved = False
        lightest: dict[str, str] = {}
        for member_id in sorted(target, key=lambda name: (-len(target[name]), name)):
            for topic, partition in list(target[member_id]):
                if topic not in lightest:
                    lightest[topic] = min(readers[topic], key=lambda m: (len(target[m]), m))
                taker = lightest[topic]
                if len(target[member_id]) - len(target[taker]) >= 2:
                    target[member_id].remove((topic, partition))
                    target[taker].append((topic, partition))
                    lightest.clear()
                    moved = True
