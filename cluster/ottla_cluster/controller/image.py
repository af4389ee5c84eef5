"""The metadata image: what the metadata log says, as one immutable value.

Every broker replays the log into an image, and the controller's handlers decide on one. `replay`
is the only code that makes a new image out of an old one, so two images with the same version are
equal on all brokers. Whatever a call of `replay` does not touch is shared between the old image and
the new one, which makes `partitions_changed` a comparison of identities.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from ottla_cluster.controller.records import (
    BrokerDirectoryTold,
    BrokerDiskChanged,
    BrokerDrainBegun,
    BrokerDrainCancelled,
    BrokerDraining,
    BrokerFenced,
    BrokerRegistered,
    BrokerUnfenced,
    BrokerUnregistered,
    ClusterFormed,
    FeatureLevelChanged,
    MetadataRecord,
    PartitionChanged,
    PartitionCreated,
    PartitionDirectoryAwaited,
    PartitionReassigned,
    ProducerIdsAllocated,
    ReplicationThrottleChanged,
    TopicConfigsChanged,
    TopicCreated,
    TopicRemoved,
    TopicRestoreBegun,
    TopicRestoreFinished,
    UncleanLeaderElected,
)
from ottla_cluster.controller.topic_configs import ConfigValue
from ottla_protocol.errors import UnknownTopicIdError, UnknownTopicOrPartitionError


class BrokerState(StrEnum):
    """What a registered broker may do.

    FENCED --heartbeat after it has caught up--> ACTIVE
    ACTIVE --heartbeat that wants a shutdown--> DRAINING
    ACTIVE, DRAINING --session expired, connection refused--> FENCED
    any --a new incarnation registers--> FENCED
    """

    ACTIVE = "active"
    """May lead and join ISRs."""
    FENCED = "fenced"
    """Leads nothing; is in an ISR only as its last member."""
    DRAINING = "draining"
    """Keeps only what nobody else can lead, and gains nothing."""


@dataclass(frozen=True, slots=True)
class BrokerRegistration:
    """The current incarnation of one node id."""

    node_id: int
    broker_epoch: int
    """Rises with every incarnation, over all brokers."""
    incarnation_id: str
    url: str
    rack: str
    """Empty when the broker names none."""
    state: BrokerState
    fenced_version: int
    """The image version in which it was last registered or fenced: it is unfenced only after it
    has applied that, so it never acts on a view that is older than its own fencing."""
    is_full: bool = False
    """Whether its disk has no room. It serves what it has, leads only what nobody with room can,
    and joins no ISR."""
    directory_id: str = ""
    """Of the data directory that its logs are in; empty where it has not told."""


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition's placement and leadership.

    Invariants: `isr` is not empty, in the order of `replicas` and a subset of them; the leader is
    in `isr` or none; `leader_epoch` and `partition_epoch` only rise, and there is one leader (one
    incarnation of one broker) per leader epoch. While a directory is awaited, the ISR is the one
    member that is to bring it, and nobody leads.

    While a reassignment is under way, `replicas` are the former ones with the added ones behind
    them (KIP-455); at its end they become `target_replicas`.
    """

    topic_id: str
    topic: str
    partition: int
    replicas: tuple[int, ...]
    """Distinct node ids; the first is the preferred leader."""
    isr: tuple[int, ...]
    leader: int | None
    leader_epoch: int
    """Rises when the leader changes, also to none."""
    partition_epoch: int
    """Rises with every change; what compare-and-set proposals name."""
    adding_replicas: tuple[int, ...] = ()
    """Those of `replicas` that the reassignment under way has added."""
    target_replicas: tuple[int, ...] = ()
    """What `replicas` will be at the end of the reassignment; empty when none is under way."""
    unclean_leader_epoch: int | None = None
    """The last leader epoch that began with an unclean election; None when none did."""
    first_offset: int = 0
    """Where its logs begin when they are new; above 0 only in a restored topic."""
    awaited_directory_id: str | None = None
    """The data directory with the log of the last ISR member, whose broker came back with another
    one; None while it is not known to be away."""

    @property
    def is_reassigning(self) -> bool:
        """Whether a reassignment is under way."""
        return self.target_replicas != ()

    @property
    def former_replicas(self) -> tuple[int, ...]:
        """The replicas without what the reassignment under way has added."""
        return tuple(n for n in self.replicas if n not in self.adding_replicas)

    @property
    def removing_replicas(self) -> tuple[int, ...]:
        """The replicas that the reassignment under way will remove."""
        if not self.is_reassigning:
            return ()
        return tuple(n for n in self.replicas if n not in self.target_replicas)

    def __post_init__(self) -> None:
        assert set(self.adding_replicas) <= set(self.target_replicas) <= set(self.replicas), self
        assert len(set(self.replicas)) == len(self.replicas) > 0, self
        assert self.isr, self
        assert self.isr == tuple(n for n in self.replicas if n in self.isr), self
        assert self.leader is None or self.leader in self.isr, self
        if self.awaited_directory_id is not None:
            assert self.leader is None, self
            assert len(self.isr) == 1, self


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic; a later topic of the same name has another id."""

    topic_id: str
    name: str
    configs: Mapping[str, ConfigValue]
    """What the topic sets itself, typed; defaults are in `topic_configs`."""
    partitions: tuple[Partition, ...]
    """Indexed by partition number."""
    former_partition_counts: tuple[int, ...] = ()
    """How many partitions it had before each increase, oldest first."""
    restore_id: str | None = None
    """The backup that it is being restored from; None once that is finished, and of any other
    topic. Until then nobody else writes it, and nobody reads it."""
    restored_from: str | None = None
    """The backup that it was restored from: who did not hear of the end may ask for it again."""

    @property
    def replication_factor(self) -> int:
        """How many replicas its first partition has, or will have after its reassignment."""
        first = self.partitions[0]
        return len(first.target_replicas or first.replicas)


@dataclass(frozen=True, slots=True)
class MetadataImage:
    """The replayed metadata log up to `version`. Never changed, only replaced."""

    version: int = 0
    """The Raft index of the last applied entry."""
    cluster_id: str | None = None
    """None until the first leader has formed the cluster."""
    feature_level: int = 0
    brokers: Mapping[int, BrokerRegistration] = field(default_factory=dict)
    topics: Mapping[str, Topic] = field(default_factory=dict)
    """By topic id."""
    topic_ids: Mapping[str, str] = field(default_factory=dict)
    """Topic ids by name."""
    next_broker_epoch: int = 1
    """Greater than every broker epoch given so far."""
    next_producer_id: int = 0
    """Greater than every producer id in a block that a broker was given so far."""
    replication_throttle_bytes_per_second: int | None = None
    """What each broker may send to replicas that are being added; None for no limit."""
    drains: Mapping[int, int] = field(default_factory=dict)
    """Node ids that are to have no replicas, with how many they had when that was decided. They
    need not be active: a broker that is gone for good is drained as well."""

    def topic(self, name: str) -> Topic:
        """The topic of that name.

        Raises:
            UnknownTopicOrPartitionError: there is none.
        """
        topic_id = self.topic_ids.get(name)
        if topic_id is None:
            raise UnknownTopicOrPartitionError(f"There is no topic {name!r}.")
        return self.topics[topic_id]

    def partition(self, name: str, partition: int) -> Partition:
        """A partition by its topic's name.

        Raises:
            UnknownTopicOrPartitionError: there is no such topic or partition.
        """
        return _partition_of(self.topic(name), partition)

    def partition_by_id(self, topic_id: str, partition: int) -> Partition:
        """A partition by its topic's id.

        Raises:
            UnknownTopicIdError: there is no topic of that id, or no longer.
            UnknownTopicOrPartitionError: the topic has no such partition.
        """
        topic = self.topics.get(topic_id)
        if topic is None:
            raise UnknownTopicIdError(f"There is no topic with the id {topic_id!r}.")
        return _partition_of(topic, partition)

    def all_partitions(self) -> Iterator[tuple[Topic, Partition]]:
        """Every partition with its topic, in the order of creation."""
        for topic in self.topics.values():
            for partition in topic.partitions:
                yield topic, partition

    def active_brokers(self) -> tuple[BrokerRegistration, ...]:
        """The brokers that may lead and join ISRs, by node id."""
        return tuple(
            self.brokers[node_id]
            for node_id in sorted(self.brokers)
            if self.brokers[node_id].state is BrokerState.ACTIVE
        )

    def brokers_for_replicas(self) -> tuple[BrokerRegistration, ...]:
        """The active brokers that may get new replicas, by node id."""
        return tuple(
            broker for broker in self.active_brokers() if broker.node_id not in self.drains
        )

    def is_active(self, node_id: int) -> bool:
        """Whether the node id is registered and neither fenced nor draining."""
        broker = self.brokers.get(node_id)
        return broker is not None and broker.state is BrokerState.ACTIVE

    def takes_appends(self, node_id: int) -> bool:
        """Whether the broker is active and its disk has room."""
        return self.is_active(node_id) and not self.brokers[node_id].is_full


def _partition_of(topic: Topic, partition: int) -> Partition:
    if not 0 <= partition < len(topic.partitions):
        raise UnknownTopicOrPartitionError(
            f"The topic {topic.name!r} has the partitions 0..{len(topic.partitions) - 1}, "
            f"not {partition}."
        )
    return topic.partitions[partition]


def replay(image: MetadataImage, records: Sequence[MetadataRecord], version: int) -> MetadataImage:
    """The image after one more entry of the metadata log.

    Args:
        image: the image before; it stays as it is.
        records: all records of the entry, in order; none for an entry that carries no metadata.
        version: the entry's Raft index, above the image's version.

    A record that contradicts the image is a programmer error: handlers wrote it, so the asserts
    here state what every handler must keep.
    """
    assert version > image.version, (version, image.version)
    if not records:
        return replace(image, version=version)
    draft = _Draft(image, version)
    for record in records:
        draft.apply(record)
    return draft.finished()


class _Draft:
    """The image that one call of `replay` makes: copies a mapping when it first changes it."""

    def __init__(self, image: MetadataImage, version: int) -> None:
        self._image = image
        self._version = version
        self._cluster_id = image.cluster_id
        self._feature_level = image.feature_level
        self._next_broker_epoch = image.next_broker_epoch
        self._next_producer_id = image.next_producer_id
        self._replication_throttle = image.replication_throttle_bytes_per_second
        self._brokers: dict[int, BrokerRegistration] | None = None
        self._drains: dict[int, int] | None = None
        self._topics: dict[str, Topic] | None = None
        self._topic_ids: dict[str, str] | None = None
        self._partitions: dict[str, list[Partition]] = {}

    def apply(self, record: MetadataRecord) -> None:  # noqa: C901  one case for each record
        match record:
            case ClusterFormed():
                assert self._cluster_id is None, record
                self._cluster_id = record.cluster_id
                self._feature_level = record.feature_level
            case FeatureLevelChanged():
                assert record.feature_level > self._feature_level, record
                self._feature_level = record.feature_level
            case BrokerRegistered():
                self._register(record)
            case BrokerDirectoryTold():
                self._tell_directory(record)
            case BrokerFenced() | BrokerUnfenced() | BrokerDraining():
                self._set_broker_state(record)
            case BrokerDiskChanged():
                self._set_broker_disk(record)
            case BrokerDrainBegun():
                assert record.node_id in self._own_brokers(), record
                self._own_drains()[record.node_id] = record.replicas
            case BrokerDrainCancelled():
                del self._own_drains()[record.node_id]
            case BrokerUnregistered():
                removed_broker = self._own_brokers().pop(record.node_id)
                assert removed_broker.broker_epoch == record.broker_epoch, record
                self._own_drains().pop(record.node_id, None)
            case TopicCreated():
                self._create_topic(record)
            case PartitionCreated():
                self._create_partition(record)
            case PartitionChanged():
                self._change_partition(record)
            case PartitionReassigned():
                self._reassign_partition(record)
            case UncleanLeaderElected():
                self._elect_uncleanly(record)
            case PartitionDirectoryAwaited():
                self._await_directory(record)
            case TopicConfigsChanged():
                topics = self._own_topics()
                topics[record.topic_id] = replace(topics[record.topic_id], configs=record.configs)
            case TopicRemoved():
                removed = self._own_topics().pop(record.topic_id)
                del self._own_topic_ids()[removed.name]
                self._partitions.pop(record.topic_id, None)
            case TopicRestoreBegun():
                self._begin_restore(record)
            case TopicRestoreFinished():
                topics = self._own_topics()
                restored = topics[record.topic_id]
                assert restored.restore_id is not None, record
                topics[record.topic_id] = replace(
                    restored, restore_id=None, restored_from=restored.restore_id
                )
            case ProducerIdsAllocated():
                assert record.next_producer_id > self._next_producer_id, record
                self._next_producer_id = record.next_producer_id
            case ReplicationThrottleChanged():
                self._replication_throttle = record.bytes_per_second

    def finished(self) -> MetadataImage:
        for topic_id, partitions in self._partitions.items():
            assert partitions, f"topic {topic_id} has no partitions"
            topics = self._own_topics()
            topics[topic_id] = _with_partitions(topics[topic_id], tuple(partitions))
        image = self._image
        return MetadataImage(
            version=self._version,
            cluster_id=self._cluster_id,
            feature_level=self._feature_level,
            brokers=image.brokers if self._brokers is None else self._brokers,
            topics=image.topics if self._topics is None else self._topics,
            topic_ids=image.topic_ids if self._topic_ids is None else self._topic_ids,
            next_broker_epoch=self._next_broker_epoch,
            next_producer_id=self._next_producer_id,
            replication_throttle_bytes_per_second=self._replication_throttle,
            drains=image.drains if self._drains is None else self._drains,
        )

    def _register(self, record: BrokerRegistered) -> None:
        assert record.broker_epoch >= self._next_broker_epoch, record
        self._next_broker_epoch = record.broker_epoch + 1
        self._own_brokers()[record.node_id] = BrokerRegistration(
            node_id=record.node_id,
            broker_epoch=record.broker_epoch,
            incarnation_id=record.incarnation_id,
            url=record.url,
            rack=record.rack,
            state=BrokerState.FENCED,
            fenced_version=self._version,
        )

    def _tell_directory(self, record: BrokerDirectoryTold) -> None:
        brokers = self._own_brokers()
        broker = brokers[record.node_id]
        assert broker.broker_epoch == record.broker_epoch, (broker, record)
        brokers[record.node_id] = replace(broker, directory_id=record.directory_id)

    def _set_broker_state(self, record: BrokerFenced | BrokerUnfenced | BrokerDraining) -> None:
        brokers = self._own_brokers()
        broker = brokers[record.node_id]
        assert broker.broker_epoch == record.broker_epoch, (broker, record)
        match record:
            case BrokerFenced():
                assert broker.state is not BrokerState.FENCED, broker
                broker = replace(broker, state=BrokerState.FENCED, fenced_version=self._version)
            case BrokerUnfenced():
                assert broker.state is BrokerState.FENCED, broker
                broker = replace(broker, state=BrokerState.ACTIVE)
            case BrokerDraining():
                assert broker.state is BrokerState.ACTIVE, broker
                broker = replace(broker, state=BrokerState.DRAINING)
        brokers[record.node_id] = broker

    def _set_broker_disk(self, record: BrokerDiskChanged) -> None:
        brokers = self._own_brokers()
        broker = brokers[record.node_id]
        assert broker.broker_epoch == record.broker_epoch, (broker, record)
        assert broker.is_full != record.is_full, (broker, record)
        brokers[record.node_id] = replace(broker, is_full=record.is_full)

    def _create_topic(self, record: TopicCreated) -> None:
        topics, topic_ids = self._own_topics(), self._own_topic_ids()
        assert record.topic_id not in topics, record
        assert record.name not in topic_ids, record
        topics[record.topic_id] = Topic(
            topic_id=record.topic_id, name=record.name, configs=record.configs, partitions=()
        )
        topic_ids[record.name] = record.topic_id
        self._partitions[record.topic_id] = []

    def _create_partition(self, record: PartitionCreated) -> None:
        partitions = self._own_partitions(record.topic_id)
        assert record.partition == len(partitions), record
        partitions.append(
            Partition(
                topic_id=record.topic_id,
                topic=self._own_topics()[record.topic_id].name,
                partition=record.partition,
                replicas=record.replicas,
                isr=record.isr,
                leader=record.leader,
                leader_epoch=record.leader_epoch,
                partition_epoch=record.partition_epoch,
            )
        )

    def _begin_restore(self, record: TopicRestoreBegun) -> None:
        topics = self._own_topics()
        topics[record.topic_id] = replace(topics[record.topic_id], restore_id=record.restore_id)
        partitions = self._own_partitions(record.topic_id)
        self._partitions[record.topic_id] = [
            replace(partition, first_offset=first_offset)
            for partition, first_offset in zip(partitions, record.first_offsets, strict=True)
        ]

    def _change_partition(self, record: PartitionChanged) -> None:
        partitions = self._own_partitions(record.topic_id)
        before = partitions[record.partition]
        _check_epochs(before, record)
        partitions[record.partition] = replace(
            before,
            isr=record.isr,
            leader=record.leader,
            leader_epoch=record.leader_epoch,
            partition_epoch=record.partition_epoch,
        )

    def _reassign_partition(self, record: PartitionReassigned) -> None:
        partitions = self._own_partitions(record.topic_id)
        before = partitions[record.partition]
        _check_epochs(before, record)
        partitions[record.partition] = replace(
            before,
            replicas=record.replicas,
            adding_replicas=record.adding_replicas,
            target_replicas=record.target_replicas,
            isr=record.isr,
            leader=record.leader,
            leader_epoch=record.leader_epoch,
            partition_epoch=record.partition_epoch,
        )

    def _elect_uncleanly(self, record: UncleanLeaderElected) -> None:
        partitions = self._own_partitions(record.topic_id)
        before = partitions[record.partition]
        assert before.leader is None, (before, record)
        _check_epochs(before, record)
        partitions[record.partition] = replace(
            before,
            isr=(record.leader,),
            leader=record.leader,
            leader_epoch=record.leader_epoch,
            partition_epoch=record.partition_epoch,
            unclean_leader_epoch=record.leader_epoch,
            awaited_directory_id=None,
        )

    def _await_directory(self, record: PartitionDirectoryAwaited) -> None:
        partitions = self._own_partitions(record.topic_id)
        before = partitions[record.partition]
        assert record.partition_epoch == before.partition_epoch + 1, (before, record)
        partitions[record.partition] = replace(
            before,
            awaited_directory_id=record.directory_id,
            partition_epoch=record.partition_epoch,
        )

    def _own_brokers(self) -> dict[int, BrokerRegistration]:
        if self._brokers is None:
            self._brokers = dict(self._image.brokers)
        return self._brokers

    def _own_drains(self) -> dict[int, int]:
        if self._drains is None:
            self._drains = dict(self._image.drains)
        return self._drains

    def _own_topics(self) -> dict[str, Topic]:
        if self._topics is None:
            self._topics = dict(self._image.topics)
        return self._topics

    def _own_topic_ids(self) -> dict[str, str]:
        if self._topic_ids is None:
            self._topic_ids = dict(self._image.topic_ids)
        return self._topic_ids

    def _own_partitions(self, topic_id: str) -> list[Partition]:
        if topic_id not in self._partitions:
            self._partitions[topic_id] = list(self._own_topics()[topic_id].partitions)
        return self._partitions[topic_id]


def _check_epochs(
    before: Partition, record: PartitionChanged | PartitionReassigned | UncleanLeaderElected
) -> None:
    begins_epoch = record.leader != before.leader
    if isinstance(record, PartitionReassigned):
        begins_epoch = begins_epoch or not set(before.replicas) <= set(record.replicas)
    assert record.partition_epoch == before.partition_epoch + 1, (before, record)
    assert record.leader_epoch == before.leader_epoch + begins_epoch, (before, record)


def _with_partitions(topic: Topic, partitions: tuple[Partition, ...]) -> Topic:
    count = len(topic.partitions)
    if 0 < count < len(partitions):
        former = (*topic.former_partition_counts, count)
        return replace(topic, partitions=partitions, former_partition_counts=former)
    return replace(topic, partitions=partitions)


@dataclass(frozen=True, slots=True)
class ImageChanges:
    """What differs between two images, for whoever acts on it (replica manager, caches)."""

    partitions: tuple[Partition, ...]
    """New or changed partitions as they are now."""
    removed_partitions: tuple[Partition, ...]
    """Partitions that are gone, as they last were. A topic that was removed and created again
    under its name shows here and, with its new id, among `partitions`."""
    reconfigured_topics: tuple[Topic, ...]
    """Topics in both images whose configs changed, or whose restore ended, as they are now."""
    brokers: tuple[int, ...]
    """Node ids whose registration or state changed."""


def partitions_changed(old: MetadataImage, new: MetadataImage) -> ImageChanges:
    """What `new` changed since `old`, by the identity of what the two share.

    Both must descend from one another by `replay`; images that do not (after a snapshot was
    installed) compare by value and cost accordingly.
    """
    changed: list[Partition] = []
    removed: list[Partition] = []
    reconfigured: list[Topic] = []
    if new.topics is not old.topics:
        for topic_id, topic in old.topics.items():
            if topic_id not in new.topics:
                removed.extend(topic.partitions)
        for topic_id, topic in new.topics.items():
            before = old.topics.get(topic_id)
            if before is topic:
                continue
            changed.extend(_partitions_since(before, topic))
            if before is not None and (
                before.configs != topic.configs or before.restore_id != topic.restore_id
            ):
                reconfigured.append(topic)
    brokers: tuple[int, ...] = ()
    if new.brokers is not old.brokers:
        brokers = tuple(
            node_id for node_id, broker in new.brokers.items() if old.brokers.get(node_id) != broker
        )
    return ImageChanges(tuple(changed), tuple(removed), tuple(reconfigured), brokers)


def _partitions_since(before: Topic | None, topic: Topic) -> Iterator[Partition]:
    known = () if before is None else before.partitions
    for partition in topic.partitions:
        if partition.partition < len(known):
            former = known[partition.partition]
            if former is partition or former == partition:
                continue
        yield partition
