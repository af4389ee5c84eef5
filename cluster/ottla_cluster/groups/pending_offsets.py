"""Offsets that wait for the end of a transaction, beside those that are committed.

Of two commits of a partition's offset the later one counts, whichever kind it is (as in Kafka's
GroupMetadata): when a transaction commits, what was committed after its own offset stays. A pending
offset knows when it came, `pended_at`, and is marked the moment that a later one is committed.
"""

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from ottla_cluster.groups.image import Group
from ottla_cluster.groups.records import PendingOffset, PendingOffsetsChanged
from ottla_protocol.errors import Outcome, UnstableOffsetCommitError


def pending_offsets(group: Group) -> dict[tuple[str, int], PendingOffset]:
    """What a transaction may yet change, by topic id and partition."""
    return {
        (each.topic_id, each.partition): each
        for pending in group.pending.values()
        for each in pending.offsets
        if each.pended_at is not None
    }


def refuse_pending(group: Group, keys: Sequence[tuple[str, int]]) -> None:
    """Refuse what needs offsets that no transaction may yet change.

    Args:
        group: the group.
        keys: the offsets by topic id and partition.

    Raises:
        UnstableOffsetCommitError: one of them is pending.
    """
    if not group.pending:
        return
    pending = pending_offsets(group)
    for key in keys:
        found = pending.get(key)
        if found is not None:
            raise UnstableOffsetCommitError(
                f"A transaction that is not over has an offset of {found.topic}-{found.partition} "
                f"in the group {group.group_id!r}.",
                outcome=Outcome.NOT_APPLIED,
            )


def overtaken(
    group: Group, committed: Mapping[tuple[str, int], int], *, by: int | None = None
) -> tuple[PendingOffsetsChanged, ...]:
    """Marks what is pending and older than what is committed now: it will not count.

    Args:
        group: the group.
        committed: when each offset came that is committed, in versions of the groups' image.
        by: the producer whose transaction commits them, and is over with that.

    Returns:
        What transactions have pending from now on, those in which something changes.
    """
    changed: list[PendingOffsetsChanged] = []
    for producer_id, pending in sorted(group.pending.items()):
        offsets = tuple(
            replace(each, pended_at=None)
            if each.pended_at is not None
            and each.pended_at < committed.get((each.topic_id, each.partition), -1)
            else each
            for each in pending.offsets
        )
        if producer_id != by and offsets != pending.offsets:
            changed.append(replace(pending, offsets=offsets))
    return tuple(changed)
