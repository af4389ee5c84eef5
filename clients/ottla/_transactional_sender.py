"""The sender of a transactional producer: it gives up whole transactions, never one record.

Pure, as `_sender` and `_settlement` are. Everything there holds, save for what becomes of a
failure: within a transaction no sequence is mended and no epoch begun, because one record that is
not in means that the transaction cannot be committed (KIP-98). So the first failure gives up
whatever of the transaction is not settled, and the state machine is told.

Requests that are out by then are not waited for. Their answers are ignored, and they can do no harm
wherever they still arrive: the identity that they carry is the transaction's, and the coordinator
grants another one with the abort (KIP-890).
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from ottla._accumulator import Accumulator, PartitionQueue
from ottla._batch import Batch
from ottla._errors import TransactionAbortedError
from ottla._metadata import Leader, Metadata
from ottla._sender import Actions, ProduceCall, Sender, SenderOptions
from ottla._settlement import Settlement, SettlementOptions
from ottla._transaction_state import Granted, TransactionState
from ottla._verdict import Result, Verdict
from ottla_protocol.errors import ConcurrentTransactionsError, OttlaError
from ottla_protocol.record_batch import NO_PRODUCER_EPOCH, NO_PRODUCER_ID

MARKERS_BACKOFF_MS: Final = 5
"""Before the second attempt to begin in a partition that lacks the last transaction's marker, which
is mostly on its way; doubles up to the ordinary backoff."""

MAX_MARKERS_DOUBLINGS: Final = 10


class TransactionalSettlement(Settlement):
    """Settles the batches of transactions.

    Args:
        options, accumulator, metadata: as those of `Settlement`.

    Attributes:
        failure: why the first record of the transaction failed, until that is acted upon.
    """

    def __init__(
        self, options: SettlementOptions, accumulator: Accumulator, metadata: Metadata
    ) -> None:
        super().__init__(options, accumulator, metadata)
        self.failure: OttlaError | None = None

    def fail(self, batch: Batch, error: OttlaError, settled: list[Batch]) -> None:
        """See `Settlement`; the first one of a transaction is remembered."""
        super().fail(batch, error, settled)
        if self.failure is None:
            assert isinstance(batch.error, OttlaError), "failed without a reason"
            self.failure = batch.error

    def _judge(
        self,
        batch: Batch,
        error: OttlaError,
        leader: Leader,
        *,
        is_overtaken: bool,
        is_behind_failure: bool,
    ) -> Verdict:
        verdict = super()._judge(
            batch, error, leader, is_overtaken=is_overtaken, is_behind_failure=is_behind_failure
        )
        # A new epoch is the coordinator's to grant.
        return Verdict.FAIL if verdict is Verdict.RENUMBER else verdict

    def _back_off(
        self, queue: PartitionQueue, error: OttlaError, leader: Leader, now_ms: int
    ) -> None:
        super()._back_off(queue, error, leader, now_ms)
        if isinstance(error, ConcurrentTransactionsError):
            doublings = min(queue.failures - 1, MAX_MARKERS_DOUBLINGS)
            soon_ms = now_ms + (MARKERS_BACKOFF_MS << doublings)
            queue.retry_at_ms = min(queue.retry_at_ms, soon_ms)

    def _mend(self, queue: PartitionQueue, lost: Iterable[Batch]) -> None:
        """Nothing is to be mended: the transaction is given up."""


class TransactionalSender(Sender):
    """Sends the batches of transactions.

    Args:
        options, accumulator, metadata: as those of `Sender`.
        transaction: is told of failures.
    """

    def __init__(
        self,
        options: SenderOptions,
        accumulator: Accumulator,
        metadata: Metadata,
        transaction: TransactionState,
    ) -> None:
        self._transaction_settlement = TransactionalSettlement(options, accumulator, metadata)
        super().__init__(options, accumulator, metadata, self._transaction_settlement)
        self._transaction = transaction

    def use(self, granted: Granted) -> None:
        """Number the batches of the next transaction by this identity, from 0 in each partition."""
        assert not self._accumulator.unsettled, "the last transaction's records are not settled"
        self._settlement.producer = (granted.producer_id, granted.producer_epoch)
        for queue in self._accumulator.queues:
            queue.producer_id = NO_PRODUCER_ID
            queue.producer_epoch = NO_PRODUCER_EPOCH
            queue.next_sequence = 0
            queue.is_established = False

    def poll(self, now_ms: int) -> Actions:
        """See `Sender`; nothing is sent of a transaction that fails in this poll."""
        actions = super().poll(now_ms)
        settled = self._given_up()
        if not settled:
            if actions.calls:
                self._transaction.has_begun = True
            return actions
        for call in actions.calls:
            self._in_flight[call.leader.node_id] -= 1
        return replace(actions, calls=(), settled=(*actions.settled, *settled))

    def on_answer(self, call: ProduceCall, results: Sequence[Result], now_ms: int) -> list[Batch]:
        """See `Sender`; what comes after its transaction was given up is ignored."""
        if call.batches[0].is_done:
            assert all(batch.is_done for batch in call.batches), "given up in part"
            self._in_flight[call.leader.node_id] -= 1
            return []
        settled = super().on_answer(call, results, now_ms)
        return [*settled, *self._given_up()]

    def give_up_transaction(self, error: OttlaError) -> list[Batch]:
        """Settle every record that is not acknowledged yet; their requests are not waited for.

        Returns:
            The batches that are settled by it.
        """
        settled = self.abort(error)
        for queue in self._accumulator.queues:
            queue.closed.clear()
            queue.in_flight = False
            queue.failures = 0
            queue.retry_at_ms = 0
        self._transaction_settlement.failure = None
        return settled

    def _given_up(self) -> list[Batch]:
        """Give up the transaction if one of its records has failed just now."""
        failure = self._transaction_settlement.failure
        if failure is None:
            return []
        self._transaction.failed(failure)
        error = TransactionAbortedError(f"another record of the transaction failed: {failure}")
        error.__cause__ = failure
        return self.give_up_transaction(error)
