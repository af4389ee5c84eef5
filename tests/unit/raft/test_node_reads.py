"""Linearizable reads: dissertation §6.4."""

import pytest

from ottla_cluster.raft import (
    AppendRequest,
    AppendResponse,
    NotLeaderError,
    ReadConfirmed,
    Role,
)
from ottla_protocol.errors import OverloadedError
from tests.unit.raft.nodes import (
    EXPIRED_MS,
    START_MS,
    accepted,
    append,
    make_leader,
    make_node,
    sent,
)


def answer(node, sender, read_sequence, now_ms=EXPIRED_MS):
    return node.step(accepted(node, sender, 1, read_sequence=read_sequence), now_ms)


def test_a_read_starts_its_round_at_once_and_is_confirmed_by_a_quorum():
    node, _ = make_leader()
    ready = node.request_read(7, EXPIRED_MS)
    assert [(m.receiver, m.read_sequence) for m in sent(ready, AppendRequest)] == [(2, 1), (3, 1)]
    assert ready.confirmed_reads == ()
    assert answer(node, 3, 1).confirmed_reads == (ReadConfirmed(7, 1),)
    assert answer(node, 2, 1).confirmed_reads == ()


def test_a_leader_of_five_waits_for_two_answers():
    node, _ = make_leader(voters=5)
    node.request_read(7, EXPIRED_MS)
    assert answer(node, 2, 1).confirmed_reads == ()
    assert answer(node, 2, 1).confirmed_reads == ()
    assert answer(node, 4, 1).confirmed_reads == (ReadConfirmed(7, 1),)


def test_an_answer_from_before_the_read_confirms_nothing():
    node, _ = make_leader()
    node.request_read(7, EXPIRED_MS)
    assert answer(node, 2, 0).confirmed_reads == ()
    assert answer(node, 3, 0).confirmed_reads == ()


def test_a_refusal_confirms_a_read_too():
    """The follower answered in this term; whether its log agrees is another matter."""
    node, _ = make_leader()
    node.request_read(7, EXPIRED_MS)
    ready = node.step(AppendResponse(1, 3, 1, False, 1, 0, 0, 1), EXPIRED_MS)
    assert ready.confirmed_reads == (ReadConfirmed(7, 1),)


def test_what_refuses_a_request_of_an_older_term_answers_no_round():
    """Its sender may lead again, and numbers its rounds anew."""
    node = make_node(term=4)
    late = AppendRequest(3, 2, 1, 0, 0, (), 0, 7)
    (refusal,) = sent(node.step(late, START_MS), AppendResponse)
    assert (refusal.term, refusal.accepted, refusal.read_sequence) == (4, False, 0)


def test_a_new_leader_reads_only_after_its_own_entry_is_committed():
    node, _ = make_leader(terms=(1,), commits=False)
    waiting = node.request_read(7, EXPIRED_MS)
    assert waiting.messages == ()
    ready = node.step(accepted(node, 2, 2), EXPIRED_MS)
    assert [m.receiver for m in sent(ready, AppendRequest) if m.read_sequence == 1] == [2, 3]
    confirmed = node.step(accepted(node, 2, 2, read_sequence=1), EXPIRED_MS)
    assert confirmed.confirmed_reads == (ReadConfirmed(7, 2),)


def test_a_single_voter_confirms_at_once():
    node = make_node(voters=1)
    node.tick(START_MS)
    assert node.request_read(7, START_MS).confirmed_reads == (ReadConfirmed(7, 1),)


def test_reads_beyond_the_rounds_in_flight_share_one_round():
    node, _ = make_leader(max_read_rounds_in_flight=1)
    node.request_read(1, EXPIRED_MS)
    assert node.request_read(2, EXPIRED_MS).messages == ()
    assert node.request_read(3, EXPIRED_MS).messages == ()
    first = answer(node, 2, 1)
    assert first.confirmed_reads == (ReadConfirmed(1, 1),)
    assert {message.read_sequence for message in sent(first, AppendRequest)} == {2}
    assert answer(node, 2, 2).confirmed_reads == (ReadConfirmed(2, 1), ReadConfirmed(3, 1))


def test_a_lost_round_is_repeated_by_heartbeats():
    node, _ = make_leader()
    node.request_read(7, EXPIRED_MS)
    beat = node.tick(EXPIRED_MS + 100)
    assert {message.read_sequence for message in sent(beat, AppendRequest)} == {1}


def test_lost_leadership_fails_every_read():
    node, _ = make_leader(max_read_rounds_in_flight=1)
    node.request_read(1, EXPIRED_MS)
    node.request_read(2, EXPIRED_MS)
    ready = node.step(append(9, sender=3), EXPIRED_MS)
    assert (ready.failed_reads, ready.confirmed_reads) == ((1, 2), ())


def test_a_leader_that_slept_refuses_a_read_and_fails_the_earlier_ones_next():
    node, _ = make_leader()
    node.request_read(1, EXPIRED_MS)
    late_ms = EXPIRED_MS + 5_000
    with pytest.raises(NotLeaderError):
        node.request_read(2, late_ms)
    assert node.role is Role.FOLLOWER
    assert node.next_deadline_ms() == late_ms
    assert node.tick(late_ms).failed_reads == (1,)
    assert node.next_deadline_ms() > late_ms


def test_answers_that_waited_through_a_sleep_confirm_nothing():
    node, _ = make_leader()
    node.request_read(1, EXPIRED_MS)
    ready = answer(node, 2, 1, EXPIRED_MS + 5_000)
    assert (ready.role, ready.confirmed_reads, ready.failed_reads) == (Role.FOLLOWER, (), (1,))


def test_a_follower_refuses_reads():
    with pytest.raises(NotLeaderError):
        make_node().request_read(1, START_MS)


def test_waiting_reads_are_bounded():
    node, _ = make_leader(max_pending_reads=2)
    node.request_read(1, EXPIRED_MS)
    node.request_read(2, EXPIRED_MS)
    with pytest.raises(OverloadedError):
        node.request_read(3, EXPIRED_MS)
