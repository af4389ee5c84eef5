"""Schedules of unclean elections: what a topic that allows them may lose, and nothing else.

See `partition_schedules`.
"""

from tests.simulation.plane.script import Script
from tests.simulation.plane.timing import SESSION_TIMEOUT_MS

CHECKED_MS = 500
"""How often the controller looks for partitions that wait (`unclean_election_schedule`)."""


def _alone_in_sync(script, a, b, c):
    """All have a record, b has one more, and a, with two more, is the only one in sync."""
    script.commit(a)
    lag = script.leave_isr(c, a)
    lag_too = script.leave_isr(b, a)
    script.produce(a, acks_all=False)
    script.run(50)
    script.require(script.state.isr == (a,), "others are in sync")
    ends = [script.end_of(n) for n in (a, b, c)]
    script.require(ends[0] > ends[1] > ends[2], f"all have the same: {ends}")
    return lag, lag_too


def the_longest_log_leads(*classes):
    """The only member of the ISR is gone: who has most leads, though another stands before it."""
    script = Script(*classes, is_unclean=True, min_insync_replicas=1)
    a, b, c = script.state.replicas
    script.reassign((a, c, b))
    script.until(lambda: script.state.replicas == (a, c, b), "the order does not change")
    lags = _alone_in_sync(script, a, b, c)
    script.kill(a)
    for lag in lags:
        lag.messages.clear()
        lag.end()
    script.until(lambda: script.state.leader not in (None, a), "nobody leads", 4 * CHECKED_MS)
    script.require(script.state.leader == b, f"a shorter log leads: {script.state}")
    script.new_producer()
    script.until(script.leads(b), "it does not lead")
    script.commit(b)
    script.start(a)
    script.until(lambda: len(script.state.isr) == 3, "they do not come together")
    script.finish()


def no_topic_is_asked_to_lose_anything(*classes):
    """The same where the topic does not allow it: it waits, and has everything afterwards."""
    script = Script(*classes, min_insync_replicas=1)
    a, b, c = script.state.replicas
    lags = _alone_in_sync(script, a, b, c)
    script.kill(a)
    for lag in lags:
        lag.messages.clear()
        lag.end()
    script.run(SESSION_TIMEOUT_MS + 3 * CHECKED_MS)
    script.require(script.state.leader is None, "another one leads")
    script.start(a)
    script.finish()


def its_log_is_the_partition(*classes):
    """The last member lost its end: elected as it is, it is whole, and may be in sync again."""
    script = Script(*classes, is_unclean=True)
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
    script.until(script.leads(a), "it does not lead", 6 * CHECKED_MS)
    script.new_producer()
    script.start(b, c)
    script.until(lambda: len(script.state.isr) == 3, "they do not come together")
    script.run(50)
    script.commit(a)
    script.finish()
    script.require(
        script.invariants.history(script.key).has_given_up, "nobody has decided to lose anything"
    )


def last_member_returns_without_its_directory(*classes):
    """The others have everything: they wait with it until the directory is found."""
    script = Script(*classes)
    a, b, c = script.state.replicas
    script.commit(a)
    script.commit(a)
    script.run(100)
    script.kill(c)
    script.until(lambda: script.state.isr == (a, b), "c stays in sync")
    script.kill(b)
    script.until(lambda: script.state.isr == (a,), "b stays in sync")
    script.kill(a)
    script.has_lost_directories = True
    script.processes[a].lose_directory()
    script.start(a, b, c)
    script.run(3 * SESSION_TIMEOUT_MS)
    script.require(script.state.leader is None, "an empty log leads")
    # Neither another start nor another controller forgets it.
    script.kill(a, script.controller())
    script.start(a, *(n for n, process in script.processes.items() if not process.is_up and n != a))
    script.run(3 * SESSION_TIMEOUT_MS)
    script.require(script.state.leader is None, "an empty log leads after another start")
    script.kill(a)
    script.processes[a].find_directory()
    script.start(a)
    script.until(script.leads(a), "it does not lead with its log")
    script.until(lambda: len(script.state.isr) == 3, "they do not come together")
    script.finish()


def whoever_has_a_log_leads(*classes):
    """The topic would rather lose something: but not for the one that has nothing."""
    script = Script(*classes, is_unclean=True)
    a, b, c = script.state.replicas
    script.commit(a)
    script.run(100)
    script.kill(c)
    script.until(lambda: script.state.isr == (a, b), "c stays in sync")
    script.kill(b)
    script.until(lambda: script.state.isr == (a,), "b stays in sync")
    script.kill(a)
    script.has_lost_directories = True
    script.processes[a].lose_directory()
    script.start(a)
    script.run(SESSION_TIMEOUT_MS + 3 * CHECKED_MS)
    script.require(script.state.leader is None, "an empty log leads")
    script.start(b)
    script.until(lambda: script.state.leader is not None, "nobody leads", 6 * CHECKED_MS)
    script.require(script.state.leader == b, f"an empty log leads: {script.state}")
    script.start(c)
    script.until(lambda: len(script.state.isr) == 3, "they do not come together")
    script.require(script.committed_end > 0, "nothing is left")
    script.kill(a)
    script.processes[a].find_directory()
    script.start(a)
    script.new_producer()
    script.finish()


SCHEDULES = {
    schedule.__name__: schedule
    for schedule in (
        the_longest_log_leads,
        no_topic_is_asked_to_lose_anything,
        its_log_is_the_partition,
        last_member_returns_without_its_directory,
        whoever_has_a_log_leads,
    )
}
