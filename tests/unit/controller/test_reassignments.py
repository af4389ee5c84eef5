from dataclasses import replace

import pytest

from ottla_cluster.controller import reassignment_handlers
from ottla_cluster.controller.commands import (
    AlterReassignments,
    ElectPreferred,
    FinishReassignments,
    HandedOverPartition,
    Reassignment,
)
from ottla_cluster.controller.elections import effective_min_isr
from ottla_cluster.controller.records import PartitionChanged, PartitionReassigned
from ottla_cluster.controller.snapshot import decode_image, encode_image
from ottla_protocol.errors import FencedLeaderEpochError, InvalidRequestError
from tests.unit.controller.metadata_under_test import MetadataUnderTest


class Reassigned(MetadataUnderTest):
    """Six brokers; the partition orders-0 lies on three of them, in the order of `former`."""

    def __init__(self):
        super().__init__(6)
        self.create()
        self.former = self.partition().replicas
        self.others = tuple(n for n in range(1, 7) if n not in self.former)

    def reassign(self, *target, partition=0):
        (result,) = self.apply(
            AlterReassignments((Reassignment("orders", partition, target),))
        ).results
        return result

    def cancel(self):
        (result,) = self.apply(AlterReassignments((Reassignment("orders", 0, None),))).results
        return result

    def joins(self, *node_ids):
        """The leader gets these into the ISR, one after another."""
        for node_id in node_ids:
            self.set_isr([*self.partition().isr, node_id])


@pytest.fixture
def metadata():
    return Reassigned()


def test_target_replicas_are_added_behind_the_present_ones(metadata):
    a, b, c = metadata.former
    d, e, _ = metadata.others
    before = metadata.partition()
    assert metadata.reassign(d, a, e).error is None
    now = metadata.partition()
    assert now.replicas == (a, b, c, d, e)
    assert now.adding_replicas == (d, e)
    assert now.removing_replicas == (b, c)
    assert now.target_replicas == (d, a, e)
    assert now.former_replicas == before.replicas
    assert (now.isr, now.leader, now.leader_epoch) == (before.isr, a, before.leader_epoch)
    assert now.partition_epoch == before.partition_epoch + 1


def test_the_switch_comes_when_the_last_target_replica_is_in_sync(metadata):
    a, _b, _c = metadata.former
    d, e, _ = metadata.others
    metadata.reassign(a, d, e)
    metadata.joins(d)
    assert metadata.partition().is_reassigning
    before = metadata.partition()
    metadata.joins(e)
    now = metadata.partition()
    assert (now.replicas, now.isr) == ((a, d, e), (a, d, e))
    assert not now.is_reassigning
    assert (now.adding_replicas, now.removing_replicas) == ((), ())
    assert (now.leader, now.leader_epoch) == (a, before.leader_epoch + 1)
    assert now.partition_epoch == before.partition_epoch + 2


def test_the_answer_to_the_last_proposal_is_older_than_the_switch(metadata):
    """Else the leader would hold the removed replicas for assigned ones for ever."""
    _, _, c = metadata.former
    d, _, _ = metadata.others
    metadata.reassign(*metadata.former[:2], d)
    response = metadata.set_isr([*metadata.partition().isr, d])
    changed, reassigned = metadata.last_records
    assert isinstance(changed, PartitionChanged)
    assert isinstance(reassigned, PartitionReassigned)
    assert response.state.partition_epoch == changed.partition_epoch
    assert reassigned.partition_epoch == changed.partition_epoch + 1
    assert c in response.state.isr


def test_leadership_moves_to_the_target_s_first_active_replica(metadata):
    d, e, f = metadata.others
    metadata.reassign(d, e, f)
    before = metadata.partition()
    metadata.joins(d, e)
    metadata.heartbeat(d, draining=True)
    assert d in metadata.partition().isr or metadata.partition().is_reassigning
    metadata.restart(d, "second")
    metadata.joins(f, d)
    now = metadata.partition()
    assert now.replicas == (d, e, f)
    # One epoch in which all are there still, and one without those who were taken away.
    assert (now.leader, now.leader_epoch) == (d, before.leader_epoch + 2)
    with pytest.raises(FencedLeaderEpochError):
        metadata.apply(
            metadata.proposal(
                [before.leader],
                node_id=before.leader,
                broker_epoch=metadata.epoch(before.leader),
                leader_epoch=before.leader_epoch,
                partition_epoch=before.partition_epoch,
            )
        )


def test_the_switch_waits_for_a_replica_that_can_lead(metadata):
    a, b, c = metadata.former
    metadata.set_isr([a, b, c])
    metadata.heartbeat(b, draining=True)
    metadata.heartbeat(c, draining=True)
    assert metadata.state(c).value == "draining"
    isr = metadata.partition().isr
    target = isr[-1]
    assert target != a
    assert metadata.reassign(target).error is None
    assert metadata.partition().is_reassigning
    assert metadata.partition().leader == a
    metadata.restart(target, "second")
    assert metadata.partition().is_reassigning
    metadata.joins(target)
    assert (metadata.partition().replicas, metadata.partition().leader) == ((target,), target)


def test_replicas_that_are_all_in_sync_are_taken_at_once(metadata):
    a, _b, c = metadata.former
    epoch = metadata.partition().leader_epoch
    metadata.reassign(c, a)
    now = metadata.partition()
    assert (now.replicas, now.isr, now.leader) == ((c, a), (c, a), a)
    assert not now.is_reassigning
    metadata.reassign(c)
    now = metadata.partition()
    assert (now.replicas, now.leader, now.leader_epoch) == ((c,), c, epoch + 3)


def test_what_is_known_of_a_replica_that_was_taken_away_ends_with_the_leader_epoch(metadata):
    """It forgets its log; added again at once, it must not be taken for what it was."""
    a, b, _ = metadata.former
    metadata.reassign(a)
    first = metadata.partition()
    metadata.reassign(a, b)
    again = metadata.partition()
    assert (again.leader, again.leader_epoch) == (a, first.leader_epoch), "adding alone needs none"
    metadata.reassign(a)
    assert metadata.partition().leader_epoch == first.leader_epoch + 1


def test_a_leader_that_is_to_go_hands_over_and_stays_in_sync_until_it_has_heard(metadata):
    a, b, c = metadata.former
    d, e, _ = metadata.others
    metadata.hears_late = True
    metadata.reassign(d, c)
    before = metadata.partition()
    metadata.joins(d)
    now = metadata.partition()
    assert (now.leader, now.leader_epoch) == (d, before.leader_epoch + 1)
    assert (now.isr, now.target_replicas) == ((a, b, c, d), (d, c))
    # Whatever else happens to it meanwhile.
    metadata.set_isr([a, c, d])
    metadata.apply(ElectPreferred())
    assert (metadata.partition().leader, metadata.partition().isr) == (d, (a, c, d))
    metadata.finish_reassignments()
    now = metadata.partition()
    assert (now.replicas, now.isr, now.leader) == ((d, c), (d, c), d)
    assert not now.is_reassigning
    # Where nobody leaves the ISR there is nothing to hear of.
    metadata.reassign(d, c, e)
    metadata.joins(e)
    assert metadata.partition().replicas == (d, c, e)


def test_what_was_known_of_a_partition_before_it_changed_ends_nothing(metadata):
    a, b, c = metadata.former
    metadata.hears_late = True
    metadata.reassign(a, c)
    waiting = metadata.partition()
    assert (waiting.leader, waiting.is_reassigning) == (a, True)
    # Another leads for a while.
    metadata.fence(a)
    metadata.heartbeat(a)
    assert metadata.partition().leader == b
    metadata.joins(a)
    assert metadata.partition().leader == a
    handed_over = HandedOverPartition(waiting.topic_id, 0, waiting.partition_epoch)
    gone = HandedOverPartition("gone", 0, 0)
    response = metadata.apply(FinishReassignments((handed_over, gone)))
    assert response.finished == 0
    assert metadata.partition().is_reassigning
    metadata.finish_reassignments()
    assert metadata.partition().replicas == (a, c)


def test_a_target_without_room_takes_no_leadership_over(metadata):
    """It would be relieved of it at once, and so on with every heartbeat."""
    a, b, _c = metadata.former
    metadata.hears_late = True
    metadata.set_isr([a, b])
    metadata.heartbeat(b, is_full=True)
    metadata.set_isr([a, b])
    metadata.reassign(b)
    assert (metadata.partition().leader, metadata.partition().is_reassigning) == (a, True)
    metadata.heartbeat(a, is_full=True)
    metadata.set_isr([a, b])
    assert metadata.partition().leader == b


def test_a_lagging_target_replica_is_waited_for(metadata):
    a, b, c = metadata.former
    metadata.set_isr([a, b])
    metadata.reassign(a, c)
    assert metadata.partition().is_reassigning
    metadata.joins(c)
    assert metadata.partition().replicas == (a, c)


def test_the_present_replicas_are_no_reassignment(metadata):
    before = metadata.partition()
    assert metadata.reassign(*metadata.former).error is None
    assert metadata.last_records == ()
    assert metadata.partition() == before


def test_calling_off_returns_to_the_former_replicas(metadata):
    before = metadata.partition()
    d, e, _ = metadata.others
    metadata.reassign(d, e)
    metadata.joins(d)
    assert metadata.cancel().error is None
    now = metadata.partition()
    assert now == replace(
        before, partition_epoch=now.partition_epoch, leader_epoch=before.leader_epoch + 1
    )
    assert metadata.cancel().error["code"] == "NO_REASSIGNMENT_IN_PROGRESS"


def test_reassigning_to_the_former_replicas_calls_off_too(metadata):
    d, _, _ = metadata.others
    metadata.reassign(d)
    metadata.reassign(*metadata.former)
    assert metadata.partition().replicas == metadata.former
    assert not metadata.partition().is_reassigning


def test_calling_off_takes_leadership_from_an_added_replica(metadata):
    a, b, c = metadata.former
    d, e, _ = metadata.others
    metadata.reassign(d, e)
    metadata.joins(d)
    metadata.set_isr([a, b, d])
    metadata.heartbeat(b, draining=True)
    metadata.fence(a)
    assert metadata.partition().leader == d
    metadata.restart(b, "second")
    metadata.joins(b)
    epoch = metadata.partition().leader_epoch
    assert metadata.cancel().error is None
    now = metadata.partition()
    assert (now.replicas, now.isr, now.leader) == ((a, b, c), (b,), b)
    assert now.leader_epoch == epoch + 1


def test_what_would_lose_every_in_sync_replica_is_refused(metadata):
    a, _b, _c = metadata.former
    d, e, _ = metadata.others
    metadata.reassign(d, e)
    metadata.joins(d)
    metadata.set_isr([a, d])
    metadata.fence(a)
    before = metadata.partition()
    assert before.isr == (d,)
    assert metadata.cancel().error["code"] == "INVALID_REPLICA_ASSIGNMENT"
    assert metadata.reassign(e).error["code"] == "INVALID_REPLICA_ASSIGNMENT"
    assert metadata.partition() == before


def test_a_new_target_replaces_the_one_before(metadata):
    a, b, c = metadata.former
    d, e, f = metadata.others
    metadata.reassign(a, d, e)
    metadata.joins(d)
    metadata.reassign(a, e, f)
    now = metadata.partition()
    assert now.replicas == (a, b, c, e, f)
    assert now.adding_replicas == (e, f)
    assert now.former_replicas == metadata.former
    assert d not in now.isr
    metadata.joins(e, f)
    assert metadata.partition().replicas == (a, e, f)


@pytest.mark.parametrize(
    ("target", "rule"),
    [
        ((), "at least one"),
        ((1, 1), "repeat"),
        ((99,), "not registered"),
    ],
)
def test_an_impossible_target_is_refused_with_its_rule(metadata, target, rule):
    error = metadata.reassign(*target).error
    assert error["code"] == "INVALID_REPLICA_ASSIGNMENT"
    assert rule in error["detail"]
    assert "orders-0" in error["detail"]


def test_only_active_brokers_are_added_but_a_present_replica_may_be_away(metadata):
    a, b, _c = metadata.former
    d, e, _ = metadata.others
    metadata.fence(d)
    assert "fenced" in metadata.reassign(a, d).error["detail"]
    metadata.fence(b)
    assert metadata.reassign(a, b, e).error is None
    metadata.joins(e)
    assert metadata.partition().is_reassigning, "one target replica is away"


def test_each_reassignment_is_decided_on_its_own(metadata):
    metadata.create("clicks", partitions=2)
    d, _, _ = metadata.others
    response = metadata.apply(
        AlterReassignments(
            (
                Reassignment("nothing", 0, (1,)),
                Reassignment("orders", 0, (*metadata.former, d)),
                Reassignment("clicks", 7, (1,)),
                Reassignment("clicks", 0, ()),
            )
        )
    )
    codes = [result.error and result.error["code"] for result in response.results]
    unknown = "UNKNOWN_TOPIC_OR_PARTITION"
    assert codes == [unknown, None, unknown, "INVALID_REPLICA_ASSIGNMENT"]
    assert metadata.partition().is_reassigning


def test_a_partition_named_twice_or_too_many_are_refused_as_a_whole(metadata, monkeypatch):
    twice = (Reassignment("orders", 0, (1,)), Reassignment("orders", 0, None))
    with pytest.raises(InvalidRequestError, match="twice"):
        metadata.apply(AlterReassignments(twice))
    monkeypatch.setattr(reassignment_handlers, "MAX_REASSIGNMENTS", 1)
    with pytest.raises(InvalidRequestError, match="at most 1"):
        metadata.apply(AlterReassignments(twice))


def test_added_replicas_do_not_raise_the_effective_min_isr_before_the_switch():
    metadata = MetadataUnderTest(3)
    topic = metadata.create(replication_factor=1)
    (only,) = metadata.partition().replicas
    target = (only, *(n for n in (1, 2, 3) if n != only))
    metadata.apply(AlterReassignments((Reassignment("orders", 0, target),)))
    assert effective_min_isr(topic, metadata.partition()) == 1
    metadata.set_isr(target)
    assert not metadata.partition().is_reassigning
    assert effective_min_isr(topic, metadata.partition()) == 2


def test_a_reassignment_survives_a_snapshot(metadata):
    d, _, _ = metadata.others
    metadata.reassign(d)
    assert decode_image(encode_image(metadata.image)) == metadata.image


def test_nobody_is_taken_away_to_whom_a_leader_has_just_handed_over(metadata):
    a, _b, c = metadata.former
    d, e, _ = metadata.others
    metadata.hears_late = True
    metadata.reassign(d, c)
    metadata.joins(d)
    before = metadata.partition()
    assert before.leader == d
    refused = (metadata.cancel(), metadata.reassign(*metadata.former), metadata.reassign(a, e))
    for result in refused:
        assert result.error["code"] == "INVALID_REPLICA_ASSIGNMENT"
        assert f"Broker {d}" in result.error["detail"]
    assert metadata.partition() == before
    # Another target that leaves it the leadership is as good as any.
    assert metadata.reassign(d, e).error is None
    assert metadata.partition().leader == d
    metadata.joins(e)
    metadata.finish_reassignments()
    assert metadata.partition().replicas == (d, e)
