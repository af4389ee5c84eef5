"""A metadata image as bytes: what a Raft snapshot carries in place of the log's prefix.

The format has its own rows and does not follow the image's classes by itself, under the rules of
`records`: a field is never reused, a new one goes to the end of its row and has a default, and a
reader refuses a field that it does not know. So what came with a feature level is left out of an
image below it. Equal images that were replayed from one log encode to
equal bytes on every broker: brokers go by node id and configs by name, topics in the order of their
creation, which is a part of what an image says.
"""

from typing import Any, cast

import msgspec

from ottla_cluster.controller.features import (
    BROKER_DIRECTORIES,
    BROKER_DRAINS,
    REPLICATION_THROTTLE,
    RESTORES,
    UNCLEAN_ELECTIONS,
    is_enabled,
)
from ottla_cluster.controller.image import (
    BrokerRegistration,
    BrokerState,
    MetadataImage,
    Partition,
    Topic,
)
from ottla_cluster.controller.records import CorruptMetadataError
from ottla_cluster.controller.topic_configs import ConfigValue

SNAPSHOT_FORMAT = 1
"""Rises when a reader of the former format would misread the new one."""


class _Row(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The encoding that all rows share."""


class _BrokerRowOfLevel1(_Row, frozen=True):
    node_id: int
    broker_epoch: int
    incarnation_id: str
    url: str
    rack: str
    state: BrokerState
    fenced_version: int
    is_full: bool


class _BrokerRow(_BrokerRowOfLevel1, frozen=True):
    directory_id: str = ""


class _PartitionRowOfLevel1(_Row, frozen=True):
    replicas: tuple[int, ...]
    isr: tuple[int, ...]
    leader: int | None
    leader_epoch: int
    partition_epoch: int
    adding_replicas: tuple[int, ...]
    target_replicas: tuple[int, ...]


class _PartitionRowOfLevel2(_PartitionRowOfLevel1, frozen=True):
    unclean_leader_epoch: int | None = None


class _PartitionRow(_PartitionRowOfLevel2, frozen=True):
    first_offset: int = 0
    awaited_directory_id: str | None = None


class _TopicRowOfLevel1(_Row, frozen=True):
    topic_id: str
    name: str
    configs: dict[str, ConfigValue]
    partitions: tuple[_PartitionRow, ...]
    former_partition_counts: tuple[int, ...]


class _TopicRow(_TopicRowOfLevel1, frozen=True):
    restore_id: str | None = None
    restored_from: str | None = None


class _ImageOfLevel1(_Row, frozen=True):
    version: int
    cluster_id: str | None
    feature_level: int
    brokers: tuple[_BrokerRow, ...]
    topics: tuple[_TopicRow, ...]
    next_broker_epoch: int
    next_producer_id: int


class _Image(_ImageOfLevel1, frozen=True):
    replication_throttle_bytes_per_second: int | None = None
    drains: dict[int, int] = {}


class _Snapshot(_Row, frozen=True):
    format: int
    image: msgspec.Raw


_SNAPSHOT_DECODER = msgspec.msgpack.Decoder(_Snapshot)
_IMAGE_DECODER = msgspec.msgpack.Decoder(_Image)


def encode_image(image: MetadataImage) -> bytes:
    """The image as MessagePack."""
    rows: _ImageOfLevel1 = _Image(
        version=image.version,
        cluster_id=image.cluster_id,
        feature_level=image.feature_level,
        brokers=tuple(
            _broker_row(image.brokers[node_id], image.feature_level)
            for node_id in sorted(image.brokers)
        ),
        topics=tuple(_topic_row(topic, image.feature_level) for topic in image.topics.values()),
        next_broker_epoch=image.next_broker_epoch,
        next_producer_id=image.next_producer_id,
        replication_throttle_bytes_per_second=image.replication_throttle_bytes_per_second,
        drains=dict(sorted(image.drains.items())),
    )
    if not is_enabled(image, REPLICATION_THROTTLE) or not is_enabled(image, BROKER_DRAINS):
        # As the row of fewer fields that an older version knows.
        known = len(_ImageOfLevel1.__struct_fields__)
        rows = _ImageOfLevel1(*msgspec.structs.astuple(rows)[:known])
    return msgspec.msgpack.encode(
        _Snapshot(SNAPSHOT_FORMAT, msgspec.Raw(msgspec.msgpack.encode(rows)))
    )


def decode_image(snapshot: bytes) -> MetadataImage:
    """The image that `encode_image` wrote.

    Raises:
        CorruptMetadataError: it does not parse, contradicts itself, or is of another format.
    """
    try:
        decoded = _SNAPSHOT_DECODER.decode(snapshot)
        if decoded.format != SNAPSHOT_FORMAT:
            raise CorruptMetadataError(
                f"A metadata snapshot has the format {decoded.format}, not {SNAPSHOT_FORMAT}."
            )
        return _image(_IMAGE_DECODER.decode(decoded.image))
    except (msgspec.DecodeError, AssertionError) as error:
        raise CorruptMetadataError(f"A metadata snapshot does not parse: {error}") from error


def _fields(row: _Row) -> tuple[Any, ...]:
    """The row's fields, themselves not taken apart."""
    return tuple(getattr(row, name) for name in row.__struct_fields__)


def _broker_row(broker: BrokerRegistration, feature_level: int) -> _BrokerRow:
    row = _BrokerRow(
        node_id=broker.node_id,
        broker_epoch=broker.broker_epoch,
        incarnation_id=broker.incarnation_id,
        url=broker.url,
        rack=broker.rack,
        state=broker.state,
        fenced_version=broker.fenced_version,
        is_full=broker.is_full,
        directory_id=broker.directory_id,
    )
    if feature_level < BROKER_DIRECTORIES.level:
        return cast("_BrokerRow", _BrokerRowOfLevel1(*_fields(row)[:-1]))
    return row


def _topic_row(topic: Topic, feature_level: int) -> _TopicRow:
    row = _TopicRow(
        topic_id=topic.topic_id,
        name=topic.name,
        configs=dict(sorted(topic.configs.items())),
        partitions=tuple(_partition_row(each, feature_level) for each in topic.partitions),
        former_partition_counts=topic.former_partition_counts,
        restore_id=topic.restore_id,
        restored_from=topic.restored_from,
    )
    if feature_level < RESTORES.level:
        # It is only written, as the row of fewer fields that it is.
        return cast("_TopicRow", _TopicRowOfLevel1(*_fields(row)[:-2]))
    return row


def _partition_row(partition: Partition, feature_level: int) -> _PartitionRow:
    """The row as a reader of that feature level knows it."""
    row = _PartitionRow(
        replicas=partition.replicas,
        isr=partition.isr,
        leader=partition.leader,
        leader_epoch=partition.leader_epoch,
        partition_epoch=partition.partition_epoch,
        adding_replicas=partition.adding_replicas,
        target_replicas=partition.target_replicas,
        unclean_leader_epoch=partition.unclean_leader_epoch,
        first_offset=partition.first_offset,
        awaited_directory_id=partition.awaited_directory_id,
    )
    if feature_level < UNCLEAN_ELECTIONS.level:
        return cast("_PartitionRow", _PartitionRowOfLevel1(*_fields(row)[:-3]))
    if feature_level < RESTORES.level:
        return cast("_PartitionRow", _PartitionRowOfLevel2(*_fields(row)[:-2]))
    return row


def _image(rows: _Image) -> MetadataImage:
    topics = {row.topic_id: _topic(row) for row in rows.topics}
    return MetadataImage(
        version=rows.version,
        cluster_id=rows.cluster_id,
        feature_level=rows.feature_level,
        brokers={row.node_id: _broker(row) for row in rows.brokers},
        topics=topics,
        topic_ids={topic.name: topic.topic_id for topic in topics.values()},
        next_broker_epoch=rows.next_broker_epoch,
        next_producer_id=rows.next_producer_id,
        replication_throttle_bytes_per_second=rows.replication_throttle_bytes_per_second,
        drains=rows.drains,
    )


def _broker(row: _BrokerRow) -> BrokerRegistration:
    return BrokerRegistration(
        node_id=row.node_id,
        broker_epoch=row.broker_epoch,
        incarnation_id=row.incarnation_id,
        url=row.url,
        rack=row.rack,
        state=row.state,
        fenced_version=row.fenced_version,
        is_full=row.is_full,
        directory_id=row.directory_id,
    )


def _topic(row: _TopicRow) -> Topic:
    return Topic(
        topic_id=row.topic_id,
        name=row.name,
        configs=row.configs,
        partitions=tuple(
            _partition(row, number, partition) for number, partition in enumerate(row.partitions)
        ),
        former_partition_counts=row.former_partition_counts,
        restore_id=row.restore_id,
        restored_from=row.restored_from,
    )


def _partition(topic: _TopicRow, number: int, row: _PartitionRow) -> Partition:
    return Partition(
        topic_id=topic.topic_id,
        topic=topic.name,
        partition=number,
        replicas=row.replicas,
        isr=row.isr,
        leader=row.leader,
        leader_epoch=row.leader_epoch,
        partition_epoch=row.partition_epoch,
        adding_replicas=row.adding_replicas,
        target_replicas=row.target_replicas,
        unclean_leader_epoch=row.unclean_leader_epoch,
        first_offset=row.first_offset,
        awaited_directory_id=row.awaited_directory_id,
    )
