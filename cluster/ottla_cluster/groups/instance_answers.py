"""What every handler of a consumer instance begins and ends with: the instance, and its answer."""

from collections.abc import Sequence

from ottla_cluster.groups.context import GroupContext
from ottla_cluster.groups.image import Group, GroupsImage, replay_group
from ottla_cluster.groups.instance_commands import (
    InstancePartition,
    InstanceResponse,
    InstanceSettings,
    PendingDelivery,
)
from ottla_cluster.groups.instance_positions import counting_positions, held_partitions
from ottla_cluster.groups.reconcile import is_reconciled
from ottla_cluster.groups.records import InstanceChanged, RecordOfGroup
from ottla_cluster.groups.targets import subscribed_topics
from ottla_cluster.state_machine.result import Result
from ottla_protocol.errors import NotFoundError

Answer = Result[RecordOfGroup, InstanceResponse]


def group_of_instance(image: GroupsImage, group_id: str, instance_id: str) -> Group:
    """The group, which has this instance.

    Raises:
        NotFoundError: it has not.
    """
    group = image.groups.get(group_id)
    if group is None or instance_id not in group.instances:
        raise NotFoundError(f"The group {group_id!r} has no consumer instance {instance_id!r}.")
    return group


def answer(
    group: Group, instance_id: str, records: Sequence[RecordOfGroup], context: GroupContext
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
