"""Clients: idempotent producers that retry, readers that poll any replica, and an administrator."""

from ottla_cluster.controller.commands import (
    AlterReassignments,
    AlterReplicationThrottle,
    CreateTopic,
    Reassignment,
)
from ottla_protocol.errors import (
    ControllerNotAvailableError,
    OttlaError,
    Outcome,
    TopicAlreadyExistsError,
)
from tests.simulation.plane.replica_log import Record
from tests.simulation.plane.timing import (
    CALL_TIMEOUT_MS,
    DELIVERY_TIMEOUT_MS,
    PRODUCE_RETRY_MS,
    PRODUCE_TIMEOUT_MS,
)

THROTTLES_BYTES_PER_SECOND = (2_048, 8_192)


class Client:
    """Something on the network that is no process of the cluster."""

    def __init__(self, world, node_id):
        self.world = world
        self.node_id = node_id
        self.request_id = None

    def receive(self, kind, sender, arguments):
        request_id, *rest = arguments
        if request_id == self.request_id:
            self.request_id = None  # An answer that comes twice counts once.
            getattr(self, "on_" + kind)(*rest)

    @property
    def is_waiting(self):
        return self.request_id is not None

    def ask(self, receiver, kind, *arguments):
        self.request_id = self.world.new_token()
        self.world.send_between(
            self.node_id, receiver, kind, (self.request_id, *arguments), once=True
        )
        return self.request_id


class Producer(Client):
    """Writes to one partition, one record at a time, and repeats it until it knows."""

    def __init__(self, world, node_id, key, *, acks_all):
        super().__init__(world, node_id)
        self.key = key
        self.acks_all = acks_all
        self.acknowledged_count = 0
        self.last_offset = -1
        self._must_reach = None
        self._new_producer_id()
        self._record = None
        if world.is_healed:
            self.healed()
        self.begin()

    def begin(self):
        """The next record, some time from now."""
        world = self.world
        pause_ms = int(world.random.random() * 2 * world.options.produce_interval_ms)
        world.after(pause_ms, self._next)

    def healed(self):
        """Without faults it writes once more: that must succeed."""
        self._must_reach = self.acknowledged_count + 1

    @property
    def has_written_healed(self):
        return self._must_reach is not None and self.acknowledged_count >= self._must_reach

    @property
    def is_idle(self):
        """Whether it knows what became of all its records."""
        return self._record is None

    def _new_producer_id(self):
        self._producer_id = self.world.new_token()
        self._sequence = 0

    def _next(self):
        world = self.world
        if self.has_written_healed:
            return  # What a slow follower has to catch up with must not grow.
        self._record = Record(-1, world.new_token(), self._producer_id, self._sequence)
        self._is_ambiguous = False
        self._started_ms = world.now_ms
        self._target = world.guess_leader(self.key)
        self._attempt()

    def _attempt(self):
        world = self.world
        if world.now_ms - self._started_ms > DELIVERY_TIMEOUT_MS:
            self._give_up()
            return
        request_id = self.ask(self._target, "produce", self.key, self._record, self.acks_all)
        world.after(PRODUCE_TIMEOUT_MS, self._timed_out, request_id)

    def _timed_out(self, request_id):
        if request_id == self.request_id:
            self._is_ambiguous = True
            self._retry(None)

    def peer_refused(self, peer):
        # Its former attempts may have arrived; this one has not.
        if self.is_waiting and peer == self._target:
            self._retry(None)

    def _retry(self, hint):
        self.request_id = None
        self._target = self.world.guess_leader(self.key) if hint is None else hint
        self.world.after(PRODUCE_RETRY_MS, self._attempt)

    def on_produced(self, outcome):
        if not isinstance(outcome, OttlaError):
            self.world.invariants.produced(
                self.key, self._record.value, outcome, acks_all=self.acks_all
            )
            if self.acks_all:
                self.world.invariants.require(
                    outcome > self.last_offset or self._may_have_lost(),
                    "offsets rise in send order",
                    self.key,
                    outcome,
                )
                self.last_offset = outcome
            self.acknowledged_count += 1
            self._sequence += 1
            self._done()
        elif outcome.code in ("OUT_OF_ORDER_SEQUENCE_NUMBER", "DUPLICATE_SEQUENCE_NUMBER"):
            # What acks=1 has acknowledged may be lost; with acks=all the log must know it.
            self.world.invariants.require(
                not self.acks_all or self._may_have_lost(),
                "an idempotent producer is never refused",
                self.key,
                outcome,
            )
            self._is_ambiguous = True
            self._give_up()
        else:
            self._is_ambiguous |= outcome.outcome is Outcome.UNKNOWN
            self._retry(outcome.members.get("leader"))

    def _may_have_lost(self):
        """Whether records may be gone that it was told are there."""
        return self.world.invariants.history(self.key).has_given_up

    def _give_up(self):
        if self._is_ambiguous:
            self.world.events["info"] += 1
            self._new_producer_id()
        else:
            self.world.events["fail"] += 1
            self.world.invariants.refused(self.key, self._record.value)
        self._done()

    def _done(self):
        self.request_id = None
        self._record = None
        self.begin()


class Reader(Client):
    """Polls one partition from its start, wherever it likes, and asks for `latest`."""

    def __init__(self, world, node_id, key):
        super().__init__(world, node_id)
        self.key = key
        self.position = 0
        self._leader_epoch = -1
        self._latest = 0
        self._poll()

    def _poll(self):
        world = self.world
        if world.is_quiet:
            return
        self._floor = world.invariants.history(self.key).acknowledged_end
        self._asked_ms = world.now_ms
        target = world.guess_leader(self.key) if world.random.random() < 0.6 else world.any_node()
        self.ask(target, "read", self.key, self.position)
        world.after(1 + int(world.random.random() * 2 * world.options.read_interval_ms), self._poll)

    def peer_refused(self, peer):
        """It polls again in any case."""

    def on_records(self, leader_epoch, latest, records):
        invariants = self.world.invariants
        invariants.read(self.key, self.position, records)
        self.position += len(records)
        if latest is None:
            return
        # Also of a leader of before, which a session would not believe.
        self._check_bound(latest)
        if leader_epoch < self._leader_epoch:
            return  # A session does not go back behind the leader epoch that it has seen.
        if self._leader_epoch < invariants.history(self.key).unclean_epoch:
            self._latest = 0
        self._leader_epoch = leader_epoch
        invariants.require(
            latest >= self._latest, "latest never falls for a client", self.key, latest
        )
        self._latest = latest
        self.world.events["latest"] += 1

    def _check_bound(self, latest):
        """Whoever tells an end holds its lease: nobody else has acknowledged more by then (L9)."""
        is_bounded = self._asked_ms >= self.world.leases_overlap_until_ms
        if is_bounded and self.world.options.is_realtime:
            self.world.events["bounded latest"] += 1
            self.world.invariants.require(
                latest >= self._floor, "latest covers what was acknowledged", self.key, latest
            )

    def on_read_failed(self, error):
        """It polls again in any case."""
        self.world.events[error.code] += 1


class Administrator:
    """Creates topics through any broker, and looks for them at another one (linearizability)."""

    def __init__(self, world):
        self.world = world
        self._created_count = 0

    def create(self, partitions, on_created):
        """Until it is there; `on_created(keys)`."""
        self._created_count += 1
        command = CreateTopic(
            name=f"topic{self._created_count}",
            partitions=partitions,
            replication_factor=self.world.options.replication_factor,
            configs={
                "min.insync.replicas": self.world.options.min_insync_replicas,
                "unclean.leader.election.enable": self.world.options.is_unclean,
            },
        )
        self._try_create(command, on_created)

    def _try_create(self, command, on_created):
        world = self.world
        process = world.processes[world.any_node()]
        is_formed = len(process.image.active_brokers()) == len(world.processes)
        if not process.is_up or process.is_paused or not is_formed:
            world.after(10, self._try_create, command, on_created)
            return

        tries = [None]  # One answer counts, or the end of the patience with it.

        def answered(outcome):
            if not tries:
                return
            tries.clear()
            if isinstance(outcome, TopicAlreadyExistsError):
                topic = world.invariants.image.topic(command.name)
            elif isinstance(outcome, OttlaError):
                world.after(30, self._try_create, command, on_created)
                return
            else:
                topic = world.invariants.image.topics[outcome.topic_id]
            on_created([(topic.topic_id, number) for number in range(command.partitions)])
            self._look_for(topic.topic_id)

        process.call(command, answered)
        gone = ControllerNotAvailableError("the broker that was asked is gone")
        world.after(2 * CALL_TIMEOUT_MS, answered, gone)

    def _look_for(self, topic_id):
        """Created, then visible: at any broker that has asked how far it must be."""
        process = self.world.processes[self.world.any_node()]
        if not process.is_up or process.is_paused:
            return

        def answered(version):
            if isinstance(version, int) and process.image.version >= version:
                self.world.events["catch-up"] += 1
                self.world.invariants.require(
                    topic_id in process.image.topics, "created, then visible", process.node_id
                )

        process.catch_up(answered)

    def reassign(self):
        """Move a partition to other replicas, or call that off."""
        world = self.world
        process = world.processes[world.any_node()]
        partitions = [state for _, state in process.image.all_partitions()]
        if not process.is_up or process.is_paused or not partitions:
            return
        state = world.random.choice(partitions)
        nodes = list(world.processes)
        target = None
        if not state.is_reassigning or world.random.random() < 0.7:
            count = (
                world.random.choice((2, 3, 3)) if len(nodes) > 3 else world.random.choice((2, 3))
            )
            target = tuple(world.random.sample(nodes, count))
        command = AlterReassignments((Reassignment(state.topic, state.partition, target),))

        def answered(outcome):
            if not isinstance(outcome, OttlaError) and outcome.results[0].error is None:
                world.events["reassignment"] += 1

        process.call(command, answered)

    def throttle(self):
        """Bound the rate of copies, so that few records pass at once, or bound it no more."""
        process = self.world.processes[self.world.any_node()]
        if not process.is_up or process.is_paused:
            return
        rate = self.world.random.choice((*THROTTLES_BYTES_PER_SECOND, None))

        def answered(outcome):
            if not isinstance(outcome, OttlaError):
                self.world.events["throttle"] += 1

        process.call(AlterReplicationThrottle(rate), answered)
