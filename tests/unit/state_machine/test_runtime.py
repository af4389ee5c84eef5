"""The runtime on a machine so small that every state can be read: a set of claimed names."""

import pytest

from ottla_cluster.raft.errors import NotLeaderError
from ottla_cluster.state_machine.result import Result
from ottla_cluster.state_machine.runtime import Completed, SpeculativeRuntime
from ottla_protocol.errors import (
    ConflictError,
    InternalError,
    MessageTooLargeError,
    NotControllerError,
    Outcome,
    OverloadedError,
)


class Names:
    """State: (version, names in order). `?` reads, `+name` claims it once."""

    def handle(self, state, command, now_ms):
        _, names = state
        if command == "?":
            return Result((), names)
        name = command.removeprefix("+")
        if name in names:
            raise ConflictError(f"{name} is taken")
        return Result((name,), f"{name} is yours")

    def replay(self, state, records, version):
        before, names = state
        assert version > before
        return version, (*names, *records)

    def encode(self, records):
        return ",".join(records).encode()


def runtime(**limits):
    limits = {"max_waiting": 1_000} | limits
    return SpeculativeRuntime(
        Names(), (10, ()), 10, lost_leadership_error=NotControllerError, **limits
    )


def propose(running, command, index):
    submitted = running.submit(command, 0)
    running.appended(submitted.request_id, index)
    return submitted


def test_a_read_with_nothing_in_flight_is_answered_at_once():
    submitted = runtime().submit("?", 0)
    assert (submitted.payload, submitted.response) == (None, ())


def test_a_write_is_answered_when_its_entry_is_committed():
    running = runtime()
    submitted = propose(running, "+a", 11)
    assert (submitted.payload, submitted.response) == (b"a", None)
    assert running.committed_state == (10, ())
    assert running.committed(10) == ()
    assert running.committed(11) == (Completed(submitted.request_id, "a is yours", 11),)
    assert running.committed_state == running.speculative_state == (11, ("a",))


def test_the_next_command_sees_what_is_not_committed_yet():
    running = runtime()
    propose(running, "+a", 11)
    assert running.speculative_state == (11, ("a",))
    assert running.submit("+b", 0).payload == b"b"
    assert running.speculative_state == (12, ("a", "b"))


def test_a_read_waits_until_what_it_saw_is_committed():
    running = runtime()
    propose(running, "+a", 11)
    read = running.submit("?", 0)
    propose(running, "+b", 12)
    assert (read.payload, read.response) == (None, None)
    assert running.committed(11)[1] == Completed(read.request_id, ("a",), 11)


def test_a_refusal_waits_until_what_it_saw_is_committed():
    running = runtime()
    propose(running, "+a", 11)
    refused = running.submit("+a", 0)
    assert (refused.payload, refused.response) == (None, None)
    _, completed = running.committed(11)
    assert completed.request_id == refused.request_id
    assert isinstance(completed.outcome, ConflictError)
    assert completed.outcome.outcome is Outcome.NOT_APPLIED


def test_a_refusal_with_nothing_in_flight_is_raised_at_once():
    running = runtime()
    propose(running, "+a", 11)
    running.committed(11)
    with pytest.raises(ConflictError) as refused:
        running.submit("+a", 0)
    assert refused.value.outcome is Outcome.NOT_APPLIED


def test_answers_are_released_in_order_and_only_as_far_as_committed():
    running = runtime()
    first = propose(running, "+a", 11).request_id
    second = propose(running, "+b", 12).request_id
    third = propose(running, "+c", 13).request_id
    assert [c.request_id for c in running.committed(12)] == [first, second]
    assert [c.request_id for c in running.committed(13)] == [third]


def test_a_commit_before_the_append_is_known_releases_nothing():
    running = runtime()
    submitted = running.submit("+a", 0)
    assert running.committed(11) == ()
    running.appended(submitted.request_id, 12)
    assert running.speculative_state == (12, ("a",))
    assert len(running.committed(12)) == 1


def test_entries_of_another_kind_shift_the_speculation():
    """The log put its own entry at 11, so what was expected at 11 and 12 is at 12 and 13."""
    running = runtime()
    first, second = running.submit("+a", 0), running.submit("+b", 0)
    read = running.submit("?", 0)
    running.appended(first.request_id, 12)
    assert running.speculative_state == (13, ("a", "b"))
    running.appended(second.request_id, 15)
    assert running.speculative_state == (15, ("a", "b"))
    assert len(running.committed(14)) == 1
    assert running.committed_state == (14, ("a",))
    assert [c.request_id for c in running.committed(15)] == [second.request_id, read.request_id]
    assert running.committed_state == (15, ("a", "b"))


def test_foreign_entries_move_the_committed_version():
    running = runtime()
    running.committed(14)
    assert running.committed_state == running.speculative_state == (14, ())


def test_lost_leadership_fails_everyone_and_says_what_became_of_it():
    running = runtime()
    write, read = propose(running, "+a", 11), running.submit("?", 0)
    unproposed = running.submit("+b", 0)
    failed = running.lost_leadership()
    assert [(c.request_id, c.outcome.outcome) for c in failed] == [
        (write.request_id, Outcome.UNKNOWN),
        (read.request_id, Outcome.NOT_APPLIED),
        (unproposed.request_id, Outcome.UNKNOWN),
    ]
    assert all(isinstance(c.outcome, NotControllerError) for c in failed)
    assert running.speculative_state == (10, ())
    with pytest.raises(NotControllerError) as refused:
        running.submit("?", 0)
    assert refused.value.outcome is Outcome.NOT_APPLIED


def test_a_failed_append_takes_with_it_whoever_saw_it():
    running = runtime()
    first = propose(running, "+a", 11)
    lost, read = running.submit("+b", 0), running.submit("?", 0)
    too_large = MessageTooLargeError("too large for the log")
    failed = running.append_failed(lost.request_id, too_large)
    assert [c.request_id for c in failed] == [lost.request_id, read.request_id]
    assert [c.outcome.outcome for c in failed] == [Outcome.NOT_APPLIED] * 2
    assert failed[0].outcome is too_large
    assert failed[1].outcome.retriable, "the reader did nothing wrong"
    assert running.append_failed(read.request_id, too_large) == ()
    assert running.speculative_state == (11, ("a",))
    assert running.submit("+b", 0).payload == b"b"
    assert running.committed(11)[0].request_id == first.request_id


def test_a_log_that_is_closed_fails_every_proposal_on_its_way():
    running = runtime()
    first, second = running.submit("+a", 0), running.submit("+b", 0)
    failed = running.append_failed(first.request_id, NotLeaderError(2))
    assert [c.request_id for c in failed] == [first.request_id, second.request_id]
    assert all(isinstance(c.outcome, NotControllerError) for c in failed)
    assert running.append_failed(second.request_id, NotLeaderError(2)) == ()
    assert running.lost_leadership() == ()


def test_a_refused_payload_before_one_on_its_way_stops_the_driver():
    """The log would accept `+b`, which was decided as if `a` were there."""
    running = runtime()
    first, _ = running.submit("+a", 0), running.submit("+b", 0)
    with pytest.raises(InternalError, match="later ones may be"):
        running.append_failed(first.request_id, OverloadedError("the log is full"))


def test_no_more_requests_wait_than_the_limit():
    running = runtime(max_waiting=2)
    propose(running, "+a", 11)
    running.submit("?", 0)
    with pytest.raises(OverloadedError) as refused:
        running.submit("?", 0)
    assert refused.value.outcome is Outcome.NOT_APPLIED
    assert running.waiting_count == 2
    running.committed(11)
    assert running.submit("?", 0).response == ("a",)


@pytest.mark.parametrize(
    "misuse",
    [
        lambda running, first, second: running.appended(second, 11),
        lambda running, first, second: running.appended(first, 10),
        lambda running, first, second: running.appended(99, 11),
        lambda running, first, second: [running.appended(first, 11), running.appended(first, 12)],
        lambda running, first, second: [running.appended(first, 11), running.appended(second, 11)],
        lambda running, first, second: [running.lost_leadership(), running.committed(11)],
        lambda running, first, second: [
            running.appended(first, 11),
            running.append_failed(first, OverloadedError("full")),
        ],
    ],
    ids=["order", "past index", "stranger", "twice", "same index", "after the end", "failed late"],
)
def test_a_driver_that_breaks_the_contract_is_a_programmer_error(misuse):
    running = runtime()
    first, second = running.submit("+a", 0), running.submit("+b", 0)
    with pytest.raises(AssertionError):
        misuse(running, first.request_id, second.request_id)
