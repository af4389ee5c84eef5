"""One process of the cluster: voter, controller, broker; what `app.py` puts together.

Whatever reaches it goes through `receive` or a timer of its own, so that a paused process does
nothing, and does everything late when it goes on, and a dead one forgets all but its disks.
"""

from functools import partial

from ottla_cluster.controller.commands import (
    AlterPartition,
    Heartbeat,
    IsrMember,
    RegisterBroker,
    ReportUnfitReplicas,
    UnfitReplica,
)
from ottla_cluster.controller.features import LATEST_FEATURE_LEVEL
from ottla_cluster.controller.image import BrokerState, MetadataImage
from ottla_cluster.replication.lease import BrokerLease
from ottla_protocol.errors import (
    ConflictError,
    ControllerNotAvailableError,
    OttlaError,
    Outcome,
    RequestTimedOutError,
    StaleBrokerEpochError,
)
from tests.simulation.plane.controller_host import ControllerHost
from tests.simulation.plane.fetcher import Fetcher
from tests.simulation.plane.replica import Replica
from tests.simulation.plane.replica_log import ReplicaDisk
from tests.simulation.plane.serving import Serving
from tests.simulation.plane.timing import (
    BROKER_TICK_MS,
    CALL_TIMEOUT_MS,
    HEARTBEAT_INTERVAL_MS,
    REPORT_RETRY_MS,
    RETRY_INTERVAL_MS,
    SESSION_TIMEOUT_MS,
)

CLUSTER_ID = "simulated"
EMPTY_IMAGE = MetadataImage()


class Process(Serving):
    """A process that runs, is paused, or is down."""

    replica_class = Replica
    controller_class = ControllerHost
    lease_class = BrokerLease

    def __init__(self, world, voter):
        self.world = world
        self.node_id = voter.node_id
        self.voter = voter
        voter.process = self
        self.incarnation = 0
        self.is_up = False
        self.is_paused = False
        self.disks = {}  # key -> ReplicaDisk
        self.clock_offset_ms = 0
        self.clock_rate = 1.0
        self.hung_until_ms = 0
        self.is_full = False
        self.loses_disk = False
        """Whether its logs are gone when it comes back, so far as they are in no ISR."""
        self._begin()

    def _begin(self):
        """What a process has when it starts: nothing but its disks."""
        self.image = EMPTY_IMAGE
        self.applied_image = EMPTY_IMAGE
        self.controller = self.controller_class(self)
        self.broker_epoch = None
        self.is_active = False
        self.is_draining = False
        self.lease = self.lease_class(SESSION_TIMEOUT_MS)
        self.replicas = {}
        self.fetchers = {}
        self.parked = []
        self._inbox = []
        self._calls = {}
        self._assuming = None  # [image, roles that are still being assumed]
        self._heartbeat_due_ms = 0
        self._awaited_lease = None  # (version, sent at)
        self._eligible = (None, {}, ())

    # --- process --------------------------------------------------------------------------------

    def start(self):
        assert not self.is_up
        self.incarnation += 1
        self.is_up = True
        self.is_paused = False
        self._begin()
        self.voter.start()
        self.after(0, self._tick)

    def crash(self, *, write_survives=False):
        """The process ends at once: of what was not on disk yet, luck keeps some."""
        for key, replica in self.replicas.items():
            replica.log.crash(self.world.random.random)
            if self.world.random.random() < 0.5:
                self.disks[key].high_watermark = min(
                    replica.high_watermark, len(self.disks[key].records)
                )
        self.voter.crash(write_survives=write_survives)
        self.is_up = False
        self.is_paused = False
        self._begin()
        self.world.invariants.crashed(self)

    def pause(self):
        self.is_paused = self.voter.is_paused = True

    def resume(self):
        self.is_paused = False
        self.voter.resume()
        self.world.wake(self.voter)
        inbox, self._inbox = self._inbox, []
        for number, (incarnation, action, arguments) in enumerate(inbox):
            if self.is_paused:
                self._inbox.extend(inbox[number:])
                return
            self._run(incarnation, action, arguments)

    def clock_ms(self):
        return int(self.world.now_ms * self.clock_rate) + self.clock_offset_ms

    def after(self, delay_ms, action, *arguments):
        """A timer of this process, which dies with it."""
        self.world.after(delay_ms, self._run, self.incarnation, action, arguments)

    def _run(self, incarnation, action, arguments):
        if not self.is_up or incarnation != self.incarnation:
            return
        if self.is_paused:
            self._inbox.append((incarnation, action, arguments))
        else:
            action(*arguments)

    def write(self, done):
        """Have the disk take a write; what a paused process has begun is on disk all the same."""
        self.world.after(self.world.write_delay_ms(self), self._run, self.incarnation, done, ())

    def send(self, receiver, kind, *arguments, once=False):
        self.world.send_between(self.node_id, receiver, kind, arguments, once=once)

    def receive(self, kind, sender, arguments):
        if self.is_paused:
            self._inbox.append((self.incarnation, self.receive, (kind, sender, arguments)))
        else:
            getattr(self, "on_" + kind)(sender, *arguments)

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

    # --- the way to the controller --------------------------------------------------------------

    def call(self, command, answered):
        """Have the controller decide; `answered(response or error)` exactly once."""
        leader_id = self.voter.node.leader_id
        if leader_id is None:
            answered(ControllerNotAvailableError("no controller", outcome=Outcome.NOT_APPLIED))
            return
        call_id = self.world.new_token()
        self._calls[call_id] = (answered, leader_id)
        self.after(CALL_TIMEOUT_MS, self._call_ended, call_id, None)
        if leader_id == self.node_id:
            self.after(0, self.controller.execute, command, partial(self._call_ended, call_id))
        else:
            self.send(leader_id, "command", call_id, command, once=True)

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

    # --- a broker's life ------------------------------------------------------------------------

    def _tick(self):
        self.after(BROKER_TICK_MS, self._tick)
        now_ms = self.clock_ms()
        if now_ms >= self._heartbeat_due_ms:
            self._heartbeat_due_ms = now_ms + RETRY_INTERVAL_MS
            if self.broker_epoch is None:
                self._register()
            elif self.is_active:
                self._heartbeat(now_ms)
        if not self.is_active:
            return
        for replica in self.replicas.values():
            replica.note_end()
            replica.tick(self.image)
        self._report_unfit(now_ms)
        for fetcher in self.fetchers.values():
            fetcher.poll()
        self.answer_parked(now_ms)

    def _register(self):
        self._heartbeat_due_ms = self.clock_ms() + CALL_TIMEOUT_MS
        command = RegisterBroker(
            node_id=self.node_id,
            incarnation_id=f"{self.node_id}/{self.incarnation}",
            url=f"http://{self.node_id}",
            rack="",
            cluster_id=CLUSTER_ID,
            latest_feature_level=LATEST_FEATURE_LEVEL,
        )
        self.call(command, self._registered)

    def _registered(self, outcome):
        if isinstance(outcome, OttlaError):
            self._heartbeat_due_ms = self.clock_ms() + RETRY_INTERVAL_MS
        elif self.broker_epoch is None:
            self.broker_epoch = outcome.broker_epoch
            self._activate()

    def _activate(self):
        """Host replicas only from the point on where the metadata knows this incarnation."""
        own = self.image.brokers.get(self.node_id)
        if self.broker_epoch is None or self.is_active:
            return
        if own is not None and own.broker_epoch >= self.broker_epoch:
            self.is_active = True
            self._heartbeat_due_ms = 0
            self.world.activates(self)
            self._apply_image()

    def _heartbeat(self, now_ms):
        self._heartbeat_due_ms = now_ms + CALL_TIMEOUT_MS
        command = Heartbeat(
            node_id=self.node_id,
            broker_epoch=self.broker_epoch,
            applied_version=self.applied_image.version,
            draining=self.is_draining,
            is_full=self.is_full,
        )
        self.call(command, partial(self._heartbeat_answered, now_ms))

    def _heartbeat_answered(self, sent_at_ms, outcome):
        if isinstance(outcome, StaleBrokerEpochError):
            self.world.exits(self)
            return
        pause_ms = RETRY_INTERVAL_MS
        if not isinstance(outcome, OttlaError):
            if outcome.fenced:
                self.lease.revoked()
            else:
                self._awaited_lease = (outcome.version, self.lease_counts_from(sent_at_ms))
                self._confirm_lease()
                pause_ms = RETRY_INTERVAL_MS if self.is_draining else HEARTBEAT_INTERVAL_MS
            if outcome.may_shut_down and self.is_draining:
                self.world.exits(self)
                return
        self._heartbeat_due_ms = max(sent_at_ms + pause_ms, self.clock_ms())

    def lease_counts_from(self, sent_at_ms):
        return sent_at_ms

    def _confirm_lease(self):
        """Only when the replicas here reflect the metadata that the controller had."""
        if self._awaited_lease is not None:
            version, sent_at_ms = self._awaited_lease
            if self.applied_image.version >= version:
                self._awaited_lease = None
                self.lease.confirmed(sent_at_ms)

    def lease_is_valid(self):
        return self.lease.valid(self.clock_ms())

    # --- following the metadata -----------------------------------------------------------------

    def publish(self, image):
        self.image = image
        if self.is_active:
            self._apply_image()
        else:
            self._activate()

    def _apply_image(self):
        """One image at a time, the newest always."""
        while self._assuming is None and self.applied_image is not self.image:
            image, previous = self.image, self.applied_image
            wanted = {
                (state.topic_id, state.partition): (topic, state)
                for topic, state in image.all_partitions()
                if self.node_id in state.replicas
            }
            for key in [key for key in self.replicas if key not in wanted]:
                self._remove(key)
            changed = [
                (key, topic, state)
                for key, (topic, state) in wanted.items()
                if previous.topics.get(key[0]) is not topic
            ]
            # One more, so that the image is not applied before all have begun.
            self._assuming = [image, len(changed) + 1]
            for key, topic, state in changed:
                if key not in self.replicas:
                    disk = self.disks.setdefault(key, ReplicaDisk())
                    self.replicas[key] = self.replica_class(self, key, state, disk)
                self.replicas[key].assume_role(topic, state, image)
            self.role_assumed()

    def role_assumed(self):
        self._assuming[1] -= 1
        if self._assuming[1] == 0:
            self.applied_image = self._assuming[0]
            self._assuming = None
            self._confirm_lease()
            self.after(0, self._apply_image)

    def _remove(self, key):
        self.stop_following(key)
        replica = self.replicas.pop(key)
        replica._step_down(replica.state)
        del self.disks[key]

    def follows(self, key):
        return any(key in fetcher.followed for fetcher in self.fetchers.values())

    def stop_following(self, key):
        for fetcher in self.fetchers.values():
            fetcher.remove(key)

    def fetcher(self, leader_id):
        if leader_id not in self.fetchers:
            self.fetchers[leader_id] = Fetcher(self, leader_id)
        return self.fetchers[leader_id]

    def eligible_and_draining(self, image):
        """As `replica_manager` reads them from an image."""
        if self._eligible[0] is not image.brokers:
            brokers = image.brokers.values()
            self._eligible = (
                image.brokers,
                {b.node_id: b.broker_epoch for b in brokers if b.state is not BrokerState.FENCED},
                tuple(b.node_id for b in brokers if b.state is BrokerState.DRAINING or b.is_full),
            )
        return self._eligible[1:]

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
