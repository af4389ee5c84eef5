"""Where consumer instances are in what they read, and which of it still counts.

A position counts while the partition is assigned to the instance as it was when the position was
written: once it was with another member, only what the group has committed does.
"""

from collections.abc import Iterable, Mapping

import msgspec

from ottla_cluster.groups.image import Group, TopicPartition, replay_group
from ottla_cluster.groups.records import Delivery, InstancePosition, InstanceProgressed


def held_partitions(
    group: Group, instance_id: str, *, with_revoking: bool
) -> Mapping[TopicPartition, InstancePosition]:
    """What the instance reads, each at offset 0; `with_revoking` also what it is giving up."""
    instance = group.instances[instance_id]
    if instance.partitions is not None:
        return {
            (each.topic, each.partition): InstancePosition(
                each.topic, each.topic_id, each.partition, 0, 0
            )
            for each in instance.partitions
        }
    current = group.currents.get(instance_id)
    if current is None:
        return {}
    held = {**current.owned, **(current.revoking if with_revoking else {})}
    return {
        key: InstancePosition(each.topic, each.topic_id, each.partition, each.generation, 0)
        for key, each in held.items()
    }


def counting_positions(group: Group, instance_id: str) -> tuple[InstancePosition, ...]:
    """The positions that still count."""
    progress = group.progress.get(instance_id)
    if progress is None:
        return ()
    held = held_partitions(group, instance_id, with_revoking=True)
    return tuple(
        each
        for each in progress.positions
        for at in (held.get((each.topic, each.partition)),)
        if at is not None and (at.topic_id, at.generation) == (each.topic_id, each.generation)
    )


def merged_positions(
    before: Iterable[InstancePosition], after: Iterable[InstancePosition]
) -> tuple[InstancePosition, ...]:
    """Positions by partition; what is `after` counts where both have one."""
    merged = {(each.topic, each.partition): each for each in (*before, *after)}
    return tuple(position for _, position in sorted(merged.items()))


def progress_record(
    group: Group,
    instance_id: str,
    positions: tuple[InstancePosition, ...],
    delivery: Delivery | None,
) -> InstanceProgressed:
    """The record of an instance's progress, without positions that count no more."""
    record = InstanceProgressed(group.group_id, instance_id, positions, delivery)
    changed = replay_group(group, (record,))
    assert changed is not None
    return msgspec.structs.replace(record, positions=counting_positions(changed, instance_id))
