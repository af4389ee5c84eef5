"""The handlers that make and end consumer instances of the REST Proxy API, and say what they read.

See `instance_commands`. An instance that subscribes is a member like any other, so its partitions
come and go by the rules of `reconcile`; what is its own is its positions (`instance_positions`),
which `instance_reading` moves.
"""

from collections.abc import Sequence

import msgspec

from ottla_cluster.controller.features import CONSUMER_INSTANCES
from ottla_cluster.groups.changes import GroupChanges
from ottla_cluster.groups.commands import DoneResponse, LeaveResponse
from ottla_cluster.groups.context import GroupContext
from ottla_cluster.groups.image import Group, GroupsImage
from ottla_cluster.groups.instance_answers import Answer, answer, group_of_instance
from ottla_cluster.groups.instance_commands import (
    AssignInstance,
    CreateInstance,
    DescribeInstance,
    ExpireInstances,
    RemoveInstance,
    SubscribeInstance,
)
from ottla_cluster.groups.instance_commits import auto_commit
from ottla_cluster.groups.instance_membership import join_command, without_membership
from ottla_cluster.groups.instance_positions import progress_record
from ottla_cluster.groups.limits import (
    MAX_CHOSEN_PARTITIONS,
    MAX_INSTANCES,
    MAX_OFFSETS_PER_GROUP,
)
from ottla_cluster.groups.membership_handlers import join
from ottla_cluster.groups.offset_handlers import refuse_new_group, topic_id_of
from ottla_cluster.groups.records import (
    ChosenPartition,
    InstanceChanged,
    InstanceRemoved,
    ProgressRemoved,
    RecordOfGroup,
)
from ottla_cluster.groups.validation import validate_group_id, validate_member_id
from ottla_cluster.state_machine.result import Result
from ottla_protocol.errors import (
    ConflictError,
    GroupMaxSizeReachedError,
    InvalidRequestError,
    UnsupportedFeatureLevelError,
)

_EXCLUSIVE = (
    "Subscription to topics, partitions and pattern are mutually exclusive; unsubscribe first."
)


def create_instance(image: GroupsImage, command: CreateInstance, context: GroupContext) -> Answer:
    """Makes an instance that reads nothing.

    Raises:
        ConflictError: there is an instance or a member of that id.
        UnsupportedFeatureLevelError: some process of the cluster may not know of instances.
        GroupMaxSizeReachedError: the group has MAX_INSTANCES.
        OverloadedError: the coordinator has MAX_GROUPS groups.
        InvalidRequestError: a name breaks its rule, or the idle timeout is out of bounds.
    """
    validate_group_id(command.group)
    validate_member_id("name", command.member_id)
    settings = command.settings
    low_ms, high_ms = context.config.min_session_timeout_ms, context.config.max_session_timeout_ms
    if not low_ms <= settings.idle_timeout_ms <= high_ms:
        raise InvalidRequestError(
            f"idle_timeout_ms must be {low_ms} to {high_ms}.", field="idle_timeout_ms"
        )
    if context.view.feature_level < CONSUMER_INSTANCES.level:
        raise UnsupportedFeatureLevelError(
            f"{CONSUMER_INSTANCES.description} need feature level {CONSUMER_INSTANCES.level}."
        )
    refuse_new_group(image, command.group)
    group = image.groups.get(command.group) or Group(command.group)
    before = group.instances.get(command.member_id)
    if before is not None and before.creation_id == command.creation_id:
        return answer(group, command.member_id, (), context)
    if before is not None or command.member_id in group.members:
        raise ConflictError(f"There is a consumer {command.member_id!r} in the group already.")
    if len(group.instances) >= MAX_INSTANCES:
        raise GroupMaxSizeReachedError(f"The group has {MAX_INSTANCES} instances already.")
    record = InstanceChanged(
        group=command.group,
        instance_id=command.member_id,
        creation_id=command.creation_id,
        **msgspec.structs.asdict(settings),
        topics=None,
        pattern=None,
        partitions=None,
    )
    return answer(group, command.member_id, (record,), context)


def remove_instance(
    image: GroupsImage, command: RemoveInstance, context: GroupContext
) -> Result[RecordOfGroup, LeaveResponse]:
    """Ends an instance and its membership.

    Raises:
        NotFoundError: there is none of that id.
    """
    group = group_of_instance(image, command.group, command.member_id)
    records = (
        *auto_commit(image, group, command.member_id, context),
        *_removal(group, (command.member_id,), context),
    )
    return Result(records, LeaveResponse(command.member_id))


def expire_instances(
    image: GroupsImage, command: ExpireInstances, context: GroupContext
) -> Result[RecordOfGroup, DoneResponse]:
    """Ends instances that nobody has asked for; who is gone stays gone."""
    group = image.groups.get(command.group)
    if group is None:
        return Result((), DoneResponse())
    gone = [each for each in command.instance_ids if each in group.instances]
    return Result(_removal(group, gone, context) if gone else (), DoneResponse())


def subscribe_instance(
    image: GroupsImage, command: SubscribeInstance, context: GroupContext
) -> Answer:
    """Has an instance read topics as a member, or nothing.

    Raises:
        NotFoundError: there is none of that id.
        ConflictError: it reads in another way: by names, by a pattern, or what the client chose.
        OttlaError: as `join`.
    """
    group = group_of_instance(image, command.group, command.member_id)
    instance = group.instances[command.member_id]
    if command.topics is None and command.pattern is None:
        return answer(
            group, command.member_id, _unsubscribed(image, group, instance, context), context
        )
    by_names = instance.pattern is None and command.pattern is None
    by_pattern = instance.topics is None and command.topics is None
    if instance.partitions is not None or not (by_names or by_pattern):
        raise ConflictError(_EXCLUSIVE)
    changed = msgspec.structs.replace(
        instance,
        topics=None if command.topics is None else tuple(sorted(set(command.topics))),
        pattern=command.pattern,
    )
    joined = join(image, join_command(changed), context)
    records = (*((changed,) if changed != instance else ()), *joined.records)
    return answer(group, command.member_id, records, context)


def assign_instance(image: GroupsImage, command: AssignInstance, context: GroupContext) -> Answer:
    """Has an instance read what its client chose, without the group; none of it means nothing.

    Raises:
        NotFoundError: there is no instance of that id, or no such topic or partition.
        ConflictError: it subscribes.
        InvalidRequestError: too many partitions.
        GroupMaxSizeReachedError: all instances of the group together would have too many.
    """
    group = group_of_instance(image, command.group, command.member_id)
    instance = group.instances[command.member_id]
    if not command.partitions:
        return answer(
            group, command.member_id, _unsubscribed(image, group, instance, context), context
        )
    if instance.topics is not None or instance.pattern is not None:
        raise ConflictError(_EXCLUSIVE)
    names = {(each.topic, each.partition) for each in command.partitions}
    if len(command.partitions) > MAX_OFFSETS_PER_GROUP:
        raise InvalidRequestError(
            f"partitions must be at most {MAX_OFFSETS_PER_GROUP}.", field="partitions"
        )
    others = (each for name, each in group.instances.items() if name != command.member_id)
    if len(names) + sum(len(each.partitions or ()) for each in others) > MAX_CHOSEN_PARTITIONS:
        raise GroupMaxSizeReachedError(
            f"The group's instances may have chosen {MAX_CHOSEN_PARTITIONS} partitions together."
        )
    chosen = tuple(
        ChosenPartition(topic, topic_id_of(context.view, topic, partition), partition)
        for topic, partition in sorted(names)
    )
    changed = msgspec.structs.replace(instance, partitions=chosen)
    changes = GroupChanges(group)
    changes.add(changed)
    progress = group.progress.get(command.member_id)
    if progress is not None and changed != instance:
        changes.add(progress_record(changes.group, command.member_id, progress.positions, None))
    return answer(group, command.member_id, changes.records, context)


def describe_instance(
    image: GroupsImage, command: DescribeInstance, context: GroupContext
) -> Answer:
    """Tells an instance.

    Raises:
        NotFoundError: there is none of that id.
    """
    return answer(
        group_of_instance(image, command.group, command.member_id), command.member_id, (), context
    )


def _unsubscribed(
    image: GroupsImage, group: Group, instance: InstanceChanged, context: GroupContext
) -> tuple[RecordOfGroup, ...]:
    """The records that have an instance read nothing."""
    if (instance.topics, instance.pattern, instance.partitions) == (None, None, None):
        return ()
    instance_id = instance.instance_id
    records = [*auto_commit(image, group, instance_id, context)]
    records += without_membership(group, (instance_id,), context)
    if instance_id in group.progress:
        records.append(ProgressRemoved(group.group_id, instance_id))
    records.append(msgspec.structs.replace(instance, topics=None, pattern=None, partitions=None))
    return tuple(records)


def _removal(
    group: Group, instance_ids: Sequence[str], context: GroupContext
) -> tuple[RecordOfGroup, ...]:
    """The records that end instances and their memberships."""
    records = [*without_membership(group, instance_ids, context)]
    for instance_id in instance_ids:
        if instance_id in group.progress:
            records.append(ProgressRemoved(group.group_id, instance_id))
        records.append(InstanceRemoved(group.group_id, instance_id))
    return tuple(records)
