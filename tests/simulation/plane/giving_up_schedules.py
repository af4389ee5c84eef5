"""Schedules in which brokers leave their part to others: in order, or because their disks hang.

See `partition_schedules`.
"""

from ottla_cluster.controller.commands import Heartbeat
from ottla_protocol.errors import OttlaError, Outcome
from tests.simulation.plane.handover_schedules import hold_metadata
from tests.simulation.plane.script import TOPICS_MAX, Script
from tests.simulation.plane.timing import (
    DISK_HANG_TIMEOUT_MS,
    ELECTION_TIMEOUT_MIN_MS,
    HANDOVER_TIMEOUT_MS,
    SESSION_TIMEOUT_MS,
)


def _is_certain(outcome):
    return not isinstance(outcome, OttlaError) or outcome.outcome is not Outcome.UNKNOWN


def leader_stops_in_order(*classes):
    """Whoever writes meanwhile is acknowledged or refused, and never left in doubt."""
    script = Script(*classes)
    a, b, _c = script.state.replicas
    script.commit(a)
    script.run(100)
    late = script.hold("fetched", sender=a)
    answers = [script.produce(a)]
    script.run(5)
    script.processes[a].stop()
    script.run(HANDOVER_TIMEOUT_MS // 2)
    script.require(script.state.leader == a, "it leaves before the others have everything")
    script.new_producer()
    answers.append(script.produce(a))
    late.release()
    answers_held = script.hold("fetched", sender=a)
    script.until(script.leads(b), "the leadership does not move")
    answers_held.end()
    script.until(lambda: all(answers), "somebody waits for ever")
    script.require(all(_is_certain(each[0]) for each in answers), f"nobody knows: {answers}")
    script.finish()


def ack_comes_from_the_next_leader(*classes):
    """All have the record when the leadership moves, and its former leader has not heard so."""
    script = Script(*classes)
    a, b, _c = script.state.replicas
    script.commit(a)
    script.run(100)
    acknowledgements = script.hold("fetch", receiver=a)
    answers = script.produce(a)
    script.run(20)
    script.require(not answers, "it is acknowledged by one replica")
    script.processes[a].is_full = True
    script.until(script.leads(b), "the leadership does not move")
    acknowledgements.end()
    script.until(lambda: answers, "somebody waits for ever")
    script.require(not isinstance(answers[0], OttlaError), f"nobody knows: {answers}")
    script.finish()


def full_disk_hides_who_leads(*classes):
    """A leader gives up what it has, and cannot write down who got it: it tells nobody anything."""
    script = Script(*classes)
    a, b, _c = script.state.replicas
    script.commit(a)
    script.run(100)
    full = script.processes[a]
    full.is_full = True
    full.hung_until_ms = script.now_ms + DISK_HANG_TIMEOUT_MS // 2
    former_end = script.end_of(a)
    script.until(lambda: script.state.leader == b, "the leadership does not move")
    script.commit(b)
    script.require(script.replica(a).leader is not None, "it knows who leads")
    script.require(script.look_up(a, former_end) is not None, "it tells what is no more true")
    full.is_full = False
    script.finish()


def shutdown_hides_who_leads(*classes):
    """A leader that stops in order, and hears neither that it may nor of its successor."""
    script = Script(*classes)
    a, b, _c = script.state.replicas
    script.commit(a)
    script.run(100)
    stopping = script.processes[a]
    former_end = script.end_of(a)
    stopping.stop()
    script.until(lambda: stopping.is_draining, "it does not hand over")
    stopping.hung_until_ms = script.now_ms + DISK_HANG_TIMEOUT_MS // 2
    answers = script.hold("answer", receiver=a)
    script.until(lambda: script.state.leader == b, "the leadership does not move")
    script.new_producer()
    script.commit(b)
    script.require(script.replica(a).leader is not None, "it knows who leads")
    script.require(script.look_up(a, former_end) is not None, "it tells what is no more true")
    answers.end()
    script.finish()


def shutdown_hides_who_leads_a_new_topic(*classes):
    """A broker that leads nothing stops in order, and is given a partition before that is heard."""
    script = Script(*classes, seed=3, process_count=7)
    taken = {node_id for key in script.keys for node_id in script.state_of(key).replicas}
    (a,) = set(script.processes) - taken - {script.controller()}
    stopping = script.processes[a]
    nearly_a_session_ms = SESSION_TIMEOUT_MS - 10
    script.until(
        lambda: stopping.lease.valid(stopping.clock_ms() + nearly_a_session_ms), "no new lease"
    )
    goodbye = script.hold("command", sender=a, where=lambda sent: isinstance(sent[1], Heartbeat))
    stopping.stop()
    script.until(lambda: stopping.is_draining and goodbye.messages, "it does not say that it stops")
    while script.state.leader != a:
        script.require(len(script.keys) < TOPICS_MAX, "it is given nothing")
        count = len(script.keys)
        script.administrator.create(1, script.add_clients)
        script.until(lambda count=count: len(script.keys) > count, "no topic is made")
        script.key = script.keys[-1]
    script.until(script.leads(a), "it does not lead")
    hold_metadata(script, a)
    answers = script.hold("answer", receiver=a)
    goodbye.release()
    script.until(lambda: script.state.leader != a, "the leadership does not move")
    script.commit_at_the_leader()
    script.require(script.replica(a).leader is not None, "it knows who leads")
    script.require(script.look_up(a, 0) is not None, "it tells what is no more true")
    answers.end()
    script.finish()


def hung_disk_gives_up(*classes):
    """A leader lives, and its disk does not: others lead, though it could heartbeat for ever."""
    script = Script(*classes)
    a, b, _c = script.state.replicas
    script.commit(a)
    script.run(100)
    script.processes[a].hung_until_ms = script.now_ms + 10_000
    answers = script.produce(a)
    script.until(script.leads(b), "it keeps its leadership", DISK_HANG_TIMEOUT_MS + 200)
    script.new_producer()
    script.commit(b)
    script.require(a not in script.state.isr, "it is in sync with a disk that hangs")
    script.processes[a].hung_until_ms = 0
    # What hangs ends when the disk works again, so it is gone only with the process.
    script.kill(a)
    script.start(a)
    script.finish()
    script.require(len(answers) <= 1, "one answer")


def hung_disk_of_the_controller(*classes):
    """It has nothing to persist, so nothing but itself can tell: it leads no quorum."""
    script = Script(*classes, process_count=3)
    a, _b, _c = script.state.replicas
    former = script.controller()
    if former != a:
        script.transfer_leadership(former, a)
        script.until(lambda: script.controller() == a, "it does not lead")
    script.commit(a)
    script.run(100)
    script.processes[a].hung_until_ms = script.now_ms + 700
    script.produce(a)
    script.until(lambda: script.processes[a].gives_up, "it gives up nothing")
    script.run(2)
    script.require(script.leader_among([a]) is None, "it leads the quorum")
    script.until(
        lambda: script.controller() not in (None, a),
        "no other controller",
        3 * ELECTION_TIMEOUT_MIN_MS,
    )
    script.finish()


SCHEDULES = {
    schedule.__name__: schedule
    for schedule in (
        leader_stops_in_order,
        ack_comes_from_the_next_leader,
        full_disk_hides_who_leads,
        shutdown_hides_who_leads,
        shutdown_hides_who_leads_a_new_topic,
        hung_disk_gives_up,
        hung_disk_of_the_controller,
    )
}
