"""Schedules in which quorum, controller and brokers meet: failovers, snapshots, lost disks.

See `partition_schedules`.
"""

from ottla_cluster.controller.commands import CreateTopic
from ottla_cluster.raft import InstallSnapshotRequest, VoteResponse
from ottla_protocol.errors import OttlaError
from tests.simulation.plane.script import Script
from tests.simulation.plane.timing import ELECTION_TIMEOUT_MIN_MS, SESSION_TIMEOUT_MS


def deposed_controller_renews_no_lease(*classes):
    """A controller and a leader are cut off together; elsewhere both are replaced."""
    script = Script(*classes)
    a, b, _c = script.state.replicas
    former = script.controller()
    script.commit(a)
    script.run(100)
    script.cut([former, a], [n for n in script.processes if n not in (former, a)])
    script.until(script.leads(b), "no other leader")
    script.commit(b)
    script.latest(a)
    script.finish()


def controller_dies_before_anybody_hears(*classes):
    """What the controller has answered for is there, though nobody heard that it is committed."""
    script = Script(*classes)
    former = script.controller()
    others = [n for n in script.processes if n != former]
    news = script.hold(
        "raft",
        sender=former,
        where=lambda a: getattr(a[0], "commit_index", 0) > known and not a[0].entries,
    )
    known = script.processes[former].voter.node.commit_index
    created = script.command(CreateTopic("orders", 1, 3))
    script.require(not isinstance(created, OttlaError), f"the topic is refused: {created}")
    script.kill(former)
    news.messages.clear()
    again = []

    def decide():
        """As soon as another leads, and before it can have applied much."""
        for n in others:
            if not again and script.processes[n].controller.active is not None:
                script.processes[n].controller.execute(CreateTopic("orders", 1, 3), again.append)
        return bool(again)

    script.until(decide, "no other controller")
    script.require(isinstance(again[0], OttlaError), "one name was given to two topics")
    script.finish()


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


def snapshot_install_races_appends(*classes):
    """A broker that was away gets snapshots and entries in turn, and both move on meanwhile."""
    script = Script(*classes, retained_entries=0, max_snapshot_chunk_bytes=120)
    a, b, c = script.state.replicas
    former = script.controller()
    (away,) = (n for n in script.processes if n not in (a, b, c, former))
    script.kill(away)
    lost = script.hold("raft", receiver=away)
    script.run(50)
    for number in range(3):
        script.command(CreateTopic(f"before{number}", 1, 3))
    for voter in script.hosts.values():
        voter.compact()
    parts = script.hold(
        "raft", receiver=away, where=lambda arg: isinstance(arg[0], InstallSnapshotRequest)
    )
    lost.end()
    script.start(away)
    script.until(lambda: parts.messages, "no snapshot is sent")
    script.command(CreateTopic("meanwhile", 1, 3))
    for voter in script.hosts.values():
        voter.compact()
    script.command(CreateTopic("after", 1, 3))
    late = list(parts.messages)
    parts.release()
    script.until(
        lambda: script.processes[away].image.version == script.invariants.image.version,
        "it does not catch up",
    )
    script.until(lambda: script.invariants.image.is_active(away), "it is not active")
    for message in late:
        script._deliver(*message)
    # It leads when the controller is gone, so its state must be whole.
    script.kill(former)
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


def double_vote_after_power_loss(*classes):
    """A voter loses its power before its vote is on disk: it may not have told it to anybody."""
    script = Script(*classes, process_count=3)
    first = script.controller()
    others = [n for n in script.processes if n != first]
    script.run(200)
    script.cut([first], others)
    votes = script.hold("raft", where=lambda a: isinstance(a[0], VoteResponse))
    nodes = {n: script.processes[n].voter.node for n in others}
    script.until(
        lambda: any(node.role == "pre_candidate" for node in nodes.values()), "nobody campaigns"
    )
    (second,) = (n for n in others if nodes[n].role == "pre_candidate")
    (voter,) = (n for n in others if n != second)
    script.processes[voter].hung_until_ms = script.now_ms + 5_000
    script.until(lambda: nodes[second].role == "candidate", "it is not encouraged")
    script.run(5)
    script.kill(voter)
    script.processes[voter].hung_until_ms = 0
    votes.end()
    script.cut([second], [voter])
    former = script.processes[first].voter.node
    script.until(lambda: former.role != "leader", "it leads without a quorum")
    script.network.blocked.difference_update(((first, voter), (voter, first)))
    script.start(voter)
    # The first one asks for the same vote in the same term.
    script.run(6 * ELECTION_TIMEOUT_MIN_MS)
    votes.release()
    script.network.blocked.clear()
    script.finish()


def metadata_is_acknowledged_before_it_is_written(*classes):
    """The controller's disk is the only one that takes an entry; then all lose their power."""
    script = Script(*classes, process_count=3)
    first = script.controller()
    others = [n for n in script.processes if n != first]
    for node_id in others:
        script.processes[node_id].hung_until_ms = script.now_ms + 60
    answers = []
    script.processes[first].controller.execute(CreateTopic("orders", 1, 3), answers.append)
    script.run(40)
    script.require(not answers, "a topic is made on one disk")
    script.kill(*script.processes)
    for node_id in others:
        script.processes[node_id].hung_until_ms = 0
    script.start(*others)
    script.until(lambda: script.controller() in others, "no other controller")
    script.start(first)
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


SCHEDULES = {
    schedule.__name__: schedule
    for schedule in (
        deposed_controller_renews_no_lease,
        controller_dies_before_anybody_hears,
        failover_amid_a_reassignment,
        removed_and_added_again,
        snapshot_install_races_appends,
        pause_kill_resume_pause,
        last_member_returns_with_a_lost_end,
        member_returns_with_a_lost_end,
        disk_fills_up,
        double_vote_after_power_loss,
        metadata_is_acknowledged_before_it_is_written,
        whole_cluster_loses_power,
        restart_that_nobody_noticed,
    )
}
