import pytest

from ottla_cluster.controller.commands import DeleteTopic, ElectPreferred, IsrMember
from ottla_protocol.errors import (
    FencedLeaderEpochError,
    IneligibleReplicaError,
    InvalidRequestError,
    InvalidUpdateVersionError,
    NotControllerError,
    StaleBrokerEpochError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
)
from tests.unit.controller.metadata_under_test import MetadataUnderTest


@pytest.fixture
def metadata():
    made = MetadataUnderTest()
    made.create()
    return made


def test_a_leader_shrinks_and_expands_its_isr(metadata):
    before = metadata.partition()
    leader, follower, _ = before.replicas
    response = metadata.set_isr([follower, leader])
    after = metadata.partition()
    assert after.isr == (leader, follower)
    assert (after.leader_epoch, after.partition_epoch) == (0, 1)
    assert response.topic_id == after.topic_id
    assert response.state.isr == after.isr
    assert response.state.partition_epoch == 1
    metadata.set_isr(before.replicas)
    assert metadata.partition().isr == before.replicas


def test_the_isr_that_it_has_already_still_raises_the_partition_epoch(metadata):
    """Only a newer partition epoch rules out a proposal whose answer was lost."""
    before = metadata.partition()
    response = metadata.set_isr(before.isr)
    assert response.state.isr == before.isr
    assert metadata.partition().partition_epoch == before.partition_epoch + 1
    assert metadata.partition().leader_epoch == before.leader_epoch


def test_a_proposal_made_before_another_change_is_refused_with_the_current_state(metadata):
    leader, follower, other = metadata.partition().replicas
    stale = metadata.proposal([leader, follower])
    metadata.set_isr([leader, other])
    with pytest.raises(InvalidUpdateVersionError) as refused:
        metadata.apply(stale)
    assert refused.value.members == {
        "leader": leader,
        "leader_epoch": 0,
        "partition_epoch": 1,
        "isr": [leader, other],
    }


def test_a_proposal_sent_twice_is_refused_the_second_time(metadata):
    proposal = metadata.proposal([metadata.partition().leader])
    metadata.apply(proposal)
    with pytest.raises(InvalidUpdateVersionError):
        metadata.apply(proposal)


def test_a_former_leader_is_fenced(metadata):
    leader = metadata.partition().leader
    stale = metadata.proposal([leader])
    metadata.fence(leader)
    metadata.heartbeat(leader)
    with pytest.raises(FencedLeaderEpochError) as refused:
        metadata.apply(stale)
    assert refused.value.members["leader"] == metadata.partition().leader


def test_a_follower_cannot_propose(metadata):
    follower = metadata.partition().replicas[1]
    with pytest.raises(FencedLeaderEpochError, match=f"not led by broker {follower}"):
        metadata.apply(
            metadata.proposal([follower], node_id=follower, broker_epoch=metadata.epoch(follower))
        )


def test_a_former_incarnation_of_the_leader_is_stale(metadata):
    leader = metadata.partition().leader
    with pytest.raises(StaleBrokerEpochError):
        metadata.apply(metadata.proposal([leader], broker_epoch=metadata.epoch(leader) + 1))


@pytest.mark.parametrize("newer", [{"leader_epoch": 1}, {"partition_epoch": 1}])
def test_a_proposer_that_knows_more_has_another_controller(metadata, newer):
    with pytest.raises(NotControllerError):
        metadata.apply(metadata.proposal([metadata.partition().leader], **newer))


def test_a_removed_topic_and_its_namesake_are_not_confused(metadata):
    stale = metadata.proposal([metadata.partition().leader])
    metadata.apply(DeleteTopic("orders"))
    metadata.create()
    with pytest.raises(UnknownTopicIdError):
        metadata.apply(stale)


def test_a_partition_that_the_topic_lacks_is_unknown(metadata):
    proposal = metadata.proposal([metadata.partition().leader])
    with pytest.raises(UnknownTopicOrPartitionError):
        metadata.apply(type(proposal)(**{**_fields(proposal), "partition": 7}))


def test_an_isr_must_contain_the_leader_and_only_replicas_once():
    metadata = MetadataUnderTest(4)
    leader, follower, _ = metadata.create().partitions[0].replicas
    (stranger,) = set(range(1, 5)) - set(metadata.partition().replicas)
    with pytest.raises(InvalidRequestError, match="contain the leader"):
        metadata.set_isr([follower])
    with pytest.raises(InvalidRequestError, match="contain the leader"):
        metadata.set_isr([])
    with pytest.raises(InvalidRequestError, match="distinct"):
        metadata.set_isr([leader, stranger])
    with pytest.raises(InvalidRequestError, match="distinct"):
        metadata.set_isr([leader, follower, follower])


def test_a_fenced_replica_cannot_join(metadata):
    leader, follower, _ = metadata.partition().replicas
    metadata.fence(follower)
    with pytest.raises(IneligibleReplicaError, match="fenced"):
        metadata.set_isr([leader, follower])


def test_a_replica_that_restarted_since_it_caught_up_cannot_join(metadata):
    """The leader saw the former incarnation in sync; the new one may have lost its tail."""
    leader, follower, _ = metadata.partition().replicas
    former = IsrMember(follower, metadata.epoch(follower))
    metadata.set_isr([leader])
    metadata.restart(follower, "second")
    proposal = metadata.proposal(
        [leader], new_isr=(IsrMember(leader, metadata.epoch(leader)), former)
    )
    with pytest.raises(IneligibleReplicaError, match="epoch"):
        metadata.apply(proposal)
    metadata.set_isr([leader, follower])


def test_a_draining_replica_cannot_join_but_may_stay(metadata):
    leader, follower, other = metadata.partition().replicas
    metadata.set_isr([leader, follower])
    metadata.heartbeat(follower, draining=True)
    assert metadata.partition().isr == (leader, follower)
    metadata.set_isr([leader, follower, other])
    metadata.heartbeat(follower, draining=True)
    assert metadata.partition().isr == (leader, other)
    with pytest.raises(IneligibleReplicaError, match="draining"):
        metadata.set_isr([leader, follower, other])


def test_preferred_leaders_get_their_leadership_back():
    metadata = MetadataUnderTest()
    before = metadata.create(partitions=6).partitions
    metadata.restart(1, "second")
    assert not any(p.leader == 1 for p in metadata.image.topic("orders").partitions)
    assert metadata.apply(ElectPreferred()).moved == 0, "it is not in sync yet"
    for partition in before:
        metadata.set_isr(partition.replicas, partition=partition.partition)
    assert metadata.apply(ElectPreferred()).moved == 2
    after = metadata.image.topic("orders").partitions
    assert [p.leader for p in after] == [p.leader for p in before]
    assert metadata.apply(ElectPreferred()).moved == 0


def test_a_draining_preferred_leader_does_not_get_leadership_back(metadata):
    leader, follower, _ = metadata.partition().replicas
    metadata.set_isr([leader, follower])
    metadata.heartbeat(leader, draining=True)
    assert metadata.partition().isr == (leader, follower)
    assert metadata.apply(ElectPreferred()).moved == 0
    assert metadata.partition().leader == follower


def _fields(proposal):
    return {name: getattr(proposal, name) for name in proposal.__struct_fields__}
