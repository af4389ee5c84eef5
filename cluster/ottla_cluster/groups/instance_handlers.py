"""The handlers of consumer instances of the REST Proxy API; see `instance_commands`.

An instance that subscribes is a member like any other, so its partitions come and go by the rules
of `reconcile`; what is its own is its positions (`instance_positions`).
"""

from collections.abc import Iterable, Sequence

import msgspec

from ottla_cluster.controller.features import CONSUMER_INSTANCES
from ottla_cluster.controller.result import Result
from ottla_cluster.groups.changes import GroupChanges
from ottla_cluster.groups.commands import (
    CommitOffsets,
    DoneResponse,
    Join,
    LeaveResponse,
)
from ottla_cluster.groups.context import GroupContext
from ottla_cluster.groups.image import Group, GroupsImage, replay_group
from ottla_cluster.groups.instance_commands import (
    AssignInstance,
    CommitInstance,
    CreateInstance,
    DescribeInstance,
    ExpireInstances,
    InstancePartition,
    InstanceResponse,
    InstanceSettings,
    MoveInstance,
    OfferRecords,
    PendingDelivery,
    PollInstance,
    RemoveInstance,
    SettleDelivery,
    SubscribeInstance,
)
from ottla_cluster.groups.instance_positions import (
    counting_positions,
    held_partitions,
    merged_positions,
    progress_record,
)
from ottla_cluster.groups.limits import (
    MAX_INSTANCES,
    MAX_OFFSETS_PER_COMMIT,
    MAX_OFFSETS_PER_GROUP,
)
from ottla_cluster.groups.membership_handlers import join, without_members
from ottla_cluster.groups.messages import OffsetToCommit
from ottla_cluster.groups.offset_handlers import commit_offsets, refuse_new_group, topic_id_of
from ottla_cluster.groups.reconcile import is_reconciled
from ottla_cluster.groups.records import (
    ChosenPartition,
    Delivery,
    GroupRecord,
    InstanceChanged,
    InstancePosition,
    InstanceRemoved,
    ProgressRemoved,
)
from ottla_cluster.groups.targets import subscribed_topics, take_step
from ottla_cluster.groups.validation import validate_group_id, validate_member_id, validate_offsets
from ottla_protocol.errors import (
    ConflictError,
    FencedMemberEpochError,
    GroupMaxSizeReachedError,
    InvalidRequestError,
    NotFoundError,
    UnsupportedFeatureLevelError,
)

REBALANCE_TIMEOUT_MS = 30_000
"""How long an instance may keep a partition that is to be another member's without asking for
anything. Then it loses its membership, and gets it back with its next request."""

_EXCLUSIVE = (
    "Subscription to topics, partitions and pattern are mutually exclusive; unsubscribe first."
)

Answer = Result[GroupRecord, InstanceResponse]


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
        raise InvalidRequestError(f"idle_timeout_ms must be {low_ms} to {high_ms}.")
    if context.view.feature_level < CONSUMER_INSTANCES.level:
        raise UnsupportedFeatureLevelError(
            f"{CONSUMER_INSTANCES.description} need feature level {CONSUMER_INSTANCES.level}."
        )
    refuse_new_group(image, command.group)
    group = image.groups.get(command.group) or Group(command.group)
    before = group.instances.get(command.member_id)
    if before is not None and before.creation_id == command.creation_id:
        return _answer(group, command.member_id, (), context)
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
    return _answer(group, command.member_id, (record,), context)


def remove_instance(
    image: GroupsImage, command: RemoveInstance, context: GroupContext
) -> Result[GroupRecord, LeaveResponse]:
    """Ends an instance and its membership.

    Raises:
        NotFoundError: there is none of that id.
    """
    group = _group_of(image, command.group, command.member_id)
    records = (
        *_auto_commit(image, group, command.member_id, context),
        *_removal(group, (command.member_id,), context),
    )
    return Result(records, LeaveResponse(command.member_id))


def expire_instances(
    image: GroupsImage, command: ExpireInstances, context: GroupContext
) -> Result[GroupRecord, DoneResponse]:
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
    group = _group_of(image, command.group, command.member_id)
    instance = group.instances[command.member_id]
    if command.topics is None and command.pattern is None:
        return _answer(
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
    joined = join(image, _join(changed), context)
    records = (*((changed,) if changed != instance else ()), *joined.records)
    return _answer(group, command.member_id, records, context)


def assign_instance(image: GroupsImage, command: AssignInstance, context: GroupContext) -> Answer:
    """Has an instance read what its client chose, without the group; none of it means nothing.

    Raises:
        NotFoundError: there is no instance of that id, or no such topic or partition.
        ConflictError: it subscribes.
        InvalidRequestError: too many partitions, or one twice.
    """
    group = _group_of(image, command.group, command.member_id)
    instance = group.instances[command.member_id]
    if not command.partitions:
        return _answer(
            group, command.member_id, _unsubscribed(image, group, instance, context), context
        )
    if instance.topics is not None or instance.pattern is not None:
        raise ConflictError(_EXCLUSIVE)
    names = {(each.topic, each.partition) for each in command.partitions}
    if len(command.partitions) > MAX_OFFSETS_PER_GROUP:
        raise InvalidRequestError(f"partitions must be at most {MAX_OFFSETS_PER_GROUP}.")
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
    return _answer(group, command.member_id, changes.records, context)


def describe_instance(
    image: GroupsImage, command: DescribeInstance, context: GroupContext
) -> Answer:
    """Tells an instance.

    Raises:
        NotFoundError: there is none of that id.
    """
    return _answer(
        _group_of(image, command.group, command.member_id), command.member_id, (), context
    )


def poll_instance(image: GroupsImage, command: PollInstance, context: GroupContext) -> Answer:
    """Begins a request for records: the client is done with all that it got before.

    Raises:
        NotFoundError: there is none of that id.
        OttlaError: as `join`.
    """
    group = _group_of(image, command.group, command.member_id)
    instance_id = command.member_id
    changes = GroupChanges(group)
    if not _void(changes, instance_id, command.void_delivery_id):
        return _answer(group, instance_id, (), context)
    instance = group.instances[instance_id]
    if instance.topics is not None or instance.pattern is not None:
        if instance_id not in group.members:
            changes.add(*join(image, _join(instance), context).records)
        else:
            changes.add(*_auto_commit(image, group, instance_id, context))
            # Told of what is taken away, and done with it: the client has no work left there.
            take_step(changes, instance_id, frozenset(group.currents[instance_id].owned))
            if changes.group.currents[instance_id].revoking:
                owned = frozenset(changes.group.currents[instance_id].owned)
                take_step(changes, instance_id, owned)
    else:
        changes.add(*_auto_commit(image, group, instance_id, context))
    return _answer(group, instance_id, changes.records, context)


def move_instance(image: GroupsImage, command: MoveInstance, context: GroupContext) -> Answer:
    """Sets positions.

    Raises:
        NotFoundError: there is no instance of that id.
        ConflictError: it does not read one of the partitions.
        InvalidRequestError: an offset cannot be, or a partition stands twice.
    """
    validate_offsets(command.offsets)
    group = _group_of(image, command.group, command.member_id)
    changes = GroupChanges(group)
    if not _void(changes, command.member_id, command.void_delivery_id):
        return _answer(group, command.member_id, (), context)
    held = held_partitions(group, command.member_id, with_revoking=False)
    moved = []
    for entry in command.offsets:
        at = held.get((entry.topic, entry.partition))
        if at is None:
            raise ConflictError(
                f"The consumer instance does not read {entry.topic}-{entry.partition} now."
            )
        moved.append(msgspec.structs.replace(at, offset=entry.offset))
    positions = merged_positions(counting_positions(group, command.member_id), moved)
    changes.add(progress_record(group, command.member_id, positions, None))
    return _answer(group, command.member_id, changes.records, context)


def offer_records(image: GroupsImage, command: OfferRecords, context: GroupContext) -> Answer:
    """Writes down what is about to be sent to the client.

    Raises:
        NotFoundError: there is no instance of that id.
        FencedMemberEpochError: the instance reads something else now, or from elsewhere, or
            another delivery is under way: the records must not be sent.
    """
    group = _group_of(image, command.group, command.member_id)
    progress = group.progress.get(command.member_id)
    delivery = None if progress is None else progress.delivery
    if delivery is not None and delivery.delivery_id == command.delivery_id:
        return _answer(group, command.member_id, (), context)
    if delivery is not None:
        raise FencedMemberEpochError("Other records are on their way to the instance's client.")
    held = held_partitions(group, command.member_id, with_revoking=False)
    positions = counting_positions(group, command.member_id)
    known = {(each.topic, each.partition): each.offset for each in positions}
    for start in command.starts:
        key = start.topic, start.partition
        at = held.get(key)
        if at is None or (at.topic_id, at.generation) != (start.topic_id, start.generation):
            raise FencedMemberEpochError(
                f"{start.topic}-{start.partition} is not assigned to the instance as it was."
            )
        if known.get(key, start.offset) != start.offset:
            raise FencedMemberEpochError(
                f"The instance's position in {start.topic}-{start.partition} has changed."
            )
    ends = tuple(
        InstancePosition(each.topic, each.topic_id, each.partition, each.generation, each.offset)
        for each in command.ends
        if each.offset is not None
    )
    offered = Delivery(command.delivery_id, command.node_id, command.broker_epoch, ends)
    record = progress_record(group, command.member_id, positions, offered)
    return _answer(group, command.member_id, (record,), context)


def settle_delivery(image: GroupsImage, command: SettleDelivery, context: GroupContext) -> Answer:
    """Has what was sent count as read, or not; a delivery that is void already stays so.

    Raises:
        NotFoundError: there is no instance of that id.
    """
    group = _group_of(image, command.group, command.member_id)
    progress = group.progress.get(command.member_id)
    if (
        progress is None
        or progress.delivery is None
        or progress.delivery.delivery_id != command.delivery_id
    ):
        return _answer(group, command.member_id, (), context)
    positions = progress.positions
    if command.is_delivered:
        positions = merged_positions(positions, progress.delivery.ends)
    record = progress_record(group, command.member_id, positions, None)
    return _answer(group, command.member_id, (record,), context)


def commit_instance(image: GroupsImage, command: CommitInstance, context: GroupContext) -> Answer:
    """Commits what was read, or what the client names.

    Raises:
        NotFoundError: there is no instance of that id, or no such topic or partition.
        FencedMemberEpochError: it does not hold a partition that the client names.
        NonEmptyGroupError: it does not subscribe, and the group has members.
    """
    group = _group_of(image, command.group, command.member_id)
    changes = GroupChanges(group)
    if command.offsets is not None:
        changes.add(*_commit(image, group, command.member_id, command.offsets, context))
    elif _void(changes, command.member_id, command.void_delivery_id):
        changes.add(*_commit_read(image, group, command.member_id, context))
    return _answer(group, command.member_id, changes.records, context)


# --- what handlers share --------------------------------------------------------------------


def _group_of(image: GroupsImage, group_id: str, instance_id: str) -> Group:
    """The group, which has this instance.

    Raises:
        NotFoundError: it has not.
    """
    group = image.groups.get(group_id)
    if group is None or instance_id not in group.instances:
        raise NotFoundError(f"The group {group_id!r} has no consumer instance {instance_id!r}.")
    return group


def _join(instance: InstanceChanged) -> Join:
    return Join(
        group=instance.group,
        topics=instance.topics,
        pattern=instance.pattern,
        member_id=instance.instance_id,
        session_timeout_ms=instance.idle_timeout_ms,
        rebalance_timeout_ms=REBALANCE_TIMEOUT_MS,
    )


def _void(changes: GroupChanges, instance_id: str, void_delivery_id: str | None) -> bool:
    """Ends the delivery that the caller knows to be void; False where another one is pending."""
    progress = changes.group.progress.get(instance_id)
    if progress is None or progress.delivery is None:
        return True
    if progress.delivery.delivery_id != void_delivery_id:
        return False
    changes.add(progress_record(changes.group, instance_id, progress.positions, None))
    return True


def _commit(
    image: GroupsImage,
    group: Group,
    instance_id: str,
    offsets: Sequence[OffsetToCommit],
    context: GroupContext,
) -> tuple[GroupRecord, ...]:
    """The records that commit offsets, as the member that the instance is, or for no member."""
    if not offsets:
        return ()
    instance = group.instances[instance_id]
    current = group.currents.get(instance_id)
    subscribes = instance.topics is not None or instance.pattern is not None
    if subscribes and current is None:
        raise FencedMemberEpochError("The consumer instance has lost its place in the group.")
    member_id = instance_id if subscribes else None
    generation = current.generation if subscribes and current is not None else None
    command = CommitOffsets(group.group_id, tuple(offsets), member_id, generation)
    return commit_offsets(image, command, context).records


def _commit_read(
    image: GroupsImage, group: Group, instance_id: str, context: GroupContext
) -> tuple[GroupRecord, ...]:
    """The records that commit what was read and is not committed yet."""
    due = [
        OffsetToCommit(each.topic, each.partition, each.offset)
        for each in counting_positions(group, instance_id)
        for committed in (group.offsets.get((each.topic_id, each.partition)),)
        if committed is None or committed.offset != each.offset
    ]
    records: list[GroupRecord] = []
    for start in range(0, len(due), MAX_OFFSETS_PER_COMMIT):
        piece = due[start : start + MAX_OFFSETS_PER_COMMIT]
        records += _commit(image, group, instance_id, piece, context)
    return tuple(records)


def _auto_commit(
    image: GroupsImage, group: Group, instance_id: str, context: GroupContext
) -> tuple[GroupRecord, ...]:
    """The same with auto commit; one that cannot be made must not end what it is a part of."""
    if not group.instances[instance_id].auto_commit:
        return ()
    try:
        return _commit_read(image, group, instance_id, context)
    except (ConflictError, NotFoundError):
        # Others are members of the group that it does not subscribe in, or a topic was deleted.
        return ()


def _unsubscribed(
    image: GroupsImage, group: Group, instance: InstanceChanged, context: GroupContext
) -> tuple[GroupRecord, ...]:
    """The records that have an instance read nothing."""
    if (instance.topics, instance.pattern, instance.partitions) == (None, None, None):
        return ()
    instance_id = instance.instance_id
    records = [*_auto_commit(image, group, instance_id, context)]
    records += _without_membership(group, (instance_id,), context)
    if instance_id in group.progress:
        records.append(ProgressRemoved(group.group_id, instance_id))
    records.append(msgspec.structs.replace(instance, topics=None, pattern=None, partitions=None))
    return tuple(records)


def _removal(
    group: Group, instance_ids: Sequence[str], context: GroupContext
) -> tuple[GroupRecord, ...]:
    """The records that end instances and their memberships."""
    records = [*_without_membership(group, instance_ids, context)]
    for instance_id in instance_ids:
        if instance_id in group.progress:
            records.append(ProgressRemoved(group.group_id, instance_id))
        records.append(InstanceRemoved(group.group_id, instance_id))
    return tuple(records)


def _without_membership(
    group: Group, instance_ids: Iterable[str], context: GroupContext
) -> tuple[GroupRecord, ...]:
    members = [each for each in instance_ids if each in group.members]
    return without_members(group, members, context).records if members else ()


def _answer(
    group: Group, instance_id: str, records: Sequence[GroupRecord], context: GroupContext
) -> Answer:
    """The records, and the instance as they make it."""
    after = replay_group(group, records)
    assert after is not None
    instance = after.instances[instance_id]
    member, current = after.members.get(instance_id), after.currents.get(instance_id)
    progress = after.progress.get(instance_id)
    delivery = None if progress is None else progress.delivery
    offsets = {
        (each.topic, each.partition): each.offset for each in counting_positions(after, instance_id)
    }
    partitions = []
    for key, at in sorted(held_partitions(after, instance_id, with_revoking=False).items()):
        committed = after.offsets.get((at.topic_id, at.partition))
        offset = offsets.get(key, None if committed is None else committed.offset)
        partitions.append(
            InstancePartition(at.topic, at.topic_id, at.partition, at.generation, offset)
        )
    response = InstanceResponse(
        instance_id=instance_id,
        settings=InstanceSettings(
            **{name: getattr(instance, name) for name in InstanceSettings.__struct_fields__}
        ),
        topics=instance.topics,
        pattern=instance.pattern,
        is_assigned=instance.partitions is not None,
        subscription=_subscription(after, instance, context),
        generation=0 if current is None else current.generation,
        partitions=tuple(partitions),
        is_settled=member is None or is_reconciled(after, instance_id),
        pending=None
        if delivery is None
        else PendingDelivery(delivery.delivery_id, delivery.node_id, delivery.broker_epoch),
    )
    return Result(tuple(records), response)


def _subscription(
    group: Group, instance: InstanceChanged, context: GroupContext
) -> tuple[str, ...]:
    if instance.topics is not None:
        return instance.topics
    member = group.members.get(instance.instance_id)
    return () if member is None else subscribed_topics(member, group, context.view)
