"""Planted bugs in every layer of the plane; each must be noticed by a schedule or by random runs.

The bugs of the parts are taken over from the parts' own simulations: Raft's node and driver, the
controller's handlers and runtime, the leader's machine. Here are those of the joints between them.
A mutant is a context that gives the classes to build a world of.
"""

from contextlib import contextmanager

import pytest

from ottla_cluster.controller import (
    active_controller,
    unclean_election_handlers,
)
from ottla_cluster.raft.membership import Membership
from ottla_cluster.replication.fetch_session import FetchSessions
from ottla_cluster.replication.throttle import ReplicationThrottle
from tests.simulation.controller.mutants import MUTANTS as CONTROLLER_MUTANTS
from tests.simulation.plane.controller_host import ControllerHost
from tests.simulation.plane.process import Process
from tests.simulation.plane.replica import Replica
from tests.simulation.plane.replica_log import ReplicaLog
from tests.simulation.plane.voter import Voter
from tests.simulation.raft.host import Host
from tests.simulation.raft.membership_mutants import MEMBERSHIP_MUTANTS, member
from tests.simulation.raft.mutants import MUTANTS as RAFT_MUTANTS
from tests.simulation.raft.mutants import running
from tests.simulation.raft.observers import OBSERVER_MUTANTS
from tests.simulation.raft.snapshot_mutants import SNAPSHOT_MUTANTS
from tests.simulation.replication import damage
from tests.simulation.replication import mutants as replication

# --- the broker's logs ----------------------------------------------------------------------------


class TruncatesToHighWatermark(Replica):
    """KIP-101: a new follower cuts its log to what it knows to be committed."""

    def _follow(self, state):
        end = self.high_watermark
        if end < self.log.next_offset and state.leader is not None:
            self.log.truncate(end, lambda: None)
            self.log.when_settled(lambda: super(TruncatesToHighWatermark, self)._follow(state))
        else:
            super()._follow(state)


class NeverReconciles(Replica):
    """Offsets alone decide what to fetch next."""

    check_divergence = staticmethod(lambda *_: None)


class ForgetsToNameTheEpoch(Replica):
    """KIP-279: reconciliation stops at the leader's next epoch."""

    check_divergence = staticmethod(replication.divergence_before_kip_279)


class CountsFetchesOfOtherEpochs(Replica):
    """The leader epoch of a fetch is not looked at (KIP-320)."""

    def check_leader_epoch(self, leader, position):
        return


class AcknowledgedBeforeFsync(ReplicaLog):
    """What was written counts as durable."""

    @property
    def durable_end(self):
        return len(self.records)

    @property
    def is_settled(self):
        return self._cutting is None

    def append(self, record):
        offset = super().append(record)
        self._on_durable(offset + 1)
        return offset

    def _is_written(self):
        on_durable, self._on_durable = self._on_durable, lambda _: None
        super()._is_written()
        self._on_durable = on_durable


# --- producers ------------------------------------------------------------------------------------


class ForgetsSequences(Replica):
    """A retry is a new record."""

    def judge(self, record):
        return None


class FollowersKeepNoProducers(ReplicaLog):
    """Only what was appended as leader is remembered of producers; failover forgets it."""

    def append(self, record):
        remember = self._remember
        if record.leader_epoch != self.epochs.latest_epoch:
            self._remember = lambda *_: None
        offset = super().append(record)
        self._remember = remember
        return offset


class ForgetsProducersAtTheStart(ReplicaLog):
    """The state of producers is not rebuilt from the log."""

    def _producers_of_the_log(self):
        records, self.records = self.records, []
        try:
            return super()._producers_of_the_log()
        finally:
            self.records = records


class KeepsProducersOfWhatWasCut(ReplicaLog):
    """After a truncation the log still answers for records that are gone."""

    def truncate(self, end, done):
        before = self.producers
        super().truncate(end, done)
        self.producers = before


class AcknowledgesAtAppend(Replica):
    """acks=all is answered when the leader has appended."""

    def produce(self, record, acks_all, answer):
        try:
            offset = self._append(record, acks_all)
        except Exception as error:
            answer(error)
        else:
            answer(offset)


class KeepsAcksOfWhatWasCut(Replica):
    """Who waits for an ack goes on waiting for the offset, whatever becomes of the record."""

    def fail_acks(self, end=0):
        return


class FailsAcksAtOnce(Replica):
    """Who waits for an ack is told nothing certain once the leadership moves."""

    def _step_down(self, state):
        super()._step_down(state)
        self.fail_acks()


class AppendsWhileItHandsOver(Replica):
    """A broker that stops appends until it hears of the next leader."""

    def begin_handover(self, timeout_ms):
        return


class DoesNotWaitForItsFollowers(Replica):
    """A broker that stops leaves at once, whatever the others lack."""

    @property
    def is_handed_over(self):
        return True


# --- damage ---------------------------------------------------------------------------------------


class IgnoresTheWitness(Replica):
    """A log is as long as it is."""

    def __init__(self, process, key, state, disk):
        super().__init__(process, key, state, disk)
        self.fitness = self.fitness_class(self.node_id, lost_tail=False)
        disk.is_short = False
        disk.witnessed_end = len(disk.records)


class LeadsWithAShortLog(Replica):
    """Whoever is elected leads, and the others cut what it has lost."""

    def assume_role(self, topic, state, image):
        if self.fitness.lost_tail and state.leader == self.node_id:
            self.fitness = self.fitness_class(self.node_id, lost_tail=False)
        super().assume_role(topic, state, image)


class StandsAsideForEver(Replica):
    """Nobody has told the replica that what it lost is given up."""

    def accept_as_it_is(self):
        return


# --- the broker's life ----------------------------------------------------------------------------


class LeaseFromReceipt(Process):
    """The lease counts from when the heartbeat's answer arrived."""

    def lease_counts_from(self, sent_at_ms):
        return self.clock_ms()


class LeaseBeforeTheMetadata(Process):
    """A heartbeat confirms the lease, though the replicas do not reflect the metadata yet."""

    def _confirm_lease(self):
        if self._awaited_lease is not None:
            self.lease.confirmed(self._awaited_lease[1])
            self._awaited_lease = None


class KeepsItsLeaseWhenItAsksToBeRelieved(Process):
    """A broker says that its disk is full, or that it stops, and leads on while it may."""

    def asks_to_be_relieved(self):
        return False


class TrustsItsImageWhenItAsksToBeRelieved(Process):
    """A broker that stops leads on where it knows of nothing that it could lose."""

    def asks_to_be_relieved(self):
        return super().asks_to_be_relieved() and any(
            self.node_id in partition.isr for _, partition in self.image.all_partitions()
        )


class HeartbeatsWhileItsDiskHangs(Process):
    """A broker keeps what it cannot exercise for as long as its process lives."""

    def look_at_the_disk(self, now_ms):
        return


class LeadsTheQuorumWhileItsDiskHangs(Process):
    """A controller gives up its partitions only."""

    def stand_aside(self, *, stands_aside):
        return


class ActsForItsFormerSelf(Process):
    """Replicas are hosted from the start, by metadata that speaks of another incarnation."""

    def _activate(self):
        if self.broker_epoch is None and not self.is_active and self.image.brokers:
            own = self.image.brokers.get(self.node_id)
            if own is not None:
                self.broker_epoch = own.broker_epoch
        super()._activate()


class TakesAnyFetchOfASession(FetchSessions):
    """The number of a session's fetch is not looked at (KIP-227)."""

    def resume(self, session_id, epoch, replica_id, broker_epoch):
        session = self.of(replica_id)
        expected = epoch if session is None else session.epoch
        return super().resume(session_id, expected, replica_id, broker_epoch)


class ThrottlesMembersOfTheIsr(Process):
    """What is in sync waits for the rate of copies, too."""

    is_throttled = staticmethod(lambda *_: True)


class PaysForNoCopy(ReplicationThrottle):
    """What was sent is not counted."""

    def sent(self, size_bytes, now_ms):
        return


class KeepsItsFirstRate(ReplicationThrottle):
    """A rate that is changed, or taken away, counts for what begins later only."""

    def set_rate(self, bytes_per_second, now_ms):
        if self._bytes_per_second is None:
            super().set_rate(bytes_per_second, now_ms)


# --- the controller's driver ----------------------------------------------------------------------


class AnswersWithoutAReadRound(ControllerHost):
    """A controller that was deposed renews leases."""

    def confirm(self, answer, outcome):
        answer(outcome)


class AsksNobodyForItsLog(ControllerHost):
    """Any replica that is there is elected, however short its log."""

    def told_log_end(self, key, end):
        return


class BeginsBeforeItsNoOp(ControllerHost):
    """A leadership of the controller begins when it is won, on what happens to be applied."""

    def leadership_changed(self, term, leader_id, is_leader):
        super().leadership_changed(term, leader_id, is_leader)
        if is_leader and self.active is None:
            self._begin()


# --- the controller -------------------------------------------------------------------------------


def a_lost_log_is_a_short_one(monkeypatch):
    """An unclean election takes the replica without its log for one like the others."""
    monkeypatch.setattr(unclean_election_handlers, "_is_without_its_log", lambda *_: False)


def answers_with_the_version_of_before(monkeypatch):
    """A heartbeat's answer names the version before what the heartbeat itself changed."""
    monkeypatch.setattr(active_controller, "_with_what_it_changed", lambda done: done)


# --- the quorum -----------------------------------------------------------------------------------


class RemovesWhoIsNeeded(Membership):
    """A voter is removed whoever is left."""

    def check_majority(self, after, now_ms):
        return


def built(replica=None, process=Process, **parts):
    """A process class with these parts."""
    if replica is not None:
        parts["replica_class"] = replica
    return type(process.__name__, (process,), parts)


def with_log(log):
    return built(type(log.__name__, (Replica,), {"log_class": log}))


def with_leader(leader):
    return built(type(leader.__name__, (Replica,), {"leader_class": leader}))


def with_fitness(fitness):
    return built(type(fitness.__name__, (Replica,), {"fitness_class": fitness}))


PROCESSES = {
    "truncates to the high watermark": built(TruncatesToHighWatermark),
    "never reconciles": built(NeverReconciles),
    "forgets to name the epoch": built(ForgetsToNameTheEpoch),
    "counts fetches of other epochs": built(CountsFetchesOfOtherEpochs),
    "acknowledged before fsync": with_log(AcknowledgedBeforeFsync),
    "forgets sequences": built(ForgetsSequences),
    "followers keep no producers": with_log(FollowersKeepNoProducers),
    "forgets producers at the start": with_log(ForgetsProducersAtTheStart),
    "keeps producers of what was cut": with_log(KeepsProducersOfWhatWasCut),
    "acknowledges at append": built(AcknowledgesAtAppend),
    "keeps acks of what was cut": built(KeepsAcksOfWhatWasCut),
    "fails acks at once": built(FailsAcksAtOnce),
    "appends while it hands over": built(AppendsWhileItHandsOver),
    "does not wait for its followers": built(DoesNotWaitForItsFollowers),
    "heartbeats while its disk hangs": built(process=HeartbeatsWhileItsDiskHangs),
    "leads the quorum while its disk hangs": built(process=LeadsTheQuorumWhileItsDiskHangs),
    "ignores the witness": built(IgnoresTheWitness),
    "leads with a short log": built(LeadsWithAShortLog),
    "stays in the isr": with_fitness(damage.StaysInTheIsr),
    "lease never ends": built(lease_class=replication.LeaseThatNeverEnds),
    "takes any fetch of a session": built(sessions_class=TakesAnyFetchOfASession),
    "throttles members of the isr": built(process=ThrottlesMembersOfTheIsr),
    "pays for no copy": built(throttle_class=PaysForNoCopy),
    "keeps its first rate": built(throttle_class=KeepsItsFirstRate),
    "lease from receipt": built(process=LeaseFromReceipt),
    "lease before the metadata": built(process=LeaseBeforeTheMetadata),
    "keeps its lease when it asks to be relieved": built(
        process=KeepsItsLeaseWhenItAsksToBeRelieved
    ),
    "trusts its image when it asks to be relieved": built(
        process=TrustsItsImageWhenItAsksToBeRelieved
    ),
    "acts for its former self": built(process=ActsForItsFormerSelf),
    "assumes followers are equal": with_leader(replication.AssumesFollowersAreEqual),
    "ignores the proposed isr": with_leader(replication.IgnoresTheProposedIsr),
    "forgets unanswered proposals": with_leader(replication.ForgetsUnansweredProposals),
    "expands before the epoch start": with_leader(replication.ExpandsBeforeTheEpochStart),
    "expands any incarnation": with_leader(replication.ExpandsAnyIncarnation),
    "denies what it has": with_leader(replication.DeniesWhatItHas),
    "advances below min isr": with_leader(replication.AdvancesBelowMinIsr),
    "answers without a read round": built(controller_class=AnswersWithoutAReadRound),
    "asks nobody for its log": built(controller_class=AsksNobodyForItsLog),
    "stands aside for ever": built(StandsAsideForEver),
    "begins before its no-op": built(controller_class=BeginsBeforeItsNoOp),
}

CONTROLLERS = {plant.__name__.replace("_", " "): plant for plant in CONTROLLER_MUTANTS}
CONTROLLERS |= {
    plant.__name__.replace("_", " "): plant
    for plant in (
        a_lost_log_is_a_short_one,
        answers_with_the_version_of_before,
    )
}

VOTERS = RAFT_MUTANTS | SNAPSHOT_MUTANTS | MEMBERSHIP_MUTANTS | OBSERVER_MUTANTS
VOTERS |= {"removes who is needed": member(RemovesWhoIsNeeded)}

NAMES = (*PROCESSES, *CONTROLLERS, *VOTERS)


@contextmanager
def planted(name):
    """The process class and the voter class to use meanwhile."""
    if name in PROCESSES:
        yield PROCESSES[name], Voter
    elif name in CONTROLLERS:
        with pytest.MonkeyPatch.context() as monkeypatch:
            CONTROLLERS[name](monkeypatch)
            yield Process, Voter
    else:
        with running(**VOTERS[name]) as host_class:
            is_mixed = host_class is not Host
            yield Process, type("MutantVoter", (host_class, Voter), {}) if is_mixed else Voter
