"""Schedules with a name: each drives a cluster into the corner that one rule of Raft exists for.

A schedule is a function of the driver class. On the correct node it ends quietly; on the mutant
that breaks its rule it ends in a violated invariant or a failed assertion.
"""

from ottla_cluster.raft import (
    AppendRequest,
    AppendResponse,
    PreVoteRequest,
    PreVoteResponse,
    VoteRequest,
    VoteResponse,
)
from tests.simulation.raft.script import LONG_MS, Script


def figure_8(host_class):
    """Raft figure 8: an old term's entry on a majority is replaced all the same (§5.4.2)."""
    script = Script(5, host_class, max_append_entries=1)
    script.elect(1, 2, 3, 4, 5)
    script.settle()
    # (a) Node 1 leads and replicates an entry to node 2 only.
    script[1].propose([b"replicated by figure 8"])
    script.settle(1, 2)
    contested = script.node(1).last_index
    # (b) Node 1 crashes; node 5 leads a newer term with its own entry in that place.
    script.power_loss(1)
    script.elect(5, 3, 4)
    script.drop()
    assert script.node(5).last_index == contested
    # (c) Node 5 crashes; node 1 leads again and brings its old entry onto a majority, no further.
    script.power_loss(5)
    script.restart(1)
    script.elect(1, 2, 3)
    script.drop()
    script.wait(100)
    script.tick(1)
    for _ in range(4):
        for append in script.select(AppendRequest, sender=1):
            if append.receiver > 3 or any(entry.index > contested for entry in append.entries):
                script.in_flight.remove(append)
        script.deliver(AppendRequest)
        script.deliver(AppendResponse)
    assert [script.node(n).last_index for n in (2, 3)] == [contested, contested]
    # (d) Node 1 crashes; node 5 is elected by those who hold the old entry, and replaces it.
    script.power_loss(1)
    script.restart(5)
    script.elect(5, 2, 3, 4)
    script.settle(2, 3, 4, 5)
    assert script.node(5).commit_index > contested
    script.restart(1)
    script.run(LONG_MS)
    assert {script.node(n).commit_index for n in script.hosts} == {script.node(5).commit_index}


def double_vote_after_power_loss(host_class):
    """A vote is on disk before it is told: the voter restarts and is asked again in that term."""
    script = Script(3, host_class)
    script.wait(LONG_MS)
    # Both candidates win their pre-votes before either begins the term.
    script.tick(1, 3)
    script.deliver(PreVoteRequest, sender=1, receiver=2)
    script.deliver(PreVoteRequest, sender=3, receiver=2)
    script.deliver(PreVoteResponse, sender=2)
    script.drop(VoteRequest, sender=1, receiver=3)
    script.drop(VoteRequest, sender=3, receiver=1)
    # Node 2 votes for node 1 and loses power before, or just after, its disk is done.
    script.hold_disk(2)
    script.deliver(VoteRequest, sender=1, receiver=2)
    if not script.select(VoteResponse, sender=2):
        script.sync(2)
    script.power_loss(2)
    script.restart(2)
    script.deliver(VoteResponse, receiver=1)
    assert script.node(1).role == "leader"
    # Node 3 asks for the same term.
    script.deliver(VoteRequest, sender=3, receiver=2)
    script.deliver(VoteResponse, receiver=3)
    assert script.node(3).role != "leader"


def acknowledged_then_power_loss(host_class):
    """An append is acknowledged only from disk: the follower that completed a majority forgets."""
    script = Script(3, host_class)
    script.elect(1, 2, 3)
    script.settle()
    script.hold_disk(2)
    script[1].propose([b"on two of three"])
    script.drop(receiver=3)
    script.deliver(AppendRequest, receiver=2)
    if not script.select(AppendResponse, sender=2):
        script.sync(2)
    script.deliver(AppendResponse, sender=2)
    assert script.node(1).commit_index == 2
    script.power_loss(1, 2)
    script.restart(2)
    # Whoever leads now must hold the entry: node 3 cannot, with node 2's vote.
    script.run(5 * LONG_MS, cut=((1, 2), (1, 3)))
    assert script.node(2).role == "leader"
    assert script.node(2).commit_index > 2


def applied_before_persisting(host_class):
    """A single voter applies what is on disk, or a power loss takes back what was answered."""
    script = Script(1, host_class)
    script.tick(1)
    script.hold_disk(1)
    script[1].propose([b"answered"])
    applied_index = script[1].applied_index
    script.power_loss(1)
    assert script[1].disk.last_index >= applied_index


def shorter_log_campaigns(host_class):
    """Election restriction (§5.4.1): a voter with the committed entry refuses one without."""
    script = Script(3, host_class)
    script.elect(1, 2, 3)
    script.settle()
    script[1].propose([b"on one and two"])
    script.settle(1, 2)
    script.power_loss(1)
    script.drop()
    # Node 3 asks first, and asks again in newer terms; only node 2 may lead.
    for _ in range(3):
        script.timeout(3)
        script.settle(2, 3)
    assert script.node(3).role != "leader"
    script.run(5 * LONG_MS, cut=((2, 1), (3, 1)))
    assert script.node(2).role == "leader"


def longer_log_of_an_older_term_campaigns(host_class):
    """Election restriction (§5.4.1): the last term counts before the length."""
    script = Script(3, host_class)
    script.elect(1, 2, 3)
    script.settle()
    # Node 1 alone appends a long tail; the others go on in a newer term and commit.
    script[1].propose([b"never replicated"] * 5)
    script.power_loss(1)
    script.elect(2, 3)
    script.settle(2, 3)
    script.power_loss(2)
    script.restart(1)
    script.drop()
    for _ in range(3):
        script.timeout(1)
        script.settle(1, 3)
    assert script.node(1).role != "leader"
    script.run(5 * LONG_MS, cut=((1, 2), (3, 2)))
    assert script.node(3).role == "leader"


def delayed_append_is_repeated(host_class):
    """An append that arrives again must not cut off what followed it (§5.3)."""
    script = Script(3, host_class)
    script.elect(1, 2, 3)
    script.settle()
    script[1].propose([b"first"])
    (late,) = script.select(AppendRequest, receiver=2)
    script[1].propose([b"second"])
    script.settle()
    assert script.node(2).commit_index == 3
    script[2].receive(late)
    assert script.node(2).last_index == 3


def stale_tail_meets_commit_news(host_class):
    """A follower commits no further than the entries that it knows to agree."""
    script = Script(3, host_class)
    script.elect(1, 2, 3)
    script.settle()
    script[1].propose([b"replicated nowhere"])
    script.drop()
    script.elect(2, 3)
    script.drop(receiver=1)
    script.settle(2, 3)
    # Node 2 has committed index 2 in its own term; node 1 holds another entry there.
    assert script.node(2).commit_index == 2
    script[2].read(1)
    script.deliver(AppendRequest, sender=2, receiver=1)
    script.settle()
    assert script[1].applied_index <= 2


def replace_unheard(script):
    """Node 2 is elected and commits, while node 1 leads, hears of neither and counts on others.

    A refused connection lets them elect so soon.
    """
    script.wait(100)
    for follower in (2, 3):
        script[follower].refused(1)
    script.wait(200)
    script.tick(2)
    script.settle(2, 3)
    script.drop(receiver=1)
    assert script.node(2).role == "leader"
    script[2].propose([b"unknown to node 1"])
    script.settle(2, 3)
    script.drop(receiver=1)
    assert script.node(1).role == "leader"


def isolated_leader_reads(host_class):
    """ReadIndex (dissertation §6.4): a leader that was replaced confirms nothing."""
    script = Script(3, host_class)
    script.elect(1, 2, 3)
    script.settle()
    replace_unheard(script)
    script[1].read(1)
    script.drop(sender=1)
    assert script.checker.confirmed_read_count == 0
    script.run(LONG_MS)
    assert (script.checker.confirmed_read_count, script.checker.failed_read_count) == (0, 1)


def old_answers_reach_a_replaced_leader(host_class):
    """An answer to a message from before the read proves nothing about the time after it."""
    script = Script(3, host_class)
    script.elect(1, 2, 3)
    script.settle()
    script.wait(100)
    script.tick(1)
    script.deliver(AppendRequest)
    # The answers to that heartbeat are still on their way while the others elect node 2.
    late = script.select(AppendResponse, receiver=1)
    script.drop(receiver=1)
    for follower in (2, 3):
        script[follower].refused(1)
    script.wait(200)
    script.tick(2)
    script.settle(2, 3)
    assert script.node(2).role == "leader"
    script.drop(receiver=1)
    script[1].read(1)
    for answer in late:
        script[1].receive(answer)
    assert script.checker.confirmed_read_count == 0


def late_requests_of_a_former_leadership(host_class):
    """What refuses a request of an older term answers no round of this one (seed 520603761)."""
    script = Script(3, host_class)
    script.elect(1, 2, 3)
    script.settle()
    for token in (1, 2):
        script[1].read(token)
    late = script.select(AppendRequest, sender=1)
    script.elect(2, 3)
    script.settle()
    script.elect(1, 2, 3)
    script.settle()
    for request in late:
        script[request.receiver].receive(request)
    script.deliver(AppendResponse, receiver=1)
    replace_unheard(script)
    script[1].read(3)
    assert script.checker.confirmed_read_count == 0


def new_leader_reads_at_once(host_class):
    """A leader's commit index is current only when an entry of its term is committed (§6.4)."""
    script = Script(3, host_class)
    script.elect(1, 2, 3)
    script.settle()
    script[1].propose([b"committed where only node 1 knows"])
    script.deliver(AppendRequest)
    script.deliver(AppendResponse)
    assert script.node(1).commit_index == 2
    script.power_loss(1)
    script.elect(2, 3)
    script[2].read(1)
    # The no-op is lost and the heartbeats arrive: a quorum answers, but nothing is committed.
    for message in script.select(AppendRequest, sender=2):
        if message.entries:
            script.in_flight.remove(message)
    script.settle(2, 3)
    script.wait(100)
    script.tick(2)
    script.settle(2, 3)
    assert script.checker.confirmed_read_count == 1


def paused_leader_wakes(host_class):
    """A leader that slept past its election timeout steps down before it believes anything."""
    script = Script(3, host_class)
    script.elect(1, 2, 3)
    script.settle()
    script[1].read(1)
    script.deliver(AppendRequest)
    script.wait(LONG_MS)
    # The answers waited in its socket. They are older than its sleep.
    script.deliver(AppendResponse, receiver=1)
    assert script.node(1).role == "follower"
    assert (script.checker.confirmed_read_count, script.checker.failed_read_count) == (0, 1)


def leader_cannot_hear(host_class):
    """Check-quorum (dissertation §6.2): a leader that hears nobody makes room."""
    script = Script(3, host_class)
    script.elect(1, 2, 3)
    script.settle()
    # Its heartbeats arrive, so without stepping down it would lead, deaf, for ever.
    script.run(5_000, cut=((2, 1), (3, 1)))
    assert script.node(1).role != "leader"
    assert any(script.node(n).role == "leader" for n in (2, 3))


def isolated_follower_returns(host_class):
    """Pre-vote (dissertation §9.6): who was cut off comes back without moving the term."""
    script = Script(3, host_class)
    script.elect(1, 2, 3)
    script.settle()
    term = script.node(1).term
    script.run(20_000, cut=((1, 3), (3, 1), (2, 3), (3, 2)))
    script.run(5_000)
    assert script.node(1).role == "leader"
    assert {script.node(n).term for n in script.hosts} == {term}


def follower_cannot_hear(host_class):
    """Leader stickiness (§4.2.3): one deaf follower with an equal log cannot depose the leader."""
    script = Script(3, host_class)
    script.elect(1, 2, 3)
    script.settle()
    term = script.node(1).term
    script.run(20_000, cut=((1, 3),))
    assert script.node(1).role == "leader"
    assert script.node(2).term == term


def crashed_leader_refuses(host_class):
    """A refused connection replaces a leader well before the shortest election timeout."""
    script = Script(3, host_class)
    script.elect(1, 2, 3)
    script.settle()
    script.power_loss(1)
    crashed_ms = script.now_ms
    for follower in (2, 3):
        script[follower].refused(1)
    script.run(script.node(2)._config.election_timeout_min_ms // 2, cut=((2, 1), (3, 1)))
    assert script.now_ms - crashed_ms < script.node(2)._config.election_timeout_min_ms
    assert "leader" in (script.node(2).role, script.node(3).role)


def append_is_lost(host_class):
    """A lost append is found by the next heartbeat and sent again."""
    script = Script(3, host_class)
    script.elect(1, 2, 3)
    script.settle()
    script[1].propose([b"lost on its way to node 3"])
    script.drop(AppendRequest, receiver=3)
    script.settle()
    script.run(500)
    assert script.node(3).commit_index == 2


SCHEDULES = {
    schedule.__name__: schedule
    for schedule in (
        figure_8,
        double_vote_after_power_loss,
        acknowledged_then_power_loss,
        applied_before_persisting,
        shorter_log_campaigns,
        longer_log_of_an_older_term_campaigns,
        delayed_append_is_repeated,
        stale_tail_meets_commit_news,
        isolated_leader_reads,
        old_answers_reach_a_replaced_leader,
        late_requests_of_a_former_leadership,
        new_leader_reads_at_once,
        paused_leader_wakes,
        leader_cannot_hear,
        isolated_follower_returns,
        follower_cannot_hear,
        crashed_leader_refuses,
        append_is_lost,
    )
}
