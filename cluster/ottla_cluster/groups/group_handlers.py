"""The handlers for whole groups: describe, list, delete."""

from ottla_cluster.groups.commands import (
    AssignedTopic,
    DeleteGroup,
    DeleteGroupResponse,
    DescribeGroup,
    DescribeGroupResponse,
    GroupListing,
    ListGroupsResponse,
    MemberDescription,
)
from ottla_cluster.groups.context import GroupContext
from ottla_cluster.groups.image import Group, GroupsImage
from ottla_cluster.groups.membership_handlers import assigned_topics
from ottla_cluster.groups.offset_handlers import committed_offsets
from ottla_cluster.groups.reconcile import is_reconciled
from ottla_cluster.groups.records import GroupRemoved, OffsetRemoved, RecordOfGroup
from ottla_cluster.groups.targets import subscribed_topics
from ottla_cluster.groups.transaction_handlers import pending_transactions
from ottla_cluster.state_machine.result import Result
from ottla_protocol.counted_nouns import counted
from ottla_protocol.errors import (
    GroupIdNotFoundError,
    NonEmptyGroupError,
    Outcome,
    UnstableOffsetCommitError,
)


def describe_group(
    image: GroupsImage, command: DescribeGroup, context: GroupContext
) -> Result[RecordOfGroup, DescribeGroupResponse]:
    """Tells all of one group.

    Raises:
        GroupIdNotFoundError: there is none of that id.
        CoordinatorLoadInProgressError: this broker may not know the topics of some offsets yet.
    """
    group = _existing(image, command.group)
    response = DescribeGroupResponse(
        group=group.group_id,
        state=group_state(group),
        generation=group.generation,
        assignor=group.assignor,
        members=tuple(_described(group, member_id, context) for member_id in sorted(group.members)),
        offsets=committed_offsets(group, context.view),
        pending=pending_transactions(group),
    )
    return Result((), response)


def list_groups(image: GroupsImage) -> Result[RecordOfGroup, ListGroupsResponse]:
    """Tells the groups of this coordinator, by id."""
    return Result(
        (),
        ListGroupsResponse(
            tuple(
                GroupListing(
                    group.group_id,
                    group_state(group),
                    group.generation,
                    group.assignor,
                    len(group.members),
                )
                for _, group in sorted(image.groups.items())
            )
        ),
    )


def delete_group(
    image: GroupsImage, command: DeleteGroup
) -> Result[RecordOfGroup, DeleteGroupResponse]:
    """Removes a group with its offsets.

    Raises:
        GroupIdNotFoundError: there is none of that id.
        NonEmptyGroupError: it has members, or consumer instances of the REST Proxy API.
        UnstableOffsetCommitError: a transaction that is not over has offsets in it.
    """
    group = _existing(image, command.group)
    if group.members:
        raise NonEmptyGroupError(
            f"The group {group.group_id!r} has {counted(len(group.members), 'member')}: it is in "
            "use."
        )
    if group.instances:
        raise NonEmptyGroupError(
            f"The group {group.group_id!r} has "
            f"{counted(len(group.instances), 'consumer instance')}: it is in use."
        )
    if group.pending:
        raise UnstableOffsetCommitError(
            f"The group {group.group_id!r} has offsets in "
            f"{counted(len(group.pending), 'transaction')} still open or being ended.",
            outcome=Outcome.NOT_APPLIED,
        )
    records: tuple[RecordOfGroup, ...] = (
        *(
            OffsetRemoved(group.group_id, topic_id, partition)
            for topic_id, partition in sorted(group.offsets)
        ),
        GroupRemoved(group.group_id),
    )
    return Result(records, DeleteGroupResponse(group.group_id))


def _existing(image: GroupsImage, group_id: str) -> Group:
    group = image.groups.get(group_id)
    if group is None:
        raise GroupIdNotFoundError(f"There is no group {group_id!r}.")
    return group


def group_state(group: Group) -> str:
    """`empty`, `stable`, or `reconciling` while members hold others than they are to hold."""
    if not group.members:
        return "empty"
    settled = all(is_reconciled(group, member_id) for member_id in group.members)
    return "stable" if settled else "reconciling"


def _described(group: Group, member_id: str, context: GroupContext) -> MemberDescription:
    member, current = group.members[member_id], group.currents[member_id]
    by_topic: dict[str, list[int]] = {}
    for topic, partition in sorted(group.targets[member_id]):
        by_topic.setdefault(topic, []).append(partition)
    return MemberDescription(
        member_id=member_id,
        instance_id=member.instance_id,
        client_id=member.client_id,
        generation=current.generation,
        topics=(
            subscribed_topics(member, group, context.view)
            if member.topics is None
            else member.topics
        ),
        pattern=member.pattern,
        owned=assigned_topics(current.owned.values()),
        revoking=assigned_topics(current.revoking.values()),
        target=tuple(
            AssignedTopic(topic, group.topics[topic].topic_id, tuple(partitions))
            for topic, partitions in by_topic.items()
        ),
        session_timeout_ms=member.session_timeout_ms,
        rebalance_timeout_ms=member.rebalance_timeout_ms,
    )
