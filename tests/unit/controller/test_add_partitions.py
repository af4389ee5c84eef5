from collections import Counter

import pytest

from ottla_cluster.controller import topic_handlers
from ottla_cluster.controller.commands import AddPartitions, AlterReassignments, Reassignment
from ottla_cluster.controller.limits import MAX_PARTITIONS_PER_TOPIC
from ottla_protocol.errors import (
    InvalidPartitionsError,
    InvalidReplicationFactorError,
    InvalidTopicError,
    UnknownTopicOrPartitionError,
)
from tests.unit.controller.metadata_under_test import MetadataUnderTest


@pytest.fixture
def metadata():
    return MetadataUnderTest()


def test_added_partitions_follow_the_others_which_stay(metadata):
    before = metadata.create(partitions=2, min_insync_replicas=1)
    response = metadata.apply(AddPartitions("orders", 5))
    after = metadata.image.topic("orders")
    assert after.partitions[:2] == before.partitions
    assert [partition.partition for partition in after.partitions] == list(range(5))
    assert (after.topic_id, after.configs) == (before.topic_id, before.configs)
    for partition in after.partitions[2:]:
        assert partition.isr == partition.replicas
        assert partition.leader == partition.replicas[0]
        assert (partition.leader_epoch, partition.partition_epoch) == (0, 0)
    assert response.topic_id == after.topic_id
    assert [state.replicas for state in response.partitions] == [
        partition.replicas for partition in after.partitions
    ]
    assert response.configs["min.insync.replicas"] == 1


def test_former_counts_are_remembered(metadata):
    assert metadata.create(partitions=2).former_partition_counts == ()
    metadata.apply(AddPartitions("orders", 3))
    metadata.apply(AddPartitions("orders", 7))
    metadata.set_isr([metadata.partition().leader])
    assert metadata.image.topic("orders").former_partition_counts == (2, 3)


@pytest.mark.parametrize("partitions", [-1, 0, 2, 3])
def test_partitions_only_become_more(metadata, partitions):
    metadata.create(partitions=3)
    with pytest.raises(InvalidPartitionsError, match=r"3 partitions.*only become more"):
        metadata.apply(AddPartitions("orders", partitions))
    assert len(metadata.image.topic("orders").partitions) == 3


def test_limits_hold_for_added_partitions(metadata, monkeypatch):
    metadata.create(partitions=3)
    with pytest.raises(InvalidPartitionsError, match=str(MAX_PARTITIONS_PER_TOPIC)):
        metadata.apply(AddPartitions("orders", MAX_PARTITIONS_PER_TOPIC + 1))
    monkeypatch.setattr(topic_handlers, "MAX_PARTITIONS", 5)
    with pytest.raises(InvalidPartitionsError, match="maximum of 5"):
        metadata.apply(AddPartitions("orders", 6))
    metadata.apply(AddPartitions("orders", 5))


def test_added_partitions_even_out_what_the_topic_has():
    """Three brokers lead the first three; the next three go to the brokers that joined."""
    metadata = MetadataUnderTest(3)
    metadata.create(partitions=3, replication_factor=1)
    for node_id in (4, 5, 6):
        metadata.register(node_id)
        metadata.heartbeat(node_id)
    metadata.apply(AddPartitions("orders", 6))
    leaders = Counter(p.leader for p in metadata.image.topic("orders").partitions)
    assert leaders == dict.fromkeys(range(1, 7), 1)


def test_leaders_of_added_partitions_even_out_too():
    metadata = MetadataUnderTest(3)
    metadata.create(partitions=1)
    metadata.apply(AddPartitions("orders", 3))
    leaders = [p.leader for p in metadata.image.topic("orders").partitions]
    assert sorted(leaders) == [1, 2, 3]


def test_what_cannot_be_replicated_is_refused(metadata):
    metadata.create(partitions=1, replication_factor=3)
    metadata.fence(2)
    with pytest.raises(InvalidReplicationFactorError, match=r"1\.\.2"):
        metadata.apply(AddPartitions("orders", 2))


def test_a_topic_under_reassignment_takes_its_future_replication_factor(metadata):
    metadata.create(partitions=1, replication_factor=1)
    (only,) = metadata.partition().replicas
    others = tuple({1, 2, 3} - {only})
    metadata.apply(AlterReassignments((Reassignment("orders", 0, (only, others[0])),)))
    metadata.apply(AddPartitions("orders", 2))
    assert len(metadata.partition(partition=1).replicas) == 2


def test_unknown_and_internal_topics_get_none(metadata):
    with pytest.raises(UnknownTopicOrPartitionError):
        metadata.apply(AddPartitions("orders", 2))
    with pytest.raises(InvalidTopicError):
        metadata.apply(AddPartitions("__consumer_offsets", 2))
