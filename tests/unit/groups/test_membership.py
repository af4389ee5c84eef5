"""Members join, keep their place and go, and only what must move moves."""

import pytest

from ottla_cluster.groups import membership_handlers
from ottla_cluster.groups.commands import (
    DeleteGroup,
    ExpireMembers,
    Heartbeat,
    Join,
    Leave,
    OverdueMember,
    RefreshTopics,
)
from ottla_cluster.groups.records import CurrentAssigned, GroupChanged
from ottla_protocol.errors import (
    CoordinatorLoadInProgressError,
    FencedInstanceIdError,
    FencedMemberEpochError,
    GroupMaxSizeReachedError,
    InvalidGroupIdError,
    InvalidPatternError,
    InvalidRequestError,
    InvalidSessionTimeoutError,
    InvalidTopicError,
    OverloadedError,
    UnknownMemberIdError,
    UnsupportedAssignorError,
)
from tests.unit.groups.groups_under_test import GroupsUnderTest, names


@pytest.fixture
def groups():
    return GroupsUnderTest()


# --- joining ---


def test_the_first_member_has_everything_at_once(groups):
    joined = groups.join("a")
    assert names(joined.assignment) == ["orders-0", "orders-1", "orders-2"]
    assert joined.assignment[0].topic_id == groups.view.topics["orders"].topic_id
    assert joined.member_id == "a"
    assert joined.generation == groups.group().generation > 0
    assert joined.session_timeout_ms == groups.config.default_session_timeout_ms
    assert joined.heartbeat_interval_ms == groups.config.heartbeat_interval_ms


def test_the_coordinator_chooses_a_member_id_for_who_has_none(groups):
    first, second = groups.join(None).member_id, groups.join(None).member_id
    assert set(groups.group().members) == {first, second}
    assert len(first) == 32


def test_a_repeated_join_is_one_membership(groups):
    first = groups.join("a")
    assert groups.join("a") == first
    assert groups.last_records == ()


def test_a_second_member_gets_its_share_once_it_is_given_up(groups):
    groups.join("a")
    joined = groups.join("b")
    assert joined.assignment == ()
    assert joined.heartbeat_interval_ms == groups.config.rebalance_heartbeat_interval_ms
    assert groups.beat("b").assignment is None
    told = groups.beat("a", "orders-0", "orders-1", "orders-2")
    assert names(told.assignment) == ["orders-0", "orders-1"]
    assert groups.beat("b").assignment is None, "still worked on by a"
    assert groups.beat("a", "orders-0", "orders-1").assignment is None
    given = groups.beat("b")
    assert names(given.assignment) == ["orders-2"]
    assert given.generation > joined.generation


def test_four_members_on_three_partitions_leave_one_idle_which_takes_over(groups):
    for member_id in "abcd":
        groups.join(member_id)
    owned = groups.settle()
    assert sorted(map(len, owned.values())) == [0, 1, 1, 1]
    groups.leave(next(m for m, partitions in owned.items() if partitions))
    assert sorted(map(len, groups.settle().values())) == [1, 1, 1]


def test_two_groups_own_everything_independently(groups):
    groups.join("a", group="g")
    groups.join("a", group="h")
    assert groups.owned("a", "g") == groups.owned("a", "h")
    assert len(groups.owned("a", "g")) == 3


def test_members_read_what_they_subscribe_to():
    groups = GroupsUnderTest(topics={"orders": 2, "clicks": 2, "__consumer_offsets": 1})
    groups.join("a", ["clicks"])
    groups.join("b", None, pattern="o.*|c.*")
    groups.join("c", ["not-yet"])
    owned = groups.settle()
    assert owned["c"] == []
    assert {name[:6] for name in owned["a"]} == {"clicks"}
    assert {"orders-0", "orders-1"} <= set(owned["b"])


def test_a_member_may_subscribe_anew():
    groups = GroupsUnderTest(topics={"orders": 1, "clicks": 1})
    groups.join("a", ["orders"])
    again = groups.join("a", ["clicks"])
    assert names(again.assignment) == ["clicks-0"]
    assert groups.settle() == {"a": ["clicks-0"]}


def test_the_first_member_chooses_the_assignor(groups):
    groups.join("a", assignor="range")
    groups.join("b")
    with pytest.raises(UnsupportedAssignorError, match="'range'"):
        groups.join("c", assignor="sticky")
    groups.leave("b")
    groups.join("a", assignor="sticky")
    assert groups.group().assignor == "sticky"


def test_round_robin_may_be_spelled_as_elsewhere(groups):
    groups.join("a", assignor="round-robin")
    groups.join("b", assignor="roundrobin")
    assert groups.group().assignor == "round_robin"
    assert groups.settle() == {"a": ["orders-0", "orders-2"], "b": ["orders-1"]}


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"group": ""}, InvalidGroupIdError, "1 to 249"),
        ({"group": ".."}, InvalidGroupIdError, "printable"),
        ({"group": "a\nb"}, InvalidGroupIdError, "printable"),
        ({"group": "g" * 250}, InvalidGroupIdError, "250"),
        ({"member_id": ""}, InvalidRequestError, "member_id"),
        ({"instance_id": "i" * 256}, InvalidRequestError, "instance_id"),
        ({"client_id": "\x00"}, InvalidRequestError, "client_id"),
        ({"session_timeout_ms": 999}, InvalidSessionTimeoutError, "1000 to 1800000"),
        ({"session_timeout_ms": 1_800_001}, InvalidSessionTimeoutError, "1000 to 1800000"),
        ({"rebalance_timeout_ms": 0}, InvalidRequestError, "rebalance_timeout_ms"),
        ({"assignor": "fastest"}, UnsupportedAssignorError, "fastest"),
        ({"topics": ()}, InvalidRequestError, "topics"),
        ({"topics": tuple(f"t{n}" for n in range(1_001))}, InvalidRequestError, "1001"),
        ({"topics": ("orders",), "pattern": "o.*"}, InvalidRequestError, "not both"),
        ({"topics": None}, InvalidRequestError, "pattern"),
        ({"topics": None, "pattern": "("}, InvalidPatternError, "pattern"),
        ({"topics": ("a/b",)}, InvalidTopicError, "a/b"),
        ({"topics": ("__consumer_offsets",)}, InvalidTopicError, "internal"),
    ],
)
def test_a_join_out_of_bounds_is_refused(groups, fields, error, says):
    with pytest.raises(error, match=says) as caught:
        groups.apply(Join(**({"group": "g", "topics": ("orders",)} | fields)))
    if error in (InvalidRequestError, InvalidSessionTimeoutError, InvalidTopicError):
        assert caught.value.members["field"].removesuffix("[0]") == next(iter(fields))


def test_a_group_has_a_limit(groups, monkeypatch):
    monkeypatch.setattr(membership_handlers, "MAX_MEMBERS", 2)
    monkeypatch.setattr(membership_handlers, "MAX_GROUPS", 1)
    groups.join("a")
    groups.join("b")
    with pytest.raises(GroupMaxSizeReachedError):
        groups.join("c")
    groups.join("b")
    with pytest.raises(OverloadedError):
        groups.join("a", group="h")


# --- heartbeats ---


def test_a_settled_heartbeat_writes_nothing(groups):
    groups.join("a")
    response = groups.beat("a", "orders-0", "orders-1", "orders-2")
    assert response.assignment is None
    assert groups.last_records == ()


def test_a_heartbeat_that_says_nothing_is_told_everything_and_gives_nothing_up(groups):
    joined = groups.join("a")
    response = groups.apply(Heartbeat("g", "a", joined.generation))
    assert response.assignment == joined.assignment
    assert groups.last_records == ()


def test_a_member_that_missed_the_reply_is_told_again(groups):
    groups.join("a")
    joined = groups.join("b")
    groups.beat("a", "orders-0", "orders-1")
    given = groups.beat("b", generation=joined.generation)
    again = groups.beat("b", generation=joined.generation)
    assert again.assignment == given.assignment
    assert again.generation == given.generation
    assert groups.last_records == ()


def test_a_heartbeat_from_before_an_assignment_gives_nothing_of_it_up(groups):
    """It knows nothing of partition 2; its silence is no release, though 2 is being revoked."""
    groups.join("a")
    old = groups.join("b").generation
    groups.beat("a", "orders-0", "orders-1")
    groups.beat("b")
    assert groups.owned("b") == ["orders-2"]
    groups.join("c")
    groups.join("d")
    groups.set_topics(orders=1)
    groups.apply(RefreshTopics("g"))
    groups.beat("b", generation=old)
    assert ("orders", 2) in groups.group().holders
    groups.beat("b")
    assert ("orders", 2) not in groups.group().holders


def test_what_a_member_drops_by_itself_comes_back_in_a_new_generation(groups):
    first = groups.join("a").generation
    response = groups.beat("a", "orders-0")
    assert names(response.assignment) == ["orders-0", "orders-1", "orders-2"]
    assert response.generation > first
    held = groups.group().currents["a"].owned
    assert [held["orders", number].generation for number in range(3)] == [
        first,
        response.generation,
        response.generation,
    ]


def test_a_rebalance_elsewhere_leaves_an_owner_alone():
    groups = GroupsUnderTest(topics={"orders": 1, "clicks": 4})
    before = groups.join("a", ["orders"])
    groups.all_records.clear()
    groups.join("b", ["clicks"])
    groups.join("c", ["clicks"])
    groups.settle()
    touched = {r.member_id for r in groups.all_records if isinstance(r, CurrentAssigned)}
    assert touched == {"b", "c"}
    assert groups.beat("a", "orders-0").generation == before.generation


def test_a_member_goes_on_with_nothing_that_it_lost_and_got_again(groups):
    """A late copy of its join made it a member once more; others may have read on between."""
    groups.join("a")
    former = groups.group().currents["a"].generation
    groups.leave("a")
    groups.join("b")
    groups.commit(0, 7, "b")
    groups.leave("b")
    groups.join("a")
    with pytest.raises(FencedMemberEpochError, match="orders-0 since generation"):
        groups.beat("a", "orders-0", generation=former)
    assert "orders-0" in names(groups.beat("a", generation=former).assignment)


def test_strangers_and_generations_from_the_future_are_refused(groups):
    with pytest.raises(UnknownMemberIdError):
        groups.apply(Heartbeat("g", "a", 1))
    groups.join("a")
    with pytest.raises(UnknownMemberIdError):
        groups.apply(Heartbeat("g", "b", 1))
    with pytest.raises(FencedMemberEpochError) as caught:
        groups.beat("a", generation=99)
    assert caught.value.members == {"generation": groups.group().currents["a"].generation}


# --- going ---


def test_the_partitions_of_who_leaves_are_free_at_once(groups):
    groups.join("a")
    groups.join("b")
    groups.settle()
    groups.leave("a")
    assert names(groups.beat("b", *groups.owned("b")).assignment) == [
        "orders-0",
        "orders-1",
        "orders-2",
    ]
    with pytest.raises(UnknownMemberIdError):
        groups.leave("a")


def silent(group, *member_ids):
    return ExpireMembers(group, tuple(OverdueMember(name, "silent") for name in member_ids))


def test_all_who_fall_silent_together_go_by_one_rebalance(groups):
    for name in "abcd":
        groups.join(name)
    groups.settle()
    generation = groups.group().generation
    groups.apply(silent("g", "a", "b", "gone", "c"))
    assert groups.group().generation == generation + 1
    assert list(groups.group().members) == ["d"]
    assert groups.settle() == {"d": ["orders-0", "orders-1", "orders-2"]}
    groups.apply(silent("g", "a", "b"))
    assert groups.last_records == ()


def test_who_expires_may_join_again_in_a_later_generation(groups):
    before = groups.join("a").generation
    groups.apply(silent("g", "a"))
    assert groups.group().empty_since_ms == groups.timestamp_ms
    groups.apply(silent("g", "a"))
    groups.apply(silent("h", "a"))
    assert groups.last_records == ()
    assert groups.join("a").generation > before
    assert groups.group().empty_since_ms is None


# --- static members ---


@pytest.mark.parametrize("offsets_come_first", [False, True])
def test_a_group_that_was_deleted_begins_in_a_later_generation(groups, offsets_come_first):
    """So a commit of its former life is refused, though the member has its name again."""
    groups.join("a")
    former = groups.group().currents["a"].generation
    groups.leave("a")
    groups.apply(DeleteGroup("g"))
    if offsets_come_first:
        groups.commit(0, 1)
    groups.join("a")
    assert groups.owned("a") == ["orders-0", "orders-1", "orders-2"]
    with pytest.raises(FencedMemberEpochError):
        groups.commit(0, 5, "a", former)
    assert groups.group().currents["a"].generation > former


def test_a_static_member_restarts_without_a_rebalance(groups):
    groups.join("a1", instance_id="a")
    groups.join("b")
    groups.settle()
    owned, targets = groups.owned("a1"), groups.group().targets
    joined = groups.join("a2", instance_id="a")
    assert names(joined.assignment) == owned
    assert groups.group().targets == {"a2": targets["a1"], "b": targets["b"]}
    changed = [r for r in groups.last_records if isinstance(r, CurrentAssigned)]
    assert [record.member_id for record in changed] == ["a2"]


def test_a_static_member_that_is_alone_may_return_with_other_settings():
    groups = GroupsUnderTest(topics={"orders": 1, "clicks": 1})
    groups.join("a1", ["orders"], instance_id="a", assignor="range")
    joined = groups.join("a2", ["clicks"], instance_id="a", assignor="sticky")
    assert names(joined.assignment) == ["clicks-0"]
    assert groups.group().assignor == "sticky"
    assert groups.settle() == {"a2": ["clicks-0"]}


def test_who_lost_its_instance_id_is_told_to_stop(groups):
    groups.join("a1", instance_id="a")
    groups.join("a2", instance_id="a")
    groups.join("a3", instance_id="a")
    for former in ("a1", "a2"):
        for request in (
            Heartbeat("g", former, 1),
            Leave("g", former),
            Join("g", ("orders",), member_id=former, instance_id="a"),
        ):
            with pytest.raises(FencedInstanceIdError):
                groups.apply(request)
    assert list(groups.group().members) == ["a3"]


def test_what_a_static_member_was_giving_up_is_free_when_it_is_replaced(groups):
    groups.join("a1", instance_id="a")
    groups.join("b")
    groups.beat("a1", "orders-0", "orders-1", "orders-2")
    assert ("orders", 2) in groups.group().currents["a1"].revoking
    groups.join("a2", instance_id="a")
    assert names(groups.beat("b").assignment) == ["orders-2"]


def test_an_instance_id_is_for_life(groups):
    groups.join("a", instance_id="a")
    with pytest.raises(InvalidRequestError, match="instance_id"):
        groups.join("a")
    groups.join("b")
    with pytest.raises(InvalidRequestError, match="instance_id"):
        groups.join("b", instance_id="a")


# --- topics ---


def test_new_partitions_and_topics_are_taken_up(groups):
    groups.join("a", None, pattern=".*")
    groups.set_topics(orders=4, clicks=1)
    groups.apply(RefreshTopics("g"))
    assert groups.settle() == {"a": ["clicks-0", "orders-0", "orders-1", "orders-2", "orders-3"]}
    groups.apply(RefreshTopics("g"))
    assert groups.last_records == ()


def test_topics_that_nobody_reads_change_nothing(groups):
    groups.join("a")
    groups.set_topics(orders=3, clicks=1)
    groups.apply(RefreshTopics("g"))
    groups.apply(RefreshTopics("other"))
    assert groups.last_records == ()


def test_a_topic_of_the_same_name_is_another_one(groups):
    groups.join("a")
    groups.set_topics(clicks=1)
    groups.apply(RefreshTopics("g"))
    groups.set_topics(clicks=1, orders=2)
    groups.apply(RefreshTopics("g"))
    told = groups.beat("a", "orders-0", "orders-1", "orders-2")
    assert told.assignment == ()
    given = groups.beat("a")
    assert names(given.assignment) == ["orders-0", "orders-1"]
    assert given.assignment[0].topic_id == groups.view.topics["orders"].topic_id


def test_a_view_that_is_behind_takes_nothing_away(groups):
    old = groups.view
    groups.set_topics(orders=3, clicks=1)
    groups.join("a", ["clicks", "orders"])
    groups.join("b", ["clicks", "orders"])
    groups.settle()
    groups.view = old
    groups.apply(RefreshTopics("g"))
    assert groups.last_records == ()
    with pytest.raises(CoordinatorLoadInProgressError):
        groups.join("c")
    groups.leave("b")
    (changed,) = (r for r in groups.last_records if isinstance(r, GroupChanged))
    assert changed.metadata_version == old.version + 1
    assert len(groups.settle()["a"]) == 4
