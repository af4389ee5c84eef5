"""One entry to all handlers: (image, command, context) in, records and a response out.

Handlers are pure; see `ottla_cluster.groups.handlers`, whose runtime runs these, too.
"""

from heapq import nsmallest
from typing import assert_never

from ottla_cluster.state_machine.result import Result
from ottla_cluster.transactions.commands import (
    AbortTransaction,
    AddPartitions,
    Command,
    CompleteTransaction,
    DescribeTransaction,
    DescribeTransactionResponse,
    EndTransaction,
    ExpireTransactionalIds,
    InitialiseProducer,
    ListTransactions,
    ListTransactionsResponse,
    Response,
)
from ottla_cluster.transactions.context import TransactionContext
from ottla_cluster.transactions.ending import (
    abort_transaction,
    complete_transaction,
    end_transaction,
)
from ottla_cluster.transactions.image import TransactionsImage
from ottla_cluster.transactions.known_ids import (
    expire_transactional_ids,
    known_transaction,
)
from ottla_cluster.transactions.limits import MAX_LISTED_IDS, MAX_LISTED_PARTITIONS
from ottla_cluster.transactions.opening import add_partitions, initialise_producer
from ottla_cluster.transactions.records import TransactionalIdChanged, TransactionRecord


def handle(
    image: TransactionsImage, command: Command, context: TransactionContext
) -> Result[TransactionRecord, Response]:
    """Decides one command.

    Args:
        image: what has been appended so far, committed or not.
        command: what is asked.
        context: the rest that the decision depends on.

    Raises:
        OttlaError: the command is refused; nothing changes. Each handler names its own.
    """
    match command:
        case AddPartitions():
            return add_partitions(image, command, context)
        case EndTransaction():
            return end_transaction(image, command, context)
        case CompleteTransaction():
            return complete_transaction(image, command, context)
        case InitialiseProducer():
            return initialise_producer(image, command, context)
        case AbortTransaction():
            return abort_transaction(image, command, context)
        case ExpireTransactionalIds():
            return expire_transactional_ids(image, command, context)
        case DescribeTransaction():
            found = known_transaction(image, command.transactional_id)
            return Result((), DescribeTransactionResponse(found))
        case ListTransactions():
            return list_transactions(image, command)
        case _:
            assert_never(command)


def list_transactions(
    image: TransactionsImage, command: ListTransactions
) -> Result[TransactionRecord, ListTransactionsResponse]:
    """As many of those that are asked for as one answer may have; at least one, if there is any."""
    wanted = (
        transactional_id
        for transactional_id, each in image.transactions.items()
        if (command.behind is None or transactional_id > command.behind)
        and _is_asked_for(command, each)
    )
    limit = max(1, min(command.limit, MAX_LISTED_IDS))
    first = nsmallest(limit + 1, wanted)
    found: list[TransactionalIdChanged] = []
    partitions = 0
    for transactional_id in first[:limit]:
        each = image.transactions[transactional_id]
        partitions += len(each.partitions)
        if found and partitions > MAX_LISTED_PARTITIONS:
            break
        found.append(each)
    has_more = len(found) < len(first)
    return Result((), ListTransactionsResponse(tuple(found), has_more))


def _is_asked_for(command: ListTransactions, each: TransactionalIdChanged) -> bool:
    if command.states is not None and each.state not in command.states:
        return False
    if command.started_before_ms is None:
        return True
    started_ms = each.started_timestamp_ms
    return started_ms is not None and started_ms < command.started_before_ms
