"""The handlers of offsets that are committed with transactions (KIP-98, KIP-447).

Such offsets are pending until the transaction's marker comes. A marker carries one epoch more than
its transaction, the epoch that the producer's next one has (KIP-890). So it ends what is pending
under lower epochs and nothing else, and may come late or again; and an offset whose epoch is below
that of the last marker comes late itself. Which marker was the last one is remembered for longer
than anything is on its way.

Whoever submits a commit of a producer that has nothing pending yet has made sure before that the
coordinator's partition is in the transaction: nobody would send a marker otherwise, and the offsets
would be pending for ever. `is_in_transaction` tells whether that is known here.
"""

from msgspec.structs import replace

from ottla_cluster.controller.features import TRANSACTIONS
from ottla_cluster.groups.commands import DoneResponse
from ottla_cluster.groups.context import GroupContext
from ottla_cluster.groups.image import Group, GroupsImage, replay_group
from ottla_cluster.groups.limits import (
    MAX_PENDING_METADATA_LENGTH,
    MAX_PENDING_METADATA_PER_GROUP,
    MAX_PENDING_OFFSETS_PER_GROUP,
    MAX_PENDING_OFFSETS_PER_PRODUCER,
    MAX_TRANSACTIONAL_PRODUCERS,
)
from ottla_cluster.groups.offset_handlers import refuse_too_many, topic_ids_to_commit
from ottla_cluster.groups.pending_offsets import overtaken
from ottla_cluster.groups.records import (
    GroupRecord,
    GroupRemoved,
    OffsetCommitted,
    PendingOffset,
    PendingOffsetsChanged,
    PendingOffsetsRemoved,
    ProducerEnded,
    ProducerForgotten,
    RecordOfGroup,
)
from ottla_cluster.groups.transaction_commands import (
    CommitTransactionOffsets,
    CommitTransactionOffsetsResponse,
    EndTransactionOffsets,
    ForgetProducers,
    PendingPartition,
    PendingTransaction,
)
from ottla_cluster.state_machine.result import Result
from ottla_protocol.errors import (
    ConcurrentTransactionsError,
    InvalidRequestError,
    Outcome,
    OverloadedError,
    TransactionAbortableError,
    UnsupportedFeatureLevelError,
)


def commit_transaction_offsets(
    image: GroupsImage, command: CommitTransactionOffsets, context: GroupContext
) -> Result[GroupRecord, CommitTransactionOffsetsResponse]:
    """Has all offsets wait for the end of the transaction, or none.

    Within a transaction an offset only goes forward, so that a command that comes late or twice
    takes nothing back.

    Raises:
        TransactionAbortableError: the transaction has ended here: the offsets come late.
        ConcurrentTransactionsError: what the producer's last transaction has pending is not ended.
        UnsupportedFeatureLevelError: some process of the cluster may not know of transactions.
        OttlaError: as `offset_handlers.commit_offsets`.
    """
    if context.view.feature_level < TRANSACTIONS.level:
        raise UnsupportedFeatureLevelError(
            f"{TRANSACTIONS.description} needs feature level {TRANSACTIONS.level}.",
            outcome=Outcome.NOT_APPLIED,
        )
    group, topic_ids = topic_ids_to_commit(image, command, context)
    _refuse_late(image, command)
    metadata_version = max(context.view.version, group.metadata_version)
    added = [
        PendingOffset(
            topic=entry.topic,
            topic_id=topic_id,
            partition=entry.partition,
            offset=entry.offset,
            leader_epoch=entry.leader_epoch,
            metadata=entry.metadata,
            metadata_version=metadata_version,
            pended_at=image.version,
        )
        for entry, topic_id in zip(command.offsets, topic_ids, strict=True)
    ]
    refuse_too_many(group, [(each.topic_id, each.partition) for each in added])
    before = group.pending.get(command.producer_id)
    merged = {
        (each.topic_id, each.partition): each
        for each in (before.offsets if before is not None else ())
    }
    for each in added:
        known = merged.get((each.topic_id, each.partition))
        if known is None or known.offset < each.offset:
            merged[each.topic_id, each.partition] = each
        elif known.offset == each.offset:
            # Sent again, so it is as old as it was.
            again = replace(each, pended_at=known.pended_at)
            merged[each.topic_id, each.partition] = again
    pending = PendingOffsetsChanged(
        group=command.group,
        producer_id=command.producer_id,
        producer_epoch=command.producer_epoch,
        offsets=tuple(each for _, each in sorted(merged.items())),
    )
    _refuse_too_much(image, pending)
    if pending != before:
        _refuse_too_much_beside(group, pending)
    # What is sent again changes nothing; its answer waits until the former one is committed.
    records = () if pending == before else (pending,)
    return Result(records, CommitTransactionOffsetsResponse())


def is_in_transaction(image: GroupsImage, producer_id: int, producer_epoch: int) -> bool:
    """Whether the transaction has something pending here, so that its marker is sure to come."""
    return any(
        image.groups[group_id].pending[producer_id].producer_epoch == producer_epoch
        for group_id in image.pending_groups.get(producer_id, ())
    )


def end_transaction_offsets(
    image: GroupsImage, command: EndTransactionOffsets, context: GroupContext
) -> Result[GroupRecord, DoneResponse]:
    """Commits or drops what the producer has pending under lower epochs, in all groups at once.

    Of two commits of an offset the later one counts: what was committed after the transaction's own
    stays, and what is pending elsewhere and came before it will not count.

    A marker that was here before, or that a later one has overtaken, changes nothing. The answer
    tells whether something was pending that this one ended.
    """
    producer_id, marker_epoch = command.producer_id, command.producer_epoch
    last = image.ended.get(producer_id)
    if last is not None and last.producer_epoch >= marker_epoch:
        return Result((), DoneResponse(has_changed=False))
    records: list[GroupRecord] = []
    for group_id in sorted(image.pending_groups.get(producer_id, ())):
        group = image.groups[group_id]
        pending = group.pending[producer_id]
        if pending.producer_epoch >= marker_epoch:
            # The next transaction has begun, so the one that the marker names is over.
            return Result((), DoneResponse(has_changed=False))
        of_group: list[RecordOfGroup] = [PendingOffsetsRemoved(group_id, producer_id)]
        if command.is_commit:
            of_group += _committed(group, pending, context)
        if replay_group(group, of_group) == Group(group_id):
            # Nothing else was known of it.
            of_group.append(GroupRemoved(group_id))
        records += of_group
    has_changed = bool(records)
    records.append(ProducerEnded(producer_id, marker_epoch))
    return Result(tuple(records), DoneResponse(has_changed=has_changed))


def forget_producers(
    image: GroupsImage, command: ForgetProducers
) -> Result[GroupRecord, DoneResponse]:
    """Forgets the markers of producers of which nothing can be on its way any more."""
    return Result(
        tuple(
            ProducerForgotten(producer_id)
            for producer_id, marker_epoch in command.producers
            if image.ended.get(producer_id) == ProducerEnded(producer_id, marker_epoch)
        ),
        DoneResponse(),
    )


def pending_transactions(group: Group) -> tuple[PendingTransaction, ...]:
    """What transactions have pending in a group, by producer id."""
    return tuple(
        PendingTransaction(
            producer_id,
            pending.producer_epoch,
            tuple(
                PendingPartition(
                    each.topic, each.partition, each.offset, each.leader_epoch, each.metadata
                )
                for each in sorted(
                    pending.offsets, key=lambda offset: (offset.topic, offset.partition)
                )
                if each.pended_at is not None
            ),
        )
        for producer_id, pending in sorted(group.pending.items())
    )


def _refuse_late(image: GroupsImage, command: CommitTransactionOffsets) -> None:
    """Refuses what belongs to another transaction of the producer than the one that is open."""
    producer_id, epoch = command.producer_id, command.producer_epoch
    ended = image.ended.get(producer_id)
    others = {
        image.groups[group_id].pending[producer_id].producer_epoch
        for group_id in image.pending_groups.get(producer_id, ())
    } - {epoch}
    if (ended is not None and epoch < ended.producer_epoch) or any(epoch < each for each in others):
        raise TransactionAbortableError(
            f"The transaction of producer {producer_id} epoch {epoch} is over: its offsets come "
            "too late.",
            outcome=Outcome.NOT_APPLIED,
        )
    if others:
        raise ConcurrentTransactionsError(
            f"Offsets of the last transaction of producer {producer_id} still wait for its end; "
            "try again in a moment.",
            outcome=Outcome.NOT_APPLIED,
        )
    if (
        ended is None
        and producer_id not in image.pending_groups
        and len(image.ended.keys() | image.pending_groups.keys()) >= MAX_TRANSACTIONAL_PRODUCERS
    ):
        raise OverloadedError(
            f"This coordinator knows of {MAX_TRANSACTIONAL_PRODUCERS} transactional producers "
            "already."
        )


def _refuse_too_much(image: GroupsImage, pending: PendingOffsetsChanged) -> None:
    """Refuses a transaction whose end would be too large a decision."""
    elsewhere = (
        image.groups[group_id].pending[pending.producer_id]
        for group_id in image.pending_groups.get(pending.producer_id, ())
        if group_id != pending.group
    )
    count, metadata_length = 0, 0
    for each in (pending, *elsewhere):
        count += len(each.offsets)
        metadata_length += sum(len(offset.metadata) for offset in each.offsets)
    if count > MAX_PENDING_OFFSETS_PER_PRODUCER:
        raise InvalidRequestError(
            f"A transaction may commit offsets of {MAX_PENDING_OFFSETS_PER_PRODUCER} partitions; "
            f"this one would of {count}.",
            field="offsets",
        )
    if metadata_length > MAX_PENDING_METADATA_LENGTH:
        raise InvalidRequestError(
            f"metadata of all offsets of a transaction must have at most "
            f"{MAX_PENDING_METADATA_LENGTH} characters together; it has {metadata_length}.",
            field="metadata",
        )


def _refuse_too_much_beside(group: Group, pending: PendingOffsetsChanged) -> None:
    """Refuses what would make others' decisions too large, which may overtake something of each."""
    others = [each for each in group.pending.values() if each.producer_id != pending.producer_id]
    if not others:
        return
    count, metadata_length = 0, 0
    for each in (pending, *others):
        count += len(each.offsets)
        metadata_length += sum(len(offset.metadata) for offset in each.offsets)
    if count > MAX_PENDING_OFFSETS_PER_GROUP or metadata_length > MAX_PENDING_METADATA_PER_GROUP:
        raise OverloadedError(
            f"Transactions that are not over have {MAX_PENDING_OFFSETS_PER_GROUP} offsets in the "
            f"group {group.group_id!r}, or {MAX_PENDING_METADATA_PER_GROUP} characters of "
            "metadata beside them.",
            outcome=Outcome.NOT_APPLIED,
        )


def _committed(
    group: Group, pending: PendingOffsetsChanged, context: GroupContext
) -> list[RecordOfGroup]:
    """The transaction's offsets as the group's, and what becomes of others' that are pending."""
    at = {
        (each.topic_id, each.partition): each.pended_at
        for each in pending.offsets
        if each.pended_at is not None
    }
    committed = (
        OffsetCommitted(
            group=group.group_id,
            topic=each.topic,
            topic_id=each.topic_id,
            partition=each.partition,
            offset=each.offset,
            leader_epoch=each.leader_epoch,
            metadata=each.metadata,
            commit_timestamp_ms=context.timestamp_ms,
            metadata_version=each.metadata_version,
        )
        for each in pending.offsets
        if each.pended_at is not None
    )
    return [*committed, *overtaken(group, at, by=pending.producer_id)]
