"""The groups image: what one partition of the offsets topic says, as one immutable value.

`replay` is the only code that makes a new image out of an old one. It takes any log from which
compaction has dropped records that newer ones replace: each record says all about its key, so no
record needs an earlier one, and a tombstone may remove what is not there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from ottla_cluster.groups.records import (
    CurrentAssigned,
    CurrentRemoved,
    GroupChanged,
    GroupRecord,
    GroupRemoved,
    HeldPartition,
    InstanceChanged,
    InstanceProgressed,
    InstanceRemoved,
    MemberChanged,
    MemberRemoved,
    OffsetCommitted,
    OffsetRemoved,
    PendingOffsetsChanged,
    PendingOffsetsRemoved,
    ProducerEnded,
    ProducerForgotten,
    ProgressRemoved,
    RecordOfGroup,
    RecordOfProducer,
    SubscribedTopic,
    TargetAssigned,
    TargetRemoved,
    Tombstone,
)

# A look at the type costs a quarter of `isinstance`, for each record of a log that is loaded.
_OF_PRODUCERS = frozenset({ProducerEnded, ProducerForgotten})

TopicPartition = tuple[str, int]
"""A partition by its topic's name."""


@dataclass(frozen=True, slots=True)
class CurrentAssignment:
    """What a member holds. A partition is in at most one of the two mappings."""

    generation: int
    """Names the assignment: it is a new one, higher than any of the group before, whenever the
    member is given a partition. So a member that names it knows of all that it was given."""
    owned: Mapping[TopicPartition, HeldPartition] = field(default_factory=dict)
    revoking: Mapping[TopicPartition, HeldPartition] = field(default_factory=dict)
    """What the member was told to give up, or is about to be, and may still work on."""

    def held(self, key: TopicPartition) -> HeldPartition | None:
        """The partition, if the member owns it or is giving it up."""
        return self.owned.get(key) or self.revoking.get(key)


@dataclass(frozen=True, slots=True)
class Group:
    """One group. Never changed, only replaced.

    Invariants: `members`, `targets` and `currents` have the same keys; targets are disjoint; a
    partition is held (owned or being given up) by at most one member, which `holders` names; the
    generation never falls, and no partition was assigned in a later one.
    """

    group_id: str
    generation: int = 0
    assignor: str = ""
    """Empty until the group has had a member."""
    topics: Mapping[str, SubscribedTopic] = field(default_factory=dict)
    metadata_version: int = 0
    empty_since_ms: int | None = None
    members: Mapping[str, MemberChanged] = field(default_factory=dict)
    targets: Mapping[str, frozenset[TopicPartition]] = field(default_factory=dict)
    currents: Mapping[str, CurrentAssignment] = field(default_factory=dict)
    holders: Mapping[TopicPartition, str] = field(default_factory=dict)
    offsets: Mapping[tuple[str, int], OffsetCommitted] = field(default_factory=dict)
    """By topic id and partition."""
    pending: Mapping[int, PendingOffsetsChanged] = field(default_factory=dict)
    """What transactions that are not over have committed, by producer id."""
    instances: Mapping[str, InstanceChanged] = field(default_factory=dict)
    """Consumer instances of the REST Proxy API; those that subscribe are members, too."""
    progress: Mapping[str, InstanceProgressed] = field(default_factory=dict)
    """By instance; no instance has to have any."""

    def member_of_instance(self, instance_id: str) -> MemberChanged | None:
        """The static member with that instance id."""
        for member in self.members.values():
            if member.instance_id == instance_id:
                return member
        return None


@dataclass(frozen=True, slots=True)
class GroupsImage:
    """All groups of one coordinator up to `version`. Never changed, only replaced."""

    version: int = 0
    """The partition's log end offset after the last applied batch."""
    groups: Mapping[str, Group] = field(default_factory=dict)
    ended: Mapping[int, ProducerEnded] = field(default_factory=dict)
    """The last marker of each producer that is remembered, by producer id."""
    pending_groups: Mapping[int, frozenset[str]] = field(default_factory=dict)
    """The groups in which a producer has offsets pending, by producer id: an index of `groups`."""


def replay(image: GroupsImage, records: Sequence[GroupRecord], version: int) -> GroupsImage:
    """The image after more of the log.

    Args:
        image: the image before; it stays as it is.
        records: the records of one batch or, when a log is loaded, of many: each call copies what
            it changes, so fewer calls load faster.
        version: the log end offset after them, above the image's version.
    """
    assert version > image.version, (version, image.version)
    if not records:
        return replace(image, version=version)
    of_producers = [record for record in records if type(record) in _OF_PRODUCERS]
    of_groups = records
    if of_producers:
        of_groups = [record for record in records if type(record) not in _OF_PRODUCERS]
    by_group: dict[str, list[RecordOfGroup]] = {}
    for record in cast("Sequence[RecordOfGroup]", of_groups):
        by_group.setdefault(record.group, []).append(record)
    groups = dict(image.groups)
    pending_groups = image.pending_groups
    for group_id, of_group in by_group.items():
        former = groups.get(group_id)
        changed = replay_group(former, of_group)
        if changed is None:
            groups.pop(group_id, None)
        else:
            groups[group_id] = changed
        pending_groups = _follow_pending(pending_groups, group_id, former, changed)
    ended = image.ended
    if of_producers:
        ended = _replay_producers(ended, cast("Sequence[RecordOfProducer]", of_producers))
    return GroupsImage(version, groups, ended, pending_groups)


def _replay_producers(
    ended: Mapping[int, ProducerEnded], records: Sequence[RecordOfProducer]
) -> Mapping[int, ProducerEnded]:
    changed = dict(ended)
    for record in records:
        if isinstance(record, ProducerEnded):
            changed[record.producer_id] = record
        else:
            changed.pop(record.producer_id, None)
    return changed


def _follow_pending(
    pending_groups: Mapping[int, frozenset[str]],
    group_id: str,
    former: Group | None,
    changed: Group | None,
) -> Mapping[int, frozenset[str]]:
    """The index after one group changed; the same object where it is not concerned."""
    if former is not None and changed is not None and former.pending is changed.pending:
        return pending_groups
    before = former.pending.keys() if former is not None else frozenset[int]()
    after = changed.pending.keys() if changed is not None else frozenset[int]()
    if before == after:
        return pending_groups
    follows = dict(pending_groups)
    for producer_id in after - before:
        follows[producer_id] = follows.get(producer_id, frozenset()) | {group_id}
    for producer_id in before - after:
        left = follows[producer_id] - {group_id}
        if left:
            follows[producer_id] = left
        else:
            del follows[producer_id]
    return follows


def replay_group(group: Group | None, records: Sequence[RecordOfGroup]) -> Group | None:
    """One group after records of its own; None where there is no group."""
    draft: _Draft | None = None
    for record in records:
        if isinstance(record, GroupRemoved):
            group, draft = None, None
            continue
        if draft is None:
            if group is None and isinstance(record, Tombstone):
                continue
            draft = _Draft(group if group is not None else Group(record.group))
        draft.apply(record)
    return group if draft is None else draft.finished()


class _Draft:
    """The group that one call of `replay` makes: copies a mapping when it first changes it."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._changed: GroupChanged | None = None
        self._members: dict[str, MemberChanged] | None = None
        self._targets: dict[str, frozenset[TopicPartition]] | None = None
        self._currents: dict[str, CurrentAssignment] | None = None
        self._holders: dict[TopicPartition, str] | None = None
        self._offsets: dict[tuple[str, int], OffsetCommitted] | None = None
        self._pending: dict[int, PendingOffsetsChanged] | None = None
        self._instances: dict[str, InstanceChanged] | None = None
        self._progress: dict[str, InstanceProgressed] | None = None

    def apply(self, record: RecordOfGroup) -> None:  # noqa: C901  one case for each record
        match record:
            case OffsetCommitted():
                self._own_offsets()[record.topic_id, record.partition] = record
            case OffsetRemoved():
                self._own_offsets().pop((record.topic_id, record.partition), None)
            case PendingOffsetsChanged():
                self._own_pending()[record.producer_id] = record
            case PendingOffsetsRemoved():
                self._own_pending().pop(record.producer_id, None)
            case GroupChanged():
                before = self._group if self._changed is None else self._changed
                assert record.generation >= before.generation, (before, record)
                self._changed = record
            case CurrentAssigned():
                self._hold(record)
            case CurrentRemoved():
                self._release(record.member_id)
            case MemberChanged():
                self._own_members()[record.member_id] = record
            case MemberRemoved():
                self._own_members().pop(record.member_id, None)
            case TargetAssigned():
                self._own_targets()[record.member_id] = frozenset(
                    (topic.topic, partition)
                    for topic in record.topics
                    for partition in topic.partitions
                )
            case TargetRemoved():
                self._own_targets().pop(record.member_id, None)
            case InstanceChanged():
                self._own_instances()[record.instance_id] = record
            case InstanceRemoved():
                self._own_instances().pop(record.instance_id, None)
            case InstanceProgressed():
                self._own_progress()[record.instance_id] = record
            case ProgressRemoved():
                self._own_progress().pop(record.instance_id, None)
            case GroupRemoved():
                raise AssertionError(record)

    def finished(self) -> Group:
        group = self._group
        facts: Group | GroupChanged = group if self._changed is None else self._changed
        return Group(
            group_id=group.group_id,
            generation=facts.generation,
            assignor=facts.assignor,
            topics=group.topics
            if self._changed is None
            else {topic.topic: topic for topic in self._changed.topics},
            metadata_version=facts.metadata_version,
            empty_since_ms=facts.empty_since_ms,
            members=group.members if self._members is None else self._members,
            targets=group.targets if self._targets is None else self._targets,
            currents=group.currents if self._currents is None else self._currents,
            holders=group.holders if self._holders is None else self._holders,
            offsets=group.offsets if self._offsets is None else self._offsets,
            pending=group.pending if self._pending is None else self._pending,
            instances=group.instances if self._instances is None else self._instances,
            progress=group.progress if self._progress is None else self._progress,
        )

    def _hold(self, record: CurrentAssigned) -> None:
        holders = self._release(record.member_id)
        current = CurrentAssignment(
            record.generation,
            {(held.topic, held.partition): held for held in record.owned},
            {(held.topic, held.partition): held for held in record.revoking},
        )
        for key in (*current.owned, *current.revoking):
            holders[key] = record.member_id
        self._own_currents()[record.member_id] = current

    def _release(self, member_id: str) -> dict[TopicPartition, str]:
        if self._holders is None:
            self._holders = dict(self._group.holders)
        former = self._own_currents().pop(member_id, None)
        if former is not None:
            for key in (*former.owned, *former.revoking):
                if self._holders.get(key) == member_id:
                    del self._holders[key]
        return self._holders

    def _own_members(self) -> dict[str, MemberChanged]:
        if self._members is None:
            self._members = dict(self._group.members)
        return self._members

    def _own_targets(self) -> dict[str, frozenset[TopicPartition]]:
        if self._targets is None:
            self._targets = dict(self._group.targets)
        return self._targets

    def _own_currents(self) -> dict[str, CurrentAssignment]:
        if self._currents is None:
            self._currents = dict(self._group.currents)
        return self._currents

    def _own_offsets(self) -> dict[tuple[str, int], OffsetCommitted]:
        if self._offsets is None:
            self._offsets = dict(self._group.offsets)
        return self._offsets

    def _own_pending(self) -> dict[int, PendingOffsetsChanged]:
        if self._pending is None:
            self._pending = dict(self._group.pending)
        return self._pending

    def _own_instances(self) -> dict[str, InstanceChanged]:
        if self._instances is None:
            self._instances = dict(self._group.instances)
        return self._instances

    def _own_progress(self) -> dict[str, InstanceProgressed]:
        if self._progress is None:
            self._progress = dict(self._group.progress)
        return self._progress
