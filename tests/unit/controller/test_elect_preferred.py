import pytest

from ottla_cluster.controller.active_controller import ActiveController
from ottla_cluster.controller.commands import (
    AlterReassignments,
    ElectPreferred,
    Reassignment,
    ReportUnfitReplicas,
    TopicPartition,
    UnfitReplica,
)
from tests.unit.controller.metadata_under_test import MetadataUnderTest


@pytest.fixture
def metadata():
    """`orders` with three partitions; broker 1 has just lost the one that it led."""
    made = MetadataUnderTest()
    made.create(partitions=3)
    made.restart(1, "second")
    return made


def led_by_another(metadata):
    (partition,) = (
        p for p in metadata.image.topic("orders").partitions if p.leader != p.replicas[0]
    )
    return partition


def elect(metadata, *partitions, topic="orders"):
    named = tuple(TopicPartition(topic, partition) for partition in partitions)
    return metadata.apply(ElectPreferred(named))


def test_a_named_partition_gets_its_preferred_leader(metadata):
    partition = led_by_another(metadata)
    metadata.set_isr(partition.replicas, partition=partition.partition)
    response = elect(metadata, partition.partition)
    (result,) = response.results
    assert (result.topic, result.partition) == ("orders", partition.partition)
    assert (result.leader, result.elected, result.error) == (1, True, None)
    assert metadata.partition(partition=partition.partition).leader == 1
    assert response.moved == 1


def test_a_partition_that_is_not_named_stays(metadata):
    partition = led_by_another(metadata)
    metadata.set_isr(partition.replicas, partition=partition.partition)
    other = (partition.partition + 1) % 3
    response = elect(metadata, other)
    (result,) = response.results
    assert (result.leader, result.elected, result.error) == (
        metadata.partition(partition=other).leader,
        False,
        None,
    )
    assert metadata.partition(partition=partition.partition).leader != 1
    assert response.moved == 0


def test_a_preferred_leader_that_is_not_in_sync_is_an_error_of_its_own(metadata):
    partition = led_by_another(metadata)
    for response in (elect(metadata, partition.partition), metadata.apply(ElectPreferred())):
        (result,) = response.results
        assert result.leader == partition.leader
        assert not result.elected
        assert result.error["code"] == "PREFERRED_LEADER_NOT_AVAILABLE"
        assert f"orders-{partition.partition}" in result.error["detail"]


def test_all_means_those_that_their_preferred_leader_does_not_lead(metadata):
    partition = led_by_another(metadata)
    metadata.set_isr(partition.replicas, partition=partition.partition)
    assert [result.partition for result in metadata.apply(ElectPreferred()).results] == [
        partition.partition
    ]
    assert metadata.apply(ElectPreferred()).results == ()


def test_a_partition_that_does_not_exist_is_told_and_named_ones_count_once(metadata):
    response = elect(metadata, 0, 0, 7)
    assert sorted(result.partition for result in response.results) == [0, 7]
    (unknown,) = (result for result in response.results if result.partition == 7)
    assert unknown.error["code"] == "UNKNOWN_TOPIC_OR_PARTITION"
    (unknown,) = elect(metadata, 0, topic="nothing").results
    assert unknown.error["code"] == "UNKNOWN_TOPIC_OR_PARTITION"


def without_its_end():
    """A partition whose last member in sync is there, and has told that its log lost its end."""
    made = MetadataUnderTest()
    made.create(replication_factor=2)
    first, second = made.partition().replicas
    made.fence(second)
    lost = UnfitReplica(made.partition().topic_id, 0, lost_tail=True)
    made.apply(ReportUnfitReplicas(first, made.epoch(first), (lost,)))
    now = made.partition()
    assert (now.leader, now.isr, made.image.is_active(first)) == (None, (first,), True)
    return made


def test_the_last_member_that_lost_its_end_is_not_elected_for_ever():
    metadata = without_its_end()
    interval_ms = metadata.config.preferred_election_interval_ms
    active = ActiveController(metadata.image, metadata.config, metadata.random, 0)
    for look in range(1, 4):
        active.restart_sessions(look * interval_ms)
        assert active.due(look * interval_ms) == ()
    (result,) = elect(metadata, 0).results
    assert metadata.last_records == ()
    assert (result.leader, result.elected) == (None, False)
    assert "without its log or the end of it" in result.error["detail"]
    # Once it is started again, its log may be whole.
    first = metadata.partition().replicas[0]
    metadata.restart(first, "second")
    assert metadata.partition().leader == first


def test_a_preferred_replica_that_a_reassignment_takes_away_is_told_as_such():
    metadata = MetadataUnderTest(4)
    metadata.create()
    first, second, third = metadata.partition().replicas
    (other,) = {1, 2, 3, 4} - {first, second, third}
    metadata.apply(AlterReassignments((Reassignment("orders", 0, (second, third, other)),)))
    metadata.restart(first, "second")
    metadata.set_isr((first, second, third))
    (result,) = elect(metadata, 0).results
    assert (result.leader, result.elected) == (second, False)
    assert "taken away by a reassignment" in result.error["detail"]
