"""Schedules in which controller and brokers meet: reassignments, lost disks, losses of power.

See `partition_schedules`.
"""

from ottla_cluster.controller.limits import MIN_REPLICATION_THROTTLE_BYTES_PER_SECOND
from ottla_cluster.replication.throttle import BURST_MS
from ottla_protocol.errors import OttlaError
from tests.simulation.plane.replica_log import RECORD_BYTES
from tests.simulation.plane.script import Script
from tests.simulation.plane.timing import ELECTION_TIMEOUT_MIN_MS, SESSION_TIMEOUT_MS


def failover_amid_a_reassignment(*classes):
    """The added replica is on its way when the controller dies; its successor ends it."""
    script = Script(*classes)
    a, b, c = script.state.replicas
    former = script.controller()
    (d,) = (n for n in script.processes if n not in (a, b, c, former))
    script.commit(a)
    away = script.hold("fetch", sender=d)
    script.reassign((b, c, d))
    script.run(30)
    script.require(script.state.is_reassigning, "it is under way")
    script.commit(a)
    script.kill(former)
    script.until(lambda: script.controller() not in (None, former), "no other controller")
    script.run(200)
    script.require(script.state.is_reassigning, "it waits for what was added")
    away.release()
    script.until(lambda: not script.state.is_reassigning, "the reassignment does not end")
    script.require(script.state.replicas == (b, c, d), f"moved: {script.state}")
    script.commit_at_the_leader()
    script.finish()


def removed_and_added_again(*classes):
    """Who is no replica any more begins anew when it is one again; nothing of before counts."""
    script = Script(*classes)
    a, b, c = script.state.replicas
    script.commit(a)
    script.reassign((a, b))
    script.until(lambda: script.state.replicas == (a, b), "it does not end")
    script.commit(a)
    fetches = script.hold("fetch", sender=c)
    script.reassign((a, b, c))
    script.run(200)
    script.require(c not in script.state.isr, "an empty log is in sync")
    fetches.release()
    script.until(lambda: script.state.isr == (a, b, c), "it does not end")
    script.finish()


def pause_kill_resume_pause(*classes):
    """The composite: pause a minority, power-fail one that is up to date, resume the laggards,
    pause the rest.
    """
    script = Script(*classes, process_count=3)
    a, b, c = script.state.replicas
    script.commit(a)
    script.run(100)
    script.processes[c].pause()
    script.until(lambda: script.state.isr == (a, b), "c stays in sync")
    script.until(script.leads(a), "a does not lead")
    script.processes[b].hung_until_ms = script.now_ms + 150
    answers = script.produce(a)
    script.run(30)
    script.kill(b)
    script.processes[c].resume()
    script.processes[a].pause()
    script.start(b)
    script.run(SESSION_TIMEOUT_MS + 4 * ELECTION_TIMEOUT_MIN_MS)
    script.require(script.state.leader in (None, a, b), "c leads without what was acknowledged")
    if script.state.leader == b and script.leads(b)():
        script.new_producer()
        script.produce(b)
        script.run(50)
    script.processes[a].resume()
    script.finish()
    script.require(len(answers) <= 1, "one answer")


def last_member_returns_with_a_lost_end(*classes):
    """Nobody else has everything, and it has not either: it must not lead as if it had."""
    script = Script(*classes)
    a, b, c = script.state.replicas
    script.commit(a)
    script.commit(a)
    script.run(100)
    script.kill(c)
    script.until(lambda: script.state.isr == (a, b), "c stays in sync")
    script.kill(b)
    script.until(lambda: script.state.isr == (a,), "b stays in sync")
    script.run(50)
    script.kill(a)
    script.has_lost_tails = script.processes[a].disks[script.key].lose_tail(1)
    script.start(a)
    script.until(lambda: script.invariants.image.is_active(a), "a is not back")
    script.start(b, c)
    script.run(500)
    script.require(script.state.isr == (a,), "somebody else counts as in sync")
    script.require(script.replica(a).leader is None, "it leads without its end")
    script.require(script.end_of(b) == 2, "what was acknowledged is still there")


def member_returns_with_a_lost_end(*classes):
    """It is refilled before it counts, also when the leader knew it well."""
    script = Script(*classes)
    a, b, c = script.state.replicas
    script.commit(a)
    script.commit(a)
    script.run(100)
    away = script.hold("fetch", sender=c)
    script.kill(c)
    script.has_lost_tails = script.processes[c].disks[script.key].lose_tail(1)
    script.start(c)
    script.until(lambda: script.invariants.image.is_active(c), "c is not back")
    script.run(50)
    script.kill(a, b)
    script.run(50)
    script.require(script.replica(c).leader is None, "c leads without what it has lost")
    script.start(a, b)
    away.release()
    script.finish()


def disk_fills_up(*classes):
    """Leaderships go where there is room; where there is none writes are refused, and resume."""
    script = Script(*classes)
    a, b, c = script.state.replicas
    script.commit(a)
    script.processes[a].is_full = True
    refused = script.produce(a)
    script.require(isinstance(refused[0], OttlaError), "a full disk takes a record")
    script.until(script.leads(b), "the leadership does not move")
    answers = script.produce(b, again=True)
    script.until(lambda: answers, "a record is not acknowledged")
    for node_id in (b, c):
        script.processes[node_id].is_full = True
    script.run(300)
    script.require(script.state.leader is not None, "readers are served")
    for process in script.processes.values():
        process.is_full = False
    script.until(lambda: len(script.state.isr) == 3, "it does not recover")
    script.finish()


def whole_cluster_loses_power(*classes):
    """All at once, in the middle of writing: what was acknowledged is there afterwards."""
    script = Script(*classes, process_count=3)
    a, _b, _c = script.state.replicas
    script.commit(a)
    for process in script.processes.values():
        process.hung_until_ms = script.now_ms + 60
    script.produce(a)
    script.run(40)
    script.kill(*script.processes)
    for process in script.processes.values():
        process.hung_until_ms = 0
    script.start(*script.processes)
    script.until(lambda: script.state.leader is not None, "nobody leads")
    script.finish()


def restart_that_nobody_noticed(*classes):
    """A leader is back before it is missed: it has lost its leaderships all the same."""
    script = Script(*classes, is_refusing=False)
    a, _b, _c = script.state.replicas
    script.commit(a)
    script.processes[a].hung_until_ms = script.now_ms + 30
    script.produce(a)
    script.run(5)
    epoch = script.state.leader_epoch
    script.processes[a].hung_until_ms = 0
    script.come_back(a)
    script.require(script.state.leader_epoch > epoch, "the former leader epoch goes on")
    script.new_producer()
    script.commit_at_the_leader()
    script.finish()


def throttled_copy(*classes):
    """A reassignment under a rate takes its time, and nobody who is in sync waits for it."""
    script = Script(*classes)
    a, b, c = script.state.replicas
    (d,) = (n for n in script.processes if n not in (a, b, c, script.controller()))
    for _ in range(150):
        script.produce(a, acks_all=False)
    script.until(lambda: script.committed_end == 150, "the records are not committed")
    script.throttle(MIN_REPLICATION_THROTTLE_BYTES_PER_SECOND)
    script.reassign((a, b, c, d))
    begun_ms = script.now_ms
    for _ in range(10):
        script.run(100)
        answers = script.produce(a)
        script.run(10)
        script.require(answers and answers[0] >= 0, "those in sync wait for a copy")
    rate = MIN_REPLICATION_THROTTLE_BYTES_PER_SECOND / RECORD_BYTES / 1000
    copied_max = rate * (BURST_MS + script.now_ms - begun_ms) + 2
    script.require(0 < script.end_of(d) <= copied_max, f"copied: {script.end_of(d)}")
    script.require(script.state.is_reassigning, "it is under way")
    script.throttle(None)
    script.until(lambda: not script.state.is_reassigning, "the reassignment does not end")
    script.finish()


SCHEDULES = {
    schedule.__name__: schedule
    for schedule in (
        failover_amid_a_reassignment,
        throttled_copy,
        removed_and_added_again,
        pause_kill_resume_pause,
        last_member_returns_with_a_lost_end,
        member_returns_with_a_lost_end,
        disk_fills_up,
        whole_cluster_loses_power,
        restart_that_nobody_noticed,
    )
}
