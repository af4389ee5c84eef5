"""What the controller does with replicas whose broker says that they lost records."""

import pytest

from ottla_cluster.controller.commands import (
    Heartbeat,
    ReportUnfitReplicas,
    UnfitReplica,
)
from ottla_cluster.controller.limits import MAX_UNFIT_REPLICAS
from ottla_protocol.errors import (
    InvalidRequestError,
    InvalidUpdateVersionError,
    StaleBrokerEpochError,
)
from tests.unit.controller.metadata_under_test import MetadataUnderTest


@pytest.fixture
def metadata():
    made = MetadataUnderTest()
    made.create()
    return made


def report(metadata, node_id, *, lost_tail=True, broker_epoch=None):
    partition = metadata.partition()
    return metadata.apply(
        ReportUnfitReplicas(
            node_id,
            metadata.epoch(node_id) if broker_epoch is None else broker_epoch,
            (UnfitReplica(partition.topic_id, 0, lost_tail=lost_tail),),
        )
    ).results


def test_a_leader_without_its_end_gives_way_to_another_member(metadata):
    leader, second, third = metadata.partition().replicas
    [result] = report(metadata, leader)
    after = metadata.partition()
    assert (after.leader, after.leader_epoch, after.isr) == (second, 1, (second, third))
    assert (result.in_isr, result.partition_epoch) == (False, after.partition_epoch)


def test_a_leader_with_a_hole_stays_in_sync_until_it_follows(metadata):
    """Its lease holds: nothing may be acknowledged without it before it has heard."""
    leader, second, third = metadata.partition().replicas
    [result] = report(metadata, leader, lost_tail=False)
    after = metadata.partition()
    assert (after.leader, after.leader_epoch, after.isr) == (second, 1, (leader, second, third))
    assert (result.in_isr, result.partition_epoch) == (True, after.partition_epoch)
    # Told again, because the answer was lost, nothing changes.
    assert report(metadata, leader, lost_tail=False)[0].in_isr
    assert metadata.partition() == after
    # It has cut its log.
    assert not report(metadata, leader)[0].in_isr
    assert metadata.partition().isr == (second, third)


def test_an_unfit_follower_leaves_the_isr_and_the_leader_stays(metadata):
    leader, second, third = metadata.partition().replicas
    report(metadata, second)
    after = metadata.partition()
    assert (after.leader, after.leader_epoch, after.isr) == (leader, 0, (leader, third))


def test_a_proposal_from_before_the_report_does_not_let_the_replica_in_again(metadata):
    leader, second, third = metadata.partition().replicas
    metadata.set_isr([leader, third])
    in_flight = metadata.proposal([leader, second, third])
    [result] = report(metadata, second)
    assert (result.in_isr, result.partition_epoch) == (False, metadata.partition().partition_epoch)
    with pytest.raises(InvalidUpdateVersionError):
        metadata.apply(in_flight)
    metadata.set_isr([leader, second, third])
    assert metadata.partition().partition_epoch > result.partition_epoch


def test_the_last_member_stays_but_leads_no_more_once_its_tail_is_lost(metadata):
    leader = metadata.partition().leader
    metadata.set_isr([leader])
    assert report(metadata, leader, lost_tail=False)[0].in_isr
    assert metadata.partition().leader == leader
    assert report(metadata, leader)[0].in_isr
    assert (metadata.partition().leader, metadata.partition().isr) == (None, (leader,))
    # Told again, nothing changes.
    before = metadata.partition()
    assert report(metadata, leader)[0].in_isr
    assert metadata.partition() == before


def test_a_leader_with_a_hole_goes_on_while_the_others_are_about_to_stop(metadata):
    leader, second, _ = metadata.partition().replicas
    metadata.set_isr([leader, second])
    metadata.apply(Heartbeat(second, metadata.epoch(second), metadata.image.version, draining=True))
    if second not in metadata.partition().isr:
        metadata.set_isr([leader])
    assert report(metadata, leader, lost_tail=False)[0].in_isr
    assert metadata.partition().leader == leader


def test_the_only_replica_is_left_alone():
    metadata = MetadataUnderTest()
    metadata.create(replication_factor=1)
    before = metadata.partition()
    assert report(metadata, before.leader) == ()
    assert metadata.partition() == before


def test_who_is_no_replica_and_what_is_no_partition_has_no_result(metadata):
    topic_id = metadata.partition().topic_id
    command = ReportUnfitReplicas(
        1,
        metadata.epoch(1),
        (UnfitReplica("gone", 0, lost_tail=True), UnfitReplica(topic_id, 7, lost_tail=True)),
    )
    assert metadata.apply(command).results == ()
    assert metadata.last_records == ()


def test_a_former_incarnation_is_refused(metadata):
    with pytest.raises(StaleBrokerEpochError):
        report(metadata, 1, broker_epoch=metadata.epoch(1) - 1)


def test_too_many_and_the_same_twice_are_refused(metadata):
    one = UnfitReplica(metadata.partition().topic_id, 0, lost_tail=True)
    many = tuple(UnfitReplica("t", n, lost_tail=True) for n in range(MAX_UNFIT_REPLICAS + 1))
    for replicas in (many, (one, one)):
        with pytest.raises(InvalidRequestError):
            metadata.apply(ReportUnfitReplicas(1, metadata.epoch(1), replicas))
