"""Workers that read, transform and write in transactions, while everything around them fails.

Each transactional id has an input of its own: the numbers from 0. A worker takes the id over, reads
how far it is, and in each transaction writes the next number, perhaps to several partitions, and
its new position to the partition of positions, as a consumer's offsets are written. Workers pause,
crash, and share an id without knowing of one another; messages are lost, repeated and late; leaders
and the coordinator fail over. The rules are those of a transaction (T1 to T8): each is checked on
what readers of committed records are shown, while it goes on and in the end.
"""

from collections import Counter
from random import Random

from ottla_cluster.transactions.commands import (
    AddPartitions,
    AddPartitionsResponse,
    EndTransaction,
    EndTransactionResponse,
    InitialiseProducer,
    InitialiseProducerResponse,
)
from ottla_cluster.transactions.known_ids import AT_REST
from ottla_cluster.transactions.limits import ATTEMPT_BYTES
from ottla_cluster.transactions.records import TransactionPartition
from ottla_protocol.errors import (
    ConcurrentTransactionsError,
    OttlaError,
    ProducerFencedError,
    TransactionAbortableError,
)
from tests.simulation.event_heap import EventHeap
from tests.simulation.network import FaultyNetwork
from tests.simulation.transactions.simulated_coordinator import SimulatedCoordinator
from tests.simulation.transactions.simulated_log import Header, SimulatedLog

PARTITIONS = 4
POSITIONS = PARTITIONS
"""The partition in which workers write how far they are."""
IDS = ("a", "b", "c")
REQUEST_TIMEOUT_MS = 400
TRANSACTION_TIMEOUT_MS = 2_000
QUIET_MS = 12_000
"""After the faults: more than a transaction's time-out and all retries."""
FAULT_EVERY_MS = 700
READ_EVERY_MS = 25


class CrashedError(Exception):
    """A worker is gone, whatever it was about."""


class Written:
    """A value is in its log, committed."""


class TransactionsSimulation:
    """Where an id has one worker at a time, nobody may ever be fenced: there is no other."""

    def __init__(self, seed, workers_per_id=2):
        self.random = Random(seed)
        self.events = EventHeap()
        self.counts = Counter()
        self.network = FaultyNetwork(
            self.events,
            self.random,
            loss=0.04,
            duplication=0.06,
            late=0.06,
            late_max_ms=1_500,
            delay_max_ms=12,
        )
        self.logs = [SimulatedLog(n, self.events, self.random) for n in range(PARTITIONS + 1)]
        self.coordinator = SimulatedCoordinator(self.events, self.random, self._send_marker)
        self.is_faulty = True
        self.plans = {}  # transaction -> the partitions that it was to write to
        self.told = {}  # transaction -> whether its worker was told that it is committed
        self.owners = {}  # transaction -> (transactional id, input)
        self._shown = [[] for _ in self.logs]
        self._read_to = [0 for _ in self.logs]
        self._requests = 0
        self._resumed = {}  # request -> the worker that waits
        for name in IDS:
            for _ in range(workers_per_id):
                self._start(name, self.random.randint(0, 3_000))
        self.events.after(FAULT_EVERY_MS, self._fault)
        self.events.after(READ_EVERY_MS, self._read)

    # --- what happens -----------------------------------------------------------------------

    def run(self, faulty_ms):
        self.events.run_until(faulty_ms)
        self.is_faulty = False
        self.network.heal()
        self.coordinator.loss = 0
        self.events.run_until(faulty_ms + QUIET_MS)
        self._check_end()
        self.counts["leaderships"] = self.coordinator.leaderships

    def _fault(self):
        if not self.is_faulty:
            return
        self.events.after(self.random.randint(1, 2 * FAULT_EVERY_MS), self._fault)
        down_ms = self.random.randint(1, 300)
        if self.random.random() < 0.4:
            self.coordinator.failover(down_ms)
        else:
            self.random.choice(self.logs).failover(down_ms)
            self.counts["failovers"] += 1

    def _read(self):
        """A reader goes on where it was, to the last stable offset."""
        self.events.after(READ_EVERY_MS, self._read)
        for log in self.logs:
            self._shown[log.number] += log.read_committed(self._read_to[log.number])
            self._read_to[log.number] = log.last_stable_offset()

    # --- messages ---------------------------------------------------------------------------

    def _send_marker(self, decision, partition, told):
        log = self.logs[partition.partition]

        def arrive():
            if not log.is_up:
                return
            try:
                log.write_marker(
                    decision.marker,
                    decision.is_commit,
                    lambda committed: committed and self.network.send("log", "coordinator", told),
                )
            except OttlaError:
                self.counts["late markers"] += 1

        self.network.send("coordinator", "log", arrive)

    def _ask_coordinator(self, sender, command, answer):
        def arrive():
            self.coordinator.execute(
                command, lambda outcome: self.network.send("coordinator", sender, answer, outcome)
            )

        self.network.send(sender, "coordinator", arrive)

    def _produce(self, number, name, identity, sequence, value, answer):
        """As a leader does: no batch of a transaction before the coordinator knows of it."""
        log = self.logs[number]
        header = Header(identity.producer_id, identity.producer_epoch, sequence)

        def told(committed):
            if committed:
                self.network.send("log", "worker", answer, Written())

        def refused(error):
            self.network.send("log", "worker", answer, error)

        def append(leader_epoch):
            if log.is_up and log.leader_epoch == leader_epoch:
                try:
                    log.produce(header, value, told)
                except OttlaError as error:
                    refused(error)

        def arrive():
            if not log.is_up:
                return
            leader_epoch = log.leader_epoch
            try:
                if log.check(header) is not None or log.is_in_transaction(header):
                    append(leader_epoch)
                    return
            except OttlaError as error:
                refused(error)
                return
            partition = TransactionPartition(f"t{number}", f"id{number}", number)
            self._ask_coordinator(
                "log",
                AddPartitions(name, identity, (partition,)),
                lambda outcome: (
                    append(leader_epoch)
                    if isinstance(outcome, AddPartitionsResponse)
                    else refused(outcome)
                ),
            )

        self.network.send("worker", "log", arrive)

    # --- workers ----------------------------------------------------------------------------

    def _start(self, name, delay_ms):
        worker = self._worker(name)
        self.events.after(delay_ms, self._resume, worker, None)

    def _resume(self, worker, outcome):
        try:
            step, *arguments = worker.send(outcome)
        except StopIteration:
            return
        if step == "wait":
            self.events.after(arguments[0], self._resume, worker, None)
            return
        self._requests += 1
        request = self._requests
        self._resumed[request] = worker

        def answer(outcome):
            waiting = self._resumed.pop(request, None)
            if waiting is not None:
                self._resume(waiting, outcome)

        self.events.after(REQUEST_TIMEOUT_MS, answer, None)
        if step == "ask":
            self._ask_coordinator("worker", arguments[0], answer)
        else:
            self._produce(*arguments, answer)

    def _worker(self, name):
        while self.is_faulty:
            identity = yield from self._take_over(name)
            if identity is None:
                continue
            self.counts["taken over"] += 1
            position = None
            while self.is_faulty and (position := self._position(name)) is None:
                yield "wait", 50
            while self.is_faulty and identity is not None:
                if self.random.random() < 0.06:
                    yield "wait", self.random.randint(100, 3_500)
                try:
                    identity, position = yield from self._transact(name, identity, position)
                except CrashedError:
                    self.counts["crashed"] += 1
                    self._start(name, self.random.randint(0, 4_000))
                    return
            yield "wait", self.random.randint(0, 6_000)

    def _take_over(self, name, identity=None):
        """Take the id over, or go on with it; however often it is asked for, it is done once."""
        attempt = self.random.randbytes(ATTEMPT_BYTES) if identity is None else None
        command = InitialiseProducer(name, TRANSACTION_TIMEOUT_MS, identity, attempt)
        while self.is_faulty:
            outcome = yield "ask", command
            if isinstance(outcome, InitialiseProducerResponse) and outcome.granted is not None:
                return outcome.granted
            if isinstance(outcome, ProducerFencedError):
                self.counts[outcome.code] += 1
                return None
            yield "wait", self.random.randint(5, 100)
        return None

    def _position(self, name):
        """How far the input is: where a reader has to wait for a decision, None."""
        log = self.logs[POSITIONS]
        if log.last_stable_offset() < len(log.entries):
            return None
        mine = [value for _, value in log.read_committed() if value[1] == name]
        return mine[-1][2] + 1 if mine else 0

    def _transact(self, name, identity, position):
        """One transaction: the identity and the position after it; no identity once it is lost."""
        transaction = len(self.plans)
        chosen = self.random.sample(range(PARTITIONS), self.random.randint(1, 3))
        self.plans[transaction] = {*chosen, POSITIONS}
        self.owners[transaction] = name, position
        is_whole = self.random.random() < 0.85
        value = transaction, name, position
        for number in (*chosen, POSITIONS):
            if not (yield from self._write(number, name, identity, value)):
                is_whole = False
                break
            if self.random.random() < 0.05:
                yield "wait", self.random.randint(100, 3_000)
            if self.random.random() < 0.02:
                raise CrashedError
        if not is_whole and self.random.random() < 0.5:
            self.counts["gone on"] += 1
            return (yield from self._take_over(name, identity)), position
        granted, committed = yield from self._end(name, identity, is_commit=is_whole)
        if committed is not None:
            self.told[transaction] = committed
            self.counts["committed" if committed else "aborted"] += 1
        return granted, position + 1 if committed else position

    def _write(self, number, name, identity, value):
        for _ in range(6):
            outcome = yield "produce", number, name, identity, 0, value
            if isinstance(outcome, Written):
                return True
            if isinstance(outcome, OttlaError) and not outcome.retriable:
                self.counts[outcome.code] += 1
                return False
            yield "wait", self.random.randint(5, 60)
        return False

    def _end(self, name, identity, *, is_commit):
        """The identity that is granted, and whether it was told committed; None for unknown."""
        for _ in range(12):
            outcome = yield "ask", EndTransaction(name, identity, is_commit)
            if isinstance(outcome, EndTransactionResponse):
                return outcome.granted, is_commit
            if isinstance(outcome, TransactionAbortableError):
                self.counts[outcome.code] += 1
                is_commit = False
            elif isinstance(outcome, ProducerFencedError):
                self.counts[outcome.code] += 1
                return None, None
            elif isinstance(outcome, ConcurrentTransactionsError):
                self.counts[outcome.code] += 1
            if self.random.random() < 0.2:
                raise CrashedError
            yield "wait", self.random.randint(5, 60)
        return None, None

    # --- what holds in the end --------------------------------------------------------------

    def _check_end(self):
        self._read()
        for log in self.logs:
            end = len(log.entries)
            shown = self._shown[log.number]
            assert shown == log.read_committed(), f"T2: partition {log.number} took a record back"
            assert log.last_stable_offset() == end, f"T4: partition {log.number} hangs"
        for name, found in self.coordinator.active.committed_image.transactions.items():
            assert found.state in AT_REST, f"T4: {name} is {found.state}"
        written = {}
        for log, shown in zip(self.logs, self._shown, strict=True):
            for _, (transaction, *_) in shown:
                assert log.number not in written.setdefault(transaction, set()), "T6: twice"
                written[transaction].add(log.number)
        for transaction, numbers in written.items():
            assert numbers == self.plans[transaction], f"T1: transaction {transaction} is torn"
        for transaction, is_committed in self.told.items():
            assert (transaction in written) == is_committed, f"T2: transaction {transaction}"
        inputs = {name: [] for name in IDS}
        for transaction in written:
            name, position = self.owners[transaction]
            inputs[name].append(position)
        for name, done in inputs.items():
            assert sorted(done) == list(range(len(done))), f"T8: {name} has {sorted(done)}"
        self.counts["visible"] += len(written)
