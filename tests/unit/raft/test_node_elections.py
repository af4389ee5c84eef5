"""Elections of one voter: Raft §5.1, §5.2, §5.4.1; dissertation §4.2.3, §6.2, §9.6."""

import pytest

from ottla_cluster.raft import (
    AppendRequest,
    AppendResponse,
    HardState,
    PreVoteRequest,
    PreVoteResponse,
    RaftInvariantError,
    Role,
    VoteRequest,
    VoteResponse,
)
from tests.unit.raft.nodes import (
    EXPIRED_MS,
    START_MS,
    append,
    make_leader,
    make_node,
    pre_vote,
    sent,
    vote,
)


def follow_leader(node, now_ms=START_MS):
    node.step(append(node.term, sender=3), now_ms)
    assert node.leader_id == 3
    return node


def test_a_voter_starts_as_follower_and_gives_a_living_leader_time_to_be_heard():
    """§5.2; shorter than after a leader's silence, since nobody was heard yet."""
    node = make_node()
    assert (node.role, node.term, node.leader_id) == (Role.FOLLOWER, 0, None)
    assert START_MS + 2 * 100 <= node.next_deadline_ms() <= START_MS + 500
    assert node.tick(node.next_deadline_ms() - 1).messages == ()


def test_a_follower_waits_a_whole_election_timeout_for_a_leader_that_it_has_heard():
    """§5.2"""
    node = follow_leader(make_node())
    assert START_MS + 500 <= node.next_deadline_ms() <= START_MS + 1_000


def test_a_timeout_begins_a_pre_vote_that_moves_nobodys_term():
    """§9.6"""
    node = make_node()
    ready = node.tick(node.next_deadline_ms())
    assert [(m.receiver, m.term) for m in sent(ready, PreVoteRequest)] == [(2, 0), (3, 0)]
    assert (ready.role, ready.term, ready.must_persist) == (Role.PRE_CANDIDATE, 0, False)


def test_a_won_pre_vote_begins_a_term_and_votes_for_itself_durably():
    """§5.2: a candidate increments its term, votes for itself, and asks the others."""
    node = make_node()
    node.tick(EXPIRED_MS)
    ready = node.step(PreVoteResponse(0, 2, 1, 0, True), EXPIRED_MS)
    assert ready.hard_state == HardState(term=1, voted_for=1, commit_index=0)
    assert [(m.receiver, m.term) for m in sent(ready, VoteRequest)] == [(2, 1), (3, 1)]


def test_a_quorum_of_votes_makes_a_leader_that_appends_a_no_op():
    """§5.2 and §8"""
    _, ready = make_leader(commits=False)
    assert (ready.role, ready.leader_id, ready.term) == (Role.LEADER, 1, 1)
    assert [(e.index, e.term, e.payload) for e in ready.entries] == [(1, 1, b"")]
    assert [m.receiver for m in sent(ready, AppendRequest)] == [2, 3]
    assert ready.committed == ()


def test_a_single_voter_elects_itself_and_commits_in_one_ready_without_waiting():
    node = make_node(voters=1)
    assert node.next_deadline_ms() == START_MS
    ready = node.tick(START_MS)
    assert (ready.role, ready.commit_index, ready.messages) == (Role.LEADER, 1, ())
    assert ready.entries == ready.committed
    assert ready.hard_state == HardState(1, 1, 1)


def test_a_refused_pre_vote_gives_up_until_the_next_timeout():
    node = make_node()
    node.tick(EXPIRED_MS)
    node.step(PreVoteResponse(0, 2, 1, 0, False), EXPIRED_MS)
    ready = node.step(PreVoteResponse(0, 3, 1, 0, False), EXPIRED_MS)
    assert ready.role is Role.FOLLOWER
    assert node.next_deadline_ms() >= EXPIRED_MS + 500


def test_an_answer_to_an_earlier_pre_vote_does_not_count():
    node = make_node(term=4)
    node.tick(EXPIRED_MS)
    node.step(PreVoteResponse(4, 2, 1, 3, True), EXPIRED_MS)
    assert node.role is Role.PRE_CANDIDATE


def test_a_vote_is_granted_once_per_term_and_is_durable_before_it_is_told():
    """§5.2: at most one candidate in a given term, first come, first served."""
    node = make_node()
    first = node.step(vote(5, sender=2), START_MS)
    assert first.hard_state == HardState(5, 2, 0)
    assert sent(first, VoteResponse) == [VoteResponse(5, 1, 2, True)]
    second = node.step(vote(5, sender=3), START_MS)
    assert sent(second, VoteResponse) == [VoteResponse(5, 1, 3, False)]
    again = node.step(vote(5, sender=2), START_MS)
    assert sent(again, VoteResponse) == [VoteResponse(5, 1, 2, True)]
    assert not again.must_persist


def test_a_vote_survives_a_restart():
    node = make_node(term=5, voted_for=3)
    ready = node.step(vote(5, sender=2), START_MS)
    assert sent(ready, VoteResponse) == [VoteResponse(5, 1, 2, False)]


def test_a_vote_for_an_older_term_is_refused_with_the_newer_one():
    """§5.1"""
    node = make_node(term=5)
    ready = node.step(vote(4), START_MS)
    assert sent(ready, VoteResponse) == [VoteResponse(5, 1, 2, False)]


@pytest.mark.parametrize("request_of", [vote, pre_vote])
@pytest.mark.parametrize(
    ("last_index", "last_term", "granted"),
    [(2, 3, True), (1, 4, True), (3, 3, True), (1, 3, False), (9, 2, False)],
)
def test_only_a_log_at_least_as_up_to_date_gets_a_vote(request_of, last_index, last_term, granted):
    """§5.4.1"""
    node = make_node(terms=(1, 3))
    ready = node.step(request_of(7, last_index, last_term), START_MS)
    assert [message.granted for message in ready.messages] == [granted]


def test_a_granted_vote_moves_the_timer_and_a_refused_one_does_not():
    """§5.2: else a voter that can never win would hold off the one that can."""
    node = make_node(terms=(1,))
    before = node.next_deadline_ms()
    node.step(vote(5, 0, 0), START_MS + 400)
    assert (node.term, node.next_deadline_ms()) == (5, before)
    node.step(vote(6, 1, 1), START_MS + 400)
    assert node.next_deadline_ms() >= START_MS + 900


def test_a_pre_vote_grants_without_remembering_or_moving_anything():
    """§9.6"""
    node = make_node(term=3)
    before = node.next_deadline_ms()
    for sender in (2, 3):
        ready = node.step(pre_vote(8, sender=sender), START_MS)
        assert sent(ready, PreVoteResponse) == [PreVoteResponse(3, 1, sender, 8, True)]
        assert not ready.must_persist
    assert (node.term, node.next_deadline_ms()) == (3, before)


def test_a_pre_vote_for_an_older_term_learns_the_newer_one():
    node = make_node(term=5)
    ready = node.step(pre_vote(4), START_MS)
    assert sent(ready, PreVoteResponse) == [PreVoteResponse(5, 1, 2, 4, False)]
    other = make_node(term=4)
    other.tick(EXPIRED_MS)
    learned = other.step(PreVoteResponse(5, 2, 1, 4, False), EXPIRED_MS)
    assert (learned.role, learned.hard_state) == (Role.FOLLOWER, HardState(5, None, 0))


def test_a_voter_with_a_live_leader_helps_nobody_else():
    """§4.2.3: it neither grants nor learns the term."""
    node = follow_leader(make_node(term=2))
    asked = node.step(pre_vote(2), START_MS + 499)
    assert [message.granted for message in asked.messages] == [False]
    ready = node.step(vote(9), START_MS + 499)
    assert (ready.messages, ready.term) == ((), 2)
    late = node.step(vote(9), START_MS + 500)
    assert [message.granted for message in late.messages] == [True]


def test_a_leader_with_its_quorum_ignores_vote_requests():
    """§4.2.3"""
    node, _ = make_leader()
    ready = node.step(vote(9, 9, 9), EXPIRED_MS)
    assert (ready.role, ready.term, ready.messages) == (Role.LEADER, 1, ())


def test_a_higher_term_in_an_answer_ends_leadership():
    """§5.1"""
    node, _ = make_leader()
    ready = node.step(AppendResponse(7, 2, 1, False, 1, 0, 0, 0), EXPIRED_MS)
    assert (ready.role, ready.term, ready.leader_id) == (Role.FOLLOWER, 7, None)
    assert ready.hard_state == HardState(7, None, 1)


def test_a_candidate_follows_a_leader_of_its_term():
    """§5.2"""
    node = make_node()
    node.tick(EXPIRED_MS)
    node.step(PreVoteResponse(0, 2, 1, 0, True), EXPIRED_MS)
    ready = node.step(append(1, sender=3), EXPIRED_MS)
    assert (ready.role, ready.leader_id, ready.term) == (Role.FOLLOWER, 3, 1)


def test_votes_that_come_after_the_election_change_nothing():
    node, _ = make_leader()
    ready = node.step(VoteResponse(1, 3, 1, True), EXPIRED_MS)
    assert (ready.role, ready.messages, ready.entries) == (Role.LEADER, (), ())


def test_two_leaders_of_one_term_stop_the_process():
    """Election safety, figure 3."""
    node = follow_leader(make_node(term=2))
    with pytest.raises(RaftInvariantError, match="both lead term 2"):
        node.step(append(2, sender=2), START_MS)


def test_a_leader_without_a_quorum_steps_down_after_an_election_timeout():
    """§6.2"""
    node, _ = make_leader()
    assert node.tick(EXPIRED_MS + 999).role is Role.LEADER
    ready = node.tick(EXPIRED_MS + 1_000)
    assert (ready.role, ready.leader_id, ready.term) == (Role.FOLLOWER, None, 1)


def test_a_leader_of_five_needs_two_followers():
    node, _ = make_leader(voters=5)
    for now_ms in range(EXPIRED_MS, EXPIRED_MS + 1_000, 100):
        node.step(AppendResponse(1, 2, 1, True, 1, 0, 0, 0), now_ms)
    assert node.tick(EXPIRED_MS + 1_000).role is Role.FOLLOWER


def test_a_refused_leader_is_forgotten_and_a_campaign_comes_soon():
    node = follow_leader(make_node(term=2))
    ready = node.peer_refused(3, START_MS + 10)
    assert (ready.leader_id, ready.messages) == (None, ())
    assert START_MS + 10 <= node.next_deadline_ms() <= START_MS + 10 + 125
    asked = node.step(pre_vote(2), START_MS + 10)
    assert [message.granted for message in asked.messages] == [True]


def test_another_peer_that_refuses_changes_nothing_for_a_follower():
    node = follow_leader(make_node(term=2))
    before = node.next_deadline_ms()
    assert node.peer_refused(2, START_MS + 10).leader_id == 3
    assert node.next_deadline_ms() == before


def test_a_refused_peer_turns_a_split_vote_into_a_quick_second_round():
    node = make_node()
    node.tick(EXPIRED_MS)
    node.step(PreVoteResponse(0, 2, 1, 0, True), EXPIRED_MS)
    node.peer_refused(3, EXPIRED_MS)
    assert node.role is Role.CANDIDATE
    ready = node.step(VoteResponse(1, 2, 1, False), EXPIRED_MS)
    assert ready.role is Role.FOLLOWER
    assert node.next_deadline_ms() <= EXPIRED_MS + 125


def test_election_timeouts_differ_from_draw_to_draw():
    """§5.2: randomized timeouts resolve split votes."""
    node = make_node()
    drawn = []
    for now_ms in range(START_MS, START_MS + 50):
        node.step(append(1, sender=3), now_ms)
        drawn.append(node.next_deadline_ms() - now_ms)
    assert all(500 <= timeout_ms <= 1_000 for timeout_ms in drawn)
    assert len(set(drawn)) > 20


def test_a_clock_that_steps_back_stands_still():
    node = make_node()
    deadline = node.next_deadline_ms()
    node.tick(START_MS + 100)
    node.tick(START_MS - 5_000)
    assert node.next_deadline_ms() == deadline
    assert node.tick(deadline).role is Role.PRE_CANDIDATE
