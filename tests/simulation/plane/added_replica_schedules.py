"""Schedules of replicas that a reassignment adds: what they have is chance, and may be nothing.

See `partition_schedules`. The topic allows unclean elections, and its former replicas are all gone.
"""

from ottla_cluster.controller.commands import DrainBroker, ElectUnclean, UncleanElection
from tests.simulation.plane.script import Script
from tests.simulation.plane.timing import SESSION_TIMEOUT_MS


def _alone(*classes):
    """One replica with records, and a broker that has none of them and is not the controller."""
    script = Script(*classes, is_unclean=True, min_insync_replicas=1)
    a, b, c = script.state.replicas
    script.reassign((a,))
    script.until(lambda: script.state.replicas == (a,), "the others stay")
    script.commit(a)
    script.commit(a)
    spare = next(n for n in (b, c) if n != script.controller())
    return script, a, spare


def _add_empty(script, a, added):
    """Begin to move the partition to the broker, which gets nothing before `a` is gone."""
    fetches = script.hold("fetch", sender=added)
    script.reassign((added,))
    script.until(lambda: script.state.replicas == (a, added), "nothing is added")
    script.run(50)
    script.kill(a)
    script.until(lambda: script.state.leader is None, "it is not missed")
    fetches.messages.clear()
    fetches.end()


def nobody_elects_what_is_being_copied(*classes):
    """The only one with the records is gone for a while: the new replica waits with us."""
    script, a, added = _alone(*classes)
    _add_empty(script, a, added)
    # Neither a session's time nor another controller makes it better than it is.
    script.run(3 * SESSION_TIMEOUT_MS)
    script.require(script.state.leader is None, f"an empty log leads: {script.state}")
    script.require(script.state.replicas == (a, added), f"the records are left: {script.state}")
    script.start(a)
    script.until(lambda: script.state.replicas == (added,), "it does not move")
    script.commit(added)
    script.finish()


def an_operator_elects_what_is_being_copied(*classes):
    """It is gone for good, and somebody says so: the move is over, and the partition goes on."""
    script, a, added = _alone(*classes)
    _add_empty(script, a, added)
    script.run(2 * SESSION_TIMEOUT_MS)
    name = UncleanElection(script.state.topic, script.state.partition)
    script.command(ElectUnclean((name,)))
    script.until(script.leads(added), "it does not lead")
    script.require(script.state.replicas == (added,), f"the move is not over: {script.state}")
    script.new_producer()
    script.commit(added)
    script.start(a)
    script.finish()
    script.require(
        script.invariants.history(script.key).has_given_up, "nobody has decided to lose anything"
    )


def a_drain_leaves_what_nobody_leads(*classes):
    """A broker that is down is drained: what it alone has waits for it, and moves then."""
    script, a, _ = _alone(*classes)
    script.kill(a)
    script.until(lambda: script.state.leader is None, "it is not missed")
    script.command(DrainBroker(a))
    script.run(3 * SESSION_TIMEOUT_MS)
    script.require(script.state.replicas == (a,), f"there is nothing to copy: {script.state}")
    script.start(a)
    script.until(lambda: a not in script.state.replicas, "it does not move")
    script.require(script.committed_end >= 2, "nothing is left")
    script.commit_at_the_leader()
    script.finish()


SCHEDULES = {
    schedule.__name__: schedule
    for schedule in (
        nobody_elects_what_is_being_copied,
        an_operator_elects_what_is_being_copied,
        a_drain_leaves_what_nobody_leads,
    )
}
