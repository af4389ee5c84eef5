"""A broker's way to the active controller: calls with one answer, and what replicas tell it."""

from functools import partial

from ottla_cluster.controller.commands import (
    AlterPartition,
    IsrMember,
    ReportUnfitReplicas,
    UnfitReplica,
)
from ottla_cluster.controller.image import BrokerState
from ottla_protocol.errors import (
    ConflictError,
    ControllerNotAvailableError,
    OttlaError,
    Outcome,
    RequestTimedOutError,
)
from tests.simulation.plane.timing import CALL_TIMEOUT_MS, REPORT_RETRY_MS


class ControllerCalls:
    """The part of a process that asks the controller; see `process`."""

    def peer_refused(self, peer):
        """A connection was refused: tell Raft, the calls under way, and the controller."""
        self.voter.refused(peer)
        for call_id in [c for c, (_, leader_id) in self._calls.items() if leader_id == peer]:
            self._call_ended(call_id, RequestTimedOutError("refused", outcome=Outcome.UNKNOWN))
        if peer in self.fetchers:
            self.fetchers[peer].refused()
        broker = self.image.brokers.get(peer)
        leader_id = self.voter.node.leader_id
        if broker is None or broker.state is BrokerState.FENCED or leader_id in (None, peer):
            return
        if leader_id == self.node_id:
            self.controller.report_unreachable(peer, broker.broker_epoch)
        else:
            self.send(leader_id, "unreachable", peer, broker.broker_epoch, once=True)

    def call(self, command, answered):
        """Have the controller decide; `answered(response or error)` exactly once."""
        leader_id = self.voter.node.leader_id
        if leader_id is None:
            answered(ControllerNotAvailableError("no controller", outcome=Outcome.NOT_APPLIED))
        else:
            self.call_at(leader_id, command, answered)

    def call_at(self, node_id, command, answered):
        """The same at a certain process, which need not be the controller."""
        call_id = self.world.new_token()
        self._calls[call_id] = (answered, node_id)
        self.after(CALL_TIMEOUT_MS, self._call_ended, call_id, None)
        if node_id == self.node_id:
            self.after(0, self.controller.execute, command, partial(self._call_ended, call_id))
        else:
            self.send(node_id, "command", call_id, command, once=True)

    def catch_up(self, answered):
        """Ask for a version that covers all that was acknowledged; `answered(version or error)`."""
        leader_id = self.voter.node.leader_id
        call_id = self.world.new_token()
        self._calls[call_id] = (answered, leader_id)
        self.after(CALL_TIMEOUT_MS, self._call_ended, call_id, None)
        if leader_id is not None:
            self.send(leader_id, "commit_version", call_id, once=True)

    def on_version(self, _sender, call_id, index):
        self._call_ended(call_id, index)

    def _call_ended(self, call_id, outcome):
        answered, _ = self._calls.pop(call_id, (None, None))
        if answered is not None:
            if outcome is None:
                outcome = RequestTimedOutError("no answer", outcome=Outcome.UNKNOWN)
            answered(outcome)

    def on_answer(self, _sender, call_id, outcome):
        self._call_ended(call_id, outcome)

    # --- what replicas have to tell -------------------------------------------------------------

    def propose(self, replica, proposal):
        command = AlterPartition(
            node_id=self.node_id,
            broker_epoch=self.broker_epoch,
            topic_id=replica.key[0],
            partition=replica.key[1],
            leader_epoch=proposal.leader_epoch,
            partition_epoch=proposal.partition_epoch,
            new_isr=tuple(IsrMember(m.replica_id, m.broker_epoch) for m in proposal.isr),
        )

        def answered(outcome):
            self.world.proposal_ended(outcome, len(replica.state.isr))
            if self.replicas.get(replica.key) is not replica:
                return
            if isinstance(outcome, OttlaError):
                is_refused = isinstance(outcome, ConflictError)
                replica.proposal_answered(proposal, None, refused=is_refused)
            else:
                epoch = outcome.state.partition_epoch
                replica.proposal_answered(proposal, epoch, refused=False)

        # Not at once: the machine that has just proposed hears no answer before it has returned.
        self.after(0, self.call, command, answered)

    def _report_unfit(self, now_ms):
        unfit = [
            replica
            for replica in self.replicas.values()
            if not replica.fitness.is_whole
            and replica.not_reported_before_ms <= now_ms
            and len(replica.state.replicas) > 1
            and replica.fitness.must_report(replica.state.isr, replica.state.leader)
        ]
        if not unfit:
            return
        losses = {replica.key: replica.fitness.losses for replica in unfit}
        for replica in unfit:
            replica.not_reported_before_ms = now_ms + REPORT_RETRY_MS
        command = ReportUnfitReplicas(
            self.node_id,
            self.broker_epoch,
            tuple(UnfitReplica(*r.key, lost_tail=r.fitness.lost_tail) for r in unfit),
        )

        def answered(outcome):
            if isinstance(outcome, OttlaError):
                return
            for result in outcome.results:
                replica = self.replicas.get((result.topic_id, result.partition))
                if replica is not None and not result.in_isr:
                    replica.not_reported_before_ms = 0
                    replica.fitness.left_isr(result.partition_epoch, losses[replica.key])

        self.call(command, answered)
