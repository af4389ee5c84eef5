"""How many groups and members a coordinator has, counted often and cheaply.

A group's state depends on its members' assignments, and is worked out anew only when those changed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ottla_cluster.groups.group_handlers import group_state
from ottla_cluster.groups.image import Group, GroupsImage

GROUP_STATES = ("empty", "reconciling", "stable")


@dataclass(frozen=True, slots=True)
class GroupCounts:
    """Groups by their state, and what all of them have."""

    groups: Mapping[str, int]
    members: int
    pending_transactions: int
    """Transactions with offsets that wait for their end, in whatever groups."""


class Census:
    """Counts the groups of one coordinator."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Group, str]] = {}

    def count(self, image: GroupsImage) -> GroupCounts:
        """The groups of an image; quick where it is like the last one."""
        groups = dict.fromkeys(GROUP_STATES, 0)
        members = 0
        known: dict[str, tuple[Group, str]] = {}
        for group_id, group in image.groups.items():
            former = self._known.get(group_id)
            if former is None or not _is_settled_alike(former[0], group):
                former = group, group_state(group)
            known[group_id] = former
            groups[former[1]] += 1
            members += len(group.members)
        self._known = known
        return GroupCounts(groups, members, len(image.pending_groups))


def _is_settled_alike(former: Group, group: Group) -> bool:
    """Whether nothing changed but offsets."""
    return (
        former.members is group.members
        and former.targets is group.targets
        and former.currents is group.currents
        and former.topics is group.topics
    )
