"""The simulated cluster as a whole: one heap of (time, sequence), one Random, faults, clients.

A run has a phase with faults, in which only safety is asked, and a phase without any, in which
everything must come together again: every broker active, every partition led with a full ISR, all
replicas equal, new records acknowledged. `Options.from_seed` derives the whole run, so the seed
alone repeats it.
"""

from collections import Counter, deque
from random import Random

from ottla_cluster.controller.config import ControllerConfig
from ottla_cluster.controller.image import BrokerState
from ottla_cluster.raft import RaftConfig
from ottla_protocol.errors import OttlaError
from tests.simulation.network import FaultyNetwork
from tests.simulation.plane.clients import Administrator, Producer, Reader
from tests.simulation.plane.faults import Faults
from tests.simulation.plane.invariants import Invariants
from tests.simulation.plane.process import CLUSTER_ID, Process
from tests.simulation.plane.replica_log import ReplicaDisk
from tests.simulation.plane.timing import (
    ELECTION_TIMEOUT_MIN_MS,
    OBSERVER_TIMEOUT_MS,
    RAFT_HEARTBEAT_INTERVAL_MS,
    SESSION_TIMEOUT_MS,
)
from tests.simulation.plane.voter import MetadataChecker, Voter
from tests.simulation.raft.timers import HostTimers

FORMING_MS_MAX = 700
"""Faults begin when the first topic is there, or after this long."""
HEALED_MS_MAX = 6_000
LIVENESS_CHECK_MS = 20
LEFT_ALONE_MS_MIN = 1_500
"""How long after the last fault a partition has time to need no operator."""
FIRST_CLIENT_ID = 100
TRACE_LENGTH = 120


class SimulationFailedError(AssertionError):
    """A run broke a rule; the message repeats it."""


class World(HostTimers):
    """One run.

    Args:
        options: the whole run.
        process_class, voter_class: replaced by mutants.
    """

    def __init__(self, options, process_class=Process, voter_class=Voter):
        super().__init__()
        self.options = options
        self.random = Random(options.seed ^ 0x07714)
        self.events = Counter()
        self.trace = deque(maxlen=TRACE_LENGTH)
        self.invariants = Invariants(self)
        node_ids = tuple(range(1, options.process_count + 1))
        voter_ids = node_ids[: options.process_count - options.observer_count]
        self.checker = MetadataChecker(voter_ids, self.events, self.invariants.metadata_committed)
        self.network = FaultyNetwork(
            self,
            self.random,
            loss=options.loss,
            duplication=options.duplication,
            late=options.late,
            late_max_ms=options.late_max_ms,
            delay_max_ms=options.delay_max_ms,
        )
        self.controller_config = ControllerConfig(
            CLUSTER_ID,
            session_timeout_ms=SESSION_TIMEOUT_MS,
            preferred_election_interval_ms=options.preferred_election_interval_ms,
        )
        self.has_lost_tails = False
        self.has_lost_directories = False
        self.is_quiet = False
        """Whether clients begin nothing new."""
        self.is_healed = False
        self.leases_overlap_until_ms = 0
        """Up to then a leader that is one no more may hold its lease beside the next one."""
        self._last_token = 0
        self._is_live = False
        self._healed_at_ms = 0
        self._left_to_an_operator = frozenset()
        """Keys of partitions of which no more is asked."""
        self.hosts = {
            node_id: voter_class(self, self._raft_config(node_id, voter_ids), node_id)
            for node_id in node_ids
        }
        if options.has_directories:
            for voter in self.hosts.values():
                voter.disk.directory_id = f"{voter.node_id}/0"
        self.processes = {
            node_id: process_class(self, voter) for node_id, voter in self.hosts.items()
        }
        self.administrator = Administrator(self)
        self.keys = []
        self.clients = {}
        self.producers = []
        self.faults = Faults(self)

    def _raft_config(self, node_id, voter_ids):
        return RaftConfig(
            node_id,
            voter_ids,
            url=f"http://{node_id}",
            election_timeout_min_ms=ELECTION_TIMEOUT_MIN_MS,
            election_timeout_max_ms=2 * ELECTION_TIMEOUT_MIN_MS,
            heartbeat_interval_ms=RAFT_HEARTBEAT_INTERVAL_MS,
            max_append_entries=self.options.max_append_entries,
            retained_entries=self.options.retained_entries,
            max_snapshot_chunk_bytes=self.options.max_snapshot_chunk_bytes,
            observer_timeout_ms=OBSERVER_TIMEOUT_MS,
        )

    # --- running --------------------------------------------------------------------------------

    def run(self):
        """Play both phases.

        Raises:
            SimulationFailedError: naming the seed, the options and the last events.
        """
        try:
            self._play()
        except Exception as error:
            raise self.failure(error) from error

    def failure(self, error):
        trace = "\n".join(f"  {line}" for line in self.trace)
        return SimulationFailedError(
            f"{type(error).__name__}: {error}\n{self.options}\n"
            f"at {self.now_ms} ms after\n{trace}\n"
            f"again: python -m tests.simulation.plane {self.options.seed}"
        )

    def _play(self):
        self.form()
        self.run_until(FORMING_MS_MAX, lambda: bool(self.keys))
        self.faults.begin()
        self.run_until(self.now_ms + self.options.faulty_ms)
        self.heal()
        self.await_liveness()

    def form(self):
        """Start all processes, and have the first topic created."""
        for process in self.processes.values():
            self.after(int(self.random.random() * 20), process.start)
        self.administrator.create(self.options.partition_count, self.add_clients)
        if self.options.drift:
            for process in self.processes.values():
                process.clock_rate = 1 + self.options.drift * (2 * self.random.random() - 1)
        if self.options.compaction_interval_ms:
            self.after(self.options.compaction_interval_ms, self._compact)

    def add_clients(self, keys):
        options = self.options
        for key in keys:
            self.keys.append(key)
            for _ in range(options.producer_count):
                acks_all = self.random.random() >= options.acks_one
                producer = Producer(self, self._new_client_id(), key, acks_all=acks_all)
                self.clients[producer.node_id] = producer
                self.producers.append(producer)
            for _ in range(options.reader_count):
                reader = Reader(self, self._new_client_id(), key)
                self.clients[reader.node_id] = reader

    def _new_client_id(self):
        return FIRST_CLIENT_ID + len(self.clients)

    def heal(self):
        """No more faults: everything that was done to the cluster is undone."""
        self.note("healed")
        self.is_healed = True
        self._healed_at_ms = self.now_ms
        self.network.heal()
        self.faults.end()
        for producer in self.producers:
            producer.healed()
        self._check_liveness()

    def await_liveness(self):
        self.run_until(self.now_ms + HEALED_MS_MAX, lambda: self._is_live)
        if not self._is_live:
            raise AssertionError(f"liveness: {self._what_is_missing()}")
        self.events["left to an operator"] += bool(self._left_to_an_operator)
        self.invariants.check_final(self._left_to_an_operator)

    def _check_liveness(self):
        """Once all have written again they stop, and then everything has to be equal."""
        if self.now_ms >= self._healed_at_ms + LEFT_ALONE_MS_MIN:
            self._left_to_an_operator = self._who_needs_an_operator()
        missing = self._what_is_missing()
        if missing is None:
            if self.is_quiet:
                self._is_live = True
                return
            self.is_quiet = all(producer.has_written_healed for producer in self._producers_left())
        self.after(LIVENESS_CHECK_MS, self._check_liveness)

    def _producers_left(self):
        """Those whose records somebody takes."""
        left = self._left_to_an_operator
        return (producer for producer in self.producers if producer.key not in left)

    def _what_is_missing(self):
        image = self.invariants.image
        for process in self.processes.values():
            broker = image.brokers.get(process.node_id)
            if broker is None or broker.state is not BrokerState.ACTIVE or broker.is_full:
                return f"broker {process.node_id} is not active"
            if process.applied_image is not process.image:
                return f"broker {process.node_id} has not applied its image"
        if not self.keys:
            return "no topic is there"
        for _, state in image.all_partitions():
            if (state.topic_id, state.partition) not in self._left_to_an_operator:
                missing = self._what_a_partition_misses(state)
                if missing is not None:
                    return missing
        return None

    def _what_a_partition_misses(self, state):
        if state.leader is None or len(state.isr) < len(state.replicas) or state.is_reassigning:
            return f"not in sync: {state}"
        key = (state.topic_id, state.partition)
        leading = self.processes[state.leader].replicas.get(key)
        if leading is None or leading.leader is None:
            return f"nobody leads {key}"
        if not self.is_quiet:
            return None
        for node_id in state.replicas:
            replica = self.processes[node_id].replicas.get(key)
            if (
                replica is None
                or not replica.log.is_settled
                or replica.high_watermark != leading.log.next_offset
                or replica.log.records != leading.log.records
                or not replica.fitness.is_whole
            ):
                return f"broker {node_id} is not level with {key}"
        if not all(producer.is_idle for producer in self._producers_left()):
            return "a producer waits"
        return None

    def _who_needs_an_operator(self):
        """Where the last member of an ISR lost its log: nobody else is known to hold everything.

        A directory that is in place is no excuse, however it was lost before.
        """
        in_place = {process.directory_id for process in self.processes.values()}
        return frozenset(
            (state.topic_id, state.partition)
            for _, state in self.invariants.image.all_partitions()
            if state.awaited_directory_id not in {None, *in_place} or self._is_last_and_short(state)
        )

    def _is_last_and_short(self, state):
        if not self.has_lost_tails or len(state.isr) > 1:
            return False
        disk = self.processes[state.isr[0]].disks.get((state.topic_id, state.partition))
        return disk is not None and disk.is_short

    def _compact(self):
        for voter in self.hosts.values():
            if self.random.random() < 0.5:
                voter.compact()
        interval_ms = self.options.compaction_interval_ms
        self.after(self.random.randint(1, 2 * interval_ms), self._compact)

    def leading_voters(self):
        """Whoever takes itself for the leader of the quorum."""
        return [
            voter
            for voter in self.hosts.values()
            if voter.node is not None and voter.node.role == "leader"
        ]

    # --- what voters ask ------------------------------------------------------------------------

    def host_clock_ms(self, voter):
        return self.processes[voter.node_id].clock_ms()

    def write(self, voter):
        self.processes[voter.node_id].write_of_voter(voter)

    def note(self, *what):
        self.trace.append((self.now_ms, *what))

    # --- what processes and clients ask ---------------------------------------------------------

    def new_token(self):
        self._last_token += 1
        return self._last_token

    def send(self, message):
        self.send_between(message.sender, message.receiver, "raft", (message,))

    def send_between(self, sender, receiver, kind, arguments, *, once=False):
        self.network.send(
            sender, receiver, self._deliver, kind, sender, receiver, arguments, once=once
        )

    def _deliver(self, kind, sender, receiver, arguments):
        process = self.processes.get(receiver)
        if process is None:
            self.clients[receiver].receive(kind, sender, arguments)
        elif process.is_up:
            process.receive(kind, sender, arguments)
        elif self.options.is_refusing:
            self.after(1, self._refuse, sender, receiver)

    def _refuse(self, sender, receiver):
        if sender in self.clients:
            self.clients[sender].peer_refused(receiver)
            return
        process = self.processes[sender]
        if process.is_up and not process.is_paused and not self.processes[receiver].is_up:
            process.peer_refused(receiver)

    def refuses(self, node_id, peer):
        """Whether a connection from one process to the other is refused at this moment."""
        return (
            self.options.is_refusing
            and not self.processes[peer].is_up
            and (node_id, peer) not in self.network.blocked
        )

    def write_delay_ms(self, process):
        delay_ms = int(self.random.random() * (self.options.sync_max_ms + 1))
        return max(delay_ms, process.hung_until_ms - self.now_ms)

    def guess_leader(self, key):
        """A partition's leader as some broker knows it, or any broker."""
        image = self.processes[self.any_node()].image
        topic = image.topics.get(key[0])
        leader = None if topic is None else topic.partitions[key[1]].leader
        return self.any_node() if leader is None else leader

    def any_node(self):
        return 1 + int(self.random.random() * len(self.processes))

    # --- what happens to processes --------------------------------------------------------------

    def exits(self, process):
        """A process ends by itself, and its supervisor starts another."""
        self.note(process.node_id, "exits")
        self.events["exit"] += 1
        process.crash(write_survives=True)
        self.after(int(self.random.random() * 30), self.restart, process)

    def restart(self, process):
        if not process.is_up:
            self.note(process.node_id, "starts")
            process.start()

    def leases_overlap(self, duration_ms):
        until_ms = self.now_ms + duration_ms
        self.leases_overlap_until_ms = max(self.leases_overlap_until_ms, until_ms)

    def activates(self, process):
        """A broker opens its logs; a replaced disk has none of those that are in no ISR."""
        if process.loses_disk:
            process.loses_disk = False
            version = self.invariants.image.version
            for key, disk in process.disks.items():
                state = self.invariants._partition(key)
                if state is not None and process.node_id not in state.isr:
                    self.events["replaced disk"] += 1
                    process.replaced[key] = disk.records, version
                    process.disks[key] = ReplicaDisk()

    def proposal_ended(self, outcome, members):
        if isinstance(outcome, OttlaError):
            self.events["ISR refused"] += 1
        else:
            grew = len(outcome.state.isr) - members
            name = "expanded" if grew > 0 else "shrunk" if grew < 0 else "confirmed"
            self.events[f"ISR {name}"] += 1
