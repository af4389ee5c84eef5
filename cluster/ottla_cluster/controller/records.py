"""The metadata log's records: the only facts from which a metadata image is made.

A Raft entry's payload is one array of records, and an entry applies as a whole or not at all. Each
record is an array that starts with a short tag, so that a fenced broker's thousand partition
changes stay small. The format is for ever: a tag or a field is never reused, a new field goes to
the end and has a default, and a reader refuses a tag or a field that it does not know, since a
broker that skipped it would replay a different image from the same log.
"""

from collections.abc import Sequence

import msgspec

from ottla_cluster.controller.topic_configs import ConfigValue
from ottla_protocol.errors import InternalError


class CorruptMetadataError(InternalError):
    """A metadata entry or snapshot does not parse: damaged, or written by a newer version."""

    title = "Corrupt metadata"


class _Record(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The encoding that all records share."""


class ClusterFormed(_Record, frozen=True, tag="cf"):
    """The first record of every log: which cluster this is and which features it may use."""

    cluster_id: str
    feature_level: int


class FeatureLevelChanged(_Record, frozen=True, tag="fl"):
    """Every process supports this level; what it enables may be in the log from here on.

    It only rises. A version that does not know this record is too old for any level above 1.
    """

    feature_level: int


class BrokerRegistered(_Record, frozen=True, tag="br"):
    """A process took a node id, fenced at first; replaces any former incarnation.

    `broker_epoch` is greater than that of every earlier registration in the log.
    """

    node_id: int
    broker_epoch: int
    incarnation_id: str
    url: str
    rack: str


class BrokerDirectoryTold(_Record, frozen=True, tag="bi"):
    """In which data directory the logs of the registered incarnation are."""

    node_id: int
    broker_epoch: int
    directory_id: str


class BrokerFenced(_Record, frozen=True, tag="bf"):
    """The broker may neither lead nor join an ISR until it is unfenced."""

    node_id: int
    broker_epoch: int


class BrokerUnfenced(_Record, frozen=True, tag="bu"):
    """The broker is active."""

    node_id: int
    broker_epoch: int


class BrokerDraining(_Record, frozen=True, tag="bd"):
    """The broker is shutting down: it gains no leadership and joins no ISR any more."""

    node_id: int
    broker_epoch: int


class BrokerDiskChanged(_Record, frozen=True, tag="bk"):
    """The broker's disk has no room for appends any more, or has room again.

    A registration begins with room; so does its successor's.
    """

    node_id: int
    broker_epoch: int
    is_full: bool


class TopicCreated(_Record, frozen=True, tag="tc"):
    """A topic without partitions yet; its PartitionCreated records follow in the same entry."""

    topic_id: str
    name: str
    configs: dict[str, ConfigValue]


class PartitionCreated(_Record, frozen=True, tag="pc"):
    """The next partition of a topic; `replicas[0]` is its preferred leader."""

    topic_id: str
    partition: int
    replicas: tuple[int, ...]
    isr: tuple[int, ...]
    leader: int | None
    leader_epoch: int
    partition_epoch: int


class PartitionChanged(_Record, frozen=True, tag="px"):
    """A partition's new ISR and leader.

    `partition_epoch` is one more than before; `leader_epoch` is one more exactly when the leader
    is another one, or none.
    """

    topic_id: str
    partition: int
    isr: tuple[int, ...]
    leader: int | None
    leader_epoch: int
    partition_epoch: int


class TopicConfigsChanged(_Record, frozen=True, tag="tx"):
    """All configs that the topic sets from now on."""

    topic_id: str
    configs: dict[str, ConfigValue]


class TopicRemoved(_Record, frozen=True, tag="tr"):
    """The topic and its partitions are gone; the id is never used again."""

    topic_id: str


class ProducerIdsAllocated(_Record, frozen=True, tag="pi"):
    """A broker took the producer ids from the former `next_producer_id` up to this one.

    Nobody else ever gets them, whatever becomes of the broker.
    """

    node_id: int
    broker_epoch: int
    next_producer_id: int


class PartitionReassigned(_Record, frozen=True, tag="pr"):
    """A partition's replicas change: a reassignment begins, is called off or comes to its end.

    The epochs rise as in PartitionChanged.
    """

    topic_id: str
    partition: int
    replicas: tuple[int, ...]
    adding_replicas: tuple[int, ...]
    """Those of `replicas` that the partition did not have before the reassignment."""
    target_replicas: tuple[int, ...]
    """What `replicas` will be at the end; empty when no reassignment is under way (any more)."""
    isr: tuple[int, ...]
    leader: int | None
    leader_epoch: int
    partition_epoch: int


class UncleanLeaderElected(_Record, frozen=True, tag="ue"):
    """A replica from outside the ISR leads, and is the ISR: what it lacks is lost.

    A record of its own, so that the log tells where acknowledged records may have gone. It begins a
    leader epoch.
    """

    topic_id: str
    partition: int
    leader: int
    leader_epoch: int
    partition_epoch: int


class PartitionDirectoryAwaited(_Record, frozen=True, tag="pd"):
    """The last member of the ISR came back without the data directory that its log is in.

    It leads no more until it comes back with that directory; None when it has.
    """

    topic_id: str
    partition: int
    directory_id: str | None
    partition_epoch: int


class ReplicationThrottleChanged(_Record, frozen=True, tag="rt"):
    """How much each broker may send in a second to replicas that are being added; None for all."""

    bytes_per_second: int | None


class BrokerDrainBegun(_Record, frozen=True, tag="db"):
    """The node id is to have no replicas any more, whichever process holds it.

    Not to be taken for BrokerDraining, which says that a process is about to stop.
    """

    node_id: int
    replicas: int
    """How many it has now: what progress is measured by."""


class BrokerDrainCancelled(_Record, frozen=True, tag="dc"):
    """The node id may have replicas again."""

    node_id: int


class BrokerUnregistered(_Record, frozen=True, tag="bn"):
    """The node id is none of the cluster's brokers any more; it is free for another."""

    node_id: int
    broker_epoch: int


class TopicRestoreBegun(_Record, frozen=True, tag="rb"):
    """The topic that the records before create is one that is restored from a backup.

    Nobody reads or writes it until TopicRestoreFinished.
    """

    topic_id: str
    restore_id: str
    """Names the backup: only what comes from it is taken."""
    first_offsets: tuple[int, ...]
    """Where the log of each partition begins."""


class TopicRestoreFinished(_Record, frozen=True, tag="rf"):
    """The restored topic is a topic like any other from here on."""

    topic_id: str


class PartitionTrimmed(_Record, frozen=True, tag="pt"):
    """Nobody reads below `first_offset` of the partition any more, at whatever broker.

    It only rises. The partition epoch stays: nothing about its leader or its ISR depends on this.
    """

    topic_id: str
    partition: int
    first_offset: int


MetadataRecord = (
    ClusterFormed
    | FeatureLevelChanged
    | BrokerRegistered
    | BrokerDirectoryTold
    | BrokerFenced
    | BrokerUnfenced
    | BrokerDraining
    | BrokerDiskChanged
    | TopicCreated
    | PartitionCreated
    | PartitionChanged
    | TopicConfigsChanged
    | TopicRemoved
    | ProducerIdsAllocated
    | PartitionReassigned
    | UncleanLeaderElected
    | PartitionDirectoryAwaited
    | ReplicationThrottleChanged
    | BrokerDrainBegun
    | BrokerDrainCancelled
    | BrokerUnregistered
    | TopicRestoreBegun
    | TopicRestoreFinished
    | PartitionTrimmed
)
"""Any record of the metadata log."""

_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[tuple[MetadataRecord, ...]] = msgspec.msgpack.Decoder(
    tuple[MetadataRecord, ...]
)


def encode_records(records: Sequence[MetadataRecord]) -> bytes:
    """The records as the payload of one Raft entry."""
    return _ENCODER.encode(tuple(records))


def decode_records(payload: bytes) -> tuple[MetadataRecord, ...]:
    """The records of one Raft entry; an empty payload (an election's no-op) has none.

    Raises:
        CorruptMetadataError: the payload does not parse, or has an unknown tag or field.
    """
    if not payload:
        return ()
    try:
        return _DECODER.decode(payload)
    except msgspec.DecodeError as error:
        raise CorruptMetadataError(f"A metadata entry does not parse: {error}") from error
