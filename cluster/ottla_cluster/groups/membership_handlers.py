"""The handlers that make, keep and end memberships."""

from collections.abc import Iterable
from dataclasses import replace

from ottla_cluster.groups.assignors import canonical_name
from ottla_cluster.groups.changes import GroupChanges
from ottla_cluster.groups.cluster_view import ClusterView
from ottla_cluster.groups.commands import (
    AssignedTopic,
    DoneResponse,
    ExpireMembers,
    Heartbeat,
    HeartbeatResponse,
    Join,
    JoinResponse,
    Leave,
    LeaveResponse,
    RefreshTopics,
)
from ottla_cluster.groups.context import GroupContext
from ottla_cluster.groups.image import CurrentAssignment, Group, GroupsImage, TopicPartition
from ottla_cluster.groups.limits import MAX_FORMER_MEMBER_IDS, MAX_GROUPS, MAX_MEMBERS
from ottla_cluster.groups.reconcile import current_record, is_reconciled
from ottla_cluster.groups.records import (
    CurrentRemoved,
    HeldPartition,
    MemberChanged,
    MemberRemoved,
    RecordOfGroup,
    TargetAssigned,
    TargetRemoved,
    TargetTopic,
)
from ottla_cluster.groups.targets import rebalance, take_step, wanted_topics
from ottla_cluster.groups.validation import validate_join, validate_wait
from ottla_cluster.state_machine.result import Result
from ottla_protocol.errors import (
    CoordinatorLoadInProgressError,
    FencedInstanceIdError,
    FencedMemberEpochError,
    GroupMaxSizeReachedError,
    InvalidRequestError,
    OverloadedError,
    UnknownMemberIdError,
    UnsupportedAssignorError,
)

_MEMBER_ID_BITS = 128


def join(
    image: GroupsImage, command: Join, context: GroupContext
) -> Result[RecordOfGroup, JoinResponse]:
    """Makes a member, or changes one that joins again; the reply has what it owns at once.

    Raises:
        FencedInstanceIdError: another process has joined under the instance id since.
        GroupMaxSizeReachedError: the group has MAX_MEMBERS members.
        UnsupportedAssignorError: other members use another assignor.
        CoordinatorLoadInProgressError: this broker does not know the topics of today yet.
        OverloadedError: the coordinator has MAX_GROUPS groups.
        InvalidRequestError: a field breaks its rule; see `validate_join`.
    """
    validate_join(command, context.config)
    group = image.groups.get(command.group)
    if group is None:
        if len(image.groups) >= MAX_GROUPS:
            raise OverloadedError(f"This coordinator has {MAX_GROUPS} groups already.")
        group = Group(command.group)
    if not group.members:
        # Above all generations of a group of this name that was deleted, so that no commit of its
        # members counts in this one: a generation rises by no more than its decision has records.
        group = replace(group, generation=max(group.generation, image.version))
    if context.view.version < group.metadata_version:
        raise CoordinatorLoadInProgressError("The coordinator's metadata is behind the group's.")
    _refuse_replaced(group, command.member_id)
    member_id = command.member_id or f"{context.random.getrandbits(_MEMBER_ID_BITS):032x}"
    replaced = None
    if command.instance_id is not None:
        replaced = group.member_of_instance(command.instance_id)
    before = group.members.get(member_id) or replaced
    if before is not None and before.instance_id != command.instance_id:
        raise InvalidRequestError(
            f"instance_id of a member cannot change; {member_id!r} has {before.instance_id!r}.",
            field="instance_id",
        )
    if before is None and len(group.members) >= MAX_MEMBERS:
        raise GroupMaxSizeReachedError(f"The group has {MAX_MEMBERS} members already.")
    changes = GroupChanges(group)
    others = group.members.keys() - {member_id, before.member_id if before else member_id}
    wanted = command.assignor or group.assignor or context.config.default_assignor
    _choose_assignor(changes, canonical_name(wanted), is_alone=not others)
    member = _member(command, member_id, before, context)
    if replaced is not None and replaced.member_id != member_id:
        _replace(changes, replaced, member)
    elif member != before:
        changes.add(member)
        if before is None:
            changes.add(
                current_record(group.group_id, member_id, CurrentAssignment(group.generation + 1))
            )
    reads_as_before = before is not None and _subscription(before) == _subscription(member)
    if not reads_as_before or changes.group.assignor != group.assignor:
        rebalance(changes, context.view)
    take_step(changes, member_id, None)
    return Result(changes.records, _joined(changes.group, member_id, context))


def heartbeat(
    image: GroupsImage, command: Heartbeat, context: GroupContext
) -> Result[RecordOfGroup, HeartbeatResponse]:
    """Takes what a member holds and tells it what it owns.

    Raises:
        UnknownMemberIdError: it is no member, or no longer.
        FencedInstanceIdError: another process has joined under its instance id.
        FencedMemberEpochError: its generation is one that it was never given, or is from before it
            was given what it says that it holds.
        InvalidRequestError: it would wait for too long.
    """
    group = member_group(image, command.group, command.member_id)
    validate_wait(command.max_wait_ms, group.members[command.member_id].session_timeout_ms)
    before = group.currents[command.member_id]
    if command.generation > before.generation:
        raise FencedMemberEpochError(
            f"The member's generation is {before.generation}, not {command.generation}.",
            generation=before.generation,
        )
    said: frozenset[TopicPartition] | None = None
    if command.owned is not None:
        said = frozenset(
            (owned.topic, partition) for owned in command.owned for partition in owned.partitions
        )
        _refuse_former_tenure(before, said, command.generation)
        if command.generation != before.generation:
            said = None
    changes = GroupChanges(group)
    take_step(changes, command.member_id, said)
    current = changes.group.currents[command.member_id]
    is_news = current.generation != command.generation or frozenset(current.owned) != said
    joined = _joined(changes.group, command.member_id, context)
    response = HeartbeatResponse(
        member_id=joined.member_id,
        generation=joined.generation,
        assignment=joined.assignment if is_news else None,
        session_timeout_ms=joined.session_timeout_ms,
        heartbeat_interval_ms=joined.heartbeat_interval_ms,
    )
    return Result(changes.records, response)


def leave(
    image: GroupsImage, command: Leave, context: GroupContext
) -> Result[RecordOfGroup, LeaveResponse]:
    """Ends a membership; whoever is to own the member's partitions next may have them at once.

    Raises:
        UnknownMemberIdError: it is no member, or no longer; so a repeated leave is told.
        FencedInstanceIdError: another process has joined under its instance id.
    """
    group = member_group(image, command.group, command.member_id)
    changes = without_members(group, (command.member_id,), context)
    return Result(changes.records, LeaveResponse(command.member_id))


def expire_members(
    image: GroupsImage, command: ExpireMembers, context: GroupContext
) -> Result[RecordOfGroup, DoneResponse]:
    """Ends the memberships of members that are silent or stuck; who is gone stays gone."""
    group = image.groups.get(command.group)
    if group is None:
        return Result((), DoneResponse())
    gone = [each.member_id for each in command.members if each.member_id in group.members]
    if not gone:
        return Result((), DoneResponse())
    return Result(without_members(group, gone, context).records, DoneResponse())


def refresh_topics(
    image: GroupsImage, command: RefreshTopics, context: GroupContext
) -> Result[RecordOfGroup, DoneResponse]:
    """Gives the group a new target if topics that it reads are others than before."""
    group = image.groups.get(command.group)
    if group is None or not topics_differ(group, context.view):
        return Result((), DoneResponse())
    changes = GroupChanges(group)
    rebalance(changes, context.view)
    return Result(changes.records, DoneResponse())


def topics_differ(group: Group, view: ClusterView) -> bool:
    """Whether the topics that the group reads are others than those of its target."""
    if not group.members or view.version < group.metadata_version:
        return False
    _, names = wanted_topics(group, view)
    return len(names) != len(group.topics) or any(
        seen is None
        or (seen.topic_id, seen.partitions)
        != (view.topics[name].topic_id, view.topics[name].partitions)
        for name in names
        for seen in (group.topics.get(name),)
    )


def member_group(image: GroupsImage, group_id: str, member_id: str) -> Group:
    """The group, which has this member.

    Raises:
        UnknownMemberIdError: it has not.
        FencedInstanceIdError: another process has joined under the member's instance id.
    """
    group = image.groups.get(group_id)
    if group is not None:
        _refuse_replaced(group, member_id)
    if group is None or member_id not in group.members:
        raise UnknownMemberIdError(f"The group {group_id!r} has no member {member_id!r}.")
    return group


def assigned_topics(partitions: Iterable[HeldPartition]) -> tuple[AssignedTopic, ...]:
    """Partitions as a response tells them: by topic, in rising order."""
    by_topic: dict[tuple[str, str], list[int]] = {}
    for held in partitions:
        by_topic.setdefault((held.topic, held.topic_id), []).append(held.partition)
    return tuple(
        AssignedTopic(topic, topic_id, tuple(sorted(numbers)))
        for (topic, topic_id), numbers in sorted(by_topic.items())
    )


def _refuse_replaced(group: Group, member_id: str | None) -> None:
    """Refuses a process whose instance id another one has taken, lest the two take turns."""
    if member_id is None or member_id in group.members:
        return
    for member in group.members.values():
        if member_id in member.former_member_ids:
            raise FencedInstanceIdError(
                f"Another process has joined as {member.instance_id!r}: this one must stop.",
                instance_id=member.instance_id,
            )


def _refuse_former_tenure(
    current: CurrentAssignment, said: frozenset[TopicPartition], generation: int
) -> None:
    """Refuses a member that goes on with what it has lost and been given again since.

    It left or expired, and a late copy of its join has made it a member again. Others may have
    read its partitions between; a commit in its former generation is refused for the same reason.
    """
    for key in sorted(said):
        held = current.held(key)
        if held is not None and held.generation > generation:
            raise FencedMemberEpochError(
                f"The member has {held.topic}-{held.partition} since generation {held.generation}; "
                f"what it held in generation {generation} it has lost.",
                generation=current.generation,
            )


def _choose_assignor(changes: GroupChanges, wanted: str, *, is_alone: bool) -> None:
    """Sets the group's assignor; only a member that is alone may choose another."""
    group = changes.group
    if wanted == group.assignor:
        return
    if not is_alone:
        raise UnsupportedAssignorError(
            f"assignor of the group is {group.assignor!r}; "
            f"{wanted!r} needs a group without other members."
        )
    changes.change_group(
        generation=group.generation, assignor=wanted, empty_since_ms=group.empty_since_ms
    )


def _member(
    command: Join, member_id: str, before: MemberChanged | None, context: GroupContext
) -> MemberChanged:
    """The member as the command describes it."""
    config = context.config
    former = before.former_member_ids if before is not None else ()
    if before is not None and before.member_id != member_id:
        former = (before.member_id, *former)[:MAX_FORMER_MEMBER_IDS]
    return MemberChanged(
        group=command.group,
        member_id=member_id,
        instance_id=command.instance_id,
        client_id=command.client_id,
        topics=None if command.topics is None else tuple(sorted(set(command.topics))),
        pattern=command.pattern,
        session_timeout_ms=command.session_timeout_ms or config.default_session_timeout_ms,
        rebalance_timeout_ms=command.rebalance_timeout_ms or config.default_rebalance_timeout_ms,
        former_member_ids=former,
    )


def _replace(changes: GroupChanges, replaced: MemberChanged, member: MemberChanged) -> None:
    """Hands a static member's place to its next process, without a rebalance.

    The partitions are assigned anew, so nothing that the former process may still send counts; what
    it was giving up is free, for the next process has never had it.
    """
    group = changes.group
    generation = group.generation + 1
    target = group.targets[replaced.member_id]
    current = group.currents[replaced.member_id]
    changes.change_group(generation=generation, empty_since_ms=None)
    changes.add(
        *_removed(group.group_id, replaced.member_id),
        member,
        TargetAssigned(
            group.group_id,
            member.member_id,
            tuple(
                TargetTopic(topic, tuple(sorted(p for name, p in target if name == topic)))
                for topic in sorted({name for name, _ in target})
            ),
        ),
        current_record(
            group.group_id,
            member.member_id,
            CurrentAssignment(
                generation,
                {
                    key: HeldPartition(held.topic, held.topic_id, held.partition, generation)
                    for key, held in current.owned.items()
                },
            ),
        ),
    )


def without_members(group: Group, member_ids: Iterable[str], context: GroupContext) -> GroupChanges:
    """The group without some members."""
    changes = GroupChanges(group)
    changes.add(
        *(record for member_id in member_ids for record in _removed(group.group_id, member_id))
    )
    if changes.group.members:
        rebalance(changes, context.view)
    else:
        changes.change_group(
            generation=group.generation + 1, topics=(), empty_since_ms=context.timestamp_ms
        )
    return changes


def _removed(group_id: str, member_id: str) -> tuple[RecordOfGroup, ...]:
    return (
        CurrentRemoved(group_id, member_id),
        TargetRemoved(group_id, member_id),
        MemberRemoved(group_id, member_id),
    )


def _subscription(member: MemberChanged) -> tuple[tuple[str, ...] | None, str | None]:
    return member.topics, member.pattern


def _joined(group: Group, member_id: str, context: GroupContext) -> JoinResponse:
    """What the member is told of itself."""
    config, member, current = context.config, group.members[member_id], group.currents[member_id]
    interval_ms = min(config.heartbeat_interval_ms, max(member.session_timeout_ms // 3, 1))
    if not is_reconciled(group, member_id):
        interval_ms = min(interval_ms, config.rebalance_heartbeat_interval_ms)
    return JoinResponse(
        member_id=member_id,
        generation=current.generation,
        assignment=assigned_topics(current.owned.values()),
        session_timeout_ms=member.session_timeout_ms,
        heartbeat_interval_ms=interval_ms,
    )
