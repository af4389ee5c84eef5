"""One process of the cluster: voter, controller, broker; what `app.py` puts together.

Whatever reaches it goes through `receive` or a timer of its own, so that a paused process does
nothing, and does everything late when it goes on, and a dead one forgets all but its disks.
"""

from functools import partial

from ottla_cluster.controller.commands import (
    Heartbeat,
    RegisterBroker,
)
from ottla_cluster.controller.elections import may_be_relieved
from ottla_cluster.controller.features import LATEST_FEATURE_LEVEL
from ottla_cluster.controller.image import MetadataImage
from ottla_cluster.replication.fetch_session import FetchSessions
from ottla_cluster.replication.lease import BrokerLease
from ottla_cluster.replication.throttle import ReplicationThrottle
from ottla_protocol.errors import (
    OttlaError,
    StaleBrokerEpochError,
)
from tests.simulation.plane.controller_calls import ControllerCalls
from tests.simulation.plane.controller_host import ControllerHost
from tests.simulation.plane.giving_up import GivingUp
from tests.simulation.plane.hosting import Hosting
from tests.simulation.plane.replica import Replica
from tests.simulation.plane.serving import Serving
from tests.simulation.plane.timing import (
    BROKER_TICK_MS,
    CALL_TIMEOUT_MS,
    HEARTBEAT_INTERVAL_MS,
    RETRY_INTERVAL_MS,
    SESSION_TIMEOUT_MS,
)

CLUSTER_ID = "simulated"
EMPTY_IMAGE = MetadataImage()


class Process(Serving, Hosting, ControllerCalls, GivingUp):
    """A process that runs, is paused, or is down."""

    replica_class = Replica
    controller_class = ControllerHost
    lease_class = BrokerLease
    sessions_class = FetchSessions
    throttle_class = ReplicationThrottle

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
        self.clock_jumps_ms = 0
        """How far its clock has jumped ahead in all."""
        self.clock_rate = 1.0
        self.hung_until_ms = 0
        self.is_full = False
        self.loses_disk = False
        """Whether its logs are gone when it comes back, so far as they are in no ISR."""
        self.replaced = {}
        """What was lost so, by partition: its records, and the metadata version of the loss."""
        self.directory_id = f"{self.node_id}/0"
        # The directory that is away, and its logs; None while the first one is in place.
        self._directory_away = None
        self._begin()

    def _begin(self):
        """What a process has when it starts: nothing but its disks."""
        self.image = EMPTY_IMAGE
        self.applied_image = EMPTY_IMAGE
        self.controller = self.controller_class(self)
        self.broker_epoch = None
        self.is_active = False
        self._begin_giving_up()
        self._is_exiting = False
        self.lease = self.lease_class(SESSION_TIMEOUT_MS)
        self.replicas = {}
        self.fetchers = {}
        self.parked = []
        self.sessions = self.sessions_class(self.world.random)
        self.throttle = self.throttle_class()
        self._inbox = []
        self._calls = {}
        self._assuming = None  # [image, roles that are still being assumed]
        self._heartbeat_due_ms = 0
        self._awaited_lease = None  # (version, sent at, whether it told of a full disk)
        self._was_told_full = False
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

    def lose_directory(self):
        """The broker, which is dead, is to start with an empty directory of another id."""
        assert not self.is_up
        if self._directory_away is None:
            self._directory_away = self.directory_id, self.disks
        self.directory_id = f"{self.node_id}/{self.world.new_token()}"
        self.disks = {}

    def find_directory(self):
        """The directory that was lost is found, and takes its place again."""
        assert not self.is_up
        self.directory_id, self.disks = self._directory_away
        self._directory_away = None

    @property
    def misses_its_directory(self):
        return self._directory_away is not None

    def has_told_its_directory(self, image):
        """Whether the metadata says in which directory its logs are."""
        broker = image.brokers.get(self.node_id)
        return broker is not None and broker.directory_id == self.directory_id

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
        token = self.disk_progress.began(self.clock_ms())
        delay_ms = self.world.write_delay_ms(self)
        self.world.after(delay_ms, self._run, self.incarnation, self._written, (token, done))

    def _written(self, token, done):
        self.disk_progress.ended(token, self.clock_ms())
        done()

    def write_of_voter(self, voter):
        """The same for the metadata log, whose writes count whatever becomes of the process."""
        progress, token = self.disk_progress, self.disk_progress.began(self.clock_ms())

        def written(incarnation):
            if progress is self.disk_progress:
                progress.ended(token, self.clock_ms())
            voter.synced(incarnation)

        self.world.after(self.world.write_delay_ms(self), written, voter.incarnation)

    def send(self, receiver, kind, *arguments, once=False):
        self.world.send_between(self.node_id, receiver, kind, arguments, once=once)

    def receive(self, kind, sender, arguments):
        if self.is_paused:
            self._inbox.append((self.incarnation, self.receive, (kind, sender, arguments)))
        else:
            getattr(self, "on_" + kind)(sender, *arguments)

    # --- a broker's life ------------------------------------------------------------------------

    def _tick(self):
        self.after(BROKER_TICK_MS, self._tick)
        now_ms = self.clock_ms()
        self.look_at_the_disk(now_ms)
        if now_ms >= self._heartbeat_due_ms and not self.gives_up:
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
            directory_id=self.directory_id,
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
        # The driver waits for one answer's metadata at a time.
        self._awaited_lease = None
        self._was_told_full = self._was_told_full and self.is_full
        if self.asks_to_be_relieved():
            self.lease.revoked()
        command = Heartbeat(
            node_id=self.node_id,
            broker_epoch=self.broker_epoch,
            applied_version=self.applied_image.version,
            draining=self.is_draining,
            is_full=self.is_full,
        )
        self.call(command, partial(self._heartbeat_answered, now_ms, self.is_full))

    def asks_to_be_relieved(self):
        """Whether others may lead as soon as the controller hears, without this broker in sync."""
        return may_be_relieved(
            self.image,
            self.node_id,
            is_draining=self.is_draining,
            is_full=self.is_full,
            was_told_full=self._was_told_full,
        )

    def _heartbeat_answered(self, sent_at_ms, told_full, outcome):
        if isinstance(outcome, StaleBrokerEpochError):
            self.world.exits(self)
            return
        pause_ms = RETRY_INTERVAL_MS
        if self.gives_up or not self._counts_for_the_lease(sent_at_ms):
            self._heartbeat_due_ms = max(sent_at_ms + pause_ms, self.clock_ms())
            return
        if not isinstance(outcome, OttlaError):
            if outcome.fenced:
                self.lease.revoked()
            else:
                counts_from_ms = self.lease_counts_from(sent_at_ms)
                self._awaited_lease = (outcome.version, counts_from_ms, told_full)
                self._confirm_lease()
                pause_ms = RETRY_INTERVAL_MS if self.is_draining else HEARTBEAT_INTERVAL_MS
            if outcome.may_shut_down and self.is_draining:
                self._may_exit()
                return
        self._heartbeat_due_ms = max(sent_at_ms + pause_ms, self.clock_ms())

    def _counts_for_the_lease(self, sent_at_ms):
        return self._lease_from_ms is None or sent_at_ms > self._lease_from_ms

    def lease_counts_from(self, sent_at_ms):
        return sent_at_ms

    def _confirm_lease(self):
        """Only when the replicas here reflect the metadata that the controller had."""
        if self._awaited_lease is not None:
            version, sent_at_ms, told_full = self._awaited_lease
            if self.applied_image.version >= version:
                self._awaited_lease = None
                if self._counts_for_the_lease(sent_at_ms):
                    self.lease.confirmed(sent_at_ms)
                    self._was_told_full = told_full

    def lease_is_valid(self):
        return not self.gives_up and self.lease.valid(self.clock_ms())
