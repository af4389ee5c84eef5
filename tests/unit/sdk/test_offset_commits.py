"""The commit machine: in order, one request at a time, and every commit is settled once."""

from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ottla._consumer_types import OffsetAndMetadata, TopicPartition
from ottla._group_calls import (
    MAX_COMMIT_METADATA_LENGTH,
    MAX_OFFSETS_PER_COMMIT,
    committed_call,
    committed_in,
)
from ottla._offset_commits import CommitFailedError, OffsetCommits
from ottla._transport import BrokerUnreachableError
from ottla_protocol.errors import (
    FencedMemberEpochError,
    InvalidRequestError,
    NonEmptyGroupError,
    NotCoordinatorError,
    OttlaError,
    Outcome,
    RequestTimedOutError,
    UnknownMemberIdError,
    UnknownTopicOrPartitionError,
)

MEMBERSHIP = ("member-1", 7)
ANSWER = b'{"offsets": []}'


def part(number):
    return TopicPartition("orders", number)


def at(**offsets):
    """`at(p0=5)`: offset 5 of partition 0."""
    return {part(int(name[1:])): OffsetAndMetadata(each) for name, each in offsets.items()}


class Commits:
    """The machine, with a clock that the test moves."""

    def __init__(self):
        self.now_ms = 0
        self.commits = OffsetCommits(
            "billing", request_timeout_ms=2_000, retry_backoff_ms=100, random=Random(7)
        )

    def ask(self, timeout_ms=10_000, *, is_member=True, **offsets):
        return self.commits.commit(
            at(**offsets), self.now_ms, timeout_ms=timeout_ms, is_member=is_member
        )

    def call(self, membership=MEMBERSHIP):
        return self.commits.next_call(self.now_ms, membership)

    def answer(self, call):
        return self.commits.on_answer(call, ANSWER, self.now_ms)

    def fail(self, call, error=None):
        error = error or BrokerUnreachableError("no answer")
        return self.commits.on_failure(call, error, self.now_ms)


def sent(call):
    document = msgspec.json.decode(call.body)
    return {each["partition"]: each["offset"] for each in document["offsets"]}


# --- one after another ----------------------------------------------------------------------


def test_a_commit_names_the_member_and_what_is_next_to_read():
    test = Commits()
    commit = test.commits.commit(
        {part(0): OffsetAndMetadata(5, "half way", 3)}, 0, timeout_ms=9_000, is_member=True
    )
    call = test.call()
    assert (call.method, call.path) == ("POST", "/v1/groups/billing/offsets")
    assert msgspec.json.decode(call.body) == {
        "member_id": "member-1",
        "generation": 7,
        "offsets": [
            {
                "topic": "orders",
                "partition": 0,
                "offset": 5,
                "leader_epoch": 3,
                "metadata": "half way",
            }
        ],
    }
    assert test.answer(call) == (commit,)
    assert (commit.is_done, commit.error) == (True, None)
    assert test.commits.is_idle
    assert test.commits.next_call_ms() is None


def test_a_consumer_that_is_no_member_names_none():
    test = Commits()
    test.ask(p0=5, is_member=False)
    document = msgspec.json.decode(test.call().body)
    assert (document["member_id"], document["generation"]) == (None, None)


def test_one_request_is_out_at_a_time_and_what_comes_meanwhile_goes_together():
    test = Commits()
    first = test.ask(p0=1)
    call = test.call()
    second, third = test.ask(p0=2, p1=1), test.ask(p0=3)
    assert test.call() is None
    assert test.answer(call) == (first,)
    call = test.call()
    assert sent(call) == {0: 3, 1: 1}, "the later counts"
    assert test.answer(call) == (second, third)


def test_those_of_a_member_and_those_of_none_do_not_go_together():
    test = Commits()
    test.ask(p0=1)
    test.ask(p0=2, is_member=False)
    call = test.call()
    assert sent(call) == {0: 1}
    test.answer(call)
    assert sent(test.call()) == {0: 2}


def test_an_empty_commit_is_settled_in_its_turn():
    test = Commits()
    first, empty = test.ask(p0=1), test.ask()
    assert test.commits.expire(0) == ()
    assert test.answer(test.call()) == (first, empty)
    empty = test.ask()
    assert test.commits.next_call_ms() == 0
    assert test.commits.expire(0) == (empty,)


def test_the_generation_is_that_of_the_time_of_sending():
    test = Commits()
    test.ask(p0=1)
    test.fail(test.call())
    test.now_ms += 130
    assert msgspec.json.decode(test.call(("member-1", 8)).body)["generation"] == 8


# --- failures -------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [None, NotCoordinatorError("not me")])
def test_what_may_pass_is_tried_again_elsewhere(error):
    test = Commits()
    commit = test.ask(p0=1)
    first = test.call()
    assert test.fail(first, error) == ()
    assert test.call() is None
    test.now_ms = test.commits.next_call_ms()
    assert 80 <= test.now_ms <= 120
    again = test.call()
    assert again.wants_other_broker
    assert not first.wants_other_broker
    assert test.answer(again) == (commit,)
    assert commit.error is None


def test_the_backoff_grows_and_begins_anew_after_a_success():
    test = Commits()
    test.ask(timeout_ms=60_000, p0=1)
    waits_ms = []
    for _ in range(6):
        test.fail(test.call())
        waits_ms.append(test.commits.next_call_ms() - test.now_ms)
        test.now_ms = test.commits.next_call_ms()
    assert waits_ms[-1] > 700
    test.answer(test.call())
    test.ask(p0=2)
    call = test.call()
    assert not call.wants_other_broker
    test.fail(call)
    assert test.commits.next_call_ms() - test.now_ms <= 120


def test_an_answer_that_is_none_is_a_failure_that_may_pass():
    test = Commits()
    test.ask(p0=1)
    assert test.commits.on_answer(test.call(), b"<html>", 0) == ()
    assert test.commits.next_call_ms() > 0


@pytest.mark.parametrize(
    "error",
    [FencedMemberEpochError("old"), UnknownMemberIdError("who?"), NonEmptyGroupError("in use")],
)
def test_a_commit_that_the_group_refuses_has_failed(error):
    test = Commits()
    commit = test.ask(p0=1)
    assert test.fail(test.call(), error) == (commit,)
    assert isinstance(commit.error, CommitFailedError)
    assert commit.error.__cause__ is error
    assert commit.error.outcome is Outcome.NOT_APPLIED
    assert "orders-0" in commit.error.detail


@pytest.mark.parametrize(
    "error", [InvalidRequestError("bad"), UnknownTopicOrPartitionError("no such topic")]
)
def test_other_refusals_are_told_as_they_are(error):
    test = Commits()
    commit = test.ask(p0=1)
    assert test.fail(test.call(), error) == (commit,)
    assert commit.error is error


def test_commits_that_are_refused_together_are_tried_alone():
    test = Commits()
    good, bad, late = test.ask(p0=1), test.ask(p1=1), test.ask(p2=1)
    call = test.call()
    assert sent(call) == {0: 1, 1: 1, 2: 1}
    assert test.fail(call, FencedMemberEpochError("not yours")) == ()
    call = test.call()
    assert sent(call) == {0: 1}
    assert test.answer(call) == (good,)
    call = test.call()
    assert sent(call) == {1: 1}
    assert test.fail(call, FencedMemberEpochError("not yours")) == (bad,)
    assert test.answer(test.call()) == (late,)
    assert (good.error, late.error) == (None, None)
    assert isinstance(bad.error, CommitFailedError)


def test_a_deadline_ends_the_attempts_and_tells_what_is_known():
    test = Commits()
    sent_one, unsent = test.ask(timeout_ms=500, p0=1), None
    call = test.call()
    assert call.timeout_ms == 500
    unsent = test.ask(timeout_ms=100, p1=1)
    failure = BrokerUnreachableError("no answer")
    test.fail(call, failure)
    test.now_ms = 500
    assert test.commits.expire(500) == (sent_one, unsent)
    assert isinstance(sent_one.error, RequestTimedOutError)
    assert sent_one.error.outcome is Outcome.UNKNOWN
    assert sent_one.error.__cause__ is failure
    assert unsent.error.outcome is Outcome.NOT_APPLIED
    assert test.call() is None


def test_nobody_hears_of_a_later_commit_before_an_earlier_one():
    test = Commits()
    first, second = test.ask(p0=1), test.ask(timeout_ms=50, p1=1)
    call = test.call()
    assert test.commits.expire(60) == ()
    assert second.is_done
    assert test.answer(call) == (first, second)


# --- partitions that are lost ---------------------------------------------------------------


def test_commits_of_lost_partitions_fail_and_are_not_sent():
    test = Commits()
    lost, kept = test.ask(p0=1), test.ask(p1=1)
    assert test.commits.drop([part(0)], 0) == (lost,)
    assert isinstance(lost.error, CommitFailedError)
    call = test.call()
    assert sent(call) == {1: 1}
    assert test.answer(call) == (kept,)


def test_what_was_lost_while_it_was_out_is_not_sent_again():
    test = Commits()
    lost, kept = test.ask(p0=1), test.ask(p1=1)
    call = test.call()
    assert sent(call) == {0: 1, 1: 1}
    assert test.commits.drop([part(0)], 0) == (lost,)
    test.fail(call)
    test.now_ms += 130
    call = test.call()
    assert sent(call) == {1: 1}
    assert test.answer(call) == (kept,)


def test_what_was_lost_before_the_next_attempt_is_not_sent_again():
    test = Commits()
    lost, kept = test.ask(p0=1), test.ask(p1=1)
    test.fail(test.call())
    assert test.commits.drop([part(0)], 0) == (lost,)
    test.now_ms += 130
    call = test.call()
    assert sent(call) == {1: 1}
    assert test.answer(call) == (kept,)


def test_what_was_told_to_have_failed_stays_so():
    test = Commits()
    first, lost = test.ask(p0=1), test.ask(p1=1)
    call = test.call()
    assert test.commits.drop([part(1)], 0) == ()
    assert test.answer(call) == (first, lost)
    assert isinstance(lost.error, CommitFailedError)


def test_without_a_membership_a_members_commit_fails():
    test = Commits()
    commit = test.ask(p0=1)
    assert test.call(membership=None) is None
    assert test.commits.expire(0) == (commit,)
    assert isinstance(commit.error, CommitFailedError)


def test_aborting_fails_everything():
    test = Commits()
    commits = (test.ask(p0=1), test.ask(p1=1))
    call = test.call()
    error = InvalidRequestError("closed")
    assert test.commits.abort(error) == commits
    assert {commit.error for commit in commits} == {error}
    assert test.answer(call) == ()
    assert test.commits.is_idle


# --- large ones -----------------------------------------------------------------------------


def test_a_commit_over_the_limit_goes_in_pieces():
    test = Commits()
    count = 2 * MAX_OFFSETS_PER_COMMIT + 1
    commit = test.ask(**{f"p{number}": number for number in range(count)})
    sizes = []
    while not commit.is_done:
        call = test.call()
        sizes.append(len(sent(call)))
        if sizes == [MAX_OFFSETS_PER_COMMIT]:
            assert test.fail(call) == ()
            test.now_ms += 130
        else:
            test.answer(call)
    assert sizes == [MAX_OFFSETS_PER_COMMIT] * 3 + [1], "the first was sent twice"
    assert commit.error is None


def test_metadata_is_bounded_as_brokers_bound_it():
    test = Commits()
    piece = "x" * (MAX_COMMIT_METADATA_LENGTH // 2)
    offsets = {part(number): OffsetAndMetadata(1, piece) for number in range(5)}
    commit = test.commits.commit(offsets, 0, timeout_ms=1_000, is_member=True)
    sizes = []
    while not commit.is_done:
        call = test.call()
        sizes.append(len(sent(call)))
        settled = test.answer(call)
    assert sizes == [2, 2, 1]
    assert settled == (commit,)


def test_what_does_not_fit_together_goes_one_after_another():
    test = Commits()
    test.ask(**{f"p{number}": 1 for number in range(MAX_OFFSETS_PER_COMMIT)})
    test.ask(p5000=1)
    call = test.call()
    assert len(sent(call)) == MAX_OFFSETS_PER_COMMIT
    test.answer(call)
    assert sent(test.call()) == {5000: 1}


# --- whatever happens -----------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.dictionaries(st.integers(0, 3), st.integers(0, 9))),
        st.tuples(st.just("call"), st.none()),
        st.tuples(st.just("answer"), st.none()),
        st.tuples(st.just("lose"), st.none()),
        st.tuples(st.just("refuse"), st.none()),
        st.tuples(st.just("drop"), st.integers(0, 3)),
        st.tuples(st.just("wait"), st.integers(0, 700)),
    ),
    max_size=40,
)


class Life:
    """One run of steps, with a coordinator that stores what it answers."""

    def __init__(self):
        self.test = Commits()
        self.asked = []
        self.settled = []
        self.stored = {}
        self.out = None

    def take(self, name, value):
        if name == "ask":
            self.asked.append(self.test.ask(1_000, **{f"p{k}": v for k, v in value.items()}))
        elif name == "call":
            call = self.test.call()
            assert call is None or self.out is None, "two requests are out"
            self.out = call or self.out
        elif name == "drop":
            self.settled += self.test.commits.drop([part(value)], self.test.now_ms)
        elif name == "wait":
            self.test.now_ms += value
            self.settled += self.test.commits.expire(self.test.now_ms)
        elif self.out is not None:
            self.end(name)

    def end(self, name):
        call, self.out = self.out, None
        if name == "answer":
            self.stored.update(sent(call))
            self.settled += self.test.answer(call)
        else:
            error = FencedMemberEpochError("old") if name == "refuse" else None
            self.settled += self.test.fail(call, error)

    def finish(self):
        while not self.test.commits.is_idle:
            self.out = self.out or self.test.call()
            if self.out is not None:
                self.end("answer")
            else:
                self.take("wait", self.test.commits.next_call_ms() - self.test.now_ms)


@settings(max_examples=300, deadline=None)
@given(steps=STEPS)
def test_every_commit_is_settled_once_and_in_order(steps):
    life = Life()
    for name, value in steps:
        life.take(name, value)
    life.finish()
    assert life.settled == life.asked
    last = {partition: commit for commit in life.asked for partition in commit.offsets}
    for partition, commit in last.items():
        assert commit.error is None or isinstance(commit.error, OttlaError)
        if commit.error is None:
            assert life.stored[partition.partition] == commit.offsets[partition].offset


# --- reading committed offsets --------------------------------------------------------------


def test_committed_offsets_are_read():
    call = committed_call("a b/c", timeout_ms=100)
    assert (call.method, call.path) == ("GET", "/v1/groups/a%20b%2Fc/offsets")
    body = b"""{"group": "g", "offsets": [{"topic": "orders", "partition": 1, "offset": 5,
        "leader_epoch": null, "metadata": "m", "commit_timestamp": 1, "later": true}]}"""
    assert committed_in(body) == {part(1): OffsetAndMetadata(5, "m", None)}
    with pytest.raises(BrokerUnreachableError):
        committed_in(b"{}")
