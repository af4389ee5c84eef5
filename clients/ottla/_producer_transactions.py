"""The transactional calls of the synchronous producer."""

from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from ottla._consumer_steps import offsets_in
from ottla._consumer_types import ConsumerGroupMetadata, OffsetAndMetadata, TopicPartition
from ottla._timeouts import seconds_in
from ottla._transactions_io import TransactionsIO, noting
from ottla_protocol.errors import OttlaError

Answer = TypeVar("Answer")


class ProducerTransactions(ABC):
    """Transactions; the rest of the producer is in `_producer`."""

    @property
    @abstractmethod
    def _transactions(self) -> TransactionsIO: ...

    @abstractmethod
    def _check_usable(self) -> None: ...

    @abstractmethod
    def _call(self, work: Coroutine[Any, Any, Answer]) -> Answer: ...

    def init_transactions(self, timeout: float | None = None) -> None:
        """Take the `transactional_id` over, once, before the first transaction.

        Whoever held it before is fenced, and what it left open is aborted.

        Args:
            timeout: seconds; None takes `max_block_ms`.

        Raises:
            InvalidTransactionTimeoutError: the cluster allows no such `transaction_timeout_ms`.
            TransactionStateError: the producer has no `transactional_id`, or has done so already.
            WaitTimedOutError, ClusterUnreachableError: not in time; it may be called again, and
                takes the id over once.
            ProducerFencedError: an earlier call took it over, and another producer has since.
            ProducerClosedError, ForkedProcessError: as `send`.
        """
        transactions = self._transactions
        self._check_usable()
        self._call(transactions.initialise(timeout))

    def begin_transaction(self) -> None:
        """Begin a transaction: every record that is sent from now on belongs to it.

        Raises:
            TransactionStateError: one is open, or init_transactions was not called.
            ProducerFencedError: another producer took the `transactional_id`; close this one.
            ProducerClosedError, ForkedProcessError: as `send`.
        """
        transactions = self._transactions
        self._check_usable()
        transactions.begin()

    def send_offsets_to_transaction(
        self,
        offsets: Mapping[TopicPartition, OffsetAndMetadata | int],
        group_metadata: ConsumerGroupMetadata,
        timeout: float | None = None,
    ) -> None:
        """Have a group's offsets committed if the transaction is, and only then.

        Args:
            offsets: the next offset to read, by partition.
            group_metadata: of the consumer that read the records: its `consumer_group_metadata()`.
            timeout: seconds; None takes `max_block_ms`.

        Raises:
            TransactionStateError: no transaction is open.
            TransactionAbortableError: the transaction has failed; abort it.
            ProducerFencedError: another producer took the `transactional_id`; close this one.
            OttlaError: the group did not take them, or not in time; the transaction has failed.
        """
        transactions = self._transactions
        self._check_usable()
        checked = offsets_in(offsets, "offsets must be a mapping of partitions to the next offset")
        self._call(transactions.send_offsets(checked, group_metadata, timeout))

    def commit_transaction(self, timeout: float | None = None) -> None:
        """Send what is left of the transaction, and commit it: all of it, or nothing.

        Args:
            timeout: seconds; None takes `max_block_ms`.

        Raises:
            TransactionStateError: no transaction is open.
            TransactionAbortableError: a record of it failed, or its time-out aborted it; abort it,
                too, and go on with the next one.
            ProducerFencedError: another producer took the `transactional_id`; close this one.
            WaitTimedOutError, ClusterUnreachableError: not known in time whether it is committed:
                call it again, which gives the same answer. With `outcome` NOT_APPLIED it may be
                aborted, too.
            ProducerClosedError, ForkedProcessError: as `send`.
        """
        transactions = self._transactions
        self._check_usable()
        self._call(transactions.commit(timeout))

    def abort_transaction(self, timeout: float | None = None) -> None:
        """Give the transaction up: no reader of committed records ever sees anything of it.

        Records that are not acknowledged yet fail with TransactionAbortedError.

        Args:
            timeout: seconds; None takes `max_block_ms`.

        Raises:
            TransactionStateError: no transaction is open, or it may be committed already.
            ProducerFencedError: another producer took the `transactional_id`; close this one.
            WaitTimedOutError, ClusterUnreachableError: not answered in time: call it again.
            ProducerClosedError, ForkedProcessError: as `send`.
        """
        transactions = self._transactions
        self._check_usable()
        self._call(transactions.abort(timeout))

    @contextmanager
    def transaction(self, timeout: float | None = None) -> Iterator[None]:
        """A transaction for a with block: committed at its end, aborted if it raises.

        Where the commit fails because a record did, it is aborted, too, and the error is raised;
        the next transaction may begin then.

        Args:
            timeout: seconds, of the commit or of the abort; None takes `max_block_ms`.

        Raises:
            OttlaError: as `begin_transaction` and `commit_transaction`.
        """
        timeout = seconds_in(timeout)  # At its end a wrong one would leave the transaction open.
        self.begin_transaction()
        try:
            yield
            self.commit_transaction(timeout)
        except BaseException as error:
            if self._transactions.wants_abort:
                try:
                    self.abort_transaction(timeout)
                except OttlaError as abort_error:
                    noting(error, abort_error)
            raise
