"""Schedules of the metadata quorum: who leads it, what it has written, and what rests on that.

See `partition_schedules`.
"""

from ottla_cluster.controller.commands import CreateTopic
from ottla_cluster.raft import InstallSnapshotRequest, VoteResponse
from ottla_protocol.errors import OttlaError
from tests.simulation.plane.script import Script
from tests.simulation.plane.timing import ELECTION_TIMEOUT_MIN_MS


def figure_8(*classes):
    """Raft figure 8: an old term's entry on a majority is replaced all the same (section 5.4.2)."""
    script = Script(*classes, max_append_entries=1)
    nodes = list(script.processes)
    first = script.controller()
    second, *others = (n for n in nodes if n != first)
    # (a) The first one's entry reaches the second one and nobody else.
    script.cut([first, second], others)
    script.processes[first].controller.execute(CreateTopic("contested", 1, 3), lambda _: None)
    script.run(10)
    script.kill(first)
    # (b) One of the others leads, with an entry that nobody else gets.
    own = script.hold("raft", where=lambda a: getattr(a[0], "entries", ()))
    script.until(lambda: script.leader_among(others), "nobody of the others leads")
    fifth = script.leader_among(others)
    script.run(5)
    script.kill(fifth)
    own.end()
    # (c) The contested entry comes to a majority, without one of the new leader's term.
    third, fourth = (n for n in others if n != fifth)
    script.network.blocked.clear()
    script.cut([fourth], [third])
    script.hold("raft", where=lambda a: any(not e.payload for e in getattr(a[0], "entries", ())))
    script.start(first)
    script.until(lambda: script.leader_among([first, second]), "no leader has the entry")
    leader = script.leader_among([first, second])
    script.cut([fourth], [leader])
    ends = {n: script.hosts[n].node.last_index for n in (leader, third)}
    script.until(lambda: script.hosts[third].node.last_index >= ends[leader] - 1, "not replicated")
    script.run(10)
    script.kill(leader)
    # (d) The one with the later term is the only one that can win.
    (other,) = (n for n in (first, second) if n != leader)
    for hold in list(script.holds):
        hold.end()
    script.network.blocked.clear()
    for some, rest in (([other], [third, fourth]), ([third], [fourth])):
        script.cut(some, rest)
    script.start(fifth)
    script.until(lambda: script.leader_among([fifth]), "the fifth one does not lead")
    script.run(50)
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


SCHEDULES = {
    schedule.__name__: schedule
    for schedule in (
        figure_8,
        double_vote_after_power_loss,
        metadata_is_acknowledged_before_it_is_written,
        controller_dies_before_anybody_hears,
        deposed_controller_renews_no_lease,
        snapshot_install_races_appends,
    )
}
