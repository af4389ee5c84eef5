"""How far groups are behind the ends of what they read, for a coordinator's metrics.

What a group has not committed in has no lag that could be told. A group with members is held
against the topics that they read: what it once committed elsewhere only gets older. One without
members, whose consumers assign themselves, is held against all that it has committed in.
"""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from ottla_cluster.groups.image import Group
from ottla_cluster.groups.records import OffsetCommitted

PartitionKey = tuple[str, int]
"""A partition by its topic's id."""


@dataclass(frozen=True, slots=True)
class GroupLag:
    """How far one group is behind, in offsets."""

    group_id: str
    total: int
    """Over all of its partitions."""
    largest: int
    """In the partition where it is farthest behind."""


@dataclass(frozen=True, slots=True)
class GroupsToMeasure:
    """Groups with the offsets that count, as many as one round may look at."""

    groups: Sequence[tuple[str, Sequence[OffsetCommitted]]]
    left_out: int
    """Groups that have offsets too, and are beyond the bounds."""


def groups_to_measure(
    groups: Iterable[Group],
    topic_ids: AbstractSet[str],
    *,
    groups_max: int,
    partitions_max: int,
) -> GroupsToMeasure:
    """Choose whom to measure: groups with members first, then by name, so that it seldom changes.

    Args:
        groups: of any coordinators.
        topic_ids: the topics that exist; offsets in others say nothing.
        groups_max: most groups.
        partitions_max: most partitions of all of them together.
    """
    known = {group.group_id: group for group in groups if group.offsets}
    chosen: list[tuple[str, Sequence[OffsetCommitted]]] = []
    room = partitions_max
    left_out = max(0, len(known) - groups_max)
    for group in heapq.nsmallest(
        groups_max, known.values(), key=lambda each: (not each.members, each.group_id)
    ):
        offsets = _counted(group, topic_ids)
        if len(offsets) > room:
            left_out += 1
        elif offsets:
            room -= len(offsets)
            chosen.append((group.group_id, offsets))
    return GroupsToMeasure(chosen, left_out)


def _counted(group: Group, topic_ids: AbstractSet[str]) -> list[OffsetCommitted]:
    read = {topic.topic_id for topic in group.topics.values()} if group.members else None
    return [
        committed
        for committed in group.offsets.values()
        if committed.topic_id in topic_ids and (read is None or committed.topic_id in read)
    ]


def group_lag(
    group_id: str, offsets: Iterable[OffsetCommitted], ends: Mapping[PartitionKey, int]
) -> GroupLag | None:
    """The lag of a group; None where the end of one of its partitions is not known now.

    Args:
        group_id: its name.
        offsets: what it has committed, and counts.
        ends: high watermarks.
    """
    total = largest = 0
    for committed in offsets:
        end = ends.get((committed.topic_id, committed.partition))
        if end is None:
            return None
        # A commit may be ahead of an end that was asked for before it.
        lag = max(0, end - committed.offset)
        total += lag
        largest = max(largest, lag)
    return GroupLag(group_id, total, largest)
