"""Schedules in which a leader that is well has to go: others lead before it has heard of it.

Its lease holds, and what it says of the partition's end is believed. See `partition_schedules`.
"""

from ottla_cluster.replication.leader import FOLLOWED_MS
from ottla_protocol.errors import OttlaError
from tests.simulation.plane.script import Script
from tests.simulation.plane.timing import HEARTBEAT_INTERVAL_MS, REPORT_RETRY_MS


def damaged_leader_hides_who_leads(*classes):
    """It finds that it cannot read all of its log, tells so, and hears nothing of what follows."""
    script = Script(*classes)
    a, b, c = script.state.replicas
    script.commit(a)
    script.commit(a)
    script.run(100)
    news = hold_metadata(script, a)
    script.replica(a).fitness.damage_found()
    script.until(script.leads(b), "a leads on")
    answers = script.produce(b)
    script.run(60)
    script.require(script.replica(a).leader is not None, "a knows who leads")
    script.latest(a)
    news.release()
    script.until(lambda: script.replica(a).leader is None, "a is not told")
    script.until(lambda: answers, "a record is not acknowledged")
    script.require(not isinstance(answers[0], OttlaError), f"a record is refused: {answers}")
    cut_at_damage(script, a, offset=1)
    script.until(lambda: script.state.isr == (b, c), "a is in sync without its end")
    script.until(lambda: a in script.state.isr, "a is not refilled")
    script.run(REPORT_RETRY_MS)
    script.finish()


def preferred_leader_is_cut_slowly(*classes):
    """Its successor looks whether it may lead again, and then an operator has it elected."""
    script = Script(*classes)
    a, b, c = script.state.replicas
    script.commit(a)
    script.commit(a)
    script.run(100)
    script.replica(a).fitness.damage_found()
    script.until(script.leads(b), "a leads on")
    script.until(lambda: script.replica(a).follower is not None, "a does not follow")
    script.run(60)
    writes, write = [], script.replica(a).log._write
    script.replica(a).log._write = writes.append
    cut_at_damage(script, a, offset=1)
    script.run(HEARTBEAT_INTERVAL_MS)
    script.require(a in script.state.isr, "a leaves the ISR before its leader knows its end")
    for _ in range(3 * FOLLOWED_MS // HEARTBEAT_INTERVAL_MS):
        give_back(script)
        script.require(script.state.leader == b, "a leads in the middle of its cut")
        script.run(HEARTBEAT_INTERVAL_MS)
    script.elect_preferred()
    script.require(script.state.leader == a, "a is not elected")
    script.until(lambda: script.state.leader in (b, c), "nobody leads until a is cut", 200)
    script.require(script.state.isr == (b, c), "a could be elected again")
    script.until(script.leads(script.state.leader), "nobody leads until a is cut", 200)
    script.replica(a).log._write = write
    script.require(len(writes) == 1, "a is cut")
    writes.pop()()
    script.until(lambda: a in script.state.isr, "a is not refilled")
    script.until(lambda: script.replica(a).fitness.is_whole, "a is not whole")
    script.run(2 * FOLLOWED_MS)
    give_back(script)
    script.until(script.leads(a), "the leadership does not go back")
    script.finish()


def give_back(script):
    """What the leader does that sees its partition's first replica in sync."""
    leader = script.replica(script.state.leader)
    preferred, now_ms = script.state.replicas[0], leader.process.clock_ms()
    if preferred in script.state.isr and leader.leader.is_followed_by(preferred, now_ms):
        script.elect_preferred()


def removed_leader_hides_who_leads(*classes):
    """A reassignment takes the leader away, which hears nothing of it."""
    script = Script(*classes)
    a, b, c = script.state.replicas
    script.commit(a)
    script.run(100)
    news = hold_metadata(script, a)
    script.reassign((b, c))
    script.until(script.leads(b), "a leads on")
    answers = script.produce(b)
    script.run(60)
    script.require(script.replica(a).leader is not None, "a knows who leads")
    script.latest(a)
    script.require(script.state.is_reassigning, "it ends though a leads on")
    news.release()
    script.until(lambda: not script.state.is_reassigning, "the reassignment does not end")
    script.require(script.state.replicas == (b, c), f"moved: {script.state}")
    script.until(lambda: answers, "a record is not acknowledged")
    script.require(not isinstance(answers[0], OttlaError), f"a record is refused: {answers}")
    script.finish()


def removed_leader_is_gone(*classes):
    """The leader that a reassignment takes away dies before it hears of it: nobody waits long."""
    script = Script(*classes)
    a, b, c = script.state.replicas
    script.commit(a)
    script.run(100)
    hold_metadata(script, a)
    script.reassign((b, c))
    script.until(script.leads(b), "a leads on")
    script.kill(a)
    script.until(lambda: not script.state.is_reassigning, "the reassignment does not end")
    script.commit_at_the_leader()
    script.finish()


def former_leader_is_removed_before_it_hears(*classes):
    """Its leadership went back to the preferred leader; it is to leave the ISR a moment later."""
    script = Script(*classes)
    p, q, r = script.state.replicas
    script.kill(p)
    script.until(script.leads(q), "no other leader")
    script.start(p)
    script.until(lambda: script.state.isr == (p, q, r), "p is not in sync again")
    script.commit(q)
    news = hold_metadata(script, q)
    script.elect_preferred()
    script.reassign((p, r))
    script.until(script.leads(p), "p does not lead")
    answers = script.produce(p)
    script.run(60)
    script.require(script.replica(q).leader is not None, "q knows who leads")
    script.latest(q)
    news.release()
    script.until(lambda: answers, "a record is not acknowledged")
    script.until(lambda: not script.state.is_reassigning, "the reassignment does not end")
    script.finish()


def hold_metadata(script, node_id):
    """Hold what the controller's log has for a broker; it hears that it is not forgotten."""
    return script.hold("raft", receiver=node_id, where=lambda a: getattr(a[0], "entries", ()))


def cut_at_damage(script, node_id, *, offset):
    """What the driver does with a follower of which a record cannot be read."""
    replica = script.replica(node_id)
    script.require(replica.follower is not None, "only a follower cuts its log")
    replica.process.stop_following(replica.key)
    replica._step_down(replica.state)
    replica.log.disk.is_short = True
    replica.fitness.cut()

    def is_cut():
        replica.high_watermark = min(replica.high_watermark, offset)
        if not replica.log._when_settled:
            replica.process._assuming = [replica.process.applied_image, 1]
            replica._follow(replica.state)

    replica.log.truncate(offset, is_cut)


SCHEDULES = {
    schedule.__name__: schedule
    for schedule in (
        damaged_leader_hides_who_leads,
        preferred_leader_is_cut_slowly,
        removed_leader_hides_who_leads,
        removed_leader_is_gone,
        former_leader_is_removed_before_it_hears,
    )
}
