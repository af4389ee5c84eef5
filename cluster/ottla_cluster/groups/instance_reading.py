"""The handlers of a consumer instance's requests for records, its positions and its commits.

What each command means is in `instance_commands`; what positions are, in `instance_positions`.
"""

import msgspec

from ottla_cluster.groups.changes import GroupChanges
from ottla_cluster.groups.context import GroupContext
from ottla_cluster.groups.image import GroupsImage
from ottla_cluster.groups.instance_answers import Answer, answer, group_of_instance
from ottla_cluster.groups.instance_commands import (
    CommitInstance,
    MoveInstance,
    OfferRecords,
    PollInstance,
    SettleDelivery,
)
from ottla_cluster.groups.instance_commits import auto_commit, commit_as_instance, commit_read
from ottla_cluster.groups.instance_membership import join_command
from ottla_cluster.groups.instance_positions import (
    counting_positions,
    held_partitions,
    merged_positions,
    progress_record,
)
from ottla_cluster.groups.membership_handlers import join
from ottla_cluster.groups.records import Delivery, InstancePosition
from ottla_cluster.groups.targets import take_step
from ottla_cluster.groups.validation import validate_offsets
from ottla_protocol.errors import ConflictError, FencedMemberEpochError


def poll_instance(image: GroupsImage, command: PollInstance, context: GroupContext) -> Answer:
    """Begins a request for records: the client is done with all that it got before.

    Raises:
        NotFoundError: there is none of that id.
        OttlaError: as `join`.
    """
    group = group_of_instance(image, command.group, command.member_id)
    instance_id = command.member_id
    changes = GroupChanges(group)
    if not _void(changes, instance_id, command.void_delivery_id):
        return answer(group, instance_id, (), context)
    instance = group.instances[instance_id]
    if instance.topics is not None or instance.pattern is not None:
        if instance_id not in group.members:
            changes.add(*join(image, join_command(instance), context).records)
        else:
            changes.add(*auto_commit(image, group, instance_id, context))
            # Told of what is taken away, and done with it: the client has no work left there.
            take_step(changes, instance_id, frozenset(group.currents[instance_id].owned))
            if changes.group.currents[instance_id].revoking:
                owned = frozenset(changes.group.currents[instance_id].owned)
                take_step(changes, instance_id, owned)
    else:
        changes.add(*auto_commit(image, group, instance_id, context))
    return answer(group, instance_id, changes.records, context)


def move_instance(image: GroupsImage, command: MoveInstance, context: GroupContext) -> Answer:
    """Sets positions.

    Raises:
        NotFoundError: there is no instance of that id.
        ConflictError: it does not read one of the partitions.
        InvalidRequestError: an offset cannot be, or a partition stands twice.
    """
    validate_offsets(command.offsets)
    group = group_of_instance(image, command.group, command.member_id)
    changes = GroupChanges(group)
    if not _void(changes, command.member_id, command.void_delivery_id):
        return answer(group, command.member_id, (), context)
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
    return answer(group, command.member_id, changes.records, context)


def offer_records(image: GroupsImage, command: OfferRecords, context: GroupContext) -> Answer:
    """Writes down what is about to be sent to the client.

    Raises:
        NotFoundError: there is no instance of that id.
        FencedMemberEpochError: the instance reads something else now, or from elsewhere, or
            another delivery is under way: the records must not be sent.
    """
    group = group_of_instance(image, command.group, command.member_id)
    progress = group.progress.get(command.member_id)
    delivery = None if progress is None else progress.delivery
    if delivery is not None and delivery.delivery_id == command.delivery_id:
        return answer(group, command.member_id, (), context)
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
    return answer(group, command.member_id, (record,), context)


def settle_delivery(image: GroupsImage, command: SettleDelivery, context: GroupContext) -> Answer:
    """Has what was sent count as read, or not; a delivery that is void already stays so.

    Raises:
        NotFoundError: there is no instance of that id.
    """
    group = group_of_instance(image, command.group, command.member_id)
    progress = group.progress.get(command.member_id)
    if (
        progress is None
        or progress.delivery is None
        or progress.delivery.delivery_id != command.delivery_id
    ):
        return answer(group, command.member_id, (), context)
    positions = progress.positions
    if command.is_delivered:
        positions = merged_positions(positions, progress.delivery.ends)
    record = progress_record(group, command.member_id, positions, None)
    return answer(group, command.member_id, (record,), context)


def commit_instance(image: GroupsImage, command: CommitInstance, context: GroupContext) -> Answer:
    """Commits what was read, or what the client names.

    Raises:
        NotFoundError: there is no instance of that id, or no such topic or partition.
        FencedMemberEpochError: it does not hold a partition that the client names, or has lost its
            place in the group with all that it has read.
        NonEmptyGroupError: it does not subscribe, and the group has members.
    """
    group = group_of_instance(image, command.group, command.member_id)
    changes = GroupChanges(group)
    if command.offsets is not None:
        changes.add(*commit_as_instance(image, group, command.member_id, command.offsets, context))
    elif _void(changes, command.member_id, command.void_delivery_id):
        changes.add(*commit_read(image, group, command.member_id, context))
    return answer(group, command.member_id, changes.records, context)


def _void(changes: GroupChanges, instance_id: str, void_delivery_id: str | None) -> bool:
    """Ends the delivery that the caller knows to be void; False where another one is pending."""
    progress = changes.group.progress.get(instance_id)
    if progress is None or progress.delivery is None:
        return True
    if progress.delivery.delivery_id != void_delivery_id:
        return False
    changes.add(progress_record(changes.group, instance_id, progress.positions, None))
    return True
