"""From one metadata image to the next, by the records of the metadata log.

`replay` is the only code that makes a new image out of an old one, so two images with the same
version are equal on all brokers. Whatever it does not touch is shared between the two.
"""

from collections.abc import Sequence
from dataclasses import replace

from ottla_cluster.controller.image import (
    BrokerRegistration,
    BrokerState,
    MetadataImage,
    Partition,
    Topic,
)
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
    PartitionTrimmed,
    ProducerIdsAllocated,
    ReplicationThrottleChanged,
    TopicConfigsChanged,
    TopicCreated,
    TopicRemoved,
    TopicRestoreBegun,
    TopicRestoreFinished,
    UncleanLeaderElected,
)


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
            case PartitionTrimmed():
                self._trim_partition(record)
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

    def _trim_partition(self, record: PartitionTrimmed) -> None:
        partitions = self._own_partitions(record.topic_id)
        before = partitions[record.partition]
        assert record.first_offset > before.first_offset, (before, record)
        partitions[record.partition] = replace(before, first_offset=record.first_offset)

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
