"""Consumer instances of the REST Proxy API: records and positions at the coordinator."""

from random import Random

import msgspec
import pytest

from ottla_cluster.controller.features import CONSUMER_INSTANCES, LATEST_FEATURE_LEVEL
from ottla_cluster.groups import instance_handlers
from ottla_cluster.groups.active_coordinator import ActiveCoordinator
from ottla_cluster.groups.cluster_view import ClusterView
from ottla_cluster.groups.commands import DeleteGroup, ExpireOffsets
from ottla_cluster.groups.config import GroupConfig
from ottla_cluster.groups.instance_commands import (
    AssignInstance,
    CommitInstance,
    CreateInstance,
    DescribeInstance,
    ExpireInstances,
    InstanceSettings,
    MoveInstance,
    OfferRecords,
    PollInstance,
    RemoveInstance,
    SettleDelivery,
    SubscribeInstance,
    TopicPartitionName,
)
from ottla_cluster.groups.messages import OffsetToCommit
from ottla_protocol.errors import (
    ConflictError,
    FencedMemberEpochError,
    GroupMaxSizeReachedError,
    InvalidRequestError,
    NonEmptyGroupError,
    NotFoundError,
    UnknownTopicOrPartitionError,
    UnsupportedFeatureLevelError,
)
from tests.unit.groups.groups_under_test import GroupsUnderTest

SETTINGS = InstanceSettings("json", "earliest", False, -1, None, 60_000)


class InstancesUnderTest(GroupsUnderTest):
    """A coordinator's log in memory, at the newest feature level."""

    def set_topics(self, **partition_counts):
        super().set_topics(**partition_counts)
        self.view = ClusterView(self.view.version, self.view.topics, LATEST_FEATURE_LEVEL)

    def create(self, name="one", **changed):
        settings = msgspec.structs.replace(SETTINGS, **changed)
        return self.apply(CreateInstance("g", name, f"creation of {name}", settings))

    def subscribe(self, *topics, name="one"):
        return self.apply(SubscribeInstance("g", name, topics or None))

    def assign(self, *partitions, name="one"):
        names = tuple(TopicPartitionName("orders", partition) for partition in partitions)
        return self.apply(AssignInstance("g", name, names))

    def poll(self, name="one", void=None):
        return self.apply(PollInstance("g", name, void))

    def offer(self, partition, start, end, *, name="one", delivery="d"):
        held = {each.partition: each for each in self.apply(DescribeInstance("g", name)).partitions}
        starts = (msgspec.structs.replace(held[partition], offset=start),)
        ends = (msgspec.structs.replace(held[partition], offset=end),)
        return self.apply(OfferRecords("g", name, delivery, 1, 7, starts, ends))

    def sent(self, partition, start, end, *, name="one", delivery="d"):
        """A request for records that was answered and received."""
        self.poll(name)
        self.offer(partition, start, end, name=name, delivery=delivery)
        return self.apply(SettleDelivery("g", name, delivery, is_delivered=True))

    def positions(self, name="one"):
        state = self.apply(DescribeInstance("g", name))
        return {each.partition: each.offset for each in state.partitions}


@pytest.fixture
def groups():
    made = InstancesUnderTest()
    made.create()
    return made


def test_what_was_sent_is_read_and_what_was_not_is_read_again(groups):
    groups.subscribe("orders")
    groups.sent(0, 0, 5)
    assert groups.positions() == {0: 5, 1: None, 2: None}
    groups.poll()
    groups.offer(0, 5, 9, delivery="lost")
    groups.apply(SettleDelivery("g", "one", "lost", is_delivered=False))
    assert groups.positions()[0] == 5
    assert groups.committed(0) is None


def test_requests_wait_for_a_delivery_until_it_is_settled_or_void(groups):
    groups.subscribe("orders")
    groups.offer(0, 0, 5)
    before = groups.image
    pending = groups.poll().pending
    assert (pending.delivery_id, pending.node_id, pending.broker_epoch) == ("d", 1, 7)
    assert groups.apply(CommitInstance("g", "one")).pending == pending
    moved = (OffsetToCommit("orders", 0, 3),)
    assert groups.apply(MoveInstance("g", "one", moved)).pending == pending
    with pytest.raises(FencedMemberEpochError):
        groups.offer(0, 0, 5, delivery="other")
    assert groups.image is before
    assert groups.poll(void="another").pending == pending
    # Whoever knows that the broker is gone goes on; the broker's word comes too late.
    assert groups.poll(void="d").pending is None
    groups.apply(SettleDelivery("g", "one", "d", is_delivered=True))
    assert groups.positions()[0] is None


def test_an_offer_counts_once_and_only_from_where_the_instance_is(groups):
    groups.subscribe("orders")
    groups.sent(0, 0, 5)
    groups.offer(0, 5, 9, delivery="again")
    image = groups.image
    groups.offer(0, 5, 9, delivery="again")
    assert groups.image is image
    groups.apply(SettleDelivery("g", "one", "again", is_delivered=True))
    with pytest.raises(FencedMemberEpochError, match="position"):
        groups.offer(0, 5, 9, delivery="late")


def test_a_commit_of_all_takes_what_was_sent_and_no_more(groups):
    groups.subscribe("orders")
    groups.sent(0, 0, 5)
    groups.sent(1, 0, 2, delivery="e")
    groups.offer(2, 0, 8, delivery="f")
    groups.apply(SettleDelivery("g", "one", "f", is_delivered=False))
    groups.apply(CommitInstance("g", "one"))
    assert [groups.committed(partition) for partition in range(3)] == [5, 2, None]
    image = groups.image
    groups.apply(CommitInstance("g", "one"))
    assert groups.image is image, "there is nothing to commit"
    groups.apply(CommitInstance("g", "one", (OffsetToCommit("orders", 0, 3),)))
    assert groups.committed(0) == 3


def test_positions_mean_nothing_once_another_member_had_the_partition(groups):
    groups.subscribe("orders")
    groups.sent(0, 0, 5)
    groups.join("other")
    groups.settle()
    lost = [partition for partition in range(3) if partition not in groups.positions()]
    assert lost
    groups.poll()
    groups.leave("other")
    groups.poll()
    positions = groups.positions()
    assert set(positions) == {0, 1, 2}
    kept = 5 if 0 not in lost else None
    assert positions[0] == kept
    groups.apply(CommitInstance("g", "one"))
    assert groups.committed(0) == kept


def test_partitions_are_given_up_by_the_next_request_and_not_before(groups):
    groups.subscribe("orders")
    groups.sent(0, 0, 5)
    groups.sent(1, 0, 5, delivery="e")
    groups.sent(2, 0, 5, delivery="f")
    groups.join("other")
    assert groups.owned("other") == []
    # The client may still commit what it has read there.
    groups.apply(CommitInstance("g", "one"))
    assert [groups.committed(partition) for partition in range(3)] == [5, 5, 5]
    groups.poll()
    groups.beat("other")
    assert groups.owned("other")


def test_auto_commit_takes_what_was_read_before_this_request():
    groups = InstancesUnderTest()
    groups.create(auto_commit=True)
    groups.subscribe("orders")
    groups.sent(0, 0, 5)
    assert groups.committed(0) is None
    groups.poll()
    assert groups.committed(0) == 5
    groups.sent(0, 5, 8, delivery="e")
    groups.apply(RemoveInstance("g", "one"))
    assert groups.committed(0) == 8
    assert not groups.group().instances
    assert not groups.group().progress
    assert not groups.group().members


def test_an_idle_instance_commits_nothing_when_it_goes():
    groups = InstancesUnderTest()
    groups.create(auto_commit=True)
    groups.subscribe("orders")
    groups.sent(0, 0, 5)
    groups.apply(ExpireInstances("g", ("one", "unknown")))
    assert groups.committed(0) is None
    assert not groups.group().members
    with pytest.raises(NotFoundError):
        groups.poll()


def test_an_instance_that_lost_its_membership_gets_it_back_by_its_next_request(groups):
    groups.subscribe("orders")
    groups.sent(0, 0, 5)
    groups.leave("one")
    assert groups.positions() == {}
    with pytest.raises(FencedMemberEpochError):
        groups.apply(CommitInstance("g", "one", (OffsetToCommit("orders", 0, 3),)))
    assert [each.offset for each in groups.poll().partitions] == [None, None, None]


def test_a_commit_of_all_that_a_lost_membership_had_read_is_no_success(groups):
    groups.subscribe("orders")
    groups.apply(CommitInstance("g", "one"))
    groups.sent(0, 0, 5)
    groups.leave("one")
    with pytest.raises(FencedMemberEpochError, match="lost its place"):
        groups.apply(CommitInstance("g", "one"))
    assert groups.committed(0) is None
    groups.poll()
    groups.apply(CommitInstance("g", "one"))


def test_instances_of_a_group_choose_so_many_partitions_together(groups, monkeypatch):
    monkeypatch.setattr(instance_handlers, "MAX_CHOSEN_PARTITIONS", 4)
    groups.create("two")
    groups.assign(0, 1, 2)
    with pytest.raises(GroupMaxSizeReachedError):
        groups.assign(0, 1, name="two")
    groups.assign(2, name="two")
    groups.assign(0, 2)
    groups.assign(0, 1, name="two")


def test_chosen_partitions_need_no_group(groups):
    groups.assign(0, 2)
    groups.sent(0, 0, 4)
    groups.apply(MoveInstance("g", "one", (OffsetToCommit("orders", 2, 9),)))
    assert groups.positions() == {0: 4, 2: 9}
    assert not groups.group().members
    groups.apply(CommitInstance("g", "one"))
    assert (groups.committed(0), groups.committed(2)) == (4, 9)
    groups.assign(2)
    assert groups.positions() == {2: 9}
    groups.join("member")
    groups.apply(MoveInstance("g", "one", (OffsetToCommit("orders", 2, 1),)))
    with pytest.raises(NonEmptyGroupError):
        groups.apply(CommitInstance("g", "one"))


def test_an_instance_reads_in_one_way_at_a_time(groups):
    groups.subscribe("orders")
    with pytest.raises(ConflictError):
        groups.assign(0)
    with pytest.raises(ConflictError):
        groups.apply(SubscribeInstance("g", "one", pattern=".*"))
    groups.apply(SubscribeInstance("g", "one"))
    assert not groups.group().members
    groups.apply(SubscribeInstance("g", "one", pattern="ord.*"))
    assert groups.apply(DescribeInstance("g", "one")).subscription == ("orders",)
    with pytest.raises(ConflictError):
        groups.subscribe("orders")
    groups.apply(SubscribeInstance("g", "one"))
    groups.assign(1)
    with pytest.raises(ConflictError):
        groups.subscribe("orders")


def test_what_cannot_be(groups):
    assert groups.create().instance_id == "one", "the same request, once more"
    with pytest.raises(ConflictError):
        groups.apply(CreateInstance("g", "one", "another", SETTINGS))
    groups.join("member")
    with pytest.raises(ConflictError):
        groups.create("member")
    with pytest.raises(InvalidRequestError):
        groups.create("two", idle_timeout_ms=1)
    with pytest.raises(UnknownTopicOrPartitionError):
        groups.assign(7)
    with pytest.raises(ConflictError, match="does not read"):
        groups.apply(MoveInstance("g", "one", (OffsetToCommit("orders", 0, 3),)))
    groups.view = ClusterView(groups.view.version, groups.view.topics, CONSUMER_INSTANCES.level - 1)
    with pytest.raises(UnsupportedFeatureLevelError):
        groups.create("two")


def test_a_group_with_an_instance_is_neither_deleted_nor_forgotten(groups):
    groups.assign(0)
    groups.sent(0, 0, 4)
    groups.apply(CommitInstance("g", "one"))
    with pytest.raises(NonEmptyGroupError):
        groups.apply(DeleteGroup("g"))
    groups.timestamp_ms += 10 * groups.config.offsets_retention_ms
    groups.apply(ExpireOffsets("g", retention_is_over=True))
    assert groups.committed(0) == 4


def test_instances_that_nobody_asks_for_go_and_others_stay(groups):
    groups.create("two")
    coordinator = ActiveCoordinator(groups.image, GroupConfig(), Random(1), 0)
    idle_ms = SETTINGS.idle_timeout_ms
    asked = DescribeInstance("g", "two")
    coordinator.submit(asked, idle_ms - 1, 0, groups.view)
    assert coordinator.due(idle_ms - 1, 0, groups.view) == ()
    assert coordinator.due(idle_ms, 0, groups.view) == (ExpireInstances("g", ("one",)),)
    # A request that is under way keeps its instance, however long it takes.
    coordinator.arrived(DescribeInstance("g", "one"))
    assert coordinator.due(idle_ms, 0, groups.view) == ()
    coordinator.answered(DescribeInstance("g", "one"), idle_ms)
    assert coordinator.due(2 * idle_ms - 2, 0, groups.view) == ()
    both = ExpireInstances("g", ("one", "two"))
    assert coordinator.due(2 * idle_ms, 0, groups.view) == (both,)
    # A new coordinator knows nothing of former requests, and neither does one that stood still.
    coordinator.restart_sessions(2 * idle_ms)
    assert coordinator.due(2 * idle_ms, 0, groups.view) == ()
