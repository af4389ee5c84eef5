"""The metadata image: what the metadata log says, as one immutable value.

Every broker replays the log into an image (`replay`), and the controller's handlers decide on one.
What two images that follow one another have in common they share, which makes `partitions_changed`
a comparison of identities.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ottla_cluster.controller.topic_configs import ConfigValue
from ottla_protocol.errors import UnknownTopicIdError, UnknownTopicOrPartitionError
from ottla_protocol.missing_partitions import missing_partition


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
    """Nothing below it is read any more, and logs that are new begin there. It is above 0 where the
    topic was restored so, or was trimmed; of what retention lets go it says nothing."""
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
    """Below OLDEST_FEATURE_LEVEL until the cluster is formed, or until that is heard of here."""
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
        raise missing_partition(topic.name, partition, len(topic.partitions))
    return topic.partitions[partition]


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
