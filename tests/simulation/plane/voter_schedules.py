"""Schedules in which the voters change, and brokers without a vote rest on those that have one.

See `partition_schedules`.
"""

from ottla_cluster.controller.commands import CreateTopic
from ottla_cluster.raft import AppendRequest
from ottla_protocol.errors import OttlaError
from tests.simulation.plane.script import Script
from tests.simulation.plane.timing import ELECTION_TIMEOUT_MIN_MS, SESSION_TIMEOUT_MS

TOPIC = CreateTopic("contested", 1, 3)


def _decide_at(script, node_id):
    """Have that controller make a topic; its answers, now or later."""
    answers = []
    script.processes[node_id].controller.execute(TOPIC, answers.append)
    return answers


def two_changes_at_once(*classes):
    """A controller that is cut off removes the others, until it is a majority of the rest."""
    script = Script(*classes, has_directories=True)
    former = script.controller()
    friend, *others = (n for n in script.processes if n != former)
    script.cut([former, friend], others)
    for node_id in others[:2]:
        script.remove_voter(former, node_id, force=True)
    script.run(20)
    answers = _decide_at(script, former)
    script.run(50)
    script.require(not answers, "a minority makes a topic")
    script.until(lambda: script.controller() in others, "no other controller")
    script.command(TOPIC)
    script.finish()


def voter_is_replaced(*classes):
    """An observer becomes a voter, and a voter an observer; both are brokers all the time."""
    script = Script(*classes, process_count=4, observer_count=1, has_directories=True)
    first = script.controller()
    (spare,) = (n for n in script.processes if n not in script.checker.voter_ids)
    script.add_voter(first, spare)
    script.until(lambda: spare in script.checker.voter_ids, "nobody is added")
    former = next(n for n in script.processes if n not in (first, spare))
    script.remove_voter(first, former)
    script.until(lambda: former not in script.checker.voter_ids, "nobody is removed")
    script.kill(first)
    script.until(lambda: script.controller() not in (None, first), "no other controller")
    script.run(4 * SESSION_TIMEOUT_MS)
    script.require(script.invariants.image.is_active(former), "a broker without a vote is fenced")
    script.require(
        script.processes[former].image.version == script.invariants.image.version,
        "a broker without a vote hears nothing",
    )
    script.finish()


def observers_hold_what_no_majority_does(*classes):
    """A controller is cut off with the brokers that have no vote: it decides nothing."""
    script = Script(*classes, observer_count=2)
    former = script.controller()
    others = [n for n in script.checker.voter_ids if n != former]
    script.run(4 * ELECTION_TIMEOUT_MIN_MS)
    script.cut(others, [n for n in script.processes if n not in others])
    answers = _decide_at(script, former)
    script.run(50)
    script.require(not answers, "one voter makes a topic")
    script.until(lambda: script.controller() in others, "no other controller")
    script.command(TOPIC)
    script.run(4 * ELECTION_TIMEOUT_MIN_MS)
    script.require(script.leader_among([former]) is None, "it leads without a quorum")
    script.finish()


def deposed_controller_hears_observers(*classes):
    """A controller and a leader without a vote are cut off: together they renew no lease."""
    script = Script(*classes, observer_count=2)
    former = script.controller()
    others = [n for n in script.checker.voter_ids if n != former]
    leader = next(n for n in script.processes if n not in script.checker.voter_ids)
    script.reassign((leader, *others))
    script.until(lambda: script.state.replicas == (leader, *others), "it does not end")
    script.until(lambda: len(script.state.isr) == len(script.state.replicas), "not in sync")
    script.elect_preferred()
    script.commit(leader)
    script.run(100)
    # Each has met the other's leader a moment ago, so the lease is as long as it gets.
    script.cut(others, [n for n in script.processes if n not in others])
    for _ in range(60):
        script.run(10)
        script.latest(leader)
        if script.state.leader in others and script.leads(script.state.leader)():
            script.commit(script.state.leader)
    script.latest(leader)
    script.finish()


def controller_is_handed_over(*classes):
    """To one that lacks an entry at first: it leads without a time-out, and nothing is lost."""
    script = Script(*classes, has_directories=True)
    former = script.controller()
    target, *others = (n for n in script.checker.voter_ids if n != former)
    script.run(200)
    late = script.hold(
        "raft",
        sender=former,
        receiver=target,
        where=lambda a: isinstance(a[0], AppendRequest) and a[0].entries,
    )
    answers = _decide_at(script, former)
    script.until(lambda: answers, "the topic is not made")
    script.transfer_leadership(former, target)
    script.run(5)
    late.release()
    script.until(lambda: script.controller() == target, "it does not lead", ELECTION_TIMEOUT_MIN_MS)
    script.require(
        isinstance(script.command(TOPIC), OttlaError), "one name was given to two topics"
    )
    # To one that is gone: the present one goes on.
    gone = others[0]
    script.transfer_leadership(target, gone)
    script.kill(gone)
    script.run(3 * ELECTION_TIMEOUT_MIN_MS)
    made = script.command(CreateTopic("afterwards", 1, 3))
    script.require(not isinstance(made, OttlaError), f"nothing is decided any more: {made}")
    script.finish()


def voter_loses_its_directory(*classes):
    """What a new directory acknowledges counts once the log names it, and not before."""
    script = Script(*classes, process_count=3, has_directories=True)
    first = script.controller()
    lost, away = (n for n in script.processes if n != first)
    script.run(200)
    script.cut([away], [first, lost])
    script.kill(lost)
    script.hosts[lost].lose_directory()
    script.start(lost)
    script.run(30)
    answers = _decide_at(script, first)
    script.run(150)
    script.require(not answers, "a topic is made by one voter and a directory that nobody named")
    script.network.blocked.clear()
    script.until(
        lambda: any(
            voter.node.configuration.voter(lost)
            and voter.node.configuration.voter(lost).directory_id == f"{lost}/1"
            for voter in script.leading_voters()
        ),
        "the new directory gets no vote",
    )
    script.finish()


def voter_that_is_needed_stays(*classes):
    """While one of three is away, or back with nothing, the one that is left is not removed."""
    script = Script(*classes, process_count=3, has_directories=True)
    leader = script.controller()
    lost, needed = (n for n in script.processes if n != leader)
    script.run(200)
    script.kill(lost)
    script.run(2 * ELECTION_TIMEOUT_MIN_MS)
    script.remove_voter(leader, needed)
    script.hosts[lost].lose_directory()
    script.start(lost)
    script.run(20)
    script.remove_voter(leader, needed)
    script.run(3 * ELECTION_TIMEOUT_MIN_MS)
    script.require(script.controller() == leader, "nothing is decided any more")
    script.require(needed in script.checker.voter_ids, "the voter that is needed was removed")
    script.until(lambda: script.checker.voter_ids == (1, 2, 3), "the new directory gets no vote")
    script.run(200)
    script.remove_voter(leader, needed)
    script.until(lambda: needed not in script.checker.voter_ids, "nobody is removed")
    script.finish()


SCHEDULES = {
    schedule.__name__: schedule
    for schedule in (
        two_changes_at_once,
        voter_is_replaced,
        observers_hold_what_no_majority_does,
        deposed_controller_hears_observers,
        controller_is_handed_over,
        voter_loses_its_directory,
        voter_that_is_needed_stays,
    )
}
