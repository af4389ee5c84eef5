"""What the members of a group are to own, computed anew when members or topics change."""

from collections.abc import Mapping

from ottla_cluster.groups.assignors import assignor
from ottla_cluster.groups.changes import GroupChanges
from ottla_cluster.groups.cluster_view import ClusterView, TopicView
from ottla_cluster.groups.image import Group, TopicPartition
from ottla_cluster.groups.pattern import Pattern
from ottla_cluster.groups.reconcile import current_record, reconcile
from ottla_cluster.groups.records import (
    MemberChanged,
    SubscribedTopic,
    TargetAssigned,
    TargetTopic,
)


def known_topics(group: Group, view: ClusterView) -> Mapping[str, TopicView]:
    """The topics to decide on: the view's, or the group's own where the view is older.

    A new coordinator's view may be behind the one that its predecessor decided on; to it a topic
    seems deleted that was created since.
    """
    if view.version >= group.metadata_version:
        return view.topics
    return {
        topic.topic: TopicView(topic.topic_id, topic.partitions) for topic in group.topics.values()
    }


def subscribed_topics(member: MemberChanged, group: Group, view: ClusterView) -> tuple[str, ...]:
    """The existing topics that a member of the group reads, sorted."""
    topics = known_topics(group, view)
    if member.pattern is None:
        return tuple(name for name in member.topics or () if name in topics)
    if topics is view.topics:
        return view.index.matching(member.pattern)
    pattern = Pattern(member.pattern)
    return tuple(sorted(name for name in topics if pattern.matches(name)))


def wanted_topics(group: Group, view: ClusterView) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """What each member reads, and all topics that are read, sorted."""
    # Most members of a group read the same.
    known: dict[str | tuple[str, ...] | None, tuple[str, ...]] = {}
    subscriptions: dict[str, tuple[str, ...]] = {}
    for member_id, member in sorted(group.members.items()):
        wanted = member.topics if member.pattern is None else member.pattern
        if wanted not in known:
            known[wanted] = subscribed_topics(member, group, view)
        subscriptions[member_id] = known[wanted]
    distinct = dict.fromkeys(subscriptions.values())
    return subscriptions, sorted({topic for names in distinct for topic in names})


def rebalance(changes: GroupChanges, view: ClusterView) -> None:
    """Gives the group a new target in a new generation. It needs a member."""
    group = changes.group
    topics = known_topics(group, view)
    subscriptions, names = wanted_topics(group, view)
    subscribed = tuple(
        SubscribedTopic(name, topics[name].topic_id, topics[name].partitions) for name in names
    )
    target = assignor(group.assignor)(
        subscriptions, {topic.topic: topic.partitions for topic in subscribed}, group.targets
    )
    changes.change_group(
        generation=group.generation + 1,
        topics=subscribed,
        metadata_version=max(view.version, group.metadata_version),
        empty_since_ms=None,
    )
    changes.add(
        *(
            TargetAssigned(group.group_id, member_id, _by_topic(partitions))
            for member_id, partitions in target.items()
            if frozenset(partitions) != group.targets.get(member_id)
        )
    )


def take_step(
    changes: GroupChanges, member_id: str, reported: frozenset[TopicPartition] | None
) -> None:
    """Brings one member's assignment closer to its target; see `reconcile`."""
    group = changes.group
    step = reconcile(group, member_id, reported)
    if step.generation != group.generation:
        changes.change_group(generation=step.generation, empty_since_ms=None)
    if step.changed:
        changes.add(current_record(group.group_id, member_id, step.current))


def _by_topic(partitions: list[TopicPartition]) -> tuple[TargetTopic, ...]:
    by_topic: dict[str, list[int]] = {}
    for topic, partition in partitions:
        by_topic.setdefault(topic, []).append(partition)
    return tuple(TargetTopic(topic, tuple(numbers)) for topic, numbers in by_topic.items())
