"""One replica: its log, its role, and who waits for it; what `drivers.partition` does.

The machines decide; this joins them with the simulated log, in the driver's order, and tells the
invariants of everything that others may come to see. Methods are small, so that a mutant replaces
one rule.
"""

from functools import partial

from ottla_cluster.controller.elections import effective_min_isr
from ottla_cluster.replication.fitness import ReplicaFitness
from ottla_cluster.replication.follower import PartitionFollower, check_divergence
from ottla_cluster.replication.leader import PartitionLeader
from ottla_protocol.errors import (
    InsufficientStorageError,
    LeaderNotAvailableError,
    NotEnoughReplicasError,
    NotLeaderOrFollowerError,
    OttlaError,
    Outcome,
)
from tests.simulation.plane.replica_log import ReplicaLog
from tests.simulation.plane.timing import HANDOVER_ACK_TIMEOUT_MS, REPLICA_LAG_TIME_MAX_MS


class Replica:
    leader_class = PartitionLeader
    follower_class = PartitionFollower
    fitness_class = ReplicaFitness
    log_class = ReplicaLog
    check_divergence = staticmethod(check_divergence)

    def __init__(self, process, key, state, disk):
        self.process = process
        self.world = process.world
        self.node_id = process.node_id
        self.key = key
        self.state = state
        self.log = self.log_class(disk, write=process.write, on_durable=self._log_end_moved)
        self.high_watermark = min(disk.high_watermark, self.log.next_offset)
        disk.is_short = disk.has_lost_tail
        self.fitness = self.fitness_class(self.node_id, lost_tail=disk.is_short)
        self.leader = None
        self.follower = None
        self.not_reported_before_ms = 0
        self._refuses_appends_until_ms = 0
        self._is_restless = False
        self._acks = []  # (offset, answer) of acks=all, by offset
        self._commits = []  # (offset, leader epoch, answer) of acks=1

    # --- roles ----------------------------------------------------------------------------------

    def assume_role(self, topic, state, image):
        """Become what the metadata says; the process hears when that is done."""
        same_epoch = state.leader_epoch == self.state.leader_epoch
        self.fitness.observe(state.isr, state.partition_epoch)
        if state.leader == self.node_id:
            self.process.stop_following(self.key)
            is_unclean = state.unclean_leader_epoch == state.leader_epoch
            if self.fitness.lost_tail and is_unclean:
                self.accept_as_it_is()
            if self.fitness.lost_tail and len(state.replicas) > 1:
                self._step_down(state)
                self.fail_acks()
                self.process.role_assumed()
            elif self.leader is not None and same_epoch:
                self._change_leadership(topic, state, image)
                self.process.role_assumed()
            else:
                self._step_down(state)
                self.log.when_settled(partial(self._lead, topic, state, image))
        elif same_epoch and self.leader is None and self.process.follows(self.key):
            self.state = state
            self.process.role_assumed()
        else:
            self.process.stop_following(self.key)
            was_leader = self.leader is not None
            self._step_down(state)
            if was_leader and self._acks:
                self.process.after(HANDOVER_ACK_TIMEOUT_MS, self._end_handover)
            self.log.when_settled(partial(self._follow, state))

    def _step_down(self, state):
        """Who waits for a local commit learns that its outcome is unknown, for others may lead.

        Who waits for acks=all goes on waiting: what the next leader has is committed by it.
        """
        self.leader = self.follower = None
        self._refuses_appends_until_ms = 0
        self.state = state
        commits, self._commits = self._commits, []
        for *_, answer in commits:
            answer(NotLeaderOrFollowerError("deposed", outcome=Outcome.UNKNOWN))
        self.process.wake_parked(self.key)

    def fail_acks(self, end=0):
        """Who waits for an ack at or past `end` learns that its outcome is unknown."""
        failed = [ack for ack in self._acks if ack[0] >= end]
        self._acks = [ack for ack in self._acks if ack[0] < end]
        for _, answer in failed:
            answer(NotLeaderOrFollowerError("moved before the ack", outcome=Outcome.UNKNOWN))

    def _end_handover(self):
        if self.leader is None:
            self.fail_acks()

    def begin_handover(self, timeout_ms):
        """Append nothing while this broker leads, so that the followers get all that there is."""
        self._refuses_appends_until_ms = self.process.clock_ms() + timeout_ms

    @property
    def is_handed_over(self):
        return self.leader is None or self.high_watermark >= self.log.next_offset

    @property
    def has_waiting_acks(self):
        return bool(self._acks)

    def _lead(self, topic, state, image):
        self.log.epochs = self.log.epochs.assign(state.leader_epoch, self.log.next_offset)
        self.world.invariants.leads(self, state)
        end = self.log.durable_end
        self.leader = self.leader_class(
            local_id=self.node_id,
            leader_epoch=state.leader_epoch,
            partition_epoch=state.partition_epoch,
            replicas=state.replicas,
            isr=state.isr,
            epoch_start_offset=end,
            log_end_offset=end,
            high_watermark=self.high_watermark,
            min_insync_replicas=effective_min_isr(topic, state),
            replica_lag_time_max_ms=REPLICA_LAG_TIME_MAX_MS,
            now_ms=self.process.clock_ms(),
        )
        self._is_restless = True
        self.tick(image)
        self.process.role_assumed()

    def _change_leadership(self, topic, state, image):
        self.state = state
        self.leader.brokers_changed(*self.process.eligible_and_draining(image))
        now_ms = self.process.clock_ms()
        self._act(self.leader.min_insync_replicas_changed(effective_min_isr(topic, state), now_ms))
        self._act(
            self.leader.partition_changed(state.isr, state.partition_epoch, state.replicas, now_ms)
        )

    def _follow(self, state):
        if state.leader is not None:
            self.follower = self.follower_class(
                leader_id=state.leader,
                leader_epoch=state.leader_epoch,
                epochs=self.log.epochs,
                log_end_offset=self.log.durable_end,
                high_watermark=self.high_watermark,
            )
            self.process.fetcher(state.leader).add(self.key)
        self.process.role_assumed()

    def leading(self):
        if self.leader is None:
            raise NotLeaderOrFollowerError("not the leader", leader=self.state.leader)
        if not self.process.lease_is_valid():
            raise LeaderNotAvailableError("the lease ran out")
        return self.leader

    # --- leading --------------------------------------------------------------------------------

    def tick(self, image):
        """Let time pass, unless there is nothing that time alone could change."""
        if self.leader is None or not self._is_restless:
            return
        if self.process.lease_is_valid():
            eligible, draining = self.process.eligible_and_draining(image)
            self._act(self.leader.tick(self.process.clock_ms(), eligible, draining))
        self._is_restless = not self.leader.is_at_rest

    def produce(self, record, acks_all, answer):
        """Append; `answer(offset or error)` once the acks are there."""
        try:
            offset = self._append(record, acks_all)
        except OttlaError as error:
            answer(error)
            return
        if not acks_all:
            if self.log.durable_end > offset:
                answer(offset)
            else:
                self._commits.append((offset, self.leader.leader_epoch, answer))
        elif self.leader.acks_satisfied(offset):
            self._acknowledge(offset, answer)
        else:
            self._acks.append((offset, answer))

    def _append(self, record, acks_all):
        leader = self.leading()
        if self._refuses_appends_until_ms > self.process.clock_ms():
            raise LeaderNotAvailableError("the leadership is being handed over")
        under_min_isr = acks_all and leader.is_under_min_isr
        if under_min_isr or self.process.is_full:
            stored = self.log.producers.find(record)
            if stored is not None:
                return stored.base_offset
            if under_min_isr:
                raise NotEnoughReplicasError("under min.insync.replicas")
            raise InsufficientStorageError("the disk is full", outcome=Outcome.NOT_APPLIED)
        judged = self.judge(record)
        if judged is not None:
            return judged
        offset = self.append(record._replace(leader_epoch=leader.leader_epoch))
        self.process.wake_parked(self.key)
        return offset

    def append(self, record):
        self.world.invariants.appends(self, record)
        return self.log.append(record)

    def judge(self, record):
        """The offset of a retry; None for a record that is new."""
        judged = self.log.producers.check(record)
        return getattr(judged, "base_offset", None)

    def _acknowledge(self, offset, answer):
        self.world.invariants.acknowledges(self, offset)
        answer(offset)

    def _log_end_moved(self, end):
        if self.leader is not None:
            self._act(self.leader.local_log_end_moved(end, self.process.clock_ms()))
        while self._commits and self._commits[0][0] < end:
            offset, leader_epoch, answer = self._commits.pop(0)
            if self.leader is None or self.leader.leader_epoch != leader_epoch:
                answer(NotLeaderOrFollowerError("deposed", outcome=Outcome.UNKNOWN))
            elif not self.process.lease_is_valid():
                answer(LeaderNotAvailableError("the lease ran out", outcome=Outcome.UNKNOWN))
            else:
                answer(offset)

    def _act(self, output):
        self._is_restless = True
        if output.high_watermark is not None:
            self.world.invariants.exposes(self, output.high_watermark)
            while self._acks and self.leader.acks_satisfied(self._acks[0][0]):
                self._acknowledge(*self._acks.pop(0))
        if output.proposal is not None:
            self.process.propose(self, output.proposal)

    def proposal_answered(self, proposal, partition_epoch, *, refused):
        """The controller's verdict; no partition epoch where it was not accepted."""
        if self.leader is None or self.leader.leader_epoch != proposal.leader_epoch:
            return
        now_ms = self.process.clock_ms()
        if partition_epoch is None:
            self._act(self.leader.proposal_failed(proposal, now_ms, refused=refused))
        else:
            self._act(self.leader.proposal_accepted(proposal, partition_epoch, now_ms))

    def fetched(self, replica_id, broker_epoch, position):
        """Take a follower's fetch: an error, or (diverging, whether there is anything to tell).

        Raises:
            OttlaError: this broker may not act as the leader that is meant.
        """
        leader = self.leading()
        self.check_leader_epoch(leader, position)
        diverging = self.check_divergence(
            self.log.epochs, self.log.next_offset, position.last_fetched_epoch, position.offset
        )
        if diverging is None:
            self._act(
                leader.follower_fetched(
                    replica_id, broker_epoch, position.offset, self.process.clock_ms()
                )
            )
        return diverging

    def check_leader_epoch(self, leader, position):
        if position.leader_epoch != leader.leader_epoch:
            raise NotLeaderOrFollowerError("another leader epoch", leader=self.state.leader)

    # --- following ------------------------------------------------------------------------------

    def take_fetched(self, position, high_watermark, diverging, records, taken):
        """Take a leader's answer; `taken()` once it is on disk."""
        follower = self.follower
        if follower is None or position != follower.fetch_position:
            taken()
            return
        output = follower.fetch_answered(
            position,
            diverging=diverging,
            leader_log_start_offset=0,
            leader_high_watermark=high_watermark,
        )
        if diverging is None:
            self.fitness.leader_answered()
        self._show(output)
        if output.truncate_to is not None:
            self.world.invariants.truncates(self, output.truncate_to)
            self.fail_acks(output.truncate_to)
            self.log.truncate(output.truncate_to, self.log_changed)
        else:
            for record in records:
                self.append(record)
        self.log.when_settled(partial(self._taken, taken))

    def _taken(self, taken):
        self.log_changed()
        taken()

    def log_changed(self):
        if self.follower is not None:
            self._show(self.follower.log_changed(self.log.durable_end, self.log.epochs))

    def _show(self, output):
        if output.high_watermark is not None:
            self.world.invariants.exposes(self, output.high_watermark)
            while self._acks and self._acks[0][0] < output.high_watermark:
                self.world.events["ack after a handover"] += 1
                self._acknowledge(*self._acks.pop(0))

    # --- reading --------------------------------------------------------------------------------

    def readable_end(self):
        """Up to where this broker shows the log to consumers.

        Raises:
            OttlaError: it may not show anything now.
        """
        if self.state.leader == self.node_id:
            self.leading()
        elif (
            self.follower is None
            or not self.process.lease_is_valid()
            or self.node_id not in self.state.isr
            or self.fitness.lost_tail
        ):
            raise NotLeaderOrFollowerError("not in sync", leader=self.state.leader)
        return self.high_watermark

    def accept_as_it_is(self):
        """Somebody has decided that what is left is what there is."""
        self.fitness.accepted_as_it_is()
        self.log.disk.is_short = False
        self.log.disk.witnessed_end = self.log.durable_end

    def note_end(self):
        """The witness and the checkpoint, behind the log."""
        disk = self.log.disk
        if not self.fitness.lost_tail:
            disk.is_short = False
            disk.witnessed_end = self.log.durable_end
