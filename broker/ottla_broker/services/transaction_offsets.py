"""Has a group coordinator's partition in a transaction before it takes the transaction's offsets.

What is pending waits for a marker, and the marker comes only to partitions that are in the
transaction. So the coordinator's broker asks the transaction's coordinator first (KIP-890), but for
a producer of which something is pending already. A marker that overtakes the offsets after that is
remembered by the group coordinator, which refuses them then.
"""

import asyncio

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.group_coordinators import OFFSETS_TOPIC, GroupCoordinators
from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.services.transaction_verification import TransactionCoordinator
from ottla_cluster.groups.transaction_commands import CommitTransactionOffsets
from ottla_cluster.transactions.commands import AddPartitions
from ottla_cluster.transactions.records import ProducerIdentity, TransactionPartition
from ottla_protocol.errors import (
    CoordinatorNotAvailableError,
    OttlaError,
    Outcome,
    RequestTimedOutError,
    RoutingError,
)


class TransactionOffsets:
    """Asks before offsets become pending here.

    Args:
        metadata: knows the offsets topic.
        coordinators: the groups that are coordinated here.
        transactions: the way to the transactions' coordinators.
    """

    def __init__(
        self,
        *,
        metadata: MetadataCache,
        coordinators: GroupCoordinators,
        transactions: TransactionCoordinator,
    ) -> None:
        self._metadata = metadata
        self._coordinators = coordinators
        self._transactions = transactions

    async def have_added(
        self, partition: int, command: CommitTransactionOffsets, *, deadline_ms: int
    ) -> None:
        """Have the partition of `__consumer_offsets` in the transaction; returns once it is.

        Raises:
            OttlaError: the offsets, or the transaction, are refused; nothing is pending.
        """
        if self._coordinators.is_in_transaction(partition, command):
            return
        topic_id = self._metadata.image.topic(OFFSETS_TOPIC).topic_id
        add = AddPartitions(
            command.transactional_id,
            ProducerIdentity(command.producer_id, command.producer_epoch),
            (TransactionPartition(OFFSETS_TOPIC, topic_id, partition),),
        )
        try:
            async with asyncio.timeout(max(0, deadline_ms - monotonic_ms()) / 1000):
                await self._transactions.decide(command.transactional_id, add, repeatable=True)
        except TimeoutError:
            raise RequestTimedOutError(
                "the transaction's coordinator did not answer in time",
                outcome=Outcome.NOT_APPLIED,
            ) from None
        except RoutingError as error:
            # Where that coordinator is must not pass for where the group's is.
            raise CoordinatorNotAvailableError(
                f"the coordinator of {command.transactional_id!r} did not answer: {error.detail}",
                outcome=Outcome.NOT_APPLIED,
            ) from error
        except OttlaError as error:
            # Whatever became of that: the offsets are not pending.
            error.outcome = Outcome.NOT_APPLIED
            raise
