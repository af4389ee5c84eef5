"""Planted bugs: each takes one rule away. The simulation must notice every one of them.

They are the bugs that replicated logs have had: KIP-101, KIP-279, KIP-497, KIP-903, KIP-966, and
rows 2 to 6 of the project's list of subtle bugs. A mutant is a broker class and a controller class.
"""

from dataclasses import dataclass

from ottla_cluster.replication.leader import PartitionLeader
from ottla_cluster.replication.leader_epochs import NO_EPOCH, EpochEnd
from ottla_cluster.replication.lease import BrokerLease
from tests.simulation.replication.broker import Broker
from tests.simulation.replication.controller import Controller


@dataclass(frozen=True, slots=True)
class Mutant:
    broker_class: type[Broker] = Broker
    controller_class: type[Controller] = Controller


# --- following ------------------------------------------------------------------------------------


class TruncatesToHighWatermark(Broker):
    """KIP-101: a new follower cuts its log to what it knows to be committed."""

    def become_follower(self, metadata):
        self.resign()
        self.truncate(self.high_watermark)
        super().become_follower(metadata)


class NeverReconciles(Broker):
    """Offsets alone decide what to fetch next."""

    check_divergence = staticmethod(lambda *_: None)


def divergence_before_kip_279(epochs, log_end_offset, last_fetched_epoch, fetch_offset):
    """The answer of KIP-101: the start of the first larger epoch, without naming the epoch."""
    if last_fetched_epoch == NO_EPOCH:
        return None
    larger = [entry.start_offset for entry in epochs.entries if entry.epoch > last_fetched_epoch]
    end_offset = larger[0] if larger else log_end_offset
    return EpochEnd(last_fetched_epoch, end_offset) if end_offset < fetch_offset else None


class ForgetsToNameTheEpoch(Broker):
    """KIP-279: reconciliation stops at the leader's next epoch, whatever the follower has there."""

    check_divergence = staticmethod(divergence_before_kip_279)


class AcknowledgesBeforeFsync(Broker):
    """What was written counts as durable."""

    def append(self, record):
        super().append(record)
        if self.leader is not None:
            self.lead_on(self.leader.local_log_end_moved(len(self.log), self.world.now_ms))

    def on_fetched(self, *answer):
        before = len(self.log)
        super().on_fetched(*answer)
        if len(self.log) > before:
            self.follow_on(self.follower.log_changed(len(self.log), self.epochs))
            self.send_fetch()


class ForgetsToFailWhatIsCut(Broker):
    """Whoever waits for a record that was cut is acknowledged for the one in its place."""

    def forget_acks_from(self, end):
        pass


# --- leading --------------------------------------------------------------------------------------


class AssumesFollowersAreEqual(PartitionLeader):
    """Before a follower's first fetch of this epoch, its log end counts as the leader's."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        for follower in self._followers.values():
            follower.log_end_offset = self._log_end_offset


class CountsFetchesOfOtherEpochs(Broker):
    """The leader epoch of a fetch is not looked at."""

    def on_fetch(self, src, broker_epoch, position):
        if self.leader is not None and position.leader_epoch < self.leader.leader_epoch:
            self.leader.follower_fetched(src, broker_epoch, position.offset, self.world.now_ms)
            self.lead_on(self.leader.local_log_end_moved(self.synced, self.world.now_ms))
            return
        super().on_fetch(src, broker_epoch, position)


class IgnoresTheProposedIsr(PartitionLeader):
    """KIP-497: only the committed ISR binds the high watermark while a proposal is in flight."""

    def _propose(self, now_ms):
        proposal = super()._propose(now_ms)
        self._maximal_isr = frozenset(self._isr)
        return proposal


class ForgetsUnansweredProposals(PartitionLeader):
    """A proposal that was not answered in time counts as refused."""

    def proposal_failed(self, proposal, now_ms, *, refused):
        return super().proposal_failed(proposal, now_ms, refused=True)


class ExpandsBeforeTheEpochStart(PartitionLeader):
    """The new leader's own high watermark, which lags, is enough to join."""

    def _may_join(self, replica_id, follower, now_ms):
        start, self._epoch_start_offset = self._epoch_start_offset, 0
        try:
            return super()._may_join(replica_id, follower, now_ms)
        finally:
            self._epoch_start_offset = start


class ExpandsAnyIncarnation(PartitionLeader):
    """KIP-903 at the leader: offsets of the former incarnation speak for the present one."""

    def _is_eligible(self, replica_id, follower):
        return replica_id in self._eligible and follower.log_end_offset >= 0


class AdvancesBelowMinIsr(PartitionLeader):
    """KIP-966: what is left of the ISR commits alone."""

    def _advance_high_watermark(self, now_ms):
        minimum, self._min_insync_replicas = self._min_insync_replicas, 1
        try:
            return super()._advance_high_watermark(now_ms)
        finally:
            self._min_insync_replicas = minimum


class DeniesWhatItHas(PartitionLeader):
    """KIP-207 for reads: past the high watermark nothing is there, also where that lags."""

    def may_be_acknowledged(self, offset):
        return False


class LeaseThatNeverEnds(BrokerLease):
    """A woken leader believes what it knew."""

    def valid(self, now_ms):
        return self.expires_at_ms is not None


class LeaseFromReceipt(Broker):
    """The lease counts from when the heartbeat's answer arrived."""

    def on_heartbeat_answer(self, src, broker_epoch, sent_at_ms, unfenced, metadata):
        super().on_heartbeat_answer(src, broker_epoch, self.world.now_ms, unfenced, metadata)


class TrustsAnImageOfAnotherIncarnation(Broker):
    """A restarted broker goes on with the leadership that its predecessor had."""

    def on_metadata(self, src, metadata):
        known, self.broker_epoch = self.broker_epoch, metadata.broker_epochs[self.id]
        super().on_metadata(src, metadata)
        self.broker_epoch = known

    def send_fetch(self):
        if self.broker_epoch is not None:
            super().send_fetch()


def with_leader(leader_class) -> type[Broker]:
    return type(leader_class.__name__, (Broker,), {"leader_class": leader_class})


# --- controlling ----------------------------------------------------------------------------------


class FencesTheLastMember(Controller):
    """Fencing empties the ISR."""

    def isr_without(self, broker_id):
        return tuple(member for member in self.isr if member != broker_id)


class ElectsUncleanly(Controller):
    """When no ISR member is there, any replica leads, and is the ISR."""

    def elect(self, isr):
        leader = super().elect(isr)
        return leader if leader is not None else super().elect(self.replicas)

    def _change(self, isr, leader):
        super()._change(isr if leader is None or leader in isr else (leader,), leader)


class AcceptsAnyBrokerEpoch(Controller):
    """KIP-903 at the controller: the proposal's broker epochs are not looked at."""

    def is_eligible(self, replica_id, broker_epoch):
        return not self.brokers[replica_id].fenced


class IgnoresThePartitionEpoch(Controller):
    """The set without the compare."""

    def alter_isr(self, broker_id, broker_epoch, proposal):
        self.partition_epoch, current = proposal.partition_epoch, self.partition_epoch
        taken = super().alter_isr(broker_id, broker_epoch, proposal)
        self.partition_epoch = current + (taken is not None)
        return None if taken is None else self.partition_epoch


class LetsNewIncarnationsLead(Controller):
    """A restart that nobody noticed changes neither leader nor leader epoch."""

    def register(self, broker_id, incarnation, now_ms):
        registration = self.brokers[broker_id]
        if not registration.fenced and incarnation > registration.incarnation:
            registration.incarnation = incarnation
            registration.broker_epoch = self._new_broker_epoch()
            registration.last_heartbeat_ms = now_ms
            self.version += 1
            return registration.broker_epoch
        return super().register(broker_id, incarnation, now_ms)


MUTANTS = {
    "truncates_to_high_watermark": Mutant(TruncatesToHighWatermark),
    "never_reconciles": Mutant(NeverReconciles),
    "forgets_to_name_the_epoch": Mutant(ForgetsToNameTheEpoch),
    "acknowledges_before_fsync": Mutant(AcknowledgesBeforeFsync),
    "forgets_to_fail_what_is_cut": Mutant(ForgetsToFailWhatIsCut),
    "assumes_followers_are_equal": Mutant(with_leader(AssumesFollowersAreEqual)),
    "counts_fetches_of_other_epochs": Mutant(CountsFetchesOfOtherEpochs),
    "ignores_the_proposed_isr": Mutant(with_leader(IgnoresTheProposedIsr)),
    "forgets_unanswered_proposals": Mutant(with_leader(ForgetsUnansweredProposals)),
    "expands_before_the_epoch_start": Mutant(with_leader(ExpandsBeforeTheEpochStart)),
    "expands_any_incarnation": Mutant(with_leader(ExpandsAnyIncarnation)),
    "advances_below_min_isr": Mutant(with_leader(AdvancesBelowMinIsr)),
    "denies_what_it_has": Mutant(with_leader(DeniesWhatItHas)),
    "lease_never_ends": Mutant(
        type("LeaseNeverEnds", (Broker,), {"lease_class": LeaseThatNeverEnds})
    ),
    "lease_from_receipt": Mutant(LeaseFromReceipt),
    "trusts_an_image_of_another_incarnation": Mutant(TrustsAnImageOfAnotherIncarnation),
    "fences_the_last_member": Mutant(controller_class=FencesTheLastMember),
    "elects_uncleanly": Mutant(controller_class=ElectsUncleanly),
    "accepts_any_broker_epoch": Mutant(controller_class=AcceptsAnyBrokerEpoch),
    "ignores_the_partition_epoch": Mutant(controller_class=IgnoresThePartitionEpoch),
    "lets_new_incarnations_lead": Mutant(controller_class=LetsNewIncarnationsLead),
}
