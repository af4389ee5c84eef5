"""The transactional calls of the asyncio producer."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from ottla._consumer_steps import offsets_in
from ottla._consumer_types import ConsumerGroupMetadata, OffsetAndMetadata, TopicPartition
from ottla._timeouts import seconds_in
from ottla._transactions_io import TransactionsIO, noting
from ottla_protocol.errors import OttlaError


class AsyncProducerTransactions(ABC):
    """Transactions; the rest of the producer is in `_aio_producer`."""

    @property
    @abstractmethod
    def _transactions(self) -> TransactionsIO: ...

    @abstractmethod
    def _check_usable(self) -> None: ...

    async def init_transactions(self, timeout: float | None = None) -> None:
        """Take the `transactional_id` over; see `ottla.Producer.init_transactions`.

        Raises:
            OttlaError: as there.
        """
        transactions = self._transactions
        self._check_usable()
        await transactions.initialise(timeout)

    def begin_transaction(self) -> None:
        """Begin a transaction; nothing is awaited. See `ottla.Producer.begin_transaction`.

        Raises:
            OttlaError: as there.
        """
        transactions = self._transactions
        self._check_usable()
        transactions.begin()

    async def send_offsets_to_transaction(
        self,
        offsets: Mapping[TopicPartition, OffsetAndMetadata | int],
        group_metadata: ConsumerGroupMetadata,
        timeout: float | None = None,
    ) -> None:
        """Have a group's offsets committed if the transaction is, and only then.

        Arguments are those of `ottla.Producer.send_offsets_to_transaction`. A call that is
        cancelled makes the transaction fail.

        Raises:
            OttlaError: as there.
        """
        transactions = self._transactions
        self._check_usable()
        checked = offsets_in(offsets, "offsets must be a mapping of partitions to the next offset")
        await transactions.send_offsets(checked, group_metadata, timeout)

    async def commit_transaction(self, timeout: float | None = None) -> None:
        """Commit all of the transaction, or nothing; see `ottla.Producer.commit_transaction`.

        Raises:
            OttlaError: as there.
        """
        transactions = self._transactions
        self._check_usable()
        await transactions.commit(timeout)

    async def abort_transaction(self, timeout: float | None = None) -> None:
        """Give the transaction up; see `ottla.Producer.abort_transaction`.

        Raises:
            OttlaError: as there.
        """
        transactions = self._transactions
        self._check_usable()
        await transactions.abort(timeout)

    @asynccontextmanager
    async def transaction(self, timeout: float | None = None) -> AsyncIterator[None]:
        """A transaction for an async with block: committed at its end, aborted if it raises.

        See `ottla.Producer.transaction`.

        Raises:
            OttlaError: as there.
        """
        timeout = seconds_in(timeout)  # At its end a wrong one would leave the transaction open.
        self.begin_transaction()
        try:
            yield
            await self.commit_transaction(timeout)
        except BaseException as error:
            if self._transactions.wants_abort:
                try:
                    await self.abort_transaction(timeout)
                except OttlaError as abort_error:
                    noting(error, abort_error)
            raise
