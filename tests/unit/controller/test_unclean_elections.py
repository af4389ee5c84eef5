"""Leaders from outside the ISR: only where the topic allows it, and only where nobody else can."""

import msgspec
import pytest

from ottla_cluster.controller.active_controller import ActiveController
from ottla_cluster.controller.commands import (
    AlterReassignments,
    ElectUnclean,
    Reassignment,
    ReplicaEnd,
    ReportUnfitReplicas,
    UncleanElection,
    UnfitReplica,
    decode_command,
)
from ottla_cluster.controller.features import UNCLEAN_ELECTIONS
from ottla_cluster.controller.limits import MAX_UNCLEAN_ELECTIONS
from ottla_cluster.controller.records import UncleanLeaderElected
from ottla_cluster.controller.snapshot import (
    _PartitionRowOfLevel1,
    decode_image,
    encode_image,
)
from ottla_cluster.controller.unclean_election_handlers import may_be_elected_uncleanly
from ottla_cluster.controller.unclean_election_schedule import (
    CHECK_INTERVAL_MS,
    UncleanElectionSchedule,
)
from ottla_cluster.state_machine.messages import encode_message
from ottla_protocol.errors import (
    InvalidConfigError,
    InvalidRequestError,
    UnsupportedFeatureLevelError,
)
from tests.unit.controller.metadata_under_test import MetadataUnderTest

ALLOWED = {"unclean_leader_election_enable": True}


def offline(**configs):
    """`orders-0` whose last ISR member, its first replica, is fenced."""
    metadata = MetadataUnderTest()
    metadata.create(**configs)
    metadata.set_isr([metadata.partition().leader])
    metadata.fence(metadata.partition().leader)
    assert metadata.partition().leader is None
    return metadata


def elect(metadata, *log_ends, topic="orders", partition=0):
    (result,) = metadata.apply(
        ElectUnclean((UncleanElection(topic, partition, tuple(log_ends)),))
    ).results
    return result


def end(metadata, node_id, last_epoch, log_end_offset, *, broker_epoch=None):
    epoch = metadata.epoch(node_id) if broker_epoch is None else broker_epoch
    return ReplicaEnd(node_id, epoch, last_epoch, log_end_offset)


def test_a_topic_that_does_not_allow_it_stays_offline():
    for metadata in (offline(), offline(unclean_leader_election_enable="false")):
        before = metadata.partition()
        result = elect(metadata)
        assert (result.elected, result.error["code"]) == (False, "POLICY_VIOLATION")
        assert "unclean.leader.election.enable" in result.error["detail"]
        assert metadata.partition() == before


def test_a_replica_leads_alone_in_a_new_epoch_and_the_log_says_how():
    metadata = offline(**ALLOWED)
    before = metadata.partition()
    result = elect(metadata)
    after = metadata.partition()
    assert (result.leader, result.elected, result.error) == (before.replicas[1], True, None)
    assert (after.leader, after.isr) == (before.replicas[1], (before.replicas[1],))
    assert after.leader_epoch == after.unclean_leader_epoch == before.leader_epoch + 1
    assert after.partition_epoch == before.partition_epoch + 1
    (record,) = metadata.last_records
    assert isinstance(record, UncleanLeaderElected)


def test_the_mark_of_an_unclean_election_outlives_the_next_leader():
    metadata = offline(**ALLOWED)
    elect(metadata)
    epoch = metadata.partition().leader_epoch
    metadata.fence(metadata.partition().leader)
    assert metadata.partition().leader_epoch > epoch
    assert metadata.partition().unclean_leader_epoch == epoch


def test_the_longest_log_leads_by_epoch_and_then_by_offset():
    _, second, third = offline(**ALLOWED).partition().replicas
    for second_end, third_end, winner in (
        ((0, 10), (0, 11), third),
        ((1, 10), (0, 11), second),
        ((0, 11), (0, 11), second),
        ((-1, 0), (0, 1), third),
    ):
        metadata = offline(**ALLOWED)
        result = elect(
            metadata, end(metadata, third, *third_end), end(metadata, second, *second_end)
        )
        assert result.leader == winner


def test_who_tells_its_end_comes_before_who_does_not():
    metadata = offline(**ALLOWED)
    third = metadata.partition().replicas[2]
    assert elect(metadata, end(metadata, third, 0, 1)).leader == third


def test_what_another_incarnation_told_does_not_count():
    metadata = offline(**ALLOWED)
    _, second, third = metadata.partition().replicas
    stale = end(metadata, third, 9, 99, broker_epoch=metadata.epoch(third) - 1)
    assert elect(metadata, stale).leader == second


def test_a_fenced_replica_with_the_longest_log_does_not_lead():
    metadata = offline(**ALLOWED)
    first, second, _ = metadata.partition().replicas
    assert elect(metadata, end(metadata, first, 9, 99)).leader == second


def test_nobody_there_is_an_error_of_its_own():
    metadata = offline(**ALLOWED)
    for node_id in metadata.partition().replicas[1:]:
        metadata.fence(node_id)
    result = elect(metadata)
    assert (result.elected, result.error["code"]) == (False, "ELIGIBLE_LEADERS_NOT_AVAILABLE")


def test_a_partition_with_a_leader_keeps_it():
    metadata = MetadataUnderTest()
    metadata.create(**ALLOWED)
    before = metadata.partition()
    result = elect(metadata)
    assert (result.leader, result.elected, result.error) == (before.leader, False, None)
    assert metadata.partition() == before


def test_what_does_not_exist_is_told_and_the_others_are_decided():
    metadata = offline(**ALLOWED)
    wanted = (
        UncleanElection("nothing", 0),
        UncleanElection("orders", 7),
        UncleanElection("orders", 0),
    )
    nothing, seventh, elected = metadata.apply(ElectUnclean(wanted)).results
    assert nothing.error["code"] == seventh.error["code"] == "UNKNOWN_TOPIC_OR_PARTITION"
    assert elected.elected


def test_too_many_and_the_same_twice_are_refused():
    metadata = offline(**ALLOWED)
    one = UncleanElection("orders", 0)
    many = tuple(UncleanElection("orders", n) for n in range(MAX_UNCLEAN_ELECTIONS + 1))
    for wanted in (many, (one, one)):
        with pytest.raises(InvalidRequestError):
            metadata.apply(ElectUnclean(wanted))


def test_a_last_member_that_lost_its_end_may_lead_or_give_way():
    for other_end, winner in ((5, 0), (9, 1)):
        metadata = MetadataUnderTest()
        metadata.create(**ALLOWED)
        replicas = metadata.partition().replicas
        metadata.set_isr(replicas[:1])
        unfit = UnfitReplica(metadata.partition().topic_id, 0, lost_tail=True)
        metadata.apply(ReportUnfitReplicas(replicas[0], metadata.epoch(replicas[0]), (unfit,)))
        assert metadata.partition().leader is None
        ends = (end(metadata, replicas[0], 0, 7), end(metadata, replicas[1], 0, other_end))
        assert elect(metadata, *ends).leader == replicas[winner]


def test_it_may_be_what_a_reassignment_has_waited_for():
    metadata = MetadataUnderTest()
    metadata.create(**ALLOWED)
    first, second, _ = metadata.partition().replicas
    metadata.set_isr([first])
    metadata.apply(AlterReassignments((Reassignment("orders", 0, (second,)),)))
    assert metadata.partition().is_reassigning
    metadata.fence(first)
    elect(metadata)
    partition = metadata.partition()
    assert (partition.replicas, partition.leader, partition.is_reassigning) == (
        (second,),
        second,
        False,
    )


# --- replicas that a reassignment adds ------------------------------------------------------


def moving(*, replication_factor=1, **configs):
    """`orders-0` on its way to broker 4, which is there; of the former replicas nobody is."""
    metadata = MetadataUnderTest(4)
    metadata.create(replication_factor=replication_factor, **configs)
    former = metadata.partition().replicas
    metadata.set_isr(former[:1])
    added = next(n for n in (4, 3, 2, 1) if n not in former)
    metadata.apply(AlterReassignments((Reassignment("orders", 0, (added,)),)))
    for node_id in former:
        metadata.fence(node_id)
    assert metadata.partition().leader is None
    return metadata, former, added


def test_the_controller_elects_no_replica_that_is_being_copied():
    metadata, former, added = moving(**ALLOWED)
    assert list(may_be_elected_uncleanly(metadata.image)) == []
    schedule = UncleanElectionSchedule(patience_ms=0, now_ms=0)
    assert schedule.due(metadata.image, 0) is None
    # Who comes back has all there was, and the move goes on.
    metadata.restart(former[0], "second")
    assert metadata.partition().leader == former[0]
    assert metadata.partition().adding_replicas == (added,)


def test_an_operator_elects_it_by_naming_the_partition():
    metadata, _, added = moving(**ALLOWED)
    assert elect(metadata).leader == added
    assert metadata.partition().replicas == (added,)


def test_who_went_away_while_the_brokers_were_asked_is_waited_for():
    metadata, former, added = moving(replication_factor=2, **ALLOWED)
    metadata.restart(former[1], "second")
    schedule = UncleanElectionSchedule(patience_ms=0, now_ms=0)
    command = schedule.due(metadata.image, 0)
    metadata.fence(former[1])
    (result,) = metadata.apply(command).results
    assert (result.elected, result.error["code"]) == (False, "ELIGIBLE_LEADERS_NOT_AVAILABLE")
    assert str(added) in result.error["detail"]
    assert metadata.partition().leader is None


def test_what_is_being_copied_leads_only_before_a_shorter_log_that_was_told():
    for told, winner in (
        ((), "former"),
        (("added", 9), "former"),
        (("added", 9, "former", 8), "added"),
        (("added", 9, "former", 9), "former"),
        (("added", 9, "former", 10), "former"),
    ):
        metadata, former, added = moving(replication_factor=2, **ALLOWED)
        metadata.restart(former[1], "second")
        node_ids = {"former": former[1], "added": added}
        ends = [
            end(metadata, node_ids[name], 0, offset)
            for name, offset in zip(told[::2], told[1::2], strict=True)
        ]
        assert elect(metadata, *ends).leader == node_ids[winner], told


def test_an_added_replica_that_was_in_sync_is_one_like_the_others():
    metadata, (former,), added = moving(**ALLOWED)
    metadata.restart(former, "second")
    other = next(n for n in (1, 2, 3, 4) if n not in (former, added))
    metadata.apply(AlterReassignments((Reassignment("orders", 0, (added, other)),)))
    metadata.set_isr([former, added])
    metadata.fence(former)
    unfit = UnfitReplica(metadata.partition().topic_id, 0, lost_tail=True)
    metadata.apply(ReportUnfitReplicas(added, metadata.epoch(added), (unfit,)))
    assert (metadata.partition().leader, metadata.partition().isr) == (None, (added,))
    assert list(may_be_elected_uncleanly(metadata.image)) == [metadata.partition()]


def test_a_command_of_an_operator_is_as_older_controllers_know_it():
    one = UncleanElection("orders", 0)
    fields = msgspec.msgpack.decode(encode_message(ElectUnclean((one,))))
    assert fields.keys() == {"type", "partitions"}
    assert decode_command(encode_message(ElectUnclean((one,), by_controller=True))).by_controller


def test_a_config_that_is_neither_true_nor_false_is_refused():
    for value in ("yes", 1, 0, 0.5):
        with pytest.raises(InvalidConfigError, match="true or false"):
            MetadataUnderTest().create(unclean_leader_election_enable=value)


def test_it_waits_for_its_feature_level():
    metadata = offline(**ALLOWED)
    metadata.be_at_level(UNCLEAN_ELECTIONS.level - 1)
    with pytest.raises(UnsupportedFeatureLevelError):
        elect(metadata)
    assert UncleanElectionSchedule(patience_ms=0, now_ms=0).due(metadata.image, 0) is None
    # And an older reader understands the snapshot.
    snapshot = msgspec.msgpack.decode(encode_image(metadata.image))
    ((*_, (partition_row,), _),) = snapshot[1][4]
    assert len(partition_row) == len(_PartitionRowOfLevel1.__struct_fields__)
    assert decode_image(encode_image(metadata.image)) == metadata.image


# --- automatic ------------------------------------------------------------------------------


def test_a_partition_waits_a_session_for_a_member_of_its_isr():
    metadata = offline(**ALLOWED)
    schedule = UncleanElectionSchedule(patience_ms=3_000, now_ms=0)
    for now_ms in range(0, 3_000, CHECK_INTERVAL_MS):
        assert schedule.due(metadata.image, now_ms) is None
    assert schedule.due(metadata.image, 3_000) == ElectUnclean(
        (UncleanElection("orders", 0),), by_controller=True
    )
    # Again until it is done.
    assert schedule.due(metadata.image, 3_000 + CHECK_INTERVAL_MS) is not None
    elect(metadata)
    assert schedule.due(metadata.image, 9_000) is None


def test_who_came_back_in_between_has_the_wait_begin_anew():
    metadata = offline(**ALLOWED)
    schedule = UncleanElectionSchedule(patience_ms=1_000, now_ms=0)
    assert schedule.due(metadata.image, 0) is None
    last = metadata.partition().isr[0]
    metadata.restart(last, "second")
    metadata.fence(last)
    assert schedule.due(metadata.image, 1_000) is None
    assert schedule.due(metadata.image, 2_000) is not None


def test_nothing_is_due_where_the_topic_forbids_it_or_nobody_is_there():
    forbidden = offline()
    deserted = offline(**ALLOWED)
    for node_id in deserted.partition().replicas[1:]:
        deserted.fence(node_id)
    for metadata in (forbidden, deserted):
        schedule = UncleanElectionSchedule(patience_ms=0, now_ms=0)
        assert schedule.due(metadata.image, 0) is None


def test_the_active_controller_asks_for_it():
    metadata = offline(**ALLOWED)
    active = ActiveController(metadata.image, metadata.config, metadata.random, 0)
    assert not [c for c in active.due(0) if isinstance(c, ElectUnclean)]
    later_ms = metadata.config.session_timeout_ms
    assert [c for c in active.due(later_ms) if isinstance(c, ElectUnclean)]
