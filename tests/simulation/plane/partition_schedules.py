"""Schedules of leaders and followers: the interleavings that broke real replicated logs.

A schedule is a function of the process class and the voter class. With the real machines it ends
quietly; with the mutant that breaks its rule it ends in an error.
"""

from tests.simulation.plane.script import Script
from tests.simulation.plane.timing import (
    CALL_TIMEOUT_MS,
    REPLICA_LAG_TIME_MAX_MS,
    SESSION_TIMEOUT_MS,
)


def kip_101_data_loss(*classes):
    """A follower that knows less than is committed follows another leader, then leads."""
    script = Script(*classes)
    a, b, c = script.state.replicas
    script.commit(a)
    script.run(100)
    for follower in (b, c):
        script.hold_news(a, follower)
    script.commit(a)
    script.hold("fetched", sender=b, receiver=c)
    script.kill(a)
    script.until(script.leads(b), "no other leader")
    script.require(script.replica(b).high_watermark == 1, "b knows of the first record only")
    script.run(20)
    script.kill(b)
    script.until(script.leads(c), "no third leader")
    script.require(script.end_of(c) == 2, "c has what was acknowledged")
    script.finish()


def kip_101_divergence(*classes):
    """Two logs of one length with different records at one offset."""
    script = Script(*classes)
    a, b, _c = script.state.replicas
    script.commit(a)
    script.run(100)
    script.hold("fetched", sender=a)
    script.produce(a, acks_all=False)
    script.run(5)
    script.kill(a)
    script.until(script.leads(b), "no other leader")
    script.new_producer()
    script.commit(b)
    script.start(a)
    script.until(lambda: a in script.state.isr, "a is not in sync again")
    script.require(script.replica(a).log.records == script.replica(b).log.records, "one log")
    script.finish()


def kip_279_fast_elections(*classes):
    """The follower's last epoch is one that the new leader never saw."""
    script = Script(*classes)
    a, b, c = script.state.replicas
    script.commit(a)
    script.commit(a)
    script.run(100)
    script.hold("fetched", sender=a, receiver=b)
    for _ in range(2):
        script.produce(a, acks_all=False)
    script.until(lambda: script.replica(c).log.durable_end == 4, "c does not get the records")
    script.hold("fetch", sender=c, receiver=b)
    script.kill(a)
    script.until(script.leads(b), "no other leader")
    script.new_producer()
    for _ in range(3):
        script.produce(b, acks_all=False)
    script.run(2)
    script.kill(b)
    script.until(script.leads(c), "no third leader")
    script.new_producer()
    for _ in range(2):
        script.produce(c, acks_all=False)
    script.start(b)
    script.until(lambda: script.state.isr == (b, c), "b is not in sync again")
    script.require(script.replica(b).log.records == script.replica(c).log.records, "one log")
    script.finish()


def expansion_races_a_restart(*classes):
    """KIP-903: the proposal names an incarnation whose disk is gone when it arrives."""
    script = Script(*classes)
    a, _b, c = script.state.replicas
    script.commit(a)
    lag = script.leave_isr(c, a)
    proposals = script.hold_proposals(a)
    lag.release()
    script.until(lambda: proposals.messages, "c is not proposed")
    script.hold("fetch", sender=c)
    script.replace_disk(c)
    proposals.release()
    script.run(30)
    script.require(c not in script.state.isr, "an empty disk is in sync")
    script.finish()


def offsets_of_a_former_incarnation(*classes):
    """The leader still knows where c was before it lost its disk."""
    script = Script(*classes)
    a, _, c = script.state.replicas
    script.commit(a)
    lag = script.leave_isr(c, a)
    proposals = script.hold_proposals(a)
    lag.release()
    script.until(lambda: proposals.messages, "c is not proposed")
    script.hold("fetch", sender=c)
    script.processes[c].loses_disk = True
    script.kill(c)
    script.until(lambda: not script.invariants.image.is_active(c), "c is not missed")
    proposals.release()
    script.start(c)
    script.until(lambda: script.invariants.image.is_active(c), "c is not back")
    script.run(2 * REPLICA_LAG_TIME_MAX_MS)
    script.require(c not in script.state.isr, "an empty disk is in sync")
    script.finish()


def expansion_before_the_epoch_start(*classes):
    """The new leader's high watermark lags, so being level with it proves nothing."""
    script = Script(*classes)
    a, b, c = script.state.replicas
    script.commit(a)
    script.run(100)
    lag = script.hold("fetched", sender=a, receiver=c)
    script.hold_news(a, b)
    script.produce(a, acks_all=False)
    script.until(lambda: c not in script.state.isr, "c does not leave the ISR")
    script.until(lambda: script.committed_end == 2, "the record is not committed")
    script.hold("fetched", receiver=c)
    script.kill(a)
    script.until(script.leads(b), "no other leader")
    lag.end()
    script.run(2 * REPLICA_LAG_TIME_MAX_MS)
    script.require(c not in script.state.isr, "a replica without a committed record joined")
    script.finish()


def look_up_at_the_next_leader(*classes):
    """The new leader has the record that the producer was told of, and does not know that yet."""
    script = Script(*classes)
    a, b, c = script.state.replicas
    script.commit(a)
    script.run(100)
    script.hold_news(a, b)
    script.commit(a)
    fetches = script.hold("fetch", sender=c, receiver=b)
    script.kill(a)
    script.until(script.leads(b), "no other leader")
    script.require(script.replica(b).high_watermark == 1, "b knows of the first record only")
    script.require(script.look_up(b, 0) is None, "what is known is shown")
    script.require(script.look_up(b, 1) == "OFFSET_NOT_AVAILABLE", "what is not known is refused")
    script.require(script.look_up(b, 2) is None, "nothing was acknowledged there")
    fetches.release()
    script.until(lambda: script.replica(b).high_watermark == 2, "b does not learn of the second")
    script.require(script.look_up(b, 1) is None, "what is known is shown")
    script.finish()


def _proposed_while_away(classes):
    """c is level and proposed, the proposal is under way, and c fetches no more."""
    script = Script(*classes)
    a, _b, c = script.state.replicas
    script.commit(a)
    lag = script.leave_isr(c, a)
    proposals = script.hold_proposals(a)
    lag.release()
    script.until(lambda: proposals.messages, "c is not proposed")
    script.hold("fetch", sender=c)
    return script, proposals


def commit_while_a_member_is_proposed(*classes):
    """KIP-497: the proposal is on its way while the committed ISR goes on."""
    script, proposals = _proposed_while_away(classes)
    a, _b, c = script.state.replicas
    script.run(REPLICA_LAG_TIME_MAX_MS + 10)
    script.produce(a)
    script.run(20)
    proposals.release()
    script.until(lambda: c in script.state.isr, "the proposal is not taken")
    script.finish()


def late_copy_of_an_unanswered_proposal(*classes):
    """The leader gave up waiting, but the proposal is only late."""
    script, proposals = _proposed_while_away(classes)
    a, _b, _c = script.state.replicas
    script.run(CALL_TIMEOUT_MS + 10)
    script.produce(a)
    script.run(50)
    proposals.release()
    script.run(50)
    script.finish()


def late_proposal_after_the_partition_changed(*classes):
    """Compare-and-set: what the proposal was based on is history when it arrives."""
    script, proposals = _proposed_while_away(classes)
    a, b, c = script.state.replicas
    late = proposals.end().messages[:1]
    proposals.messages = []
    # A paused b is fenced: the partition is another one from here on.
    script.processes[b].pause()
    for hold in list(script.holds):
        hold.end()
    script.until(lambda: script.state.isr == (a, c), "c does not take b's place")
    script.processes[b].resume()
    script.until(lambda: script.state.isr == (a, b, c), "b is not in sync again")
    script.leave_isr(c, a)
    script.commit(a)
    for message in late:
        script._deliver(*message)
    script.run(30)
    script.require(c not in script.state.isr, "a proposal of the past was taken")
    script.finish()


def fetch_of_a_leadership_long_past(*classes):
    """KIP-320: a fetch arrives when its receiver leads again, and its sender has cut the record."""
    script = Script(*classes)
    p, q, r = script.state.replicas
    script.commit(p)
    script.kill(p)
    script.until(script.leads(q), "no other leader")
    script.start(p)
    script.until(lambda: script.state.isr == (p, q, r), "p is not in sync again")
    script.commit(q)
    script.run(100)
    script.hold("fetched", sender=q, receiver=p)
    old = script.hold("fetch", sender=r, where=lambda a: script.asks(a[2], 3))
    script.produce(q, acks_all=False)
    script.until(lambda: old.messages, "r does not get the record")
    old.end()
    news = script.hold("raft", receiver=q)
    script.elect_preferred()
    script.until(script.leads(p), "p does not lead")
    script.until(lambda: script.end_of(r) == 2, "r does not cut what p lacks")
    others = script.hold("fetch", receiver=q)
    script.kill(p)
    script.until(lambda: script.state.leader == q, "q is not elected")
    news.release()
    script.until(script.leads(q), "q does not lead again")
    old.release()
    script.run(30)
    script.require(script.replica(q).high_watermark == 2, "a fetch of an older epoch counted")
    others.release()
    script.finish()


def stale_copy_of_a_fetch(*classes):
    """A fetch of a session arrives again, when what it says is long replaced (KIP-227)."""
    script = Script(*classes)
    a, _, c = script.state.replicas
    fetches = script.hold("fetch", sender=c, where=lambda f: script.asks(f[2], 1))
    answers = script.produce(a)
    script.until(lambda: fetches.messages, "c does not get the record")
    late = list(fetches.messages)
    fetches.release()
    script.until(lambda: answers, "the record is not acknowledged")
    script.commit(a)
    script.run(50)
    for message in late:
        script._deliver(*message)
    script.run(200)
    script.commit(a)
    script.finish()


def leader_wakes_after_a_pause(*classes):
    """Another leads meanwhile; the woken one neither reads nor writes nor commits."""
    script = Script(*classes)
    a, b, _c = script.state.replicas
    script.commit(a)
    script.run(100)
    script.processes[a].pause()
    script.cut([a], [n for n in script.processes if n != a])
    script.until(script.leads(b), "no other leader")
    script.commit(b)
    script.processes[a].resume()
    script.require(script.replica(a).leader is not None, "a does not know yet")
    script.latest(a)
    script.new_producer()
    script.produce(a)
    script.run(100)
    script.finish()


def heartbeat_is_answered_late(*classes):
    """A session counts from the sending: the answer may come when the session is nearly over."""
    script = Script(*classes)
    a, b, _c = script.state.replicas
    script.commit(a)
    script.run(100)
    answers = script.hold("answer", receiver=a)
    script.until(lambda: answers.messages, "a does not heartbeat")
    script.hold("command", sender=a)
    script.run(CALL_TIMEOUT_MS - 30)
    script.hold("raft", receiver=a)
    answers.release()
    script.until(script.leads(b), "no other leader")
    script.commit(b)
    script.latest(a)
    script.finish()


def leader_hears_answers_but_no_metadata(*classes):
    """Its leadership was moved on; it heartbeats well, and only the metadata does not arrive."""
    script = Script(*classes)
    p, q, r = script.state.replicas
    script.kill(p)
    script.until(script.leads(q), "no other leader")
    script.start(p)
    script.until(lambda: script.state.isr == (p, q, r), "p is not in sync again")
    script.commit(q)
    script.hold("raft", receiver=q, where=lambda a: getattr(a[0], "entries", ()))
    script.elect_preferred()
    script.run(2 * SESSION_TIMEOUT_MS)
    script.commit(p)
    script.require(script.replica(q).leader is not None, "q does not know yet")
    script.latest(q)
    script.finish()


def retry_after_a_failover(*classes):
    """The answer is lost with the leader; the next one knows the record."""
    script = Script(*classes)
    a, b, _c = script.state.replicas
    script.commit(a)
    script.kill(a)
    script.until(script.leads(b), "no other leader")
    answers = script.produce(b, again=True)
    script.until(lambda: answers == [0], f"the retry is not known: {answers}")
    script.kill(b)
    script.start(a)
    script.until(lambda: script.state.leader is not None and script.state.leader != b, "no leader")
    script.finish()


def retry_of_what_was_cut(*classes):
    """A record that the others never got is gone: its retry is new, also where it once was."""
    script = Script(*classes)
    a, b, c = script.state.replicas
    script.commit(a)
    script.run(100)
    script.cut([a], [b, c, *(n for n in script.processes if n not in (a, b, c))])
    script.produce(a, acks_all=False)
    script.until(script.leads(b), "no other leader")
    script.network.blocked.clear()
    script.until(lambda: a in script.state.isr, "a is not in sync again")
    script.require(script.end_of(a) == 1, "a keeps what nobody else has")
    script.elect_preferred()
    script.until(script.leads(a), "a does not lead again")
    answers = script.produce(a, again=True)
    script.until(lambda: answers, "the retry is not answered")
    script.finish()


def ack_of_a_former_leadership(*classes):
    """Who waits for an offset of one epoch is not told of the next epoch's record there."""
    script = Script(*classes)
    a, b, _c = script.state.replicas
    script.commit(a)
    script.run(100)
    script.hold("fetched", sender=a)
    waiting = script.produce(a)
    script.run(5)
    script.cut([a], [n for n in script.processes if n != a])
    script.until(script.leads(b), "no other leader")
    script.network.blocked.clear()
    for hold in list(script.holds):
        hold.end()
    script.until(lambda: a in script.state.isr, "a is not in sync again")
    script.elect_preferred()
    script.until(script.leads(a), "a does not lead again")
    script.new_producer()
    script.commit(a)
    script.require(len(waiting) == 1, "the first one is told once")
    script.finish()


def follows_before_it_is_settled(*classes):
    """What is still on its way to the disk belongs to the log that the next leader is asked for."""
    script = Script(*classes)
    a, b, c = script.state.replicas
    script.commit(a)
    script.run(100)
    script.processes[c].hung_until_ms = script.now_ms + 200
    script.produce(a)
    script.run(20)
    script.require(not script.replica(c).log.is_settled, "c's disk hangs")
    script.kill(a)
    script.until(script.leads(b), "no other leader")
    script.commit(b)
    script.finish()


SCHEDULES = {
    schedule.__name__: schedule
    for schedule in (
        kip_101_data_loss,
        kip_101_divergence,
        kip_279_fast_elections,
        expansion_races_a_restart,
        offsets_of_a_former_incarnation,
        expansion_before_the_epoch_start,
        look_up_at_the_next_leader,
        commit_while_a_member_is_proposed,
        late_copy_of_an_unanswered_proposal,
        late_proposal_after_the_partition_changed,
        fetch_of_a_leadership_long_past,
        stale_copy_of_a_fetch,
        leader_wakes_after_a_pause,
        heartbeat_is_answered_late,
        leader_hears_answers_but_no_metadata,
        retry_after_a_failover,
        retry_of_what_was_cut,
        ack_of_a_former_leadership,
        follows_before_it_is_settled,
    )
}
