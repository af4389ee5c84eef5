"""What consumer instances commit: what their clients name, or what they have read."""

from collections.abc import Sequence

from ottla_cluster.groups.commands import CommitOffsets
from ottla_cluster.groups.context import GroupContext
from ottla_cluster.groups.image import Group, GroupsImage
from ottla_cluster.groups.instance_positions import counting_positions
from ottla_cluster.groups.limits import MAX_OFFSETS_PER_COMMIT
from ottla_cluster.groups.messages import OffsetToCommit
from ottla_cluster.groups.offset_handlers import commit_offsets
from ottla_cluster.groups.records import RecordOfGroup
from ottla_protocol.errors import ConflictError, FencedMemberEpochError, NotFoundError


def commit_as_instance(
    image: GroupsImage,
    group: Group,
    instance_id: str,
    offsets: Sequence[OffsetToCommit],
    context: GroupContext,
) -> tuple[RecordOfGroup, ...]:
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


def commit_read(
    image: GroupsImage, group: Group, instance_id: str, context: GroupContext
) -> tuple[RecordOfGroup, ...]:
    """The records that commit what was read and is not committed yet.

    Raises:
        FencedMemberEpochError: it has lost its place in the group, and what it has read counts no
            more: to commit nothing of it would seem to be a success.
        OttlaError: as `commit_offsets`.
    """
    instance = group.instances[instance_id]
    subscribes = instance.topics is not None or instance.pattern is not None
    progress = group.progress.get(instance_id)
    has_read = progress is not None and bool(progress.positions)
    if subscribes and has_read and instance_id not in group.currents:
        raise FencedMemberEpochError("The consumer instance has lost its place in the group.")
    due = [
        OffsetToCommit(each.topic, each.partition, each.offset)
        for each in counting_positions(group, instance_id)
        for committed in (group.offsets.get((each.topic_id, each.partition)),)
        if committed is None or committed.offset != each.offset
    ]
    records: list[RecordOfGroup] = []
    for start in range(0, len(due), MAX_OFFSETS_PER_COMMIT):
        piece = due[start : start + MAX_OFFSETS_PER_COMMIT]
        records += commit_as_instance(image, group, instance_id, piece, context)
    return tuple(records)


def auto_commit(
    image: GroupsImage, group: Group, instance_id: str, context: GroupContext
) -> tuple[RecordOfGroup, ...]:
    """The same with auto commit; one that cannot be made must not end what it is a part of."""
    if not group.instances[instance_id].auto_commit:
        return ()
    try:
        return commit_read(image, group, instance_id, context)
    except (ConflictError, NotFoundError):
        # Others are members of the group that it does not subscribe in, or a topic was deleted.
        return ()
