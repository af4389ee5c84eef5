import msgspec
import pytest

from ottla_cluster.controller.commands import FenceBroker, FormCluster, RegisterBroker
from ottla_cluster.controller.config import ControllerConfig
from ottla_cluster.controller.features import LATEST_FEATURE_LEVEL
from ottla_cluster.controller.handlers import handle
from ottla_cluster.controller.image import BrokerState, MetadataImage
from ottla_cluster.controller.limits import (
    MAX_BROKERS,
    MAX_PARTITIONS,
    MAX_PARTITIONS_PER_TOPIC,
    MAX_URL_LENGTH,
)
from ottla_cluster.controller.records import PartitionChanged, encode_records
from ottla_cluster.raft.config import RaftConfig
from ottla_protocol.errors import (
    ControllerNotAvailableError,
    InconsistentClusterIdError,
    InvalidRequestError,
    StaleBrokerEpochError,
)
from tests.unit.controller.metadata_under_test import CLUSTER_ID, MetadataUnderTest

ACTIVE, FENCED, DRAINING = BrokerState.ACTIVE, BrokerState.FENCED, BrokerState.DRAINING


@pytest.fixture
def metadata():
    return MetadataUnderTest()


# --- forming --------------------------------------------------------------------------------


def test_a_cluster_is_formed_once(metadata):
    assert metadata.image.cluster_id == CLUSTER_ID
    metadata.apply(FormCluster(CLUSTER_ID))
    assert metadata.last_records == ()
    with pytest.raises(InconsistentClusterIdError, match=r"'test'.*'other'"):
        metadata.apply(FormCluster("other"))


def test_nobody_registers_before_the_cluster_is_formed():
    command = RegisterBroker(1, "first", "http://b1", "", CLUSTER_ID, LATEST_FEATURE_LEVEL)
    with pytest.raises(ControllerNotAvailableError):
        handle(MetadataImage(), command, 0, None, ControllerConfig(CLUSTER_ID))


# --- registration ---------------------------------------------------------------------------


def test_a_new_broker_is_fenced_and_has_a_higher_epoch_than_all_before(metadata):
    response = metadata.register(4, rack="r")
    assert response.broker_epoch == 4 == metadata.epoch(4)
    assert metadata.state(4) is FENCED
    assert metadata.image.brokers[4].rack == "r"


def test_the_same_incarnation_again_gets_the_same_epoch(metadata):
    response = metadata.register(2)
    assert response.broker_epoch == 2
    assert metadata.last_records == ()
    assert metadata.state(2) is ACTIVE


def test_a_new_incarnation_gets_a_new_epoch_and_is_fenced(metadata):
    assert metadata.register(2, "second").broker_epoch == 4
    assert metadata.state(2) is FENCED


def test_a_process_of_another_cluster_is_refused_naming_both(metadata):
    with pytest.raises(InconsistentClusterIdError, match=r"'test'.*'other'"):
        metadata.register(4, cluster_id="other")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("node_id", 0),
        ("url", "x" * (MAX_URL_LENGTH + 1)),
        ("incarnation_id", ""),
        ("rack", "r" * 999),
        ("directory_id", "d" * 999),
    ],
)
def test_a_registration_out_of_range_is_refused_naming_the_field(metadata, field, value):
    fields = {
        "node_id": 4,
        "incarnation_id": "a",
        "url": "http://b",
        "rack": "",
        "cluster_id": CLUSTER_ID,
        "latest_feature_level": LATEST_FEATURE_LEVEL,
        "directory_id": "disk",
    }
    with pytest.raises(InvalidRequestError, match=field):
        metadata.apply(RegisterBroker(**(fields | {field: value})))


def test_a_full_cluster_takes_no_further_broker_but_lets_old_ones_return():
    metadata = MetadataUnderTest(MAX_BROKERS)
    with pytest.raises(InvalidRequestError, match=str(MAX_BROKERS)):
        metadata.register(MAX_BROKERS + 1)
    metadata.register(1, "second")


def test_a_restarted_leader_loses_its_leadership_to_an_in_sync_replica(metadata):
    before = metadata.create().partitions[0]
    old = before.leader
    metadata.register(old, "second")
    after = metadata.partition()
    assert after.leader == before.replicas[1]
    assert after.leader_epoch == before.leader_epoch + 1
    assert old not in after.isr


def test_a_restarted_follower_leaves_the_isr_and_the_leader_stays(metadata):
    before = metadata.create().partitions[0]
    metadata.register(before.replicas[1], "second")
    after = metadata.partition()
    assert (after.leader, after.leader_epoch) == (before.leader, before.leader_epoch)
    assert after.isr == (before.replicas[0], before.replicas[2])
    assert after.partition_epoch == before.partition_epoch + 1


def test_a_restarted_sole_replica_leads_again_under_a_higher_leader_epoch(metadata):
    """Nobody noticed its crash, and still no one may take it for its former self."""
    before = metadata.create(replication_factor=1).partitions[0]
    metadata.register(before.leader, "second")
    between = metadata.partition()
    assert (between.leader, between.isr) == (None, before.isr)
    assert between.leader_epoch == before.leader_epoch + 1
    metadata.heartbeat(before.leader)
    after = metadata.partition()
    assert after.leader == before.leader
    assert after.leader_epoch == before.leader_epoch + 2


def test_all_restarting_one_after_another_keep_the_last_isr_member(metadata):
    replicas = metadata.create().partitions[0].replicas
    for node_id in replicas:
        metadata.register(node_id, "second")
    last = replicas[-1]
    assert (metadata.partition().isr, metadata.partition().leader) == ((last,), None)
    for node_id in replicas[:-1]:
        metadata.heartbeat(node_id)
        assert metadata.partition().leader is None, "only the last in-sync member may lead"
    metadata.heartbeat(last)
    assert metadata.partition().leader == last
    metadata.set_isr(replicas)
    assert metadata.partition().isr == replicas


def test_the_last_isr_member_may_restart_again_and_again(metadata):
    leader = metadata.create().partitions[0].leader
    metadata.set_isr([leader])
    epochs = []
    for incarnation in range(3):
        metadata.restart(leader, f"again{incarnation}")
        assert (metadata.partition().isr, metadata.partition().leader) == ((leader,), leader)
        epochs.append(metadata.partition().leader_epoch)
    assert epochs == [2, 4, 6]


# --- heartbeats -----------------------------------------------------------------------------


def test_a_broker_is_unfenced_when_it_has_applied_its_registration(metadata):
    metadata.register(4)
    registered = metadata.image.version
    assert metadata.heartbeat(4, applied_version=registered - 1).fenced
    assert metadata.state(4) is FENCED
    assert not metadata.heartbeat(4, applied_version=registered).fenced
    assert metadata.state(4) is ACTIVE


def test_a_fenced_broker_must_apply_its_fencing_first(metadata):
    """A broker that slept acts on a view in which it still leads."""
    metadata.fence(1)
    fenced = metadata.image.version
    assert metadata.heartbeat(1, applied_version=fenced - 1).fenced
    assert not metadata.heartbeat(1, applied_version=fenced).fenced


def test_an_active_broker_far_behind_is_not_fenced_by_its_heartbeat(metadata):
    assert not metadata.heartbeat(1, applied_version=0).fenced
    assert metadata.last_records == ()


@pytest.mark.parametrize("broker_epoch", [0, 1, 3, 99])
def test_a_heartbeat_of_another_epoch_is_stale(metadata, broker_epoch):
    with pytest.raises(StaleBrokerEpochError):
        metadata.heartbeat(2, broker_epoch=broker_epoch)


def test_a_heartbeat_of_nobody_is_stale(metadata):
    with pytest.raises(StaleBrokerEpochError, match="not registered"):
        metadata.heartbeat(9, broker_epoch=1)


# --- fencing --------------------------------------------------------------------------------


def test_a_fenced_leader_is_replaced_by_the_next_active_in_sync_replica(metadata):
    before = metadata.create().partitions[0]
    assert not metadata.fence(before.leader).was_fenced_before
    after = metadata.partition()
    assert after.leader == before.replicas[1]
    assert after.isr == before.replicas[1:]
    assert (after.leader_epoch, after.partition_epoch) == (1, 1)


def test_a_replica_outside_the_isr_is_never_elected(metadata):
    before = metadata.create().partitions[0]
    metadata.set_isr([before.leader])
    metadata.fence(before.leader)
    after = metadata.partition()
    assert (after.leader, after.isr) == (None, (before.leader,))
    assert after.leader_epoch == before.leader_epoch + 1


def test_fencing_twice_changes_nothing(metadata):
    metadata.create()
    metadata.fence(1)
    assert metadata.fence(1).was_fenced_before
    assert metadata.last_records == ()


def test_fencing_a_former_incarnation_does_not_touch_the_new_one(metadata):
    former = FenceBroker(1, metadata.epoch(1), "session expired")
    metadata.restart(1, "second")
    with pytest.raises(StaleBrokerEpochError):
        metadata.apply(former)
    assert metadata.state(1) is ACTIVE


def test_fencing_all_keeps_the_last_isr_member_of_every_partition(metadata):
    metadata.create(partitions=6)
    for node_id in (2, 3, 1):
        metadata.fence(node_id)
    for partition in metadata.image.topic("orders").partitions:
        assert (partition.isr, partition.leader) == ((1,), None)
    metadata.heartbeat(2)
    assert all(p.leader is None for p in metadata.image.topic("orders").partitions)
    metadata.heartbeat(1)
    assert all(p.leader == 1 for p in metadata.image.topic("orders").partitions)


def test_fencing_in_the_largest_cluster_fits_one_entry_of_the_log(metadata):
    topic_count = MAX_PARTITIONS // MAX_PARTITIONS_PER_TOPIC
    for number in range(topic_count):
        metadata.create(f"topic{number}", partitions=MAX_PARTITIONS_PER_TOPIC)
    metadata.fence(1)
    assert len(metadata.last_records) == MAX_PARTITIONS + 1
    widest = [
        msgspec.structs.replace(record, leader_epoch=2**32, partition_epoch=2**32)
        for record in metadata.last_records
        if isinstance(record, PartitionChanged)
    ]
    assert len(encode_records(widest)) < RaftConfig(node_id=1, voters=(1,)).max_entry_bytes


# --- controlled shutdown --------------------------------------------------------------------


def test_draining_hands_over_leadership_and_leaves_the_isr_at_once(metadata):
    before = metadata.create().partitions[0]
    response = metadata.heartbeat(before.leader, draining=True)
    assert (response.fenced, response.may_shut_down) == (False, True)
    assert metadata.state(before.leader) is DRAINING
    after = metadata.partition()
    assert after.leader == before.replicas[1]
    assert after.isr == before.replicas[1:]


def test_draining_keeps_the_isr_wide_where_too_few_would_remain(metadata):
    before = metadata.create().partitions[0]
    metadata.set_isr(before.replicas[:2])
    assert metadata.heartbeat(before.leader, draining=True).may_shut_down
    after = metadata.partition()
    assert after.leader == before.replicas[1]
    assert after.isr == before.replicas[:2]


def test_a_draining_broker_without_a_successor_leads_on_and_may_stop(metadata):
    before = metadata.create(replication_factor=1).partitions[0]
    assert metadata.heartbeat(before.leader, draining=True).may_shut_down
    assert metadata.partition() == before


def test_a_draining_broker_waits_for_an_active_replica_that_may_catch_up(metadata):
    before = metadata.create().partitions[0]
    metadata.set_isr([before.leader])
    assert not metadata.heartbeat(before.leader, draining=True).may_shut_down
    metadata.set_isr(before.replicas[:2])
    assert metadata.heartbeat(before.leader, draining=True).may_shut_down
    assert metadata.partition().leader == before.replicas[1]


def test_a_whole_cluster_that_drains_keeps_two_members_in_sync(metadata):
    before = metadata.create().partitions[0]
    for node_id in before.replicas:
        metadata.heartbeat(node_id, draining=True)
    assert metadata.heartbeat(before.replicas[2], draining=True).may_shut_down
    assert metadata.partition().leader == before.replicas[2]
    assert metadata.partition().isr == before.replicas[1:]


def test_a_draining_broker_is_elected_for_nothing(metadata):
    before = metadata.create().partitions[0]
    metadata.set_isr(before.replicas[:2])
    metadata.heartbeat(before.replicas[1], draining=True)
    metadata.fence(before.leader)
    assert metadata.partition().leader is None
    assert metadata.partition().isr == (before.replicas[1],)


def test_draining_stays_until_a_new_incarnation(metadata):
    metadata.heartbeat(1, draining=True)
    metadata.heartbeat(1, draining=False)
    assert metadata.state(1) is DRAINING
    metadata.restart(1, "second")
    assert metadata.state(1) is ACTIVE


def test_a_fenced_broker_that_wants_to_stop_may(metadata):
    metadata.fence(1)
    response = metadata.heartbeat(1, draining=True)
    assert (response.fenced, response.may_shut_down) == (True, True)
    assert metadata.state(1) is FENCED
