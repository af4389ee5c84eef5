"""The memberships of consumer instances that subscribe: under their own ids, as any other."""

from collections.abc import Iterable

from ottla_cluster.groups.commands import Join
from ottla_cluster.groups.context import GroupContext
from ottla_cluster.groups.image import Group
from ottla_cluster.groups.membership_handlers import without_members
from ottla_cluster.groups.records import InstanceChanged, RecordOfGroup

REBALANCE_TIMEOUT_MS = 30_000
"""How long an instance may keep a partition that is to be another member's without asking for
anything. Then it loses its membership, and gets it back with its next request."""


def join_command(instance: InstanceChanged) -> Join:
    """Makes the instance a member that reads what it subscribes to."""
    return Join(
        group=instance.group,
        topics=instance.topics,
        pattern=instance.pattern,
        member_id=instance.instance_id,
        session_timeout_ms=instance.idle_timeout_ms,
        rebalance_timeout_ms=REBALANCE_TIMEOUT_MS,
    )


def without_membership(
    group: Group, instance_ids: Iterable[str], context: GroupContext
) -> tuple[RecordOfGroup, ...]:
    """The records that end the memberships of those instances that have one."""
    members = [each for each in instance_ids if each in group.members]
    return without_members(group, members, context).records if members else ()
