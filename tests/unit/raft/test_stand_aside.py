"""A voter whose disk hangs neither leads nor campaigns, and still votes."""

from ottla_cluster.raft import PreVoteRequest, PreVoteResponse, Role, VoteRequest, VoteResponse
from tests.unit.raft.nodes import EXPIRED_MS, append, make_leader, make_node, sent, vote


def test_a_leader_gives_up_its_leadership_without_persisting_anything():
    node, _ = make_leader()
    term = node.term
    ready = node.stand_aside(EXPIRED_MS, stands_aside=True)
    assert (ready.role, ready.leader_id, ready.term) == (Role.FOLLOWER, None, term)
    assert not ready.must_persist
    assert ready.messages == ()


def test_reads_that_wait_at_the_leader_fail():
    node, _ = make_leader()
    node.request_read(1, EXPIRED_MS)
    assert node.stand_aside(EXPIRED_MS, stands_aside=True).failed_reads == (1,)


def test_it_does_not_campaign_until_it_may():
    node, _ = make_leader()
    node.stand_aside(EXPIRED_MS, stands_aside=True)
    now_ms = EXPIRED_MS
    for _ in range(5):
        now_ms = node.next_deadline_ms()
        ready = node.tick(now_ms)
        assert ready.role is Role.FOLLOWER
        assert ready.messages == ()
    node.stand_aside(now_ms, stands_aside=False)
    assert sent(node.tick(node.next_deadline_ms()), PreVoteRequest)


def test_a_campaign_that_is_won_meanwhile_is_given_up():
    for won_as in (Role.PRE_CANDIDATE, Role.CANDIDATE):
        node = make_node()
        node.tick(EXPIRED_MS)
        if won_as is Role.CANDIDATE:
            node.step(PreVoteResponse(0, 2, 1, 0, True), EXPIRED_MS)
        assert node.role is won_as
        node.stand_aside(EXPIRED_MS, stands_aside=True)
        node.step(PreVoteResponse(0, 2, 1, 0, True), EXPIRED_MS)
        node.step(VoteResponse(node.term, 2, 1, True), EXPIRED_MS)
        assert node.role is Role.FOLLOWER


def test_it_votes_and_follows_as_ever():
    node, _ = make_leader()
    node.stand_aside(EXPIRED_MS, stands_aside=True)
    ready = node.step(vote(node.term + 1, node.last_index, node.term), EXPIRED_MS)
    assert [each.granted for each in sent(ready, VoteResponse)] == [True]
    assert ready.must_persist
    node.step(append(node.term, node.last_index, node.term - 1), EXPIRED_MS)
    assert node.leader_id == 2


def test_a_single_voter_has_nobody_to_stand_aside_for():
    node = make_node(1)
    node.tick(EXPIRED_MS)
    assert node.role is Role.LEADER
    assert node.stand_aside(EXPIRED_MS, stands_aside=True).role is Role.LEADER


def test_a_refused_connection_hastens_nothing_while_it_stands_aside():
    node = make_node()
    node.step(append(1, sender=2), EXPIRED_MS)
    node.stand_aside(EXPIRED_MS, stands_aside=True)
    node.peer_refused(2, EXPIRED_MS)
    ready = node.tick(node.next_deadline_ms())
    assert not sent(ready, PreVoteRequest)
    assert not sent(ready, VoteRequest)
