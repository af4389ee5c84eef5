"""One process of the simulated cluster: disk, driver and node.

The disk keeps what was synced. A write that has begun is lost by a crash, or was durable just in
time, as the schedule says. The driver obeys the contract of `ottla_cluster.raft.node`: persist,
then send, then apply, then the next input. Mutants of it are in `mutants.py`.
"""

from collections import deque
from copy import copy
from random import Random

from ottla_cluster.raft import (
    HardState,
    NotLeaderError,
    Origin,
    RaftDirectoryRolledBackError,
    RaftNode,
)
from ottla_cluster.raft.messages import FORMER_STARTS_MAX
from ottla_protocol.errors import (
    DuplicateVoterError,
    InvalidVoterChangeError,
    OverloadedError,
    QuorumAtRiskError,
    VoterChangeInProgressError,
    VoterNotFoundError,
)


class Disk:
    """Synced state, and at most one transaction on its way."""

    def __init__(self):
        self.hard_state = HardState()
        self.compaction = None
        self.entries = []
        self.remembered = {}
        # None where directories have no ids.
        self.directory_id = None
        self.start_count = 0
        self.incarnations = []
        self.unsynced = None

    def copy(self):
        """What a backup of the directory would hold: what is synced."""
        made = copy(self)
        made.entries = list(self.entries)
        made.remembered = dict(self.remembered)
        made.incarnations = list(self.incarnations)
        made.unsynced = None
        return made

    @property
    def last_index(self):
        compacted_index = self.compaction.compacted_index if self.compaction else 0
        return compacted_index + len(self.entries)

    def begin(self, ready):
        assert self.unsynced is None
        self.unsynced = ready

    def sync(self):
        ready, self.unsynced = self.unsynced, None
        if ready.compaction is not None:
            cut = ready.compaction.compacted_index
            self.entries = [entry for entry in self.entries if entry.index > cut]
            self.compaction = ready.compaction
        if ready.truncate_from is not None:
            self.entries = [entry for entry in self.entries if entry.index < ready.truncate_from]
        for entry in ready.entries:
            assert entry.index == self.last_index + 1, "the log on disk has no gap"
            self.entries.append(entry)
        self.hard_state = ready.hard_state
        self.remembered.update(ready.remembered)

    def lose(self):
        self.unsynced = None


class Host:
    """A process that runs, is paused, or is down.

    `world` gives: checker, hosts, host_clock_ms(host), send(messages), write(host) (which later
    calls `host.synced(incarnation)`), wake(host) (arm the timer), note(...). The state machine is
    the checker's. A process that does more than Raft fills in the hooks.
    """

    node_class = RaftNode

    def __init__(self, world, config, seed):
        self.world = world
        self.config = config
        self.node_id = config.node_id
        self.disk = Disk()
        self.lost_count = 0
        self.set_aside_count = 0
        self.node = None
        self.incarnation = 0
        self.is_paused = False
        self.applied_index = 0
        self.machine = world.checker.machine
        self.state = self.machine.EMPTY
        self.has_applied_final = False
        self._seed = seed
        self._inbox = deque()
        self._writing = None

    @property
    def is_up(self):
        return self.node is not None

    @property
    def is_writing(self):
        return self._writing is not None

    @property
    def is_asked(self):
        """Whether a request of the operator waits, which is not in the configuration yet."""
        return any(kind == "act" for kind, _ in self._inbox)

    def start(self):
        assert self.node is None
        self.incarnation += 1
        self.is_paused = False
        self.applied_index = 0
        self.state = self.machine.EMPTY
        self.has_applied_final = False
        self.disk.start_count += 1
        self.disk.incarnations.insert(0, f"{self.node_id}.{self.incarnation}")
        self.node = self.node_class(
            self.config,
            hard_state=self.disk.hard_state,
            entries=self.disk.entries,
            compaction=self.disk.compaction,
            random=Random(self._seed * 1_000 + self.incarnation),
            now_ms=self.world.host_clock_ms(self),
            origin=self.origin(),
            remembered=self.disk.remembered,
        )
        self.world.checker.on_start(self)
        self.world.wake(self)

    def origin(self):
        if self.disk.directory_id is None:
            return None
        incarnation, *former = self.disk.incarnations[: 1 + FORMER_STARTS_MAX]
        return Origin(self.disk.directory_id, self.disk.start_count, incarnation, tuple(former))

    def lose_directory(self):
        """The disk is gone; another one is in its place."""
        assert self.node is None
        self.world.checker.forgot_votes(self.node_id)
        former, self.disk = self.disk, Disk()
        if former.directory_id is not None:
            self.lost_count += 1
            self.disk.directory_id = f"{self.node_id}/{self.lost_count}"

    def roll_back(self, backup):
        """The disk is as it was when `backup` was made of it."""
        assert self.node is None
        self.world.checker.forgot_votes(self.node_id)
        self.disk = backup

    def crash(self, *, write_survives=False):
        """Power loss: memory goes, and of the disk what was not synced, save by luck."""
        if self.disk.unsynced is not None:
            if write_survives:
                self.disk.sync()
            else:
                self.disk.lose()
        self.node = None
        self._inbox.clear()
        self._writing = None

    def resume(self):
        self.is_paused = False
        if self._writing is not None and self.disk.unsynced is None:
            self._after_sync()
        self._drain()

    # --- inputs: queued, and handled one at a time ----------------------------------------------

    def tick(self):
        self._give(("tick", None))

    def receive(self, message):
        self._give(("step", message))

    def propose(self, payloads):
        self._give(("propose", payloads))

    def read(self, token):
        self._give(("read", token))

    def compact(self):
        """Take a snapshot of the state as it is now; the node hears of it in its turn."""
        if self.node is not None and self.applied_index:
            snapshot = self.machine.encode(self.state, self.node_id)
            self._give(("compact", (self.applied_index, snapshot)))

    def act(self, action):
        """An operator's request: `action(node, now_ms)` gives the Ready, or refuses."""
        self._give(("act", action))

    def refused(self, peer_id):
        self._give(("refused", peer_id))

    def _give(self, item):
        if self.node is None:
            return
        self._inbox.append(item)
        self._drain()

    def _drain(self):
        while (
            self._inbox and self._writing is None and self.node is not None and not self.is_paused
        ):
            self._handle(*self._inbox.popleft())

    def _handle(self, kind, argument):
        node = self.node
        now_ms = self.world.host_clock_ms(self)
        self.world.note(self.node_id, kind, argument)
        try:
            if kind == "step":
                ready = node.step(argument, now_ms)
            elif kind == "tick":
                ready = node.tick(now_ms)
            elif kind == "propose":
                ready = node.propose(argument, now_ms)
            elif kind == "read":
                self.world.checker.on_read_started(argument)
                ready = node.request_read(argument, now_ms)
            elif kind == "compact":
                ready = node.compact(*argument, now_ms)
            elif kind == "act":
                ready = argument(node, now_ms)
            else:
                ready = node.peer_refused(argument, now_ms)
        except RaftDirectoryRolledBackError:
            # The Raft state is set aside, and the process starts anew in the same directory.
            self.crash()
            self.lose_directory()
            self.set_aside_count += 1
            self.start()
            return
        except (
            NotLeaderError,
            OverloadedError,
            VoterChangeInProgressError,
            DuplicateVoterError,
            InvalidVoterChangeError,
            QuorumAtRiskError,
            VoterNotFoundError,
        ) as error:
            if kind == "read":
                del self.world.checker.open_reads[argument]
                self.read_ended(argument, None)
            elif kind == "propose":
                self.proposal_placed(error)
            self.world.wake(self)
            return
        self.world.checker.on_ready(self, ready)
        if kind == "propose":
            self.proposal_placed(ready.proposed)
        self.carry_out(ready)

    # --- the driver's contract ------------------------------------------------------------------

    def carry_out(self, ready):
        """Persist, then send, then apply."""
        if ready.must_persist:
            self.persist(ready)
        else:
            self.finish(ready)

    def persist(self, ready):
        self._writing = ready
        self.disk.begin(ready)
        self.world.write(self)

    def synced(self, incarnation):
        """The write that `persist` began is durable."""
        if incarnation != self.incarnation or self._writing is None:
            return
        self.disk.sync()
        if not self.is_paused:
            self._after_sync()

    def _after_sync(self):
        ready, self._writing = self._writing, None
        self.finish(ready)
        self._drain()

    def finish(self, ready):
        self.send(ready.messages)
        self.leadership_told(ready)
        self.apply(ready)

    def send(self, messages):
        for message in messages:
            self.world.checker.on_send(message)
            self.world.send(message)

    def apply(self, ready):
        checker = self.world.checker
        if ready.snapshot is not None:
            checker.on_restore(self, ready.snapshot)
            self.has_applied_final = checker.has_final(ready.snapshot.index)
        if ready.committed:
            checker.on_apply(self, ready.committed, ready.term, self.world.hosts.values())
            if checker.has_final(self.applied_index):
                self.has_applied_final = True
        if ready.confirmed_reads or ready.failed_reads:
            checker.on_reads_ended(self, ready)
        self.applied(ready)
        for read in ready.confirmed_reads:
            self.read_ended(read.token, read.index)
        for token in ready.failed_reads:
            self.read_ended(token, None)
        self.world.wake(self)

    # --- hooks ----------------------------------------------------------------------------------

    def leadership_told(self, ready):
        """Before anything of `ready` is applied."""

    def applied(self, ready):
        """The state is as of `ready` now."""

    def proposal_placed(self, result):
        """The oldest proposal that was not told yet has its place, or met this error."""

    def read_ended(self, token, index):
        """A read may be served at `index`; None where it may not."""
