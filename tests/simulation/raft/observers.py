"""Observers in the simulated cluster: they come and go, lag, and lose their disks.

The same checker watches them as the voters, and two rules come on top: an observer never leads and
never grants a vote. Schedules and planted bugs are those of observers only.
"""

from dataclasses import replace

from ottla_cluster.raft import ObserveRequest, PreVoteResponse, VoteResponse
from ottla_cluster.raft import node as node_module
from ottla_cluster.raft.leadership import Leadership
from ottla_cluster.raft.node import RaftNode
from ottla_cluster.raft.observers import ObserverTimer
from ottla_cluster.raft.quorum import quorum_size
from tests.simulation.raft.checker import Checker
from tests.simulation.raft.host import Disk, Host
from tests.simulation.raft.script import LONG_MS, Script
from tests.simulation.raft.world import World


class ObserverChecker(Checker):
    """Further rules.

    Args:
        observers: their node ids; they may be filled later.
    """

    def __init__(self, observers):
        super().__init__()
        self.observers = observers

    def on_ready(self, host, ready):
        self.require(
            host.node_id not in self.observers or ready.role == "follower",
            "an observer never campaigns",
            (host.node_id, ready.role),
        )
        super().on_ready(host, ready)

    def on_send(self, message):
        self.require(
            message.sender not in self.observers
            or not isinstance(message, VoteResponse | PreVoteResponse)
            or not message.granted,
            "an observer never votes",
            message,
        )
        super().on_send(message)


class ObserverWorld(World):
    """A run with observers.

    Args:
        options: the whole run.
        observer_count: nodes without a vote, behind the voters.
        host_class: the driver, replaced by mutants.
    """

    def __init__(self, options, observer_count, host_class=Host):
        faults = (*options.faults, "leave", "lose_log")
        super().__init__(replace(options, faults=faults), host_class)
        first = options.voter_count + 1
        self.observers = tuple(range(first, first + observer_count))
        self.checker = ObserverChecker(self.observers)
        for node_id in self.observers:
            config = replace(
                self.hosts[1].config,
                node_id=node_id,
                url="http://observer",
                observer_timeout_ms=400,
            )
            self.hosts[node_id] = host_class(self, config, self.random.getrandbits(32))
        for host in self.hosts.values():
            host.config = replace(host.config, observer_timeout_ms=400)

    def _any_observer(self):
        return self.hosts[self.random.choice(self.observers)]

    def _fault_leave(self):
        """Long enough for the leader to forget it, and to compact what it lacks."""
        self._crash(self._any_observer(), 1_500)

    def _fault_lose_log(self):
        """An observer may: nothing rests on it."""
        observer = self._any_observer()
        if observer.is_up:
            observer.crash()
            observer.disk = Disk()
            self.after(self.random.randint(1, 300), self._restart, observer)


class ObserverScript(Script):
    """A cluster played by hand, with observers 8 and 9."""

    def __init__(self, voter_count, host_class=Host, **settings):
        super().__init__(voter_count, host_class, **settings)
        self.checker.__class__ = ObserverChecker
        self.checker.observers = (8, 9)
        for node_id in (8, 9):
            config = replace(self.hosts[1].config, node_id=node_id, url="http://observer")
            self.hosts[node_id] = host_class(self, config, node_id)
            self.hosts[node_id].start()

    def observe(self, *observers):
        """Let them announce themselves, and whoever leads take them in."""
        for observer in observers:
            self.tick(observer)
            self.deliver(ObserveRequest, sender=observer)


# --- schedules ------------------------------------------------------------------------------------


def observers_hold_what_no_majority_does(host_class):
    """A leader alone with two observers commits nothing: a new leader may replace it all."""
    script = ObserverScript(3, host_class)
    script.elect(1, 2, 3)
    script.settle(1, 2, 3)
    script.observe(8, 9)
    script.settle(1, 8, 9)
    script[1].propose([b"on one voter"])
    script.settle(1, 8, 9)
    assert script.node(8).last_index == script.node(1).last_index == 2
    script.elect(2, 3)
    script[2].propose([b"on two voters"])
    script.settle(2, 3)
    assert script.node(2).commit_index == 3


def replaced_leader_reads(host_class):
    """Its observers still answer it; that confirms nothing."""
    script = ObserverScript(3, host_class)
    script.elect(1, 2, 3)
    script.settle(1, 2, 3)
    script.observe(8, 9)
    script.settle(1, 8, 9)
    script.wait(100)
    for follower in (2, 3):
        script[follower].refused(1)
    script.wait(200)
    script.tick(2)
    script.settle(2, 3)
    script.drop()
    script[2].propose([b"unknown to node 1"])
    script.settle(2, 3)
    assert script.node(1).role == "leader"
    script[1].read(77)
    script.wait(100)
    script.tick(1)
    script.settle(1, 8, 9)
    assert script.checker.confirmed_read_count == 0


def isolated_leader_hears_observers(host_class):
    """Contact with observers is none with the quorum."""
    script = ObserverScript(3, host_class)
    script.elect(1, 2, 3)
    script.settle(1, 2, 3)
    script.observe(8, 9)
    cut = [(a, b) for a in (1, 8, 9) for b in (2, 3)]
    script.run(3 * LONG_MS, cut=[*cut, *((b, a) for a, b in cut)])
    assert script.node(1).role != "leader"


def leader_changes(host_class):
    """The next leader knows no observers until they announce themselves."""
    script = ObserverScript(3, host_class)
    script.elect(1, 2, 3)
    script.settle(1, 2, 3)
    script.observe(8, 9)
    script.settle()
    script.power_loss(1)
    cut = [(other, 1) for other in (2, 3, 8, 9)]
    script.run(3 * LONG_MS, cut=cut)
    (leader,) = [node_id for node_id in (2, 3) if script.node(node_id).role == "leader"]
    assert script.node(leader).observer_ids == (8, 9)
    script[leader].propose([b"by the new leader"])
    script.run(LONG_MS, cut=cut)
    for observer in (8, 9):
        assert script[observer].state == script[leader].state
        assert script.node(observer).leader_id == leader


def observer_loses_its_log(host_class):
    """It has acknowledged entries, and comes back without them before anybody noticed."""
    script = ObserverScript(3, host_class)
    script.elect(1, 2, 3)
    script[1].propose([b"before"])
    script.settle(1, 2, 3)
    script.observe(8)
    script.settle()
    assert script[8].state == script[1].state
    script.power_loss(8)
    script[8].disk = Disk()
    script.restart(8)
    # The leader's heartbeat comes first, so the observer never announces itself.
    script.wait(100)
    script.tick(1)
    script.settle()
    script.run(500, cut=[(9, 1)])
    assert script[8].state == script[1].state


def observer_lags_behind_the_snapshot(host_class):
    """It is away while the log is compacted, is sent the snapshot, and follows again."""
    script = ObserverScript(3, host_class, retained_entries=0, max_snapshot_chunk_bytes=50)
    script.elect(1, 2, 3)
    script.settle(1, 2, 3)
    script.observe(8)
    script.settle()
    script.power_loss(8)
    for number in range(4):
        script[1].propose([b"while it is away %d" % number])
        script.settle(1, 2, 3)
    script[1].compact()
    script.restart(8)
    script.run(LONG_MS)
    assert script.checker.installed_count == 1
    script[1].propose([b"an entry again"])
    script.run(LONG_MS)
    assert script[8].state == script[1].state


OBSERVER_SCHEDULES = {
    schedule.__name__: schedule
    for schedule in (
        observers_hold_what_no_majority_does,
        replaced_leader_reads,
        isolated_leader_hears_observers,
        leader_changes,
        observer_loses_its_log,
        observer_lags_behind_the_snapshot,
    )
}


# --- planted bugs ---------------------------------------------------------------------------------


def reached_by_as_many(leadership, values):
    """As many as a majority of voters, whoever they are."""
    return sorted(values)[-quorum_size(len(leadership._members) + 1)]


class CommitsWithObservers(Leadership):
    """An observer counts like a voter for what is committed."""

    def _advance_commit(self):
        matches = [progress.match_index for progress in self._receivers()]
        index = reached_by_as_many(self, [self._log.last_index, *matches])
        if index <= self._log.commit_index or self._log.term_at(index) != self.term:
            return False
        self._log.commit_to(index)
        return True


class ReadsWithObservers(Leadership):
    """An observer's answer counts for a round of reads."""

    def _confirm_reads(self):
        answered = [progress.answered_read_sequence for progress in self._receivers()]
        sequence = reached_by_as_many(self, [self._reads.sequence, *answered])
        self._outputs.confirmed_reads.extend(self._reads.confirm(sequence))


class HearsObservers(Leadership):
    """An observer's answer is contact with the quorum."""

    def has_quorum_contact(self, now_ms):
        contacts = [progress.last_contact_ms for progress in self._receivers()]
        last_contact_ms = reached_by_as_many(self, [now_ms, *contacts])
        return now_ms - last_contact_ms < self._config.election_timeout_max_ms


class AnnouncesOnce(ObserverTimer):
    """An observer that has found a leader never looks for another one."""

    def heard_from_leader(self, now_ms):
        super().heard_from_leader(now_ms)
        self.deadline_ms = now_ms + 3_600_000

    def hasten(self, now_ms):
        pass


class TrustsObservers(Leadership):
    """What an observer has acknowledged it is taken to hold for ever."""

    def admit_observer(self, observer_id, now_ms):
        if self._observers.get(observer_id) is None:
            super().admit_observer(observer_id, now_ms)


class CampaigningObserver(RaftNode):
    """An observer that hears of no leader campaigns, like a voter."""

    def _announce(self):
        self._begin_pre_vote()


OBSERVER_MUTANTS = {
    "commits with observers": {"leadership": CommitsWithObservers},
    "reads with observers": {"leadership": ReadsWithObservers},
    "hears observers": {"leadership": HearsObservers},
    "announces once": {"patches": ((node_module, "ObserverTimer", AnnouncesOnce),)},
    "trusts observers": {"leadership": TrustsObservers},
    "campaigns as an observer": {"node": CampaigningObserver},
}
