"""`/consumers`: the consumer groups, in the shape in which Kafka's first consumers wrote it.

    /consumers/G/ids/M              a member, and what it subscribes to
    /consumers/G/owners/T/P         which member owns a partition
    /consumers/G/offsets/T/P        the committed offset

Groups are not in the metadata: their coordinators hold them, so each is loaded on its own. One
whose coordinator does not answer is told as that, so that a walk goes on past it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ottla_cluster.groups.commands import DescribeGroupResponse, MemberDescription
from ottla_cluster.metadata_tree.nodes import TreeNode, folder, leaf, listing, not_loaded

NOTE = "Consumer groups, as their coordinators tell them."

SUBSCRIPTION_VERSION = 1


@dataclass(frozen=True, slots=True)
class SilentGroup:
    """A group that is known by its name alone."""

    reason: str
    """Why its coordinator tells no more."""


GroupsByName = Mapping[str, DescribeGroupResponse | SilentGroup | None]
"""None for one that is not loaded."""


def consumers(groups: GroupsByName | None) -> TreeNode:
    """The node of all groups; see `TreeView.groups`."""
    if groups is None:
        return not_loaded(note=NOTE)

    def child(name: str) -> TreeNode | None:
        if name not in groups:
            return None
        group = groups[name]
        if isinstance(group, SilentGroup):
            return leaf(note=f"Its coordinator does not answer: {group.reason}")
        return not_loaded() if group is None else _group(group)

    return listing(lambda: tuple(groups), child, note=NOTE)


def _group(group: DescribeGroupResponse) -> TreeNode:
    # Clients choose their ids, and one that no path can name is left out.
    members = {each.member_id: each for each in group.members if each.member_id not in {".", ".."}}
    return folder(
        {
            "ids": lambda: listing(
                lambda: tuple(members),
                lambda name: leaf(lambda: _member(members[name])) if name in members else None,
            ),
            "offsets": lambda: _by_partition(
                {
                    (each.topic, each.partition): str(each.offset)
                    for each in group.offsets
                    if each.offset is not None
                }
            ),
            "owners": lambda: _by_partition(
                {
                    (topic.topic, partition): member.member_id
                    for member in group.members
                    for topic in member.owned
                    for partition in topic.partitions
                }
            ),
        },
        lambda: {
            "version": 1,
            "state": group.state,
            "generation": group.generation,
            "assignor": group.assignor,
            "members": len(group.members),
        },
    )


def _member(member: MemberDescription) -> object:
    return {
        "version": SUBSCRIPTION_VERSION,
        "subscription": dict.fromkeys(member.topics, 1),
        "pattern": "static" if member.pattern is None else "white_list",
        "timestamp": None,
        "client_id": member.client_id,
        "instance_id": member.instance_id,
        "generation": member.generation,
    }


def _by_partition(values: Mapping[tuple[str, int], str]) -> TreeNode:
    """Topics, their partitions, and a value of each."""
    topics: dict[str, dict[str, str]] = {}
    for (topic, partition), value in values.items():
        topics.setdefault(topic, {})[str(partition)] = value

    def child(name: str) -> TreeNode | None:
        return _partitions(topics[name]) if name in topics else None

    return listing(lambda: tuple(topics), child)


def _partitions(values: Mapping[str, str]) -> TreeNode:
    return listing(
        lambda: tuple(values),
        lambda name: leaf(lambda: values[name]) if name in values else None,
    )
