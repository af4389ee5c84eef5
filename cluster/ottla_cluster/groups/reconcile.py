"""From what members hold to what they are to hold, without two ever holding one partition.

The coordinator decides alone, member by member, as in KIP-848:

    owned ──not in the target any more──▶ revoking ──the member says it has given it up──▶ free
      ▲                                       └──────the member left or expired──────────▶ free
      └───────── in the target, and free: assigned in a new generation ────────────────────┘

Only moved partitions stop. A member that holds what it is to hold is left alone, its generation
too, so a rebalance elsewhere neither fences nor disturbs it.

What a member says it holds counts only if it names the generation of its current assignment. Every
new partition comes with a new generation, so the member that names it knows what it was given and
speaks of that. A request of an earlier generation that was on its way for long knows nothing of
later partitions: were its silence taken for giving them up, they would get a second owner.
"""

from dataclasses import dataclass

from ottla_cluster.groups.image import CurrentAssignment, Group, TopicPartition
from ottla_cluster.groups.records import CurrentAssigned, HeldPartition


@dataclass(frozen=True, slots=True)
class Reconciled:
    """One member's next step."""

    current: CurrentAssignment
    generation: int
    """The group's: one more than before if the member was given a partition."""
    changed: bool


def reconcile(
    group: Group, member_id: str, reported: frozenset[TopicPartition] | None
) -> Reconciled:
    """What the member holds next.

    Args:
        group: the group, with this member.
        member_id: the member.
        reported: what the member says it holds in its current generation; None if it says nothing,
            or names an earlier one.
    """
    before = group.currents[member_id]
    owned, revoking = dict(before.owned), dict(before.revoking)
    if reported is not None:
        owned = {key: held for key, held in owned.items() if key in reported}
        revoking = {key: held for key, held in revoking.items() if key in reported}
    for key in [key for key, held in owned.items() if not _is_wanted(group, member_id, held)]:
        revoking[key] = owned.pop(key)
    given = [
        key
        for key in sorted(group.targets[member_id])
        if key not in owned
        and key not in revoking
        and group.holders.get(key, member_id) == member_id
    ]
    generation = group.generation + 1 if given else group.generation
    for topic, partition in given:
        owned[topic, partition] = HeldPartition(
            topic, group.topics[topic].topic_id, partition, generation
        )
    current = CurrentAssignment(generation if given else before.generation, owned, revoking)
    return Reconciled(current, generation, changed=current != before)


def is_reconciled(group: Group, member_id: str) -> bool:
    """Whether the member holds just what it is to hold."""
    current = group.currents[member_id]
    return (
        not current.revoking
        and current.owned.keys() == group.targets[member_id]
        and all(_is_wanted(group, member_id, held) for held in current.owned.values())
    )


def current_record(group_id: str, member_id: str, current: CurrentAssignment) -> CurrentAssigned:
    """The record of a member's assignment."""
    return CurrentAssigned(
        group=group_id,
        member_id=member_id,
        generation=current.generation,
        owned=tuple(held for _, held in sorted(current.owned.items())),
        revoking=tuple(held for _, held in sorted(current.revoking.items())),
    )


def _is_wanted(group: Group, member_id: str, held: HeldPartition) -> bool:
    """Whether the target has the partition, of the topic that has the name now."""
    topic = group.topics.get(held.topic)
    return (
        (held.topic, held.partition) in group.targets[member_id]
        and topic is not None
        and topic.topic_id == held.topic_id
    )
