"""The records of the offsets topic: the only facts from which a coordinator's image is made.

Each is one record of the partition that its group hashes onto, with a key of its own: see
`ottla_cluster.state_machine.keyed_records`, where the rules of their format are.
"""

from collections.abc import Sequence
from typing import get_args

import msgspec

from ottla_cluster.state_machine.keyed_records import KeyAndValue, RecordPart, encode_pairs
from ottla_protocol.errors import InternalError


class CorruptGroupRecordError(InternalError):
    """A record of the offsets topic does not parse: damaged, or written by a newer version."""

    title = "Corrupt group record"


class SubscribedTopic(RecordPart, frozen=True):
    """A topic that some member reads, as it was when the target was computed."""

    topic: str
    topic_id: str
    partitions: int
    """How many it had."""


class TargetTopic(RecordPart, frozen=True):
    """The partitions of one topic that a member is to own, in rising order."""

    topic: str
    partitions: tuple[int, ...]


class HeldPartition(RecordPart, frozen=True):
    """A partition that a member owns, or is giving up."""

    topic: str
    topic_id: str
    partition: int
    generation: int
    """The generation in which it was assigned to the member."""


class OffsetCommitted(RecordPart, frozen=True):
    """The group goes on at `offset`, the next one to read."""

    group: str
    topic: str
    topic_id: str
    partition: int
    offset: int
    leader_epoch: int | None
    """Of the last record that was read, where the committer knew it."""
    metadata: str
    commit_timestamp_ms: int
    """Wall clock."""
    metadata_version: int
    """The version of the metadata image in which the topic was seen: one that is at least as new
    and lacks the topic's id proves that the topic is deleted."""


class OffsetRemoved(RecordPart, frozen=True):
    """The group has no committed offset there any more."""

    group: str
    topic_id: str
    partition: int


class PendingOffset(RecordPart, frozen=True):
    """One partition's offset that waits for the end of a transaction."""

    topic: str
    topic_id: str
    partition: int
    offset: int
    leader_epoch: int | None
    metadata: str
    metadata_version: int
    """As in OffsetCommitted."""
    pended_at: int | None = 0
    """The version of the groups' image on which it was decided: of two commits the later one
    counts. None where a later one is committed already, and this one never will be; it is kept
    because its own transaction may send it again."""


class PendingOffsetsChanged(RecordPart, frozen=True):
    """All offsets that a producer's transaction has pending in one group."""

    group: str
    producer_id: int
    producer_epoch: int
    """Of the transaction."""
    offsets: tuple[PendingOffset, ...]
    """By topic id and partition."""


class PendingOffsetsRemoved(RecordPart, frozen=True):
    """The transaction is over; what it committed is committed beside it."""

    group: str
    producer_id: int


class ProducerEnded(RecordPart, frozen=True):
    """The marker of a producer's transaction was here: whatever is below its epoch comes late."""

    producer_id: int
    producer_epoch: int
    """The marker's."""


class ProducerForgotten(RecordPart, frozen=True):
    """Nothing of the producer's former transactions can be on its way any more."""

    producer_id: int


class GroupChanged(RecordPart, frozen=True):
    """What is true of a group as a whole."""

    group: str
    generation: int
    """Rises with every new target and with every hand-over of a partition; never falls."""
    assignor: str
    topics: tuple[SubscribedTopic, ...]
    """What the target was computed from, by topic."""
    metadata_version: int
    """The version of the metadata image in which `topics` were seen."""
    empty_since_ms: int | None
    """Wall clock; when the last member went. None while there are members."""


class GroupRemoved(RecordPart, frozen=True):
    """The group is gone; records before it remove its offsets, and it has no members."""

    group: str


class MemberChanged(RecordPart, frozen=True):
    """A member joined, or joined again with other settings."""

    group: str
    member_id: str
    instance_id: str | None
    """Set by static members."""
    client_id: str
    topics: tuple[str, ...] | None
    """The subscription by names, sorted; None where it is by pattern."""
    pattern: str | None
    session_timeout_ms: int
    rebalance_timeout_ms: int
    former_member_ids: tuple[str, ...]
    """The last members that a static member has replaced, newest first: a process that still calls
    by one of them has lost its instance id to another one."""


class MemberRemoved(RecordPart, frozen=True):
    """A member left, expired or was replaced; its target and assignment are removed beside it."""

    group: str
    member_id: str


class TargetAssigned(RecordPart, frozen=True):
    """What a member is to own once everybody else has given it up."""

    group: str
    member_id: str
    topics: tuple[TargetTopic, ...]


class TargetRemoved(RecordPart, frozen=True):
    """A member that is gone is to own nothing."""

    group: str
    member_id: str


class CurrentAssigned(RecordPart, frozen=True):
    """What a member owns now, and what it has been told to give up and may still work on."""

    group: str
    member_id: str
    generation: int
    """The group's generation when the member was last given a partition, or joined."""
    owned: tuple[HeldPartition, ...]
    revoking: tuple[HeldPartition, ...]


class CurrentRemoved(RecordPart, frozen=True):
    """A member that is gone owns nothing."""

    group: str
    member_id: str


class ChosenPartition(RecordPart, frozen=True):
    """A partition that the client of a consumer instance chose, without the group's assignment."""

    topic: str
    topic_id: str
    partition: int


class InstanceChanged(RecordPart, frozen=True):
    """A consumer instance of the REST Proxy API was made, or reads something else than before.

    At most one of `topics`, `pattern` and `partitions` is set. With one of the former two the
    instance is a member of the group, under its own id.
    """

    group: str
    instance_id: str
    creation_id: str
    """Of the request that made it, so that the same request may come twice."""
    record_format: str
    auto_offset_reset: str
    auto_commit: bool
    fetch_min_bytes: int
    request_timeout_ms: int | None
    idle_timeout_ms: int
    topics: tuple[str, ...] | None
    pattern: str | None
    partitions: tuple[ChosenPartition, ...] | None


class InstanceRemoved(RecordPart, frozen=True):
    """A consumer instance is gone; its progress and its membership are removed beside it."""

    group: str
    instance_id: str


class InstancePosition(RecordPart, frozen=True):
    """Where an instance goes on in one partition."""

    topic: str
    topic_id: str
    partition: int
    generation: int
    """In which the partition was assigned to the instance: in another one the position means
    nothing, for others may have read meanwhile. 0 for a partition that the client chose."""
    offset: int


class Delivery(RecordPart, frozen=True):
    """Records that a broker sends to an instance's client: read once they have left it."""

    delivery_id: str
    node_id: int
    broker_epoch: int
    """Of the process that sends them: with it the delivery ends, too."""
    ends: tuple[InstancePosition, ...]
    """The positions behind the records."""


class InstanceProgressed(RecordPart, frozen=True):
    """How far an instance has read, and what is on its way to its client."""

    group: str
    instance_id: str
    positions: tuple[InstancePosition, ...]
    delivery: Delivery | None


class ProgressRemoved(RecordPart, frozen=True):
    """An instance that is gone, or reads nothing, has no positions."""

    group: str
    instance_id: str


RecordOfGroup = (
    OffsetCommitted
    | OffsetRemoved
    | PendingOffsetsChanged
    | PendingOffsetsRemoved
    | GroupChanged
    | GroupRemoved
    | MemberChanged
    | MemberRemoved
    | TargetAssigned
    | TargetRemoved
    | CurrentAssigned
    | CurrentRemoved
    | InstanceChanged
    | InstanceRemoved
    | InstanceProgressed
    | ProgressRemoved
)
"""What is true of one group."""

RecordOfProducer = ProducerEnded | ProducerForgotten
"""What is true of one producer, in whatever groups its transactions have offsets."""

GroupRecord = RecordOfGroup | RecordOfProducer
"""Any record of the offsets topic."""

Tombstone = (
    OffsetRemoved
    | PendingOffsetsRemoved
    | ProducerForgotten
    | GroupRemoved
    | MemberRemoved
    | TargetRemoved
    | CurrentRemoved
    | InstanceRemoved
    | ProgressRemoved
)
"""Records that say that there is nothing under their key any more."""


class _OffsetKey(RecordPart, frozen=True, tag="o"):
    group: str
    topic_id: str
    partition: int


class _PendingKey(RecordPart, frozen=True, tag="x"):
    group: str
    producer_id: int


class _ProducerKey(RecordPart, frozen=True, tag="e"):
    producer_id: int


class _GroupKey(RecordPart, frozen=True, tag="g"):
    group: str


class _MemberKey(RecordPart, frozen=True, tag="m"):
    group: str
    member_id: str


class _TargetKey(RecordPart, frozen=True, tag="t"):
    group: str
    member_id: str


class _CurrentKey(RecordPart, frozen=True, tag="c"):
    group: str
    member_id: str


class _InstanceKey(RecordPart, frozen=True, tag="i"):
    group: str
    instance_id: str


class _ProgressKey(RecordPart, frozen=True, tag="p"):
    group: str
    instance_id: str


RecordKey = (
    _OffsetKey
    | _PendingKey
    | _ProducerKey
    | _GroupKey
    | _MemberKey
    | _TargetKey
    | _CurrentKey
    | _InstanceKey
    | _ProgressKey
)
"""What a record replaces all earlier ones of."""

_TOMBSTONES = frozenset(get_args(Tombstone))

_ENCODER = msgspec.msgpack.Encoder()
_KEY_DECODER: msgspec.msgpack.Decoder[RecordKey] = msgspec.msgpack.Decoder(RecordKey)
_OFFSET_DECODER = msgspec.msgpack.Decoder(OffsetCommitted)
_PENDING_DECODER = msgspec.msgpack.Decoder(PendingOffsetsChanged)
_PRODUCER_DECODER = msgspec.msgpack.Decoder(ProducerEnded)
_GROUP_DECODER = msgspec.msgpack.Decoder(GroupChanged)
_MEMBER_DECODER = msgspec.msgpack.Decoder(MemberChanged)
_TARGET_DECODER = msgspec.msgpack.Decoder(TargetAssigned)
_CURRENT_DECODER = msgspec.msgpack.Decoder(CurrentAssigned)
_INSTANCE_DECODER = msgspec.msgpack.Decoder(InstanceChanged)
_PROGRESS_DECODER = msgspec.msgpack.Decoder(InstanceProgressed)


def encode_record(record: GroupRecord) -> KeyAndValue:
    """The record's key, and its value or None for a tombstone."""
    key = key_of(record)
    is_tombstone = type(record) in _TOMBSTONES  # `isinstance` takes twenty times as long.
    return _ENCODER.encode(key), None if is_tombstone else _ENCODER.encode(record)


def decode_record(key: bytes | None, value: bytes | None) -> GroupRecord:
    """The record with this key and value; see `encode_record`.

    Raises:
        CorruptGroupRecordError: one of them does not parse, has an unknown tag or field, or they
            do not belong together.
    """
    if key is None:
        raise CorruptGroupRecordError("A record of the offsets topic has no key.")
    try:
        decoded_key = _KEY_DECODER.decode(key)
        record = _removed(decoded_key) if value is None else _decode_value(decoded_key, value)
    except msgspec.DecodeError as error:
        raise CorruptGroupRecordError(
            f"A record of the offsets topic does not parse: {error}"
        ) from error
    if key_of(record) != decoded_key:
        raise CorruptGroupRecordError(
            f"A record of the offsets topic has the key {decoded_key} and tells of {record}."
        )
    return record


def encode_records(records: Sequence[GroupRecord]) -> bytes:
    """All records of one decision as a payload, for `decode_pairs`."""
    return encode_pairs([encode_record(record) for record in records])


def key_of(record: GroupRecord) -> RecordKey:
    """What the record replaces all earlier ones of."""
    match record:
        case OffsetCommitted() | OffsetRemoved():
            return _OffsetKey(record.group, record.topic_id, record.partition)
        case PendingOffsetsChanged() | PendingOffsetsRemoved():
            return _PendingKey(record.group, record.producer_id)
        case ProducerEnded() | ProducerForgotten():
            return _ProducerKey(record.producer_id)
        case GroupChanged() | GroupRemoved():
            return _GroupKey(record.group)
        case MemberChanged() | MemberRemoved():
            return _MemberKey(record.group, record.member_id)
        case TargetAssigned() | TargetRemoved():
            return _TargetKey(record.group, record.member_id)
        case CurrentAssigned() | CurrentRemoved():
            return _CurrentKey(record.group, record.member_id)
        case InstanceChanged() | InstanceRemoved():
            return _InstanceKey(record.group, record.instance_id)
        case InstanceProgressed() | ProgressRemoved():
            return _ProgressKey(record.group, record.instance_id)


def _removed(key: RecordKey) -> GroupRecord:
    match key:
        case _OffsetKey():
            return OffsetRemoved(key.group, key.topic_id, key.partition)
        case _PendingKey():
            return PendingOffsetsRemoved(key.group, key.producer_id)
        case _ProducerKey():
            return ProducerForgotten(key.producer_id)
        case _GroupKey():
            return GroupRemoved(key.group)
        case _MemberKey():
            return MemberRemoved(key.group, key.member_id)
        case _TargetKey():
            return TargetRemoved(key.group, key.member_id)
        case _CurrentKey():
            return CurrentRemoved(key.group, key.member_id)
        case _InstanceKey():
            return InstanceRemoved(key.group, key.instance_id)
        case _ProgressKey():
            return ProgressRemoved(key.group, key.instance_id)


def _decode_value(key: RecordKey, value: bytes) -> GroupRecord:
    match key:
        case _OffsetKey():
            return _OFFSET_DECODER.decode(value)
        case _PendingKey():
            return _PENDING_DECODER.decode(value)
        case _ProducerKey():
            return _PRODUCER_DECODER.decode(value)
        case _GroupKey():
            return _GROUP_DECODER.decode(value)
        case _MemberKey():
            return _MEMBER_DECODER.decode(value)
        case _TargetKey():
            return _TARGET_DECODER.decode(value)
        case _CurrentKey():
            return _CURRENT_DECODER.decode(value)
        case _InstanceKey():
            return _INSTANCE_DECODER.decode(value)
        case _ProgressKey():
            return _PROGRESS_DECODER.decode(value)
