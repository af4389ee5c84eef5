"""The membership machine, rule by rule."""

import pytest

from ottla._group_calls import GroupCallKind
from ottla._group_member import JOIN_TIMEOUT_MS, MAX_RETRY_BACKOFF_MS, Membership
from ottla._transport import BrokerUnreachableError
from ottla_protocol.errors import (
    CoordinatorLoadInProgressError,
    FencedInstanceIdError,
    FencedMemberEpochError,
    GroupMaxSizeReachedError,
    InternalError,
    InvalidPatternError,
    NotCoordinatorError,
    Outcome,
    UnknownMemberIdError,
    UnsupportedAssignorError,
)
from tests.unit.sdk.member_under_test import (
    INTERVAL_MS,
    REBALANCE_MS,
    SESSION_MS,
    MemberUnderTest,
    document,
    partitions,
    told,
)

JOIN, HEARTBEAT, LEAVE = GroupCallKind.JOIN, GroupCallKind.HEARTBEAT, GroupCallKind.LEAVE


# --- joining --------------------------------------------------------------------------------


def test_it_joins_first_and_waits_for_the_answer():
    test = MemberUnderTest()
    call = test.poll_one(JOIN)
    assert (call.method, call.path) == ("POST", "/v1/groups/billing/members")
    request = document(call)
    assert request["topics"] == ["orders"]
    assert request["session_timeout_ms"] == SESSION_MS
    assert len(request["member_id"]) == 32, "chosen here, so that a repeated join makes no second"
    assert test.poll() == []
    assert test.member.membership is None


def test_what_it_is_given_is_told_and_may_be_read():
    test = MemberUnderTest()
    call = test.poll_one(JOIN)
    change = test.answer(call, 4, {0, 1})
    assert change.assigned == partitions(0, 1)
    assert test.member.assigned == partitions(0, 1)
    assert test.member.membership == Membership(document(call)["member_id"], 4)
    assert test.may_own(0)
    assert not test.may_own(2)


def test_a_lost_join_is_repeated_under_the_same_id_at_another_broker():
    test = MemberUnderTest()
    first = test.poll_one(JOIN)
    test.fail(first)
    assert test.poll() == [], "not before the backoff"
    test.wait(130)
    again = test.poll_one(JOIN)
    assert again.body == first.body
    assert again.wants_other_broker
    assert not first.wants_other_broker


def test_the_backoff_grows_up_to_its_limit():
    test = MemberUnderTest()
    for _ in range(20):
        test.fail(test.poll_one(JOIN), NotCoordinatorError("not me"))
        wait_ms = test.member.next_call_ms(test.now_ms) - test.now_ms
        assert 80 <= wait_ms <= MAX_RETRY_BACKOFF_MS * 1.2
        test.wait(wait_ms)
    assert wait_ms >= MAX_RETRY_BACKOFF_MS * 0.8


@pytest.mark.parametrize(
    "error",
    [
        UnsupportedAssignorError("no such assignor"),
        InvalidPatternError("bad pattern"),
        FencedInstanceIdError("another process"),
    ],
)
def test_a_refused_join_ends_it_until_it_is_told_otherwise(error):
    test = MemberUnderTest()
    change = test.fail(test.poll_one(JOIN), error)
    assert change.error is error
    test.wait(60_000)
    assert test.poll() == []
    assert test.member.next_call_ms(test.now_ms) is None
    assert test.member.has_left

    test.member.change_subscription(("clicks",), None)
    assert document(test.poll_one(JOIN))["topics"] == ["clicks"]


@pytest.mark.parametrize(
    "error",
    [
        GroupMaxSizeReachedError("full"),
        CoordinatorLoadInProgressError("loading"),
        InternalError("a defect"),
    ],
)
def test_what_may_pass_is_tried_again_and_can_be_looked_at(error):
    test = MemberUnderTest()
    assert not test.fail(test.poll_one(JOIN), error)
    assert test.member.last_error is error
    test.wait(200)
    test.answer(test.poll_one(JOIN), 1, {0})
    assert test.member.last_error is None


def test_a_join_is_tried_again_even_after_a_refusal_that_makes_no_sense():
    test = MemberUnderTest()
    first = test.poll_one(JOIN)
    assert not test.fail(first, UnknownMemberIdError("who?"))
    test.wait(200)
    assert document(test.poll_one(JOIN))["member_id"] == document(first)["member_id"]


def test_an_answer_to_a_join_that_is_older_than_the_session_is_not_believed():
    test = MemberUnderTest()
    call = test.poll_one(JOIN)
    test.wait(SESSION_MS)
    assert not test.answer(call, 1, {0})
    assert test.member.membership is None
    test.wait(200)
    assert document(test.poll_one(JOIN))["member_id"] == document(call)["member_id"]


def test_an_answer_that_is_none_counts_as_a_failure():
    test = MemberUnderTest()
    call = test.poll_one(JOIN)
    test.calls.clear()
    assert not test.member.on_answer(call, b"<html>", test.now_ms)
    assert test.member.last_error is not None


# --- heartbeats -----------------------------------------------------------------------------


def test_one_heartbeat_waits_at_the_coordinator_and_the_next_follows_it():
    test = MemberUnderTest()
    parked = test.joined(0, 1)
    assert told(parked) == {0, 1}
    wait_ms = document(parked)["max_wait_ms"]
    assert wait_ms == 3_000
    assert wait_ms < parked.timeout_ms < SESSION_MS
    assert test.poll() == []

    test.wait(wait_ms)
    test.answer(parked, 1, None)
    assert test.poll_one(HEARTBEAT)


def test_a_broker_that_does_not_let_it_wait_is_not_asked_all_the_time():
    test = MemberUnderTest()
    parked = test.joined(0)
    sent_ms = test.now_ms
    test.wait(5)
    test.answer(parked, 1, None)
    assert test.poll() == []
    assert test.member.next_call_ms(test.now_ms) == sent_ms + INTERVAL_MS


def test_news_are_confirmed_at_once():
    test = MemberUnderTest()
    parked = test.joined(0)
    test.wait(20)
    assert test.answer(parked, 2, {0, 1}).assigned == partitions(1)
    following = test.poll_one(HEARTBEAT)
    assert told(following) == {0, 1}
    assert document(following)["generation"] == 2


def test_after_a_failure_it_asks_for_a_quick_answer():
    test = MemberUnderTest()
    test.fail(test.joined(0))
    assert test.poll() == []
    test.wait(130)
    call = test.poll_one(HEARTBEAT)
    assert document(call)["max_wait_ms"] == 0
    assert call.wants_other_broker
    test.answer(call, 1, None)
    test.wait(INTERVAL_MS)
    assert document(test.poll_one(HEARTBEAT))["max_wait_ms"] > 0


def test_short_sessions_leave_room_for_a_second_attempt():
    test = MemberUnderTest(session_timeout_ms=1_000)
    call = test.poll_one(JOIN)
    test.answer(call, 1, {0}, session_ms=1_000)
    parked = test.poll_one(HEARTBEAT)
    assert parked.timeout_ms < 1_000


# --- revoked partitions ---------------------------------------------------------------------


def test_a_revoked_partition_is_told_as_owned_until_it_is_released():
    test = MemberUnderTest()
    parked = test.joined(0, 1)
    change = test.answer(parked, 1, {0})
    assert change.revoked == partitions(1)
    assert test.member.assigned == partitions(0)
    assert test.member.revoking == partitions(1)
    assert test.may_own(1), "it still has to commit"
    # The coordinator answers at once while it waits for the release; that must not make a loop.
    test.wait(INTERVAL_MS)
    still = test.poll_one(HEARTBEAT)
    assert told(still) == {0, 1}

    test.member.release(partitions(1))
    assert not test.may_own(1)
    at_once = test.poll_one(HEARTBEAT)
    assert told(at_once) == {0}
    assert document(at_once)["max_wait_ms"] == 0, "the parked one is out already"


def test_a_third_heartbeat_waits_for_one_of_two():
    test = MemberUnderTest()
    parked = test.joined(0, 1, 2)
    test.answer(parked, 1, {0})
    test.wait(INTERVAL_MS)
    test.poll_one(HEARTBEAT)
    test.member.release(partitions(1))
    quick = test.poll_one(HEARTBEAT)
    test.member.release(partitions(2))
    assert test.poll() == []
    test.answer(quick, 1, None)
    assert told(test.poll_one(HEARTBEAT)) == {0}


def test_only_what_is_revoked_can_be_released():
    test = MemberUnderTest()
    test.joined(0)
    test.member.release(partitions(0, 5))
    assert test.member.assigned == partitions(0)
    assert test.poll() == []


def test_within_a_generation_an_assignment_only_shrinks():
    test = MemberUnderTest()
    test.answer(test.joined(0, 1), 1, {0})
    test.wait(INTERVAL_MS)
    parked = test.poll_one(HEARTBEAT)
    test.member.release(partitions(1))
    quick = test.poll_one(HEARTBEAT)
    test.answer(quick, 1, None)
    # This answer was on its way for long: it was written before the release was heard.
    assert not test.answer(parked, 1, {0, 1})
    assert test.member.assigned == partitions(0)
    assert not test.may_own(1)


def test_an_answer_of_an_earlier_generation_says_nothing():
    test = MemberUnderTest()
    parked = test.joined(0, 1, generation=5)
    test.answer(parked, 5, {0})
    test.wait(INTERVAL_MS)
    parked = test.poll_one(HEARTBEAT)
    test.member.release(partitions(1))
    quick = test.poll_one(HEARTBEAT)
    test.answer(quick, 6, {0, 2})
    assert not test.answer(parked, 5, {0})
    assert test.member.assigned == partitions(0, 2)


def test_a_partition_that_comes_back_before_it_was_released_is_a_new_one():
    test = MemberUnderTest()
    test.answer(test.joined(0, 1), 1, {0})
    test.wait(INTERVAL_MS)
    change = test.answer(test.poll_one(HEARTBEAT), 2, {0, 1})
    assert (change.lost, change.assigned, change.revoked) == (
        partitions(1),
        partitions(1),
        partitions(),
    )
    # A release that was meant for the former assignment does not touch this one.
    test.member.release(partitions(1))
    assert test.member.assigned == partitions(0, 1)


def test_a_release_counts_once_the_coordinator_has_heard_of_it():
    test = MemberUnderTest(rebalance_timeout_ms=8_000)
    joined_ms = test.now_ms
    test.answer(test.joined(0, 1), 1, {0})
    test.wait(3_000)
    parked = test.poll_one(HEARTBEAT)
    test.wait(1_000)
    test.answer(parked, 1, {0})
    test.member.release(partitions(1))
    told_of_it = test.poll_one(HEARTBEAT)
    test.now_ms = joined_ms + 8_000
    assert not test.may_own(0), "the coordinator may still wait for it, and have given up"
    test.now_ms -= 1
    test.answer(told_of_it, 1, None)
    test.now_ms += 1
    assert test.may_own(0)


def released_unheard(test):
    """Releases partition 1 four seconds after it was assigned; returns both heartbeats."""
    test.answer(test.joined(0, 1), 1, {0})
    test.wait(3_000)
    parked = test.poll_one(HEARTBEAT)
    test.wait(1_000)
    test.member.release(partitions(1))
    return parked, test.poll_one(HEARTBEAT)


def test_a_release_was_heard_of_if_the_partition_is_given_again():
    test = MemberUnderTest(rebalance_timeout_ms=8_000)
    joined_ms = test.now_ms
    parked, _ = released_unheard(test)
    test.answer(parked, 2, {0, 1})
    test.now_ms = joined_ms + 8_000
    assert test.may_own(0)
    assert test.may_own(1)


def test_another_membership_has_released_nothing():
    test = MemberUnderTest(rebalance_timeout_ms=8_000)
    joined_ms = test.now_ms
    parked, _ = released_unheard(test)
    test.fail(parked, UnknownMemberIdError("who?"))
    test.wait(200)
    test.answer(test.poll_one(JOIN), 5, {0})
    test.now_ms = joined_ms + 8_000
    assert test.may_own(0)


def test_whoever_takes_too_long_to_let_go_loses_everything():
    test = MemberUnderTest()
    joined_ms = test.now_ms
    call = test.joined(0, 1)
    revoked = test.answer(call, 1, {0}).revoked
    assert revoked == partitions(1)
    while test.now_ms < joined_ms + REBALANCE_MS - INTERVAL_MS:
        test.wait(INTERVAL_MS)
        test.answer(test.poll_one(HEARTBEAT), 1, {0})
    first_id = test.member.membership.member_id
    test.now_ms = joined_ms + REBALANCE_MS - 1
    assert test.may_own(0)
    test.wait(1)
    assert test.changes[-1].lost == partitions(0, 1)
    assert not test.may_own(0)
    calls = test.poll()
    assert [call.kind for call in calls] == [JOIN]
    # The coordinator is about to end that membership.
    assert document(calls[0])["member_id"] != first_id


# --- the end of the session -----------------------------------------------------------------


def test_the_session_counts_from_the_sending_of_what_was_answered():
    test = MemberUnderTest()
    parked = test.joined(0)
    sent_ms = test.now_ms
    test.wait(2_900)
    test.answer(parked, 1, None)
    following = test.poll()
    for call in following:
        test.fail(call)
    test.now_ms = sent_ms + SESSION_MS - 1
    assert test.may_own(0)
    assert test.member.next_call_ms(test.now_ms) <= sent_ms + SESSION_MS
    test.now_ms += 1
    assert not test.may_own(0), "even before the machine has looked at the clock"
    test.wait(0)
    assert test.changes[-1].lost == partitions(0)
    assert test.member.membership is None


def test_after_a_silence_it_comes_back_under_its_id_and_takes_what_it_is_told():
    test = MemberUnderTest()
    parked = test.joined(0, 1, generation=3)
    first_id = test.member.membership.member_id
    test.wait(SESSION_MS)
    join = test.poll_one(JOIN)
    assert document(join)["member_id"] == first_id
    assert not test.answer(parked, 3, {0, 1}), "that answer is of the former life"
    change = test.answer(join, 3, {1})
    assert change.assigned == partitions(1)
    assert told(test.poll_one(HEARTBEAT)) == {1}


def test_what_the_coordinator_waits_for_is_reckoned_with_after_a_silence():
    """It may have revoked a partition that was lost here, and not hear of that."""
    test = MemberUnderTest(rebalance_timeout_ms=SESSION_MS + 500)
    test.joined(0, 1)
    test.wait(SESSION_MS)
    test.answer(test.poll_one(JOIN), 1, {0})
    heartbeat = test.poll_one(HEARTBEAT)
    assert test.may_own(0)
    test.now_ms += 500
    assert not test.may_own(0), "nobody has confirmed that the coordinator heard of it"
    test.now_ms -= 1
    test.answer(heartbeat, 1, None)
    test.now_ms += 1
    assert test.may_own(0)


def test_what_a_lost_join_was_given_is_reckoned_with():
    """The coordinator may have revoked it since, and not hear that nobody has it."""
    test = MemberUnderTest(rebalance_timeout_ms=8_000)
    began_ms = test.now_ms
    test.fail(test.poll_one(JOIN))
    test.wait(5_000)
    test.answer(test.poll_one(JOIN), 2, {0})
    heartbeat = test.poll_one(HEARTBEAT)
    test.now_ms = began_ms + 8_000 - 1
    assert test.may_own(0)
    test.now_ms += 1
    assert not test.may_own(0)
    test.now_ms -= 1
    test.answer(heartbeat, 2, None)
    test.now_ms += 1
    assert test.may_own(0)


def test_whoever_comes_back_too_late_for_that_is_another_member():
    test = MemberUnderTest(rebalance_timeout_ms=SESSION_MS + 500)
    test.joined(0, 1)
    test.wait(SESSION_MS)
    late = test.poll_one(JOIN)
    test.wait(500)
    assert not test.answer(late, 1, {0}), "it may be somebody else's already"
    join = test.poll_one(JOIN)
    assert document(join)["member_id"] != document(late)["member_id"]
    assert test.answer(join, 2, {0}).assigned == partitions(0)


def test_a_rebalance_timeout_below_the_session_bounds_it():
    test = MemberUnderTest(rebalance_timeout_ms=2_000)
    test.joined(0)
    test.now_ms += 1_999
    assert test.may_own(0)
    test.now_ms += 1
    assert not test.may_own(0)


def test_heartbeats_that_nobody_parks_come_often_enough_for_a_short_rebalance_timeout():
    test = MemberUnderTest(rebalance_timeout_ms=1_000)
    parked = test.joined(0)
    for _ in range(10):
        test.now_ms += 1
        test.answer(parked, 1, None)
        test.now_ms = test.member.next_call_ms(test.now_ms)
        assert test.may_own(0)
        (parked,) = test.poll()


@pytest.mark.parametrize(
    "error", [UnknownMemberIdError("who?"), FencedMemberEpochError("not your generation")]
)
def test_a_member_that_is_unknown_loses_everything_and_joins_as_another(error):
    test = MemberUnderTest()
    parked = test.joined(0, 1)
    first_id = test.member.membership.member_id
    change = test.fail(parked, error)
    assert change.lost == partitions(0, 1)
    assert change.error is None
    test.wait(200)
    join = test.poll_one(JOIN)
    assert document(join)["member_id"] != first_id


def test_a_static_member_whose_place_is_taken_stops():
    test = MemberUnderTest(instance_id="till-1")
    change = test.fail(test.joined(0), FencedInstanceIdError("another process"))
    assert change.lost == partitions(0)
    assert isinstance(change.error, FencedInstanceIdError)
    assert test.poll() == []


# --- another subscription -------------------------------------------------------------------


def test_a_new_subscription_joins_again_and_keeps_what_is_in_both():
    test = MemberUnderTest()
    parked = test.joined(0)
    first_id = test.member.membership.member_id
    test.member.change_subscription(None, "orders|clicks")
    join = test.poll_one(JOIN)
    assert document(join)["pattern"] == "orders|clicks"
    assert document(join)["member_id"] == first_id
    assert test.may_own(0)
    change = test.answer(join, 2, {0, 1})
    assert (change.assigned, change.lost) == (partitions(1), partitions())
    assert parked in test.calls


def test_a_new_subscription_is_told_until_it_is_answered():
    test = MemberUnderTest()
    test.joined(0)
    test.member.change_subscription(None, "orders|clicks")
    test.fail(test.poll_one(JOIN), NotCoordinatorError("not me", outcome=Outcome.NOT_APPLIED))
    test.wait(200)
    (again,) = (call for call in test.poll() if call.kind is JOIN)
    assert document(again)["pattern"] == "orders|clicks"


def test_the_same_subscription_changes_nothing():
    test = MemberUnderTest()
    test.joined(0)
    test.member.change_subscription(("orders",), None)
    assert test.poll() == []


def test_a_join_without_an_answer_cannot_undo_a_later_one():
    test = MemberUnderTest()
    first = test.poll_one(JOIN)
    test.fail(first)
    test.member.change_subscription(("clicks",), None)
    test.wait(200)
    second = test.poll_one(JOIN)
    assert document(second)["member_id"] != document(first)["member_id"]


def test_a_join_that_certainly_was_not_applied_leaves_no_doubt():
    test = MemberUnderTest()
    first = test.poll_one(JOIN)
    test.fail(first, NotCoordinatorError("not me", outcome=Outcome.NOT_APPLIED))
    test.member.change_subscription(("clicks",), None)
    test.wait(200)
    assert document(test.poll_one(JOIN))["member_id"] == document(first)["member_id"]


def test_a_subscription_that_changes_while_a_join_is_out_follows_it():
    test = MemberUnderTest()
    first = test.poll_one(JOIN)
    test.member.change_subscription(("clicks",), None)
    assert test.poll() == []
    test.answer(first, 1, {0})
    kinds = {call.kind for call in test.poll()}
    assert JOIN in kinds


# --- leaving --------------------------------------------------------------------------------


def test_leaving_tells_the_coordinator_at_once():
    test = MemberUnderTest()
    test.joined(0)
    member_id = test.member.membership.member_id
    test.member.leave(test.now_ms)
    assert test.member.membership is None
    assert not test.may_own(0)
    call = test.poll_one(LEAVE)
    assert (call.method, call.path) == ("DELETE", f"/v1/groups/billing/members/{member_id}")
    assert not test.member.has_left
    test.answered(call)
    assert test.member.has_left
    assert test.poll() == []
    assert test.changes[-1].lost == partitions(), "whoever leaves has let go of everything"


def test_a_leave_is_repeated_until_the_session_is_over():
    test = MemberUnderTest()
    test.joined(0)
    test.member.leave(test.now_ms)
    left_ms = test.now_ms
    attempts = 0
    while not test.member.has_left:
        for call in test.poll():
            attempts += 1
            test.fail(call)
        next_ms = test.member.next_call_ms(test.now_ms)
        test.now_ms = next_ms if next_ms is not None else test.now_ms
    assert attempts > 3
    assert test.now_ms == left_ms + SESSION_MS


def test_a_repeated_leave_that_finds_nobody_is_done():
    test = MemberUnderTest()
    test.joined(0)
    test.member.leave(test.now_ms)
    test.fail(test.poll_one(LEAVE), UnknownMemberIdError("gone"))
    assert test.member.has_left


def test_whoever_never_joined_has_nothing_to_leave():
    test = MemberUnderTest()
    test.member.leave(test.now_ms)
    assert test.member.has_left
    assert test.poll() == []


def test_a_leave_waits_for_the_join_before_it():
    test = MemberUnderTest()
    join = test.poll_one(JOIN)
    test.member.leave(test.now_ms)
    assert test.poll() == []
    assert not test.answer(join, 1, {0}), "nothing is assigned to whoever leaves"
    assert test.poll_one(LEAVE)


def test_a_static_member_falls_silent_instead():
    test = MemberUnderTest(instance_id="till-1")
    test.joined(0)
    test.member.leave(test.now_ms)
    assert test.member.has_left
    assert test.poll() == []


def test_a_static_member_leaves_when_it_is_told_to():
    test = MemberUnderTest(instance_id="till-1")
    test.joined(0)
    test.member.leave(test.now_ms, is_static_too=True)
    assert test.poll_one(LEAVE)


def test_whoever_resumes_is_a_new_member():
    test = MemberUnderTest()
    test.joined(0)
    first_id = test.member.membership.member_id
    test.member.leave(test.now_ms)
    leave = test.poll_one(LEAVE)
    test.member.resume()
    assert test.poll() == [], "after the leave"
    test.answered(leave)
    join = test.poll_one(JOIN)
    assert document(join)["member_id"] != first_id
    assert test.answer(join, 9, {0}).assigned == partitions(0)


def test_the_first_join_may_take_longer_than_a_heartbeat():
    call = MemberUnderTest().poll_one(JOIN)
    assert call.timeout_ms == JOIN_TIMEOUT_MS


def test_who_certainly_never_joined_leaves_without_a_word():
    test = MemberUnderTest()
    refused = BrokerUnreachableError("refused", outcome=Outcome.NOT_APPLIED, refused=True)
    test.fail(test.poll_one(JOIN), refused)
    test.member.leave(test.now_ms)
    assert test.member.has_left
    assert test.poll() == []


def test_who_may_have_joined_leaves():
    test = MemberUnderTest()
    test.fail(test.poll_one(JOIN))
    test.member.leave(test.now_ms)
    assert not test.member.has_left
    test.poll_one(LEAVE)
