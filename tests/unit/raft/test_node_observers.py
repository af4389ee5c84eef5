"""Observers of one node: announcing themselves, being kept, and counting for nothing."""

import pytest

from ottla_cluster.raft import (
    AppendRequest,
    AppendResponse,
    HardState,
    InstallSnapshotRequest,
    InstallSnapshotResponse,
    ObserveRequest,
    PreVoteRequest,
    PreVoteResponse,
    RaftConfig,
    RaftMessageRefusedError,
    RaftNode,
    VoteRequest,
    VoteResponse,
)
from ottla_cluster.raft.observers import MISSED_HEARTBEATS, Observers
from tests.unit.raft.nodes import (
    EXPIRED_MS,
    START_MS,
    Random,
    accepted,
    append,
    make_leader,
    make_node,
    sent,
)

URL = "http://127.0.0.1:7109"
OBSERVER = 9


def announcement(term=0, sender=OBSERVER, receiver=1):
    return ObserveRequest(term, sender, receiver, URL)


def make_observer(voters=(2, 3, 4), **hard_state):
    return RaftNode(
        RaftConfig(1, voters, url=URL),
        hard_state=HardState(**hard_state),
        entries=(),
        random=Random(1),
        now_ms=START_MS,
    )


def leader_with_observer(voters=3, **options):
    node, _ = make_leader(voters, **options)
    return node, node.step(announcement(), EXPIRED_MS)


# --- the observer ---------------------------------------------------------------------------------


def test_an_observer_announces_itself_to_every_voter_at_once():
    node = make_observer()
    assert node.next_deadline_ms() == START_MS
    ready = node.tick(START_MS)
    assert ready.messages == tuple(ObserveRequest(0, 1, voter, URL) for voter in (2, 3, 4))
    assert (ready.role, ready.term, ready.must_persist) == ("follower", 0, False)


def test_it_repeats_that_until_a_leader_sends_to_it():
    node = make_observer()
    now_ms = START_MS
    for _ in range(50):
        ready = node.tick(now_ms)
        assert len(sent(ready, ObserveRequest)) == 3
        assert node.next_deadline_ms() == now_ms + 100
        now_ms += 100
    node.step(append(1), now_ms)
    assert node.leader_id == 2
    assert node.tick(now_ms + 100).messages == ()
    assert node.next_deadline_ms() == now_ms + MISSED_HEARTBEATS * 100


def test_a_silent_leader_is_looked_for_soon_and_given_up_later():
    node = make_observer()
    node.step(append(1), START_MS)
    ready = node.tick(START_MS + 300)
    assert len(sent(ready, ObserveRequest)) == 3
    assert ready.leader_id == 2
    assert node.tick(START_MS + 499).leader_id == 2
    assert node.tick(START_MS + 600).leader_id is None


def test_a_refused_leader_is_given_up_at_once():
    node = make_observer()
    node.step(append(1), START_MS)
    assert node.peer_refused(3, START_MS + 10).leader_id == 2
    assert node.peer_refused(2, START_MS + 10).leader_id is None
    assert node.next_deadline_ms() == START_MS + 10


def test_it_follows_a_leader_and_acknowledges_what_is_on_disk():
    node = make_observer()
    ready = node.step(append(1, terms=(1, 1), commit_index=1), START_MS)
    assert [entry.index for entry in ready.entries] == [1, 2]
    assert [entry.index for entry in ready.committed] == [1]
    (answer,) = sent(ready, AppendResponse)
    assert (answer.accepted, answer.index) == (True, 2)


def test_it_takes_a_snapshot():
    node = make_observer()
    ready = node.step(InstallSnapshotRequest(2, 3, 1, 7, 2, 4, 0, b"data", 0), START_MS)
    assert ready.snapshot.index == 7
    assert node.applied_index == 7


def test_it_never_votes_and_never_campaigns():
    node = make_observer(term=3)
    (answer,) = node.step(PreVoteRequest(3, 2, 1, 9, 3), START_MS).messages
    assert (type(answer), answer.granted) == (PreVoteResponse, False)
    ready = node.step(VoteRequest(4, 2, 1, 9, 3), START_MS + 5_000)
    (answer,) = ready.messages
    assert (type(answer), answer.granted) == (VoteResponse, False)
    assert ready.hard_state is None or ready.hard_state.voted_for is None
    for now_ms in range(START_MS + 5_000, START_MS + 15_000, 100):
        ready = node.tick(now_ms)
        assert (ready.role, ready.term) == ("follower", 4)
        assert not sent(ready, PreVoteRequest)


# --- the voters -----------------------------------------------------------------------------------


def test_a_voter_that_does_not_lead_passes_over_an_announcement():
    node = RaftNode(
        RaftConfig(1, (1, 2, 3)),
        hard_state=HardState(term=2),
        entries=(),
        random=Random(1),
        now_ms=START_MS,
    )
    ready = node.step(announcement(term=8), START_MS)
    assert (ready.messages, ready.term, node.observer_ids) == ((), 2, ())


def test_a_leader_answers_an_announcement_at_once():
    node, ready = leader_with_observer(terms=(1, 1))
    (request,) = sent(ready, AppendRequest)
    assert (request.receiver, request.prev_index, request.entries) == (OBSERVER, 3, ())
    assert node.observer_ids == (OBSERVER,)
    assert ready.term == node.term


def test_an_announcement_moves_no_term():
    node, _ = make_leader()
    ready = node.step(announcement(term=node.term + 5), EXPIRED_MS)
    assert (ready.role, ready.term) == ("leader", 1)


def test_an_observer_that_lacks_entries_gets_them():
    node, _ = leader_with_observer(terms=(1, 1))
    refusal = AppendResponse(node.term, OBSERVER, 1, False, 3, 0, 0, 0)
    (request,) = sent(node.step(refusal, EXPIRED_MS), AppendRequest)
    assert [entry.index for entry in request.entries] == [1, 2, 3]
    node.step(accepted(node, OBSERVER), EXPIRED_MS)
    appends = sent(node.propose([b"new"], EXPIRED_MS), AppendRequest)
    assert [request.receiver for request in appends] == [2, OBSERVER]


def test_an_observer_behind_the_compacted_log_gets_the_snapshot():
    node, _ = make_leader(terms=(1, 1), retained_entries=0)
    node.compact(3, b"state", EXPIRED_MS)
    node.step(announcement(), EXPIRED_MS)
    refusal = AppendResponse(node.term, OBSERVER, 1, False, 3, 0, 0, 0)
    (question,) = sent(node.step(refusal, EXPIRED_MS), InstallSnapshotRequest)
    assert question.chunk == b""
    lacking = InstallSnapshotResponse(node.term, OBSERVER, 1, 3, 0, 0)
    (part,) = sent(node.step(lacking, EXPIRED_MS), InstallSnapshotRequest)
    assert (part.receiver, part.chunk) == (OBSERVER, b"state")


def test_an_observer_counts_for_no_commit():
    node, _ = leader_with_observer()
    node.propose([b"new"], EXPIRED_MS)
    assert node.step(accepted(node, OBSERVER), EXPIRED_MS).commit_index == 1
    assert node.step(accepted(node, 3), EXPIRED_MS).commit_index == 2


def test_an_observer_confirms_no_read():
    node, _ = leader_with_observer()
    ready = node.request_read(7, EXPIRED_MS)
    sequence = sent(ready, AppendRequest)[0].read_sequence
    ready = node.step(accepted(node, OBSERVER, read_sequence=sequence), EXPIRED_MS)
    assert ready.confirmed_reads == ()
    ready = node.step(accepted(node, 2, read_sequence=sequence), EXPIRED_MS)
    assert [read.token for read in ready.confirmed_reads] == [7]


def test_an_observer_is_no_contact_with_the_quorum():
    node, _ = leader_with_observer()
    for now_ms in range(EXPIRED_MS, EXPIRED_MS + 1_000, 100):
        node.tick(now_ms)
        node.step(accepted(node, OBSERVER), now_ms)
    assert node.tick(EXPIRED_MS + 1_000).role == "follower"
    assert node.observer_ids == ()


def test_a_silent_observer_is_forgotten():
    node, _ = leader_with_observer(observer_timeout_ms=2_000)
    for now_ms in range(EXPIRED_MS, EXPIRED_MS + 2_100, 100):
        assert node.observer_ids == (OBSERVER,) or now_ms > EXPIRED_MS + 1_999
        node.tick(now_ms)
        node.step(accepted(node, 2), now_ms)
    assert node.observer_ids == ()
    # What it says late is passed over, and it may come back.
    assert node.step(accepted(node, OBSERVER), now_ms).messages == ()
    assert node.observer_ids == ()
    node.step(announcement(), now_ms)
    assert node.observer_ids == (OBSERVER,)


def test_an_observer_whose_process_is_gone_is_forgotten_at_once():
    node, _ = leader_with_observer()
    node.peer_refused(OBSERVER, EXPIRED_MS)
    assert node.observer_ids == ()
    node.peer_refused(OBSERVER, EXPIRED_MS)


def test_an_observer_that_lost_its_log_begins_anew():
    node, _ = leader_with_observer(terms=(1, 1))
    node.step(accepted(node, OBSERVER), EXPIRED_MS)
    refusal = AppendResponse(node.term, OBSERVER, 1, False, 3, 0, 0, 0)
    node.step(refusal, EXPIRED_MS)
    (request,) = sent(node.step(refusal, EXPIRED_MS), AppendRequest)
    assert [entry.index for entry in request.entries] == [1, 2, 3]


def test_an_impossible_answer_of_an_observer_does_not_stop_the_leader():
    node, _ = leader_with_observer()
    with pytest.raises(RaftMessageRefusedError, match=r"node 9 acknowledges index 99.*ends at 1"):
        node.step(accepted(node, OBSERVER, 99), EXPIRED_MS)
    assert (node.role, node.observer_ids) == ("leader", ())


def test_a_single_voter_sends_heartbeats_to_its_observer():
    node, ready = leader_with_observer(1)
    assert len(sent(ready, AppendRequest)) == 1
    assert node.next_deadline_ms() <= EXPIRED_MS + 100
    assert len(sent(node.tick(EXPIRED_MS + 100), AppendRequest)) == 1
    assert node.propose([b"new"], EXPIRED_MS + 100).commit_index == 2


def test_observers_are_limited_in_number():
    node, _ = make_leader(max_observers=2)
    for sender in (7, 8, 8):
        node.step(announcement(sender=sender), EXPIRED_MS)
    with pytest.raises(RaftMessageRefusedError, match="node 9 cannot observe: max_observers is 2"):
        node.step(announcement(), EXPIRED_MS)
    assert node.observer_ids == (7, 8)


@pytest.mark.parametrize(
    "message",
    [
        announcement(sender=1),
        announcement(receiver=3),
    ],
)
def test_an_announcement_is_of_another_node_and_for_this_one(message):
    node, _ = make_leader()
    with pytest.raises(RaftMessageRefusedError, match="reached node 1"):
        node.step(message, EXPIRED_MS)


def test_a_voter_that_announces_itself_is_none():
    node, _ = make_leader()
    node.step(announcement(sender=2), EXPIRED_MS)
    assert node.observer_ids == ()


def test_a_vote_of_a_node_without_one_does_not_count():
    node = make_node()
    node.tick(EXPIRED_MS)
    assert node.step(PreVoteResponse(0, OBSERVER, 1, 0, True), EXPIRED_MS).role == "pre_candidate"
    assert node.step(PreVoteResponse(0, 2, 1, 0, True), EXPIRED_MS).role == "candidate"


def test_a_leader_keeps_its_observers_in_order():
    observers = Observers(RaftConfig(1, (1,)))
    for observer_id in (5, 3):
        observers.admit(observer_id, next_index=1, now_ms=0)
    assert (observers.ids, len(observers)) == ((3, 5), 2)
    observers.expire(5_000)
    assert observers.ids == ()
