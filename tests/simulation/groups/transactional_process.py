"""A member that works in transactions: what it has read to is committed with what it wrote."""

from dataclasses import dataclass, field

from ottla_cluster.groups.commands import (
    CommitTransactionOffsets,
    CommitTransactionOffsetsResponse,
    FetchOffsets,
    OffsetToCommit,
    OwnedTopic,
)
from ottla_protocol.errors import OttlaError
from tests.simulation.groups.process import REQUEST_TIMEOUT_MS, WORK_MS, Process

ATTEMPTS = 3


@dataclass
class Move:
    """How far one partition is read within a transaction."""

    work: object
    start: int
    end: int


@dataclass
class Transaction:
    """One transaction of a process."""

    epoch: int
    moves: dict
    unacknowledged: set = field(default_factory=set)


class TransactionalProcess(Process):
    """Reads from where its group is for sure, and commits each step in a transaction (KIP-447)."""

    def __init__(self, simulation, group, name, *, is_static):
        super().__init__(simulation, group, name, is_static=is_static)
        self.pattern = None
        self.producer = simulation.producer_of(name)
        self.epoch = None
        self.transaction = None
        self.ended = 0

    def successor(self):
        other = TransactionalProcess(self.simulation, self.group, self.name, is_static=True)
        other.incarnation = 100 * (len(self.simulation.processes) + 1)
        return other

    def start(self):
        if not self.is_alive:
            self.epoch = self.transaction = None
        super().start()

    def _work(self, life):
        delay_ms = WORK_MS if self.simulation.faulty else 4 * WORK_MS
        self._later(life, delay_ms, lambda: self._work(life))
        for key, work in sorted(self.working.items()):
            if work.position is None:
                self._fetch(life, key, work)
        if self.transaction is None and not self.simulation.is_ending:
            self._begin(life)

    def _fetch(self, life, key, work):
        ended = self.ended

        def fetched(outcome):
            # What was asked before a transaction ended may come late, and be older than its end.
            if hasattr(outcome, "offsets") and ended == self.ended:
                (found,) = outcome.offsets
                self._later(life, 0, lambda: self._found(key, work, found))

        topic, partition = key
        wanted = (OwnedTopic(topic, (partition,)),)
        self.simulation.call(FetchOffsets(self.group, wanted, require_stable=True), fetched)

    # --- transactions ---

    def _begin(self, life):
        if self.epoch is None:
            self.epoch = self.simulation.take_over(self.producer)
            return
        self.epoch = self.producer.next_epoch(self.epoch)
        if self.epoch is None:
            self.kill()  # Another process has the transactional id.
            return
        if self.producer.state != "idle":
            return
        moves = {
            key: Move(work, work.position, work.position + self.random.randint(1, 3))
            for key, work in sorted(self.working.items())
            if work.position is not None and not work.giving_up and self.random.random() < 0.8
        }
        if not moves:
            return
        transaction = self.transaction = Transaction(self.epoch, moves)
        self.simulation.begin(self.producer)
        self._later(life, self.random.randint(0, 100), lambda: self._commit_all(life, transaction))

    def _commit_all(self, life, transaction):
        """Commits the offsets, sometimes one by one."""
        offsets = [
            OffsetToCommit(topic, partition, move.end)
            for (topic, partition), move in sorted(transaction.moves.items())
        ]
        pieces = [(each,) for each in offsets] if self.random.random() < 0.3 else [tuple(offsets)]
        transaction.unacknowledged.update(pieces)
        for piece in pieces:
            command = CommitTransactionOffsets(
                self.group,
                self.name,
                self.producer.producer_id,
                transaction.epoch,
                piece,
                self.member_id,
                self.generation,
            )
            self._send(life, transaction, command, ATTEMPTS)
        if self.random.random() < 0.1:
            # It thinks better of it while its commits are on their way.
            delay_ms = self.random.randint(0, 60)
            self._later(life, delay_ms, lambda: self._end(transaction, is_commit=False))

    def _send(self, life, transaction, command, attempts):
        if self.transaction is not transaction or command.offsets not in transaction.unacknowledged:
            return
        if not attempts:
            self._end(transaction, is_commit=False)
            return

        def replied(outcome):
            self._later(life, 0, lambda: self._acknowledged(life, transaction, command, outcome))

        self.simulation.call(command, replied)
        self._later(
            life,
            REQUEST_TIMEOUT_MS,
            lambda: self._send(life, transaction, command, attempts - 1),
        )

    def _acknowledged(self, life, transaction, command, outcome):
        if self.transaction is not transaction:
            return
        if isinstance(outcome, OttlaError) and not outcome.retriable:
            self._end(transaction, is_commit=False)
        if isinstance(outcome, CommitTransactionOffsetsResponse):
            transaction.unacknowledged.discard(command.offsets)
            if not transaction.unacknowledged:
                is_commit = self.random.random() < 0.8
                delay_ms = self.random.choice((0, 20, 300))
                self._later(life, delay_ms, lambda: self._end(transaction, is_commit=is_commit))

    def _end(self, transaction, *, is_commit):
        if self.transaction is not transaction:
            return
        self.transaction = None
        self.ended += 1
        moves = {
            (self.group, *key): (move.start, move.end) for key, move in transaction.moves.items()
        }
        decided = self.simulation.end(
            self.producer, transaction.epoch, is_commit=is_commit, moves=moves
        )
        if decided:
            self.epoch = self.producer.epoch
        for move in transaction.moves.values():
            move.work.position = move.end if decided and is_commit else None

    def _given_up(self, key, work):
        if self.working.get(key) is not work:
            return
        if self.transaction is not None and key in self.transaction.moves:
            self._end(self.transaction, is_commit=False)
        del self.working[key]
