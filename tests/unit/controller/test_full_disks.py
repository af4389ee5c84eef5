"""What the controller does with a broker whose disk has no room."""

from random import Random

import pytest

from ottla_cluster.controller.commands import ElectPreferred
from ottla_cluster.controller.elections import may_be_relieved
from ottla_cluster.controller.records import BrokerDiskChanged, PartitionChanged
from ottla_cluster.controller.snapshot import decode_image, encode_image
from ottla_protocol.errors import IneligibleReplicaError
from tests.unit.controller.metadata_under_test import MetadataUnderTest


@pytest.fixture
def metadata():
    return MetadataUnderTest()


def leader_of(metadata):
    return metadata.partition().leader


def test_leadership_leaves_a_full_broker_which_leaves_the_isr(metadata):
    metadata.create()
    full = leader_of(metadata)
    metadata.heartbeat(full, is_full=True)
    assert metadata.image.brokers[full].is_full
    assert leader_of(metadata) not in (None, full)
    assert full not in metadata.partition().isr
    assert len(metadata.partition().isr) == 2


def test_a_broker_knows_beforehand_that_it_may_be_relieved(metadata):
    def may_be(node_id, *, is_draining=False, is_full=True, was_told_full=False):
        return may_be_relieved(
            metadata.image,
            node_id,
            is_draining=is_draining,
            is_full=is_full,
            was_told_full=was_told_full,
        )

    # Also of what it has not heard of yet.
    assert may_be(1)
    metadata.create()
    leader = leader_of(metadata)
    first, last = sorted({1, 2, 3} - {leader})
    for node_id in (first, last, leader):
        assert not may_be(node_id, is_full=False)
        assert may_be(node_id)
        metadata.heartbeat(node_id, is_full=True)
        assert may_be(node_id)
        assert not may_be(node_id, was_told_full=True)
        assert may_be(node_id, is_draining=True)
    assert leader_of(metadata) == leader
    metadata.heartbeat(last, is_full=False)
    assert may_be(leader, was_told_full=True)


def test_a_full_follower_leaves_the_isr_and_the_leader_stays(metadata):
    metadata.create()
    leader = leader_of(metadata)
    full = next(node for node in (1, 2, 3) if node != leader)
    epoch = metadata.partition().leader_epoch
    metadata.heartbeat(full, is_full=True)
    assert (leader_of(metadata), metadata.partition().leader_epoch) == (leader, epoch)
    assert full not in metadata.partition().isr


def test_nobody_leaves_an_isr_that_would_be_too_small_with_room(metadata):
    """So that the last to fill up does not make all of them wait for one disk."""
    metadata.create()
    first, second = [node for node in (1, 2, 3) if node != leader_of(metadata)]
    metadata.heartbeat(first, is_full=True)
    metadata.heartbeat(second, is_full=True)
    assert second in metadata.partition().isr
    assert len(metadata.partition().isr) == 2


def test_where_all_are_full_the_leader_stays_and_serves_readers(metadata):
    metadata.create()
    for node_id in (1, 2, 3):
        metadata.heartbeat(node_id, is_full=True)
    before = metadata.partition()
    for node_id in (1, 2, 3, 1, 2, 3):
        metadata.heartbeat(node_id, is_full=True)
        assert metadata.last_records == ()
    assert metadata.partition() == before
    assert before.leader is not None


def test_a_leader_that_dies_among_full_brokers_is_replaced(metadata):
    metadata.create()
    for node_id in (1, 2, 3):
        metadata.heartbeat(node_id, is_full=True)
    dead = leader_of(metadata)
    isr = metadata.partition().isr
    metadata.fence(dead)
    assert leader_of(metadata) in set(isr) - {dead}


def test_an_election_prefers_a_member_with_room(metadata):
    metadata.create()
    metadata.create("wide", partitions=1, replication_factor=3, **{"min.insync.replicas": 3})
    replicas = metadata.partition("wide").replicas
    leader = metadata.partition("wide").leader
    second, third = [node for node in replicas if node != leader]
    metadata.heartbeat(second, is_full=True)
    assert second in metadata.partition("wide").isr  # min.insync.replicas needs it
    metadata.fence(leader)
    assert metadata.partition("wide").leader == third


def test_whoever_gets_room_first_takes_over_from_a_full_leader(metadata):
    metadata.create(**{"min.insync.replicas": 3})
    for node_id in (1, 2, 3):
        metadata.heartbeat(node_id, is_full=True)
    leader = leader_of(metadata)
    freed = next(node for node in (1, 2, 3) if node != leader)
    metadata.heartbeat(freed, is_full=False)
    assert leader_of(metadata) == leader
    metadata.heartbeat(leader, is_full=True)
    assert leader_of(metadata) == freed


def test_leadership_comes_back_by_preferred_election_and_only_with_room(metadata):
    metadata.create()
    preferred = metadata.partition().replicas[0]
    metadata.heartbeat(preferred, is_full=True)
    with pytest.raises(IneligibleReplicaError, match="room"):
        metadata.set_isr((1, 2, 3))
    metadata.heartbeat(preferred, is_full=False)
    assert BrokerDiskChanged in {type(record) for record in metadata.last_records}
    assert leader_of(metadata) != preferred
    metadata.set_isr((1, 2, 3))
    metadata.apply(ElectPreferred())
    assert leader_of(metadata) == preferred


def test_a_full_broker_in_the_isr_is_not_given_leadership_back(metadata):
    metadata.create(**{"min.insync.replicas": 3})
    preferred = metadata.partition().replicas[0]
    metadata.heartbeat(preferred, is_full=True)
    assert preferred in metadata.partition().isr
    metadata.apply(ElectPreferred())
    assert leader_of(metadata) != preferred


def test_a_new_incarnation_begins_with_room_and_says_so_itself(metadata):
    metadata.create()
    metadata.heartbeat(2, is_full=True)
    metadata.register(2, "second")
    assert not metadata.image.brokers[2].is_full
    metadata.heartbeat(2, is_full=True)
    assert metadata.image.brokers[2].is_full
    metadata.fence(2)
    metadata.heartbeat(2, is_full=False)
    assert not metadata.image.brokers[2].is_full


def test_a_snapshot_keeps_who_is_full(metadata):
    metadata.heartbeat(2, is_full=True)
    assert decode_image(encode_image(metadata.image)) == metadata.image


@pytest.mark.parametrize("seed", range(20))
def test_disks_that_fill_and_empty_keep_the_rules_and_come_to_rest(seed):
    """At rest: no heartbeat changes anything, and no leader is full while a member has room."""
    random = Random(seed)
    metadata = MetadataUnderTest(4)
    for number in range(4):
        metadata.create(f"topic-{number}", partitions=2)
    full = dict.fromkeys((1, 2, 3, 4), False)
    for _ in range(60):
        node_id = random.randint(1, 4)
        full[node_id] = random.random() < 0.5
        metadata.heartbeat(node_id, is_full=full[node_id])
        # Elections happen, and nobody without room is elected.
        metadata.apply(ElectPreferred())
        for record in metadata.last_records:
            assert not isinstance(record, PartitionChanged) or not full[record.leader]
    for _ in range(2):
        for node_id in full:
            metadata.heartbeat(node_id, is_full=full[node_id])
    for node_id in full:
        metadata.heartbeat(node_id, is_full=full[node_id])
        assert metadata.last_records == ()
    for _, found in metadata.image.all_partitions():
        with_room = [node for node in found.isr if not full[node]]
        assert not with_room or found.leader in with_room
