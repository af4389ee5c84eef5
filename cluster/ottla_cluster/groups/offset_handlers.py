"""The handlers of committed offsets."""

from collections.abc import Sequence

import msgspec

from ottla_cluster.groups.cluster_view import ClusterView
from ottla_cluster.groups.commands import (
    CommitOffsets,
    CommitOffsetsResponse,
    CommittedPartition,
    DoneResponse,
    ExpireOffsets,
    FetchedOffset,
    FetchOffsets,
    FetchOffsetsResponse,
    SeekOffsets,
    SeekOffsetsResponse,
    SoughtOffset,
)
from ottla_cluster.groups.context import GroupContext
from ottla_cluster.groups.image import Group, GroupsImage
from ottla_cluster.groups.limits import MAX_GROUPS, MAX_OFFSETS_PER_GROUP
from ottla_cluster.groups.membership_handlers import member_group
from ottla_cluster.groups.messages import OffsetToCommit
from ottla_cluster.groups.pending_offsets import overtaken, pending_offsets, refuse_pending
from ottla_cluster.groups.records import (
    GroupRemoved,
    OffsetCommitted,
    OffsetRemoved,
    RecordOfGroup,
)
from ottla_cluster.groups.transaction_commands import CommitTransactionOffsets
from ottla_cluster.groups.validation import validate_group_id, validate_offsets
from ottla_cluster.state_machine.result import Result
from ottla_protocol.counted_nouns import counted
from ottla_protocol.errors import (
    CoordinatorLoadInProgressError,
    FencedMemberEpochError,
    InvalidRequestError,
    NonEmptyGroupError,
    OverloadedError,
    UnknownTopicOrPartitionError,
)
from ottla_protocol.missing_partitions import missing_partition


def commit_offsets(
    image: GroupsImage, command: CommitOffsets, context: GroupContext
) -> Result[RecordOfGroup, CommitOffsetsResponse]:
    """Commits all offsets, or none; those that would go back stay with `only_forward`.

    What transactions have pending there came before, and will not count.

    A member may commit what it holds: assigned to it in a generation up to the one that it names,
    which is one that it has been given. So whoever has lost a partition and does not know yet is
    refused, and whoever kept its own through others' rebalances is not.

    Raises:
        UnknownMemberIdError: it is no member, or no longer.
        FencedInstanceIdError: another process has joined under its instance id.
        FencedMemberEpochError: the member does not hold a partition, or not in its generation.
        NonEmptyGroupError: no member is named and the group has members.
        UnknownTopicOrPartitionError: there is no such topic or partition, or no longer.
        InvalidRequestError: a field breaks its rule.
        OverloadedError: the coordinator has MAX_GROUPS groups.
    """
    group, topic_ids = topic_ids_to_commit(image, command, context)
    wanted = tuple(
        OffsetCommitted(
            group=command.group,
            topic=entry.topic,
            topic_id=topic_id,
            partition=entry.partition,
            offset=entry.offset,
            leader_epoch=entry.leader_epoch,
            metadata=entry.metadata,
            commit_timestamp_ms=context.timestamp_ms,
            metadata_version=max(context.view.version, group.metadata_version),
        )
        for entry, topic_id in zip(command.offsets, topic_ids, strict=True)
    )
    records = wanted
    if command.only_forward:
        records = tuple(_not_before(group, record) for record in wanted)
    refuse_too_many(group, [(record.topic_id, record.partition) for record in records])
    committed = tuple(
        CommittedPartition(record.topic, record.partition, record.offset) for record in records
    )
    response = CommitOffsetsResponse(committed)
    if not group.pending:
        return Result(records, response)
    moved = {
        (record.topic_id, record.partition): image.version + 1
        for record, asked in zip(records, wanted, strict=True)
        if record is asked
    }
    return Result((*records, *overtaken(group, moved)), response)


def topic_ids_to_commit(
    image: GroupsImage, command: CommitOffsets | CommitTransactionOffsets, context: GroupContext
) -> tuple[Group, list[str]]:
    """The group, and the topic id of each offset, of a commit by somebody who may make it.

    Raises:
        OttlaError: as `commit_offsets`.
    """
    validate_group_id(command.group)
    validate_offsets(command.offsets)
    if (command.member_id is None) != (command.generation is None):
        missing = "member_id" if command.member_id is None else "generation"
        raise InvalidRequestError(
            f"member_id and generation must be given together: {missing} is missing.",
            field=missing,
        )
    if command.member_id is not None and command.generation is not None:
        group = member_group(image, command.group, command.member_id)
        return group, [
            _held_topic_id(group, command.member_id, command.generation, entry, context.view)
            for entry in command.offsets
        ]
    group = image.groups.get(command.group) or Group(command.group)
    if group.members:
        raise NonEmptyGroupError(
            f"The group {group.group_id!r} has {counted(len(group.members), 'member')}, and only "
            "they commit its offsets: member_id and generation are missing.",
            field="member_id",
        )
    refuse_new_group(image, command.group)
    return group, [
        topic_id_of(context.view, entry.topic, entry.partition) for entry in command.offsets
    ]


def fetch_offsets(
    image: GroupsImage, command: FetchOffsets, context: GroupContext
) -> Result[RecordOfGroup, FetchOffsetsResponse]:
    """Reads committed offsets; a group or partition without any is no error.

    Raises:
        InvalidGroupIdError: the group id breaks a rule.
        CoordinatorLoadInProgressError: this broker may not know the topics of some offsets yet, and
            "none" would send readers back to the start.
        UnstableOffsetCommitError: stable ones are asked for, and some are pending.
    """
    validate_group_id(command.group)
    group = image.groups.get(command.group) or Group(command.group)
    _refuse_old_view(group, context.view)
    if command.require_stable and group.pending:
        _refuse_unstable(group, command, context.view)
    if command.partitions is None:
        return Result((), FetchOffsetsResponse(committed_offsets(group, context.view)))
    return Result(
        (),
        FetchOffsetsResponse(
            tuple(
                _fetched(group, context.view, wanted.topic, partition)
                for wanted in command.partitions
                for partition in wanted.partitions
            )
        ),
    )


def seek_offsets(
    image: GroupsImage, command: SeekOffsets, context: GroupContext
) -> Result[RecordOfGroup, SeekOffsetsResponse]:
    """Moves the offsets of a group without members.

    Raises:
        NonEmptyGroupError: the group has members; they would go on from where they are.
        UnstableOffsetCommitError: a transaction that is not over may move one of the offsets.
        UnknownTopicOrPartitionError: there is no such topic or partition.
        InvalidRequestError: a field breaks its rule.
        OverloadedError: the coordinator has MAX_GROUPS groups.
    """
    validate_group_id(command.group)
    validate_offsets(command.offsets)
    group = image.groups.get(command.group) or Group(command.group)
    if group.members:
        raise NonEmptyGroupError(
            f"The group {group.group_id!r} has {counted(len(group.members), 'member')}, and "
            "offsets are moved while it has none."
        )
    refuse_new_group(image, command.group)
    records = tuple(
        OffsetCommitted(
            group=command.group,
            topic=entry.topic,
            topic_id=topic_id_of(context.view, entry.topic, entry.partition),
            partition=entry.partition,
            offset=entry.offset,
            leader_epoch=None,
            metadata="",
            commit_timestamp_ms=context.timestamp_ms,
            metadata_version=context.view.version,
        )
        for entry in command.offsets
    )
    keys = [(record.topic_id, record.partition) for record in records]
    refuse_too_many(group, keys)
    refuse_pending(group, keys)
    sought = tuple(
        SoughtOffset(
            record.topic,
            record.partition,
            None if before is None else before.offset,
            record.offset,
        )
        for record in records
        for before in (group.offsets.get((record.topic_id, record.partition)),)
    )
    response = SeekOffsetsResponse(command.dry_run, sought)
    return Result(() if command.dry_run else records, response)


def expire_offsets(
    image: GroupsImage, command: ExpireOffsets, context: GroupContext
) -> Result[RecordOfGroup, DoneResponse]:
    """Removes offsets of deleted topics, and what a group without members keeps for too long.

    A topic id that is missing in a view older than the commit proves nothing: this broker may not
    have heard of the topic yet.
    """
    group = image.groups.get(command.group)
    if group is None:
        return Result((), DoneResponse())
    view, retention_ms = context.view, context.config.offsets_retention_ms
    alive = view.index.topic_ids
    now_ms = context.timestamp_ms
    is_empty = not (group.members or group.instances or group.pending)
    records: list[RecordOfGroup] = []
    for (topic_id, partition), committed in sorted(group.offsets.items()):
        kept_since_ms = max(committed.commit_timestamp_ms, group.empty_since_ms or 0)
        is_deleted = topic_id not in alive and view.version >= committed.metadata_version
        is_old = is_empty and now_ms - kept_since_ms >= retention_ms
        if is_deleted or (is_old and command.retention_is_over):
            records.append(OffsetRemoved(command.group, topic_id, partition))
    is_forgotten = is_empty and now_ms - (group.empty_since_ms or 0) >= retention_ms
    if command.retention_is_over and is_forgotten and len(records) == len(group.offsets):
        records.append(GroupRemoved(command.group))
    return Result(tuple(records), DoneResponse())


def committed_offsets(group: Group, view: ClusterView) -> tuple[FetchedOffset, ...]:
    """All offsets of the group in topics that exist, by topic and partition.

    Raises:
        CoordinatorLoadInProgressError: see `fetch_offsets`.
    """
    _refuse_old_view(group, view)
    topic_ids = view.index.topic_ids
    return tuple(
        _fetched(group, view, committed.topic, committed.partition)
        for committed in sorted(
            group.offsets.values(), key=lambda entry: (entry.topic, entry.partition)
        )
        if committed.topic_id in topic_ids
    )


def _refuse_unstable(group: Group, command: FetchOffsets, view: ClusterView) -> None:
    """Refuses to tell offsets that a transaction may yet change."""
    if command.partitions is not None:
        topic_ids = {name: topic.topic_id for name, topic in view.topics.items()}
        asked = [
            (topic_ids[wanted.topic], partition)
            for wanted in command.partitions
            if wanted.topic in topic_ids
            for partition in wanted.partitions
        ]
        refuse_pending(group, asked)
        return
    existing = view.index.topic_ids
    refuse_pending(group, [key for key in pending_offsets(group) if key[0] in existing])


def _refuse_old_view(group: Group, view: ClusterView) -> None:
    is_old = any(view.version < each.metadata_version for each in group.offsets.values())
    if not is_old and group.pending:
        is_old = any(
            view.version < each.metadata_version for each in pending_offsets(group).values()
        )
    if is_old:
        raise CoordinatorLoadInProgressError("The coordinator's metadata is behind the group's.")


def _fetched(group: Group, view: ClusterView, topic: str, partition: int) -> FetchedOffset:
    known = view.topics.get(topic)
    committed = None if known is None else group.offsets.get((known.topic_id, partition))
    if committed is None:
        return FetchedOffset(topic, partition, None)
    return FetchedOffset(
        topic,
        partition,
        committed.offset,
        committed.leader_epoch,
        committed.metadata,
        committed.commit_timestamp_ms,
    )


def _held_topic_id(
    group: Group, member_id: str, generation: int, entry: OffsetToCommit, view: ClusterView
) -> str:
    """The id of the topic in which the member holds the partition.

    Raises:
        FencedMemberEpochError: it does not, or not in this generation; or the topic was deleted and
            another one has its name.
        UnknownTopicOrPartitionError: the topic was deleted.
    """
    current = group.currents[member_id]
    held = current.held((entry.topic, entry.partition))
    if held is None or not held.generation <= generation <= current.generation:
        raise FencedMemberEpochError(
            f"The member does not hold {entry.topic}-{entry.partition} in generation {generation}; "
            f"its generation is {current.generation}.",
            topic=entry.topic,
            partition=entry.partition,
            generation=current.generation,
        )
    known = view.topics.get(entry.topic)
    is_another = known is None or known.topic_id != held.topic_id
    # A view that is older than the assignment proves nothing.
    if is_another and view.version >= group.metadata_version:
        if known is None:
            raise UnknownTopicOrPartitionError(f"The topic {entry.topic!r} was deleted.")
        raise FencedMemberEpochError(
            f"The topic {entry.topic!r} was deleted and created again; "
            "what the member holds is of the former one.",
            topic=entry.topic,
            partition=entry.partition,
            generation=current.generation,
        )
    return held.topic_id


def _not_before(group: Group, record: OffsetCommitted) -> OffsetCommitted:
    """The commit, or where the group has gone beyond it, what stands with the commit's metadata."""
    before = group.offsets.get((record.topic_id, record.partition))
    if before is None or before.offset <= record.offset:
        return record
    return msgspec.structs.replace(record, offset=before.offset, leader_epoch=before.leader_epoch)


def topic_id_of(view: ClusterView, topic: str, partition: int) -> str:
    """The id of the topic, which has this partition.

    Raises:
        UnknownTopicOrPartitionError: there is no such topic or partition.
    """
    known = view.topics.get(topic)
    if known is None:
        raise UnknownTopicOrPartitionError(f"There is no topic {topic!r}.")
    if not 0 <= partition < known.partitions:
        raise missing_partition(topic, partition, known.partitions)
    return known.topic_id


def refuse_new_group(image: GroupsImage, group_id: str) -> None:
    """Refuse one more group than a coordinator may have.

    Raises:
        OverloadedError: it has MAX_GROUPS, and this one is not among them.
    """
    if group_id not in image.groups and len(image.groups) >= MAX_GROUPS:
        raise OverloadedError(f"This coordinator has {MAX_GROUPS} groups already.")


def refuse_too_many(group: Group, keys: Sequence[tuple[str, int]]) -> None:
    """Refuse a commit of more partitions than a group may have, with those that are pending.

    Args:
        group: the group.
        keys: what is to be committed, by topic id and partition.

    Raises:
        InvalidRequestError: they are too many.
    """
    pending = pending_offsets(group) if group.pending else ()
    if len(group.offsets) + len(pending) + len(keys) <= MAX_OFFSETS_PER_GROUP:
        return
    if len({*group.offsets, *pending, *keys}) > MAX_OFFSETS_PER_GROUP:
        raise InvalidRequestError(
            f"A group may have {MAX_OFFSETS_PER_GROUP} committed offsets; "
            f"this one has {len(group.offsets)}.",
            field="offsets",
        )
