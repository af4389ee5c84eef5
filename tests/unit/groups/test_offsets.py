"""Offsets: who may commit what, what is fetched, and when they go."""

import pytest

from ottla_cluster.groups import offset_handlers
from ottla_cluster.groups.commands import (
    CommitOffsets,
    DeleteGroup,
    DescribeGroup,
    ExpireOffsets,
    FetchOffsets,
    ListGroups,
    OffsetToCommit,
    OffsetToSeek,
    OwnedTopic,
    RefreshTopics,
    SeekOffsets,
    SoughtOffset,
)
from ottla_protocol.errors import (
    CoordinatorLoadInProgressError,
    FencedInstanceIdError,
    FencedMemberEpochError,
    GroupIdNotFoundError,
    InvalidGroupIdError,
    InvalidRequestError,
    NonEmptyGroupError,
    OverloadedError,
    UnknownMemberIdError,
    UnknownTopicOrPartitionError,
)
from tests.unit.groups.groups_under_test import GroupsUnderTest

RETENTION_MS = 10_000


@pytest.fixture
def groups():
    return GroupsUnderTest(offsets_retention_ms=RETENTION_MS)


# --- commits of members ---


def test_an_owner_commits_and_reads_back_all_that_it_said(groups):
    generation = groups.join("a").generation
    entry = OffsetToCommit("orders", 1, 42, leader_epoch=7, metadata="so far")
    response = groups.apply(CommitOffsets("g", (entry,), "a", generation))
    assert [(c.topic, c.partition, c.offset) for c in response.offsets] == [("orders", 1, 42)]
    (found,) = groups.apply(FetchOffsets("g", (OwnedTopic("orders", (1,)),))).offsets
    assert (found.offset, found.leader_epoch, found.metadata) == (42, 7, "so far")
    assert found.commit_timestamp_ms == groups.timestamp_ms


def test_a_rebalance_elsewhere_never_fences_an_owner(groups):
    old = groups.join("a").generation
    groups.join("b")
    groups.settle()
    assert groups.owned("a") == ["orders-0", "orders-1"]
    groups.commit(0, 5, "a", old)
    assert groups.committed(0) == 5


def test_what_is_being_given_up_may_still_be_committed(groups):
    groups.join("a")
    groups.join("b")
    groups.beat("a", "orders-0", "orders-1", "orders-2")
    groups.commit(2, 5, "a")
    groups.beat("a", "orders-0", "orders-1")
    with pytest.raises(FencedMemberEpochError, match="orders-2"):
        groups.commit(2, 6, "a")
    assert groups.committed(2) == 5


def test_a_commit_from_an_earlier_tenure_is_refused(groups):
    first = groups.join("a").generation
    groups.beat("a", "orders-0", "orders-1")
    groups.commit(2, 5, "a")
    with pytest.raises(FencedMemberEpochError) as caught:
        groups.commit(2, 6, "a", first)
    assert caught.value.members["partition"] == 2
    with pytest.raises(FencedMemberEpochError):
        groups.commit(2, 6, "a", 99)


def test_one_fenced_partition_refuses_the_whole_commit(groups):
    generation = groups.join("a", ["orders"]).generation
    groups.set_topics(orders=3, clicks=1)
    entries = (OffsetToCommit("orders", 0, 5), OffsetToCommit("clicks", 0, 5))
    with pytest.raises(FencedMemberEpochError, match="clicks-0"):
        groups.apply(CommitOffsets("g", entries, "a", generation))
    assert groups.committed(0) is None


def test_a_commit_that_only_goes_forward_takes_nothing_back(groups):
    generation = groups.join("a", ["orders"]).generation

    def commit(*offsets, metadata="", epoch=None):
        entries = tuple(
            OffsetToCommit("orders", number, offset, epoch, metadata)
            for number, offset in enumerate(offsets)
        )
        command = CommitOffsets("g", entries, "a", generation, only_forward=True)
        return [each.offset for each in groups.apply(command).offsets]

    assert commit(5, 50, epoch=2) == [5, 50]
    assert commit(9, 8, epoch=1, metadata="late") == [9, 50]
    assert [groups.committed(0), groups.committed(1)] == [9, 50]
    found = groups.apply(FetchOffsets("g", (OwnedTopic("orders", (0, 1)),))).offsets
    assert [(each.leader_epoch, each.metadata) for each in found] == [(1, "late"), (2, "late")]
    groups.commit(1, 8, "a")
    assert groups.committed(1) == 8, "another commit goes where it says"


def test_a_commit_that_only_goes_forward_is_fenced_like_any_other(groups):
    first = groups.join("a").generation
    groups.commit(2, 5, "a")
    groups.beat("a", "orders-0", "orders-1")
    late = CommitOffsets("g", (OffsetToCommit("orders", 2, 3),), "a", first, only_forward=True)
    with pytest.raises(FencedMemberEpochError):
        groups.apply(late)


def test_forward_counts_from_the_topic_that_has_the_name_now(groups):
    groups.commit(0, 90)
    groups.set_topics()
    groups.set_topics(orders=3)
    entries = (OffsetToCommit("orders", 0, 4),)
    groups.apply(CommitOffsets("g", entries, only_forward=True))
    assert groups.committed(0) == 4


def test_only_members_commit_in_a_group_that_has_some(groups):
    groups.join("a1", instance_id="a")
    groups.join("a2", instance_id="a")
    with pytest.raises(UnknownMemberIdError):
        groups.commit(0, 5, "b", 1)
    with pytest.raises(FencedInstanceIdError):
        groups.commit(0, 5, "a1", 1)
    with pytest.raises(NonEmptyGroupError, match="member_id and generation are missing") as refused:
        groups.commit(0, 5)
    assert "has 1 member, and only they commit" in refused.value.detail
    assert refused.value.members["field"] == "member_id"
    for alone, missing in (({"member_id": "a2"}, "generation"), ({"generation": 1}, "member_id")):
        with pytest.raises(InvalidRequestError, match="together") as told:
            groups.apply(CommitOffsets("g", (OffsetToCommit("orders", 0, 5),), **alone))
        assert told.value.members["field"] == missing
    groups.leave("a2")
    with pytest.raises(UnknownMemberIdError):
        groups.commit(0, 5, "a2", 1)


def test_a_member_may_commit_where_the_view_has_not_the_topic_yet(groups):
    old = groups.view
    groups.set_topics(orders=3, clicks=1)
    groups.join("a", ["clicks"])
    groups.view = old
    groups.commit(0, 5, "a", topic="clicks")
    with pytest.raises(CoordinatorLoadInProgressError):
        groups.committed(0, "clicks")
    with pytest.raises(CoordinatorLoadInProgressError):
        groups.apply(DescribeGroup("g"))
    groups.apply(ExpireOffsets("g"))
    assert groups.last_records == ()


# --- groups without members ---


def test_a_group_without_members_commits_freely(groups):
    groups.commit(0, 5)
    groups.commit(0, 3)
    assert groups.committed(0) == 3
    assert groups.committed(1) is None
    with pytest.raises(UnknownTopicOrPartitionError, match="0 to 2"):
        groups.commit(3, 5)
    with pytest.raises(UnknownTopicOrPartitionError, match="clicks"):
        groups.commit(0, 5, topic="clicks")


def test_nothing_committed_is_no_error(groups):
    assert groups.apply(FetchOffsets("g")).offsets == ()
    assert groups.committed(0) is None
    with pytest.raises(InvalidGroupIdError):
        groups.apply(FetchOffsets(""))


def test_all_offsets_are_told_by_topic_and_partition():
    groups = GroupsUnderTest(topics={"orders": 3, "clicks": 1})
    groups.commit(2, 5)
    groups.commit(0, 6)
    groups.commit(0, 7, topic="clicks")
    found = groups.apply(FetchOffsets("g")).offsets
    assert [(f.topic, f.partition, f.offset) for f in found] == [
        ("clicks", 0, 7),
        ("orders", 0, 6),
        ("orders", 2, 5),
    ]


@pytest.mark.parametrize(
    ("entries", "says", "field"),
    [
        ((), "1 to 1000", "offsets"),
        (tuple(OffsetToCommit("orders", n, 0) for n in range(1_001)), "1001", "offsets"),
        ((OffsetToCommit("orders", 0, -1),), "orders-0", "offsets[0].offset"),
        ((OffsetToCommit("orders", 0, 2**63),), "orders-0", "offsets[0].offset"),
        (
            (OffsetToCommit("orders", 0, 1), OffsetToCommit("orders", 0, 2)),
            "twice",
            "offsets[1].partition",
        ),
        (
            (OffsetToCommit("orders", 0, 1, metadata="x" * 4_097),),
            "4096",
            "offsets[0].metadata",
        ),
        (
            tuple(OffsetToCommit("orders", n, 1, metadata="x" * 4_096) for n in range(17)),
            "65536",
            "offsets",
        ),
    ],
)
def test_a_commit_out_of_bounds_is_refused(groups, entries, says, field):
    with pytest.raises(InvalidRequestError, match=says) as caught:
        groups.apply(CommitOffsets("g", entries))
    assert caught.value.members["field"] == field


def test_offsets_and_groups_have_limits(groups, monkeypatch):
    monkeypatch.setattr(offset_handlers, "MAX_OFFSETS_PER_GROUP", 1)
    monkeypatch.setattr(offset_handlers, "MAX_GROUPS", 1)
    groups.commit(0, 5)
    groups.commit(0, 6)
    with pytest.raises(InvalidRequestError, match="1 committed"):
        groups.commit(1, 5)
    with pytest.raises(OverloadedError):
        groups.apply(CommitOffsets("h", (OffsetToCommit("orders", 0, 5),)))


# --- seek ---


def test_a_dry_run_tells_what_a_seek_would_do(groups):
    groups.commit(0, 5)
    wanted = (OffsetToSeek("orders", 0, 2), OffsetToSeek("orders", 1, 9))
    told = groups.apply(SeekOffsets("g", wanted, dry_run=True))
    assert told.dry_run
    assert told.offsets == (SoughtOffset("orders", 0, 5, 2), SoughtOffset("orders", 1, None, 9))
    assert groups.committed(0) == 5
    done = groups.apply(SeekOffsets("g", wanted))
    assert done.offsets == told.offsets
    assert (groups.committed(0), groups.committed(1)) == (2, 9)


def test_a_group_with_members_cannot_be_moved(groups):
    groups.join("a")
    with pytest.raises(NonEmptyGroupError, match="has 1 member, and offsets are moved while"):
        groups.apply(SeekOffsets("g", (OffsetToSeek("orders", 0, 2),)))
    groups.leave("a")
    with pytest.raises(UnknownTopicOrPartitionError):
        groups.apply(SeekOffsets("g", (OffsetToSeek("orders", 9, 2),)))


# --- expiry and deletion ---


def test_offsets_of_a_group_with_members_stay(groups):
    groups.join("a")
    groups.commit(0, 5, "a")
    groups.timestamp_ms += 100 * RETENTION_MS
    groups.apply(ExpireOffsets("g", retention_is_over=True))
    assert groups.last_records == ()
    groups.leave("a")
    groups.timestamp_ms += RETENTION_MS - 1
    groups.apply(ExpireOffsets("g", retention_is_over=True))
    assert groups.committed(0) == 5
    groups.timestamp_ms += 1
    groups.apply(ExpireOffsets("g"))
    assert groups.committed(0) == 5
    groups.apply(ExpireOffsets("g", retention_is_over=True))
    assert groups.image.groups == {}


def test_each_offset_of_a_group_without_members_has_its_own_time(groups):
    groups.commit(0, 5)
    groups.timestamp_ms += RETENTION_MS - 1
    groups.commit(1, 6)
    groups.timestamp_ms += 1
    groups.apply(ExpireOffsets("g", retention_is_over=True))
    assert (groups.committed(0), groups.committed(1)) == (None, 6)


def test_a_deleted_topic_takes_its_offsets_along(groups):
    groups.join("a")
    groups.commit(0, 5, "a")
    groups.set_topics(clicks=1)
    groups.set_topics(clicks=1, orders=3)
    assert groups.committed(0) is None, "the new topic of that name has none"
    groups.apply(ExpireOffsets("g"))
    assert groups.group().offsets == {}
    assert groups.apply(ExpireOffsets("other")).__class__.__name__ == "DoneResponse"


def test_a_commit_in_a_topic_that_was_created_again_is_refused_until_it_is_assigned(groups):
    groups.join("a")
    groups.set_topics(clicks=1)
    with pytest.raises(UnknownTopicOrPartitionError, match="deleted"):
        groups.commit(0, 5, "a")
    groups.set_topics(orders=3)
    with pytest.raises(FencedMemberEpochError, match="created again"):
        groups.commit(0, 5, "a")
    groups.apply(RefreshTopics("g"))
    groups.beat("a", "orders-0", "orders-1", "orders-2")
    groups.beat("a")
    groups.commit(0, 1, "a")
    assert groups.committed(0) == 1
    assert {topic_id for topic_id, _ in groups.group().offsets} == {
        groups.view.topics["orders"].topic_id
    }


def test_a_group_is_deleted_with_its_offsets(groups):
    groups.join("a")
    groups.commit(0, 5, "a")
    with pytest.raises(NonEmptyGroupError, match="has 1 member: it is in use"):
        groups.apply(DeleteGroup("g"))
    groups.leave("a")
    groups.apply(DeleteGroup("g"))
    assert groups.image.groups == {}
    for gone in (DeleteGroup("g"), DescribeGroup("g")):
        with pytest.raises(GroupIdNotFoundError):
            groups.apply(gone)


# --- description ---


def test_a_group_is_described():
    groups = GroupsUnderTest(topics={"orders": 2, "clicks": 1})
    groups.join("a", client_id="app", instance_id="i")
    groups.commit(0, 5, "a")
    groups.join("b", None, pattern="o.*")
    groups.beat("a", "orders-0", "orders-1")
    told = groups.apply(DescribeGroup("g"))
    assert (told.group, told.state, told.assignor) == ("g", "reconciling", "sticky")
    assert told.generation == groups.group().generation
    first, second = told.members
    assert (first.member_id, first.client_id, first.instance_id) == ("a", "app", "i")
    assert [topic.partitions for topic in first.owned] == [(0,)]
    assert [topic.partitions for topic in first.revoking] == [(1,)]
    assert [topic.partitions for topic in second.target] == [(1,)]
    assert (second.topics, second.pattern) == (("orders",), "o.*")
    assert [(f.topic, f.partition, f.offset) for f in told.offsets] == [("orders", 0, 5)]
    groups.settle()
    assert groups.apply(DescribeGroup("g")).state == "stable"


def test_groups_are_listed_by_id(groups):
    groups.join("a", group="h")
    groups.commit(0, 5)
    told = groups.apply(ListGroups()).groups
    assert [(g.group, g.state, g.members) for g in told] == [("g", "empty", 0), ("h", "stable", 1)]
