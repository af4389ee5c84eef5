"""The seeded simulation: one heap of (time, sequence), one Random, everything else a fault.

A run has a faulty phase, in which only safety is asked, and a healed one, in which a new proposal
must commit everywhere and a read must be confirmed. `Options.from_seed` derives the whole run, so
the seed alone repeats it.
"""

from collections import deque
from dataclasses import dataclass, fields
from random import Random

from ottla_cluster.raft import RaftConfig, decode_messages, encode_messages
from tests.simulation.network import FaultyNetwork, around, some_links, two_sides
from tests.simulation.raft.checker import FINAL_PREFIX, Checker
from tests.simulation.raft.host import Host
from tests.simulation.raft.timers import HostTimers

ELECTION_TIMEOUT_MIN_MS = 200
"""Shorter than in production: only its ratio to delays, pauses and outages matters."""

FAULTS = (
    "crash",
    "crash_leader",
    "crash_writing",
    "power_loss",
    "partition",
    "isolate_leader",
    "one_way",
    "pause",
    "clock_step",
)


class SimulationFailedError(AssertionError):
    """A run broke a rule; the message repeats it."""


@dataclass(frozen=True, slots=True)
class Options:
    seed: int
    voter_count: int
    faulty_ms: int
    fault_interval_ms: int
    faults: tuple
    loss: float
    duplication: float
    late: float
    late_max_ms: int
    delay_max_ms: int
    sync_max_ms: int
    proposal_interval_ms: int
    read_interval_ms: int
    is_refusing: bool
    is_encoded: bool
    max_append_bytes: int
    max_append_entries: int
    max_inflight_appends: int
    compaction_interval_ms: int | None
    retained_entries: int
    max_snapshot_chunk_bytes: int

    @classmethod
    def from_seed(cls, seed):
        random = Random(seed)
        window = {
            "max_append_bytes": random.choice((1, 64, 1 << 20)),
            "max_append_entries": random.choice((1, 3, 1_024)),
            "max_inflight_appends": random.choice((1, 3, 16)),
        }
        delay_max_ms = random.choice((2, 10, 40))
        sync_max_ms = random.choice((1, 8, 40))
        proposal_interval_ms = random.choice((15, 40, 120))
        if 1 in window.values():
            # What a small window cannot carry would pile up until long after the healing.
            proposal_interval_ms = max(proposal_interval_ms, 3 * (delay_max_ms + sync_max_ms))
        return cls(
            seed=seed,
            voter_count=random.choice((1, 3, 3, 3, 3, 3, 3, 5, 5, 5)),
            faulty_ms=random.choice((800, 1_500, 2_500)),
            fault_interval_ms=random.choice((50, 120, 300)),
            faults=tuple(fault for fault in FAULTS if random.random() < 0.5),
            loss=random.choice((0.0, 0.0, 0.02, 0.1, 0.3)),
            duplication=random.choice((0.0, 0.02, 0.2)),
            late=random.choice((0.0, 0.02, 0.1)),
            late_max_ms=random.choice((100, 1_000)),
            delay_max_ms=delay_max_ms,
            sync_max_ms=sync_max_ms,
            proposal_interval_ms=proposal_interval_ms,
            read_interval_ms=random.choice((25, 80, 250)),
            is_refusing=random.random() < 0.6,
            is_encoded=random.random() < 0.1,
            **window,
            compaction_interval_ms=random.choice((None, 15, 60, 250)),
            retained_entries=random.choice((0, 0, 1, 10)),
            max_snapshot_chunk_bytes=random.choice((40, 150, 1 << 18)),
        )

    def __str__(self):
        return ", ".join(f"{field.name}={getattr(self, field.name)!r}" for field in fields(self))


class World(HostTimers):
    """One run.

    Args:
        options: the whole run.
        host_class: the driver, replaced by mutants.
    """

    HEALED_MS_MAX = 8_000
    TRACE_LENGTH = 80

    def __init__(self, options, host_class=Host):
        super().__init__()
        self.options = options
        self.random = Random(options.seed ^ 0x0771A)
        self.checker = Checker()
        self.is_healed = False
        self.network = FaultyNetwork(
            self,
            self.random,
            loss=options.loss,
            duplication=options.duplication,
            late=options.late,
            late_max_ms=options.late_max_ms,
            delay_max_ms=options.delay_max_ms,
        )
        self.trace = deque(maxlen=self.TRACE_LENGTH)
        self._clock_offsets_ms = {}
        self._next_token = 0
        self._final_proposed = []
        self._final_read_floor = None
        voters = tuple(range(1, options.voter_count + 1))
        self.hosts = {
            voter: host_class(
                self,
                RaftConfig(
                    voter,
                    voters,
                    election_timeout_min_ms=ELECTION_TIMEOUT_MIN_MS,
                    election_timeout_max_ms=2 * ELECTION_TIMEOUT_MIN_MS,
                    heartbeat_interval_ms=ELECTION_TIMEOUT_MIN_MS * 2 // 5,
                    max_append_bytes=options.max_append_bytes,
                    max_append_entries=options.max_append_entries,
                    max_inflight_appends=options.max_inflight_appends,
                    retained_entries=options.retained_entries,
                    max_snapshot_chunk_bytes=options.max_snapshot_chunk_bytes,
                ),
                self.random.getrandbits(32),
            )
            for voter in voters
        }

    # --- running --------------------------------------------------------------------------------

    def run(self):
        """Play both phases.

        Raises:
            SimulationFailedError: naming the seed, the options and the last events.
        """
        try:
            self._play()
        except Exception as error:
            trace = "\n".join(f"  {line}" for line in self.trace)
            raise SimulationFailedError(
                f"{type(error).__name__}: {error}\n{self.options}\n"
                f"at {self.now_ms} ms after\n{trace}"
            ) from error

    def _play(self):
        for host in self.hosts.values():
            self.after(self.random.randint(0, 50), host.start)
        self.after(self.options.proposal_interval_ms, self._propose)
        self.after(self.options.read_interval_ms, self._read)
        if self.options.faults:
            self.after(self.options.fault_interval_ms, self._fault)
        if self.options.compaction_interval_ms:
            self.after(self.options.compaction_interval_ms, self._compact)
        self.run_until(self.options.faulty_ms)
        self._heal()
        self.run_until(self.options.faulty_ms + self.HEALED_MS_MAX, self._is_live)
        if not self._is_live():
            raise AssertionError(f"liveness: nothing new commits in {self.HEALED_MS_MAX} ms")

    def note(self, *what):
        self.trace.append((self.now_ms, *what))

    # --- what hosts ask -------------------------------------------------------------------------

    def host_clock_ms(self, host):
        return self.now_ms + self._clock_offsets_ms.get(host.node_id, 0)

    def write(self, host):
        delay_ms = self.random.randint(0, self.options.sync_max_ms)
        self.after(delay_ms, host.synced, host.incarnation)

    def send(self, message):
        if self.options.is_encoded:
            (message,) = decode_messages(encode_messages([message]))
        self.network.send(message.sender, message.receiver, self._deliver, message)

    def _deliver(self, message):
        receiver = self.hosts[message.receiver]
        if receiver.is_up:
            receiver.receive(message)
        elif self.options.is_refusing:
            self.after(1, self.hosts[message.sender].refused, message.receiver)

    # --- clients --------------------------------------------------------------------------------

    def _leaders(self):
        return [host for host in self.hosts.values() if host.is_up and host.node.role == "leader"]

    def _propose(self):
        if self.is_healed:
            return
        for host in self._leaders():
            count = self.random.choice((1, 1, 1, 2, 5))
            host.propose([self._payload(host) for _ in range(count)])
        self.after(self.random.randint(1, 2 * self.options.proposal_interval_ms), self._propose)

    def _payload(self, host):
        self._next_token += 1
        return b"%d from %d" % (self._next_token, host.node_id)

    def _read(self):
        for host in self._leaders():
            self._next_token += 1
            host.read(self._next_token)
        self.after(self.random.randint(1, 2 * self.options.read_interval_ms), self._read)

    def _compact(self):
        """Some voters take a snapshot, each of where it is: also in the healed phase."""
        for host in self.hosts.values():
            if self.random.random() < 0.5:
                host.compact()
        interval_ms = self.options.compaction_interval_ms
        self.after(self.random.randint(1, 2 * interval_ms), self._compact)

    # --- the healed phase -----------------------------------------------------------------------

    def _heal(self):
        self.note("healed")
        self.is_healed = True
        self.network.heal()
        for host in self.hosts.values():
            if not host.is_up:
                host.start()
            elif host.is_paused:
                self._resume(host, host.incarnation)
        self._final_read_floor = self.checker.confirmed_read_count
        self._propose_final()

    def _propose_final(self):
        """Once per leadership: within its term a leader loses nothing that it took."""
        for host in self._leaders():
            leadership = (host.node_id, host.node.term)
            if leadership not in self._final_proposed:
                self._final_proposed.append(leadership)
                host.propose([FINAL_PREFIX + self._payload(host)])
        self.after(25, self._propose_final)

    def _is_live(self):
        """Every node has applied a proposal of this phase, and a read was confirmed."""
        return self.checker.confirmed_read_count > self._final_read_floor and all(
            host.has_applied_final for host in self.hosts.values()
        )

    # --- faults ---------------------------------------------------------------------------------

    def _fault(self):
        if self.is_healed:
            return
        fault = self.random.choice(self.options.faults)
        self.note("fault", fault)
        getattr(self, f"_fault_{fault}")()
        self.after(self.random.randint(1, 2 * self.options.fault_interval_ms), self._fault)

    def _any_host(self):
        return self.hosts[self.random.randint(1, len(self.hosts))]

    def _leader_or_any(self):
        leaders = self._leaders()
        return self.random.choice(leaders) if leaders else self._any_host()

    def _crash(self, host, down_max_ms):
        if host.is_up:
            host.crash(write_survives=self.random.random() < 0.3)
            self.after(self.random.randint(1, down_max_ms), self._restart, host)

    def _restart(self, host):
        if not host.is_up:
            host.start()

    def _fault_crash(self):
        self._crash(self._any_host(), 800)

    def _fault_crash_leader(self):
        self._crash(self._leader_or_any(), 800)

    def _fault_crash_writing(self):
        """Crash where it hurts: while something is not synced."""
        writing = [host for host in self.hosts.values() if host.is_writing]
        self._crash(self.random.choice(writing) if writing else self._any_host(), 50)

    def _fault_power_loss(self):
        for host in self.hosts.values():
            self._crash(host, 200)

    def _cut(self, pairs):
        self.network.block(pairs, self.random.randint(50, 1_200))

    def _fault_partition(self):
        self._cut(two_sides(self.hosts, self.random))

    def _fault_isolate_leader(self):
        self._cut(around(self._leader_or_any().node_id, self.hosts, self.random))

    def _fault_one_way(self):
        self._cut(some_links(self.hosts, self.random))

    def _fault_pause(self):
        host = self._any_host() if self.random.random() < 0.5 else self._leader_or_any()
        if host.is_up and not host.is_paused:
            host.is_paused = True
            self.after(self.random.randint(10, 1_200), self._resume, host, host.incarnation)

    def _resume(self, host, incarnation):
        if host.is_paused and host.incarnation == incarnation:
            host.resume()
            self.wake(host)

    def _fault_clock_step(self):
        """Mostly forward, as after a suspension; a step back counts as standing still."""
        host = self._any_host()
        step_ms = self.random.choice((-300, 20, 150, 450, 60_000))
        self._clock_offsets_ms[host.node_id] = self._clock_offsets_ms.get(host.node_id, 0) + step_ms
        self.wake(host)
