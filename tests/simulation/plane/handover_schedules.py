"""Schedules in which a leader that is well has to go: others lead before it has heard of it.

Its lease holds, and what it says of the partition's end is believed. See `partition_schedules`.
"""

from ottla_protocol.errors import OttlaError
from tests.simulation.plane.script import Script
from tests.simulation.plane.timing import REPORT_RETRY_MS


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
        replica.process._assuming = [replica.process.applied_image, 1]
        replica._follow(replica.state)

    replica.log.truncate(offset, is_cut)


SCHEDULES = {
    schedule.__name__: schedule
    for schedule in (
        damaged_leader_hides_who_leads,
        removed_leader_hides_who_leads,
        removed_leader_is_gone,
        former_leader_is_removed_before_it_hears,
    )
}
