"""Has the coordinator take partitions into a transaction before their leader takes its batches.

A batch that begins a transaction in a partition may be late: the transaction that it is of may have
been ended long ago, and nobody would ever end it here. So the leader asks first (KIP-890), for all
such partitions of a request in one call. The answer is durable at the coordinator, so whatever ends
the transaction from then on comes here too, and leaves an epoch in the log that refuses a batch
whose transaction was ended while it waited.

`ottla_cluster.transactions.verification_order` keeps the batches in their order. A batch goes, or
leaves, within one step of the event loop, so nothing happens between what is decided and what is
done.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeAlias

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.partition import Partition
from ottla_broker.drivers.partition_acks import Appended
from ottla_broker.storage.policy.producer_state import ProducerStates
from ottla_broker.telemetry import METRICS
from ottla_cluster.transactions.commands import AddPartitions, Response
from ottla_cluster.transactions.records import ProducerIdentity, TransactionPartition
from ottla_cluster.transactions.verification_order import (
    Claim,
    Line,
    VerificationOrder,
    WaitingBatch,
)
from ottla_protocol.errors import (
    CoordinatorNotAvailableError,
    OttlaError,
    Outcome,
    OverloadedError,
    RequestTimedOutError,
    RoutingError,
)
from ottla_protocol.record_batch import NO_SEQUENCE, BatchHeader

MAX_WAITING_BATCHES = 20_000
"""Batches that wait for coordinators at a time, at one broker; their requests are bounded, too."""

Placed: TypeAlias = tuple[Partition, Appended] | OttlaError
"""What became of a batch that was, or was not, appended."""


class TransactionCoordinator(Protocol):
    """The way to the coordinator of every transactional id."""

    async def decide(
        self, transactional_id: str, command: AddPartitions, *, repeatable: bool
    ) -> Response:
        """The coordinator's answer; it waits while the last transaction's markers are written.

        Raises:
            OttlaError: its refusal, or it could not be asked in time.
        """
        ...


@dataclass(slots=True, eq=False)
class TransactionalAppend:
    """A batch that has to wait, and what is done with it when its turn comes.

    `append` is called once at most, in the order of the producer's batches. It looks at the
    partition anew, for much may have changed meanwhile.
    """

    partition: Partition
    header: BatchHeader
    append: Callable[[], Placed]


class _Memory(NamedTuple):
    """What a log knew of producers when the coordinator was asked."""

    partition: Partition
    producers: ProducerStates
    forgotten: int

    @classmethod
    def of(cls, partition: Partition) -> "_Memory":
        producers = partition.log.producers
        return cls(partition, producers, producers.forgotten)

    def may_lack(self, producer_id: int) -> bool:
        """Whether a marker of that producer may have come meanwhile, and been forgotten since.

        It is the marker's epoch that refuses a batch whose transaction was ended.
        """
        now = self.partition.log.producers
        return now.get(producer_id) is None and (
            now is not self.producers or now.forgotten != self.forgotten
        )


@dataclass(slots=True, eq=False)
class _Waiting:
    batch: WaitingBatch
    partition: Partition
    append: Callable[[], Placed]
    placed: "asyncio.Future[Placed]"


@dataclass(slots=True, eq=False)
class _Question:
    """What the coordinator is asked in one call, for the lines that still want the answer."""

    claim: Claim
    lines: dict[Line, _Memory] = field(default_factory=dict)
    task: "asyncio.Task[None] | None" = None


class TransactionVerification:
    """The transactional batches of one broker that wait until they may be appended.

    Args:
        coordinator: whom to ask.
    """

    def __init__(self, coordinator: TransactionCoordinator) -> None:
        self._coordinator = coordinator
        self._order = VerificationOrder()
        self._waiting: dict[WaitingBatch, _Waiting] = {}
        # What each line waits for.
        self._questions: dict[Line, _Question] = {}
        # Strong references: the event loop keeps only weak ones to its tasks.
        self._asking: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        """How many batches wait."""
        return self._order.waiting

    def may_append(self, partition: Partition, header: BatchHeader) -> bool:
        """Whether a transactional batch may be appended at once.

        It may where it goes on with a transaction that is open in this log, unless others of its
        producer wait to be appended there before it.
        """
        return partition.is_in_transaction(header) and (
            not self._order.waiting or self._order.head_of(_line(partition, header)) is None
        )

    async def append_in_turn(
        self,
        transactional_id: str,
        appends: Sequence[TransactionalAppend],
        *,
        deadline_ms: int,
    ) -> list[Placed]:
        """Append batches once their partitions are in the transaction; each fails for itself.

        All have their place in line before this first waits for anything.

        Args:
            transactional_id: by which the coordinator knows their producer.
            appends: in the order in which those of one partition are to be appended.
            deadline_ms: until when to wait, on the monotonic clock.

        Returns:
            What each append returned, or why there was none: the outcome is NOT_APPLIED.
        """
        entered = [self._enter(transactional_id, wanted) for wanted in appends]
        waiting = [item for item in entered if isinstance(item, _Waiting)]
        if not waiting:
            return [item for item in entered if isinstance(item, OttlaError)]
        self._ask_for(item.batch.line for item in waiting)
        timer = asyncio.get_running_loop().call_later(
            max(0, deadline_ms - monotonic_ms()) / 1000, self._leave, waiting
        )
        try:
            # Cancelled, it leaves the futures as they are: a batch goes, or is known not to.
            await asyncio.wait([item.placed for item in waiting])
        finally:
            timer.cancel()
            self._leave(waiting)
        return [item if isinstance(item, OttlaError) else item.placed.result() for item in entered]

    def _enter(
        self, transactional_id: str, wanted: TransactionalAppend
    ) -> "_Waiting | OverloadedError":
        if self._order.waiting >= MAX_WAITING_BATCHES:
            return OverloadedError(
                f"{MAX_WAITING_BATCHES} batches wait for transaction coordinators already",
                outcome=Outcome.NOT_APPLIED,
                retry_after_seconds=1,
            )
        header = wanted.header
        batch = WaitingBatch(
            _line(wanted.partition, header),
            Claim(transactional_id, ProducerIdentity(header.producer_id, header.producer_epoch)),
            header.base_sequence != NO_SEQUENCE,
        )
        waiting = _Waiting(
            batch, wanted.partition, wanted.append, asyncio.get_running_loop().create_future()
        )
        self._waiting[batch] = waiting
        self._order.enter(batch)
        return waiting

    def _leave(self, leaving: Sequence[_Waiting]) -> None:
        """Nobody waits any more for those that have not gone: time is up, or who asked is gone."""
        batches = [each.batch for each in leaving if not each.placed.done()]
        if not batches:
            return
        behind = self._order.leave(batches)
        for batch in (*batches, *behind):
            self._fail((batch,), _timed_out(batch))
        self._ask_for({batch.line: None for batch in batches})

    # --- asking -----------------------------------------------------------------------------

    def _ask_for(self, lines: Iterable[Line]) -> None:
        """Have each line wait for an answer about its head, and for no other."""
        questions: dict[Claim, _Question] = {}
        for line in lines:
            head = self._order.head_of(line)
            present = self._questions.get(line)
            if head is not None and present is not None and present.claim == head.claim:
                continue
            if present is not None:
                self._forget(line, present)
            if head is not None:
                question = questions.setdefault(head.claim, _Question(head.claim))
                question.lines[line] = _Memory.of(self._waiting[head].partition)
                self._questions[line] = question
        for question in questions.values():
            question.task = asyncio.create_task(self._answer(question))
            self._asking.add(question.task)
            question.task.add_done_callback(self._asking.discard)

    def _forget(self, line: Line, question: _Question) -> None:
        """A line does not want an answer any more."""
        del self._questions[line]
        del question.lines[line]
        if not question.lines and question.task is not None:
            question.task.cancel()

    async def _answer(self, question: _Question) -> None:
        """Ask, and let those go, or fail, whom the answer concerns."""
        claim = question.claim
        command = AddPartitions(
            claim.transactional_id,
            claim.identity,
            tuple(line.partition for line in question.lines),
        )
        refusal: Exception | None = None
        started_ms = monotonic_ms()
        try:
            await self._coordinator.decide(claim.transactional_id, command, repeatable=True)
        except OttlaError as error:
            refusal = _of_a_batch(error, claim)
        except Exception as error:  # noqa: BLE001  a defect is told to whoever asked
            refusal = error
        METRICS.transaction_verification_seconds.observe((monotonic_ms() - started_ms) / 1000)
        lines = question.lines
        question.lines = {}
        for line, memory in lines.items():
            del self._questions[line]
            if refusal is not None:
                self._fail(self._order.answered(line, claim), refusal)
            elif not memory.may_lack(line.producer_id):
                self._go(self._order.answered(line, claim))
        self._ask_for(lines)

    def _go(self, batches: Iterable[WaitingBatch]) -> None:
        for batch in batches:
            waiting = self._waiting.pop(batch)
            try:
                waiting.placed.set_result(waiting.append())
            except Exception as error:  # noqa: BLE001  as above
                waiting.placed.set_exception(error)

    def _fail(self, batches: Iterable[WaitingBatch], error: Exception) -> None:
        for batch in batches:
            placed = self._waiting.pop(batch).placed
            if isinstance(error, OttlaError):
                METRICS.produce_errors.labels(error.code).inc()
                # Its own, because whoever renders or retries an error may add to it.
                placed.set_result(copy(error))
            else:
                placed.set_exception(error)


def _line(partition: Partition, header: BatchHeader) -> Line:
    state = partition.state
    return Line(
        TransactionPartition(state.topic, state.topic_id, state.partition), header.producer_id
    )


def _of_a_batch(error: OttlaError, claim: Claim) -> OttlaError:
    """What the coordinator says, told of a batch, which was not appended whatever it says.

    Where the coordinator is must not pass for where the batch should go.
    """
    if isinstance(error, RoutingError):
        return CoordinatorNotAvailableError(
            f"the coordinator of {claim.transactional_id!r} did not answer: {error.detail}",
            outcome=Outcome.NOT_APPLIED,
        )
    told = copy(error)
    told.outcome = Outcome.NOT_APPLIED
    return told


def _timed_out(batch: WaitingBatch) -> RequestTimedOutError:
    partition = batch.line.partition
    return RequestTimedOutError(
        f"the coordinator of {batch.claim.transactional_id!r} did not take "
        f"{partition.topic}-{partition.partition} into its transaction in time for this batch or "
        "one before it",
        outcome=Outcome.NOT_APPLIED,
    )
