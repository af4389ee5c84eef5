"""Sessions, the coordinator's own commands, and when answers leave."""

from random import Random

import pytest

from ottla_cluster.groups import active_coordinator, housekeeping
from ottla_cluster.groups.active_coordinator import ActiveCoordinator
from ottla_cluster.groups.cluster_view import ClusterView, TopicView
from ottla_cluster.groups.commands import (
    CommitOffsets,
    DescribeGroup,
    ExpireMembers,
    ExpireOffsets,
    Heartbeat,
    Join,
    Leave,
    OffsetToCommit,
    OverdueMember,
    OwnedTopic,
    RefreshTopics,
)
from ottla_cluster.groups.config import GroupConfig
from ottla_cluster.groups.image import GroupsImage, replay
from ottla_cluster.groups.records import decode_record
from ottla_cluster.state_machine.keyed_records import decode_pairs
from ottla_protocol.errors import (
    FencedMemberEpochError,
    NotCoordinatorError,
    Outcome,
    OverloadedError,
    UnknownMemberIdError,
)

SESSION_MS = 5_000
REBALANCE_MS = 20_000
VIEW = ClusterView(1, {"orders": TopicView("id-1", 3)})


class CoordinatorUnderTest:
    """A coordinator whose log commits when it is told to."""

    def __init__(self, image=None, now_ms=0):
        self.now_ms = now_ms
        self.view = VIEW
        self.log_end = 0 if image is None else image.version
        self.log = []
        self.coordinator = ActiveCoordinator(
            image or GroupsImage(), GroupConfig(offsets_retention_ms=1_000), Random(1), now_ms
        )

    def submit(self, command):
        submitted = self.coordinator.submit(command, self.now_ms, self.now_ms, self.view)
        if submitted.payload is not None:
            pairs = decode_pairs(submitted.payload)
            self.log.extend(pairs)
            self.log_end += len(pairs)
            self.coordinator.appended(submitted.request_id, self.log_end)
        return submitted

    def apply(self, command):
        """Commits at once and gives the answer."""
        submitted = self.submit(command)
        if submitted.response is not None:
            return submitted.response
        completed = self.coordinator.committed(self.log_end)
        return completed[-1].outcome

    def join(self, member_id, **fields):
        fields = {"session_timeout_ms": SESSION_MS, "rebalance_timeout_ms": REBALANCE_MS} | fields
        return self.apply(Join("g", ("orders",), member_id=member_id, **fields))

    def beat(self, member_id, *partitions):
        current = self.coordinator.speculative_image.groups["g"].currents[member_id]
        owned = (OwnedTopic("orders", partitions),)
        return self.apply(Heartbeat("g", member_id, current.generation, owned))

    def due(self, now_ms):
        self.now_ms = now_ms
        return self.coordinator.due(now_ms, now_ms, self.view)

    def members(self):
        return list(self.coordinator.speculative_image.groups["g"].members)


@pytest.fixture
def one():
    return CoordinatorUnderTest()


# --- sessions ---


def test_a_silent_member_expires_after_its_session(one):
    one.join("a")
    assert one.due(SESSION_MS - 1) == ()
    (expiry,) = one.due(SESSION_MS)
    overdue = OverdueMember("a", f"no heartbeat for {SESSION_MS} ms")
    assert expiry == ExpireMembers("g", (overdue,))
    assert one.due(SESSION_MS) == (expiry,), "due until it is done"
    one.apply(expiry)
    assert one.members() == []
    assert one.due(SESSION_MS + 1) == ()
    with pytest.raises(UnknownMemberIdError):
        one.apply(Heartbeat("g", "a", 1))


def test_a_topic_that_was_replaced_by_its_namesake_is_news(one):
    one.join("a")
    one.beat("a", 0, 1, 2)
    before = one.coordinator.speculative_image
    one.view = ClusterView(2, {"orders": TopicView("id-2", 3)})
    one.apply(RefreshTopics("g"))
    group = one.coordinator.speculative_image.groups["g"]
    assert group.targets is before.groups["g"].targets, "the names are the same"
    assert list(one.coordinator.may_have_news(RefreshTopics("g"), before)) == ["a"]
    assert one.coordinator.wants_heartbeat("g", "a")


def test_joins_heartbeats_and_commits_prolong_a_session(one):
    joined = one.join("a")
    entries = (OffsetToCommit("orders", 0, 1),)
    for request in (
        lambda: one.beat("a", 0, 1, 2),
        lambda: one.join("a"),
        lambda: one.apply(CommitOffsets("g", entries, "a", joined.generation)),
    ):
        one.now_ms += SESSION_MS - 1
        request()
        assert one.due(one.now_ms + SESSION_MS - 1) == ()
    assert len(one.due(one.now_ms + SESSION_MS)) == 1


def test_a_heartbeat_in_the_last_moment_saves_a_member(one):
    one.join("a")
    (expiry,) = one.due(SESSION_MS)
    one.beat("a", 0, 1, 2)
    one.apply(expiry)
    assert one.members() == ["a"]


def test_a_session_of_an_earlier_membership_does_not_count(one):
    one.join("a")
    one.apply(Leave("g", "a"))
    one.now_ms = SESSION_MS - 1
    one.join("a")
    assert one.due(SESSION_MS + 1) == ()


def test_a_member_that_does_not_give_up_expires_though_it_heartbeats(one):
    one.join("a")
    one.join("b")
    one.beat("a", 0, 1, 2)
    assert one.due(100) == ()
    for now_ms in range(100, REBALANCE_MS + 100, 1_000):
        assert one.due(now_ms) == ()
        one.beat("a", 0, 1, 2)
        one.beat("b")
    (expiry,) = one.due(REBALANCE_MS + 100)
    reason = f"partitions not given up for {REBALANCE_MS} ms"
    assert expiry.members == (OverdueMember("a", reason),)
    one.apply(expiry)
    assert [t.partitions for t in one.beat("b").assignment] == [(0, 1, 2)]


def test_a_new_coordinator_gives_everybody_a_full_session(one):
    one.join("a")
    image = replay(GroupsImage(), [decode_record(*pair) for pair in one.log], one.log_end)
    assert image == one.coordinator.committed_image
    heir = CoordinatorUnderTest(image, now_ms=1_000_000)
    assert heir.due(1_000_000 + SESSION_MS - 1) == ()
    assert len(heir.due(1_000_000 + SESSION_MS)) == 1


def test_a_coordinator_that_stood_still_blames_nobody(one):
    one.join("a")
    one.now_ms = 10 * SESSION_MS
    one.coordinator.restart_sessions(one.now_ms)
    assert one.due(one.now_ms + SESSION_MS - 1) == ()
    assert len(one.due(one.now_ms + SESSION_MS)) == 1


def test_who_is_refused_for_load_has_been_heard_all_the_same(monkeypatch):
    monkeypatch.setattr(active_coordinator, "MAX_WAITING_REQUESTS", 1)
    one = CoordinatorUnderTest()
    one.join("a")
    one.submit(Join("g", ("orders",), member_id="b", session_timeout_ms=SESSION_MS))
    one.now_ms = SESSION_MS - 1
    with pytest.raises(OverloadedError):
        one.beat("a", 0, 1, 2)
    (expiry,) = one.due(SESSION_MS)
    assert [each.member_id for each in expiry.members] == ["b"]


def test_of_many_overdue_members_who_is_heard_in_time_stays(one):
    for name in "abc":
        one.join(name)
    (expiry,) = one.due(SESSION_MS)
    assert [each.member_id for each in expiry.members] == ["a", "b", "c"]
    one.beat("b")
    one.apply(expiry)
    assert one.members() == ["b"]


# --- its own commands ---


def test_topics_that_change_are_looked_at_once(one):
    one.join("a")
    assert one.due(1) == ()
    one.view = ClusterView(2, {"orders": TopicView("id-1", 4)})
    assert one.due(2) == (RefreshTopics("g"),)
    one.apply(RefreshTopics("g"))
    assert one.due(3) == ()
    assert [t.partitions for t in one.beat("a", 0, 1, 2).assignment] == [(0, 1, 2, 3)]


def test_a_view_that_is_behind_is_looked_at_again_when_it_has_caught_up():
    ahead = ClusterView(5, {"orders": TopicView("id-1", 4)})
    first = CoordinatorUnderTest()
    first.view = ahead
    first.join("a")
    heir = CoordinatorUnderTest(first.coordinator.committed_image)
    assert heir.due(1) == ()
    heir.view = ClusterView(6, VIEW.topics)
    assert heir.due(2) == (RefreshTopics("g"),)


def test_offsets_expire_now_and_then(one):
    entries = (OffsetToCommit("orders", 0, 1),)
    one.apply(CommitOffsets("g", entries))
    assert one.due(999) == ()
    interval_ms = GroupConfig().offsets_expiry_interval_ms
    assert one.due(interval_ms - 1) == ()
    assert one.due(interval_ms + 999) == (), "they must look too old for as long as they are kept"
    assert one.due(interval_ms + 1_998) == ()
    expiry = ExpireOffsets("g", retention_is_over=True)
    assert one.due(interval_ms + 1_999) == (expiry,)
    one.apply(expiry)
    assert one.coordinator.speculative_image.groups == {}
    assert one.due(interval_ms + 2_000) == ()


def test_a_wall_clock_that_jumps_and_is_put_right_costs_no_offsets(one):
    one.apply(CommitOffsets("g", (OffsetToCommit("orders", 0, 1),)))
    interval_ms = GroupConfig().offsets_expiry_interval_ms
    a_month_ms = 30 * 24 * 3_600_000

    def due(now_ms, timestamp_ms):
        return one.coordinator.due(now_ms, timestamp_ms, one.view)

    one.due(1)
    assert due(interval_ms + 1, a_month_ms) == ()
    assert due(interval_ms + 500, a_month_ms) == ()
    for now_ms in range(interval_ms + 900, 5 * interval_ms, 100_000):
        assert due(now_ms, 900) == ()
    assert due(6 * interval_ms, a_month_ms) == (), "a later jump counts from its own beginning"


def test_housekeeping_of_many_groups_takes_many_calls(one, monkeypatch):
    monkeypatch.setattr(housekeeping, "WORK_PER_CALL", 5)
    for number in range(10):
        join = Join(f"g{number}", ("orders",), member_id="a", session_timeout_ms=600_000)
        one.apply(join)
    while one.coordinator._housekeeping._compared_topics is not one.view.topics:
        assert one.due(1) == ()
    one.view = ClusterView(2, {"orders": TopicView("id-1", 4)})
    calls, refreshed = 0, []
    while one.coordinator._housekeeping._compared_topics is not one.view.topics:
        commands = one.due(2)
        assert len(commands) <= 3, "a group with a member is worth two"
        refused = calls < 3
        for command in commands[refused:]:
            one.apply(command)
            refreshed.append(command.group)
        calls += 1
    assert sorted(refreshed) == [f"g{number}" for number in range(10)], "none is lost or repeated"
    assert calls > 4


def test_offsets_of_a_deleted_topic_go_at_once(one):
    one.apply(CommitOffsets("g", (OffsetToCommit("orders", 0, 1),)))
    one.due(1)
    one.view = ClusterView(2, {})
    assert one.due(2) == (ExpireOffsets("g"),)


# --- answers and commits ---


def test_no_answer_leaves_before_the_commit(one):
    joining = one.submit(Join("g", ("orders",), member_id="a"))
    reading = one.submit(DescribeGroup("g"))
    assert joining.response is None
    assert reading.response is None
    assert one.coordinator.committed(one.log_end - 1) == ()
    done = one.coordinator.committed(one.log_end)
    assert [completed.request_id for completed in done] == [
        joining.request_id,
        reading.request_id,
    ]
    assert done[1].outcome.members[0].member_id == "a"


def test_a_lost_leadership_says_what_is_unknown(one):
    one.submit(Join("g", ("orders",), member_id="a"))
    one.submit(DescribeGroup("g"))
    first, second = one.coordinator.lost_leadership()
    assert isinstance(first.outcome, NotCoordinatorError)
    assert first.outcome.outcome is Outcome.UNKNOWN
    assert second.outcome.outcome is Outcome.NOT_APPLIED
    with pytest.raises(NotCoordinatorError):
        one.submit(DescribeGroup("g"))


def test_a_refused_append_takes_its_decision_back(one):
    submitted = one.coordinator.submit(Join("g", ("orders",), member_id="a"), 0, 0, VIEW)
    error = NotCoordinatorError("not any more")
    (failed,) = one.coordinator.append_failed(submitted.request_id, error)
    assert failed.outcome is error
    assert one.coordinator.speculative_image.groups == {}


# --- parked heartbeats ---


def test_a_parked_heartbeat_wakes_when_there_is_news(one):
    wants = one.coordinator.wants_heartbeat
    assert wants("g", "a"), "no such member: it must be told"
    one.join("a")
    assert not wants("g", "a")
    one.join("b")
    assert wants("g", "a"), "it is to give something up"
    assert not wants("g", "b")
    one.beat("a", 0, 1, 2)
    assert not wants("g", "a"), "it has been told"
    assert not wants("g", "b"), "nothing is free yet"
    one.beat("a", 0, 1)
    assert wants("g", "b")
    one.apply(Leave("g", "a"))
    assert wants("g", "a")


def test_a_fenced_heartbeat_is_told_so_when_all_before_it_is_committed(one):
    one.join("a")
    one.submit(Join("g", ("orders",), member_id="b"))
    fenced = one.submit(Heartbeat("g", "a", 99))
    assert fenced.response is None
    outcome = one.coordinator.committed(one.log_end)[-1].outcome
    assert isinstance(outcome, FencedMemberEpochError)
