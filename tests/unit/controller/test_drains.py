"""Brokers that leave: all their replicas move, and the cluster forgets them."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ottla_cluster.controller.active_controller import ActiveController
from ottla_cluster.controller.commands import (
    AddPartitions,
    AdvanceDrains,
    AlterReassignments,
    CancelDrain,
    CreateTopic,
    DrainBroker,
    Reassignment,
    ReportUnfitReplicas,
    UnfitReplica,
    UnregisterBroker,
)
from ottla_cluster.controller.drain_handlers import moves_are_due, room_for_moves
from ottla_cluster.controller.drain_planning import replicas_on
from ottla_cluster.controller.drain_waits import waiting_moves
from ottla_cluster.controller.limits import MAX_DRAIN_MOVES
from ottla_cluster.controller.snapshot import decode_image, encode_image
from ottla_protocol.errors import (
    ConflictError,
    InvalidReplicationFactorError,
    NotFoundError,
    StaleBrokerEpochError,
    UnsupportedFeatureLevelError,
)
from tests.unit.controller.metadata_under_test import MetadataUnderTest


def advance(metadata):
    """The next moves begin, and their new replicas catch up."""
    metadata.apply(AdvanceDrains())
    moving = [p for _, p in metadata.image.all_partitions() if p.is_reassigning]
    for partition in moving:
        if partition.leader is not None:
            active = [n for n in partition.replicas if metadata.image.is_active(n)]
            metadata.set_isr(active, name=partition.topic, partition=partition.partition)
    return len(moving)


def advance_as_far_as_it_goes(metadata):
    for _ in range(20):
        if not advance(metadata):
            return
    raise AssertionError("moves begin that do not end")


def drain(metadata, node_id):
    """Begin, and go on to the end."""
    metadata.apply(DrainBroker(node_id))
    rounds = 0
    while replicas_on(metadata.image, node_id):
        assert advance(metadata) <= MAX_DRAIN_MOVES
        rounds += 1
        assert rounds < 100, "the drain stands still"
    return rounds


def test_all_replicas_move_and_none_is_lost():
    metadata = MetadataUnderTest(4)
    metadata.create(partitions=50)
    had = replicas_on(metadata.image, 1)
    assert metadata.apply(DrainBroker(1)).replicas == had
    assert metadata.image.drains == {1: had}
    assert drain(metadata, 1) == -(-had // MAX_DRAIN_MOVES)
    for _, partition in metadata.image.all_partitions():
        assert len(partition.replicas) == 3
        assert 1 not in partition.replicas
        assert partition.leader is not None
        assert not partition.is_reassigning
    assert metadata.apply(AdvanceDrains()).moves == 0


def test_the_replicas_that_stay_stay_in_their_order():
    metadata = MetadataUnderTest(4)
    metadata.create(partitions=8)
    before = {p.partition: p.replicas for _, p in metadata.image.all_partitions()}
    drain(metadata, 1)
    for _, partition in metadata.image.all_partitions():
        former = before[partition.partition]
        kept = [n for n in former if n != 1]
        if former[0] != 1:
            assert [n for n in partition.replicas if n in kept] == kept
        if 1 not in former:
            assert partition.replicas == former


def test_a_drained_broker_gets_no_new_replicas():
    metadata = MetadataUnderTest(4)
    metadata.apply(DrainBroker(2))
    metadata.create("fresh", partitions=6)
    metadata.apply(AddPartitions("fresh", 12))
    assert replicas_on(metadata.image, 2) == 0
    with pytest.raises(InvalidReplicationFactorError):
        metadata.apply(CreateTopic("wide", 1, 4))
    (result,) = metadata.apply(AlterReassignments((Reassignment("fresh", 0, (2, 1, 3)),))).results
    assert result.error["code"] == "INVALID_REPLICA_ASSIGNMENT"
    assert "drained" in result.error["detail"]


def test_a_drain_is_of_the_node_id_and_outlives_the_process_and_a_snapshot():
    metadata = MetadataUnderTest(4)
    metadata.create(partitions=4)
    metadata.apply(DrainBroker(1))
    metadata.restart(1, "second")
    assert 1 in metadata.image.drains
    assert decode_image(encode_image(metadata.image)).drains == metadata.image.drains
    active = ActiveController(metadata.image, metadata.config, metadata.random, 0)
    assert AdvanceDrains() in active.due(0)


def test_a_broker_that_is_gone_is_drained_too():
    metadata = MetadataUnderTest(4)
    metadata.create(partitions=4)
    metadata.fence(1)
    drain(metadata, 1)
    assert replicas_on(metadata.image, 1) == 0


def test_a_drain_that_leaves_too_few_brokers_is_refused_with_the_rule():
    metadata = MetadataUnderTest(3)
    metadata.create(replication_factor=3)
    with pytest.raises(InvalidReplicationFactorError, match="orders-0 needs 3 replicas"):
        metadata.apply(DrainBroker(1))
    assert metadata.image.drains == {}


def test_a_second_drain_counts_the_first():
    metadata = MetadataUnderTest(4)
    metadata.create(partitions=4, replication_factor=3)
    drain(metadata, 1)
    with pytest.raises(InvalidReplicationFactorError):
        metadata.apply(DrainBroker(2))


def test_what_cannot_move_now_moves_when_a_broker_comes():
    metadata = MetadataUnderTest(4)
    metadata.create(partitions=4, replication_factor=3)
    metadata.apply(DrainBroker(1))
    spare = (
        next(n for n in (2, 3, 4) if n not in metadata.partition().replicas)
        if len({*metadata.partition().replicas, 1}) == 3
        else 4
    )
    metadata.fence(spare)
    stuck = replicas_on(metadata.image, 1)
    advance(metadata)
    assert replicas_on(metadata.image, 1) > 0
    metadata.restart(spare, "second")
    while advance(metadata):
        pass
    assert replicas_on(metadata.image, 1) == 0 < stuck


def moving(metadata):
    return [p for _, p in metadata.image.all_partitions() if p.is_reassigning]


def told(metadata, node_id):
    """What is told of the partitions that wait, by topic and partition."""
    return {
        (each.partition.topic, each.partition.partition): each.detail
        for each in waiting_moves(metadata.image, node_id)
    }


def alone_on(metadata, node_id, *, name, partitions):
    """A topic with one replica of each partition, all of them on this broker."""
    metadata.create(name, partitions=partitions, replication_factor=1)
    goals = tuple(Reassignment(name, number, (node_id,)) for number in range(partitions))
    metadata.apply(AlterReassignments(goals))
    for number in range(partitions):
        partition = metadata.partition(name, number)
        if partition.is_reassigning:
            metadata.set_isr(partition.replicas, name=name, partition=number)
    assert all(p.replicas == (node_id,) for p in metadata.image.topic(name).partitions)


def test_what_nobody_leads_keeps_nothing_from_moving():
    metadata = MetadataUnderTest(4)
    alone_on(metadata, 3, name="alone", partitions=3 * MAX_DRAIN_MOVES)
    metadata.create(partitions=12)
    metadata.fence(3)
    metadata.apply(DrainBroker(3))
    advance_as_far_as_it_goes(metadata)
    assert not any(3 in p.replicas for p in metadata.image.topic("orders").partitions)
    assert replicas_on(metadata.image, 3) == 3 * MAX_DRAIN_MOVES
    # It is not made to look as if somebody else could lead it, and the wait has its reason.
    assert not moving(metadata)
    waiting = told(metadata, 3)
    assert len(waiting) == 3 * MAX_DRAIN_MOVES
    assert "nobody leads it" in waiting["alone", 0]
    assert "broker 3, which is fenced" in waiting["alone", 0]
    # Nothing is due meanwhile, and all of it is when the broker is there again.
    active = ActiveController(metadata.image, metadata.config, metadata.random, 0)
    assert AdvanceDrains() not in active.due(0)
    metadata.restart(3, "second")
    assert told(metadata, 3) == {}
    rounds = 0
    while replicas_on(metadata.image, 3):
        assert advance(metadata) <= MAX_DRAIN_MOVES
        rounds += 1
        assert rounds < 100
    assert rounds == 3


def test_moves_towards_a_broker_that_is_gone_keep_nothing_from_moving():
    metadata = MetadataUnderTest(5)
    alone_on(metadata, 1, name="first", partitions=MAX_DRAIN_MOVES)
    alone_on(metadata, 1, name="second", partitions=MAX_DRAIN_MOVES)
    for node_id in (2, 3, 4):
        metadata.fence(node_id)
    metadata.apply(DrainBroker(1))
    metadata.apply(AdvanceDrains())
    assert [p.target_replicas for p in moving(metadata)] == [(5,)] * MAX_DRAIN_MOVES
    # The only target dies for good; the others come back.
    metadata.fence(5)
    for node_id in (2, 3, 4):
        metadata.restart(node_id, "second")
    waiting = told(metadata, 1)
    assert set(waiting) == {("first", number) for number in range(MAX_DRAIN_MOVES)}
    assert set(waiting.values()) == {"it waits for broker 5, which is fenced"}
    while any(1 in p.replicas for p in metadata.image.topic("second").partitions):
        before = replicas_on(metadata.image, 1)
        advance(metadata)
        assert replicas_on(metadata.image, 1) < before, "it stands still"
    # It is drained, as the runbook says: what was on its way there goes elsewhere.
    metadata.apply(DrainBroker(5))
    for node_id in (1, 5):
        while replicas_on(metadata.image, node_id):
            before = replicas_on(metadata.image, node_id)
            assert advance(metadata) <= MAX_DRAIN_MOVES
            assert replicas_on(metadata.image, node_id) < before, "it stands still"


def test_a_move_that_has_its_place_gets_another_target_though_there_is_no_room():
    metadata = MetadataUnderTest(5)
    alone_on(metadata, 1, name="first", partitions=2 * MAX_DRAIN_MOVES)
    for node_id in (2, 3, 4):
        metadata.fence(node_id)
    metadata.apply(DrainBroker(1))
    metadata.apply(AdvanceDrains())
    for node_id in (2, 3, 4):
        metadata.restart(node_id, "second")
    metadata.apply(DrainBroker(5))
    assert room_for_moves(metadata.image) == 0
    assert moves_are_due(metadata.image)
    metadata.apply(AdvanceDrains())
    assert len(moving(metadata)) == MAX_DRAIN_MOVES
    assert not any(5 in p.replicas for p in moving(metadata))
    assert not moves_are_due(metadata.image)


def test_what_could_not_come_to_its_end_is_not_begun():
    """Else it would be copied beside all the others: what cannot go on is not counted."""
    metadata = MetadataUnderTest(5)
    metadata.create(partitions=40)
    gone = next(n for n in metadata.partition().replicas if n != 1)
    metadata.fence(gone)
    metadata.apply(DrainBroker(1))
    advance_as_far_as_it_goes(metadata)
    for partition in metadata.image.topic("orders").partitions:
        assert 1 not in partition.replicas or gone in partition.replicas
    waiting = told(metadata, 1)
    assert len(waiting) == replicas_on(metadata.image, 1) > 0
    assert set(waiting.values()) == {f"it waits for broker {gone}, which is fenced"}
    assert not moving(metadata)
    # Both are to be left: one move is enough.
    metadata.apply(DrainBroker(gone))
    drain(metadata, 1)
    drain(metadata, gone)


def test_a_target_without_room_is_told_and_keeps_no_place():
    metadata = MetadataUnderTest(2)
    alone_on(metadata, 1, name="first", partitions=1)
    metadata.apply(DrainBroker(1))
    metadata.apply(AdvanceDrains())
    metadata.heartbeat(2, is_full=True)
    assert told(metadata, 1) == {("first", 0): "it waits for broker 2, whose disk is full"}
    assert room_for_moves(metadata.image) == MAX_DRAIN_MOVES


def test_a_move_that_lacks_a_broker_is_told():
    metadata = MetadataUnderTest(3)
    metadata.create(replication_factor=2)
    kept, leaving = metadata.partition().replicas
    metadata.apply(DrainBroker(leaving))
    metadata.fence(next(n for n in (1, 2, 3) if n not in (kept, leaving)))
    (detail,) = told(metadata, leaving).values()
    assert detail == "each broker that may take a replica has one of it already (1 broker)"
    assert told(metadata, kept) == {}, "it is not being drained"


def test_who_waits_for_a_directory_is_told():
    metadata = MetadataUnderTest(4)
    metadata.create(replication_factor=2)
    first, second = metadata.partition().replicas
    metadata.fence(second)
    metadata.restart(first, "second", directory_id="another")
    metadata.apply(DrainBroker(first))
    (detail,) = told(metadata, first).values()
    assert "directory with the id disk" in detail


def test_who_is_in_sync_only_where_it_is_added_is_told():
    metadata = MetadataUnderTest(5)
    alone_on(metadata, 1, name="first", partitions=1)
    metadata.apply(AlterReassignments((Reassignment("first", 0, (2, 3)),)))
    metadata.set_isr((1, 2), name="first")
    metadata.fence(1)
    metadata.fence(3)
    metadata.apply(DrainBroker(2))
    metadata.apply(DrainBroker(3))
    metadata.apply(AdvanceDrains())
    assert metadata.last_records == ()
    (detail,) = told(metadata, 2).values()
    assert "only [2] of its replicas is in sync" in detail


def test_what_is_in_sync_only_where_it_leaves_keeps_nothing_from_moving():
    metadata = MetadataUnderTest(6)
    alone_on(metadata, 1, name="first", partitions=MAX_DRAIN_MOVES)
    alone_on(metadata, 2, name="second", partitions=1)
    names = [("first", number) for number in range(MAX_DRAIN_MOVES)]
    metadata.apply(AlterReassignments(tuple(Reassignment(*name, (2, 3)) for name in names)))
    for name, number in names:
        metadata.set_isr((1, 2), name=name, partition=number)
    metadata.fence(1)
    metadata.fence(3)
    metadata.apply(DrainBroker(2))
    metadata.apply(DrainBroker(3))
    advance(metadata)
    assert 2 not in metadata.partition("second").replicas
    assert set(told(metadata, 2)) == set(names)
    assert not moves_are_due(metadata.image)


def test_who_is_there_and_lost_its_end_is_told():
    metadata = MetadataUnderTest(4)
    metadata.create(replication_factor=2)
    first, second = metadata.partition().replicas
    metadata.fence(second)
    lost = UnfitReplica(metadata.partition().topic_id, 0, lost_tail=True)
    metadata.apply(ReportUnfitReplicas(first, metadata.epoch(first), (lost,)))
    metadata.apply(DrainBroker(first))
    (detail,) = told(metadata, first).values()
    assert f"broker {first}, the last in-sync replica, is there and may not lead" in detail


def test_a_leadership_that_nobody_has_room_for_is_told_and_keeps_no_place():
    metadata = MetadataUnderTest(4)
    metadata.create(replication_factor=2)
    first, second = metadata.partition().replicas
    metadata.heartbeat(second, is_full=True)
    assert second in metadata.partition().isr
    metadata.apply(AlterReassignments((Reassignment("orders", 0, (second,)),)))
    metadata.apply(DrainBroker(first))
    (detail,) = told(metadata, first).values()
    assert detail == (
        f"it waits for broker {second}, whose disk is full: one of its new replicas has to lead it"
    )
    assert room_for_moves(metadata.image) == MAX_DRAIN_MOVES
    metadata.heartbeat(second)
    assert told(metadata, first) == {}
    assert room_for_moves(metadata.image) == MAX_DRAIN_MOVES - 1


def test_a_drain_is_called_off_with_its_moves():
    metadata = MetadataUnderTest(4)
    metadata.create(partitions=4)
    before = {p.partition: p.replicas for _, p in metadata.image.all_partitions()}
    metadata.apply(DrainBroker(1))
    metadata.apply(AdvanceDrains())
    assert any(p.is_reassigning for _, p in metadata.image.all_partitions())
    metadata.apply(CancelDrain(1))
    assert metadata.image.drains == {}
    assert {p.partition: p.replicas for _, p in metadata.image.all_partitions()} == before
    assert not any(p.is_reassigning for _, p in metadata.image.all_partitions())
    # Again it changes nothing.
    metadata.apply(CancelDrain(1))
    assert metadata.last_records == ()


def test_a_move_whose_new_replica_leads_already_goes_on_when_the_drain_is_called_off():
    metadata = MetadataUnderTest(2)
    alone_on(metadata, 1, name="first", partitions=1)
    metadata.hears_late = True
    metadata.apply(DrainBroker(1))
    metadata.apply(AdvanceDrains())
    metadata.set_isr((1, 2), name="first")
    assert metadata.partition("first").leader == 2
    metadata.apply(CancelDrain(1))
    assert metadata.image.drains == {}
    assert (metadata.partition("first").leader, metadata.partition("first").isr) == (2, (1, 2))
    metadata.finish_reassignments()
    assert metadata.partition("first").replicas == (2,)


def test_a_target_that_is_drained_after_it_led_is_left_only_when_all_have_heard():
    metadata = MetadataUnderTest(3)
    alone_on(metadata, 1, name="first", partitions=1)
    metadata.apply(AlterReassignments((Reassignment("first", 0, (2,)),)))
    metadata.hears_late = True
    metadata.set_isr((1, 2), name="first")
    metadata.apply(DrainBroker(2))
    metadata.apply(AdvanceDrains())
    assert metadata.last_records == ()
    metadata.hears_late = False
    metadata.finish_reassignments()
    drain(metadata, 2)
    assert 2 not in metadata.partition("first").replicas


def test_a_reassignment_towards_the_broker_is_turned_around():
    metadata = MetadataUnderTest(4)
    metadata.create(replication_factor=1)
    (home,) = metadata.partition().replicas
    goal = next(n for n in (1, 2, 3, 4) if n != home)
    metadata.apply(AlterReassignments((Reassignment("orders", 0, (goal,)),)))
    drain(metadata, goal)
    assert goal not in metadata.partition().replicas


def test_internal_topics_move_as_well():
    metadata = MetadataUnderTest(4)
    metadata.apply(CreateTopic("__consumer_offsets", 8, 3, internal=True))
    drain(metadata, 3)
    assert replicas_on(metadata.image, 3) == 0


def test_a_drained_broker_that_is_stopped_is_forgotten():
    metadata = MetadataUnderTest(4)
    metadata.create(partitions=4)
    with pytest.raises(ConflictError, match="drained before"):
        metadata.apply(UnregisterBroker(1))
    drain(metadata, 1)
    with pytest.raises(ConflictError, match="stopped before"):
        metadata.apply(UnregisterBroker(1))
    metadata.fence(1)
    epoch = metadata.epoch(1)
    metadata.apply(UnregisterBroker(1))
    assert 1 not in metadata.image.brokers
    assert 1 not in metadata.image.drains
    with pytest.raises(StaleBrokerEpochError):
        metadata.heartbeat(1, broker_epoch=epoch)
    # The node id is free, and a later process has another epoch.
    metadata.restart(1, "second")
    assert metadata.epoch(1) > epoch


def test_an_unknown_broker_is_told():
    for command in (DrainBroker(9), CancelDrain(9), UnregisterBroker(9)):
        with pytest.raises(NotFoundError):
            MetadataUnderTest().apply(command)


def test_drains_wait_for_their_feature_level():
    metadata = MetadataUnderTest(4)
    metadata.be_at_level(1)
    with pytest.raises(UnsupportedFeatureLevelError):
        metadata.apply(DrainBroker(1))
    assert decode_image(encode_image(metadata.image)) == metadata.image


def spread(counter, nodes):
    counts = [counter[n] for n in nodes]
    return max(counts) - min(counts)


@st.composite
def clusters(draw):
    racks = draw(st.integers(1, 3))
    per_rack = draw(st.integers(2, 3))
    count = racks * per_rack
    factor = draw(st.integers(1, min(3, count - 1)))
    topics = draw(st.lists(st.integers(1, 24), min_size=1, max_size=3))
    return racks, count, factor, topics, draw(st.integers(1, count)), draw(st.integers(0, 99))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(clusters())
def test_racks_replicas_and_leaders_stay_spread(cluster):
    """After a drain as after a creation: as many racks as there are, and nobody far above."""
    racks, count, factor, topics, leaving, seed = cluster
    rack_of = {n: f"rack{n % racks}" for n in range(1, count + 1)}
    metadata = MetadataUnderTest(count, racks=rack_of if racks > 1 else None, seed=seed)
    for number, partitions in enumerate(topics):
        metadata.create(f"t{number}", partitions=partitions, replication_factor=factor)
    drain(metadata, leaving)
    staying = [n for n in range(1, count + 1) if n != leaving]
    racks_left = len({rack_of[n] for n in staying})
    replicas, leaders = Counter(), Counter()
    for _, partition in metadata.image.all_partitions():
        if racks > 1:
            on = {rack_of[n] for n in partition.replicas}
            assert len(on) == min(racks_left, factor), partition
        replicas.update(partition.replicas)
        leaders[partition.replicas[0]] += 1
    if racks == 1:
        assert spread(replicas, staying) <= 1 + len(topics)
    assert spread(leaders, staying) <= 1 + 2 * len(topics)
