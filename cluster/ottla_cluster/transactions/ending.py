"""How a transaction is decided, and how it is over once every partition knows.

A decision is durable before anybody is told of it, and before the first marker leaves. It grants
the producer a new identity (KIP-890): what was sent under the former one and arrives late, a batch
or a decision, can then never touch the next transaction.
"""

from msgspec.structs import replace

from ottla_cluster.state_machine.result import Result
from ottla_cluster.transactions.commands import (
    AbortTransaction,
    AbortTransactionResponse,
    CompleteTransaction,
    CompleteTransactionResponse,
    EndTransaction,
    EndTransactionResponse,
)
from ottla_cluster.transactions.context import TransactionContext
from ottla_cluster.transactions.image import TransactionsImage
from ottla_cluster.transactions.known_ids import (
    DECIDED,
    aborted_by_others,
    fenced,
    known_transaction,
    next_identity,
)
from ottla_cluster.transactions.records import (
    EndedBy,
    EndedTransaction,
    ProducerIdentity,
    TransactionalIdChanged,
    TransactionRecord,
    TransactionState,
)
from ottla_protocol.errors import (
    ConcurrentTransactionsError,
    InvalidTransactionStateError,
)


def end_transaction(
    image: TransactionsImage, command: EndTransaction, context: TransactionContext
) -> Result[TransactionRecord, EndTransactionResponse]:
    """Decides the producer's transaction, one without partitions too; or repeats the answer.

    Raises:
        TransactionalIdNotFoundError: the id is not known.
        ProducerFencedError: the producer does not hold the id any more.
        ConcurrentTransactionsError: markers of the transaction before are being written.
        InvalidTransactionStateError: the transaction was decided the other way by its producer.
        TransactionAbortableError: a commit, and the transaction was aborted by its time-out or by
            an operator; an abort acknowledges that.
        CoordinatorNotAvailableError: see `next_identity`.
    """
    found = known_transaction(image, command.transactional_id)
    if command.identity != found.granted:
        return Result((), _answer_again(found, command))
    if found.state in DECIDED:
        # Its transaction cannot have begun, so what it wants ended is the next one.
        raise ConcurrentTransactionsError(
            f"The last transaction of {found.transactional_id!r} is decided, and its markers are "
            "being written; try again in a moment."
        )
    changed = decided(
        found,
        is_commit=command.is_commit,
        by=EndedBy.PRODUCER,
        context=context,
    )
    return Result((changed,), EndTransactionResponse(changed.granted))


def abort_transaction(
    image: TransactionsImage, command: AbortTransaction, context: TransactionContext
) -> Result[TransactionRecord, AbortTransactionResponse]:
    """Aborts the open transaction of that identity, if it still is.

    Raises:
        TransactionalIdNotFoundError: the id is not known.
        CoordinatorNotAvailableError: see `next_identity`.
    """
    found = known_transaction(image, command.transactional_id)
    if found.state is not TransactionState.ONGOING or found.granted != command.identity:
        return Result((), AbortTransactionResponse(was_open=False))
    changed = decided(
        found,
        is_commit=False,
        by=command.by,
        context=context,
    )
    return Result((changed,), AbortTransactionResponse(was_open=True))


def complete_transaction(
    image: TransactionsImage, command: CompleteTransaction, context: TransactionContext
) -> Result[TransactionRecord, CompleteTransactionResponse]:
    """The markers are written: the next transaction may begin."""
    found = image.transactions.get(command.transactional_id)
    if (
        found is None
        or found.state not in DECIDED
        or found.ended is None
        or marker_identity(found.ended) != command.marker
    ):
        return Result((), CompleteTransactionResponse())
    changed = replace(
        found,
        state=_complete(is_commit=found.ended.is_committed),
        partitions=(),
        started_timestamp_ms=None,
        updated_timestamp_ms=context.timestamp_ms,
    )
    return Result((changed,), CompleteTransactionResponse())


def decided(
    transaction: TransactionalIdChanged,
    *,
    is_commit: bool,
    by: EndedBy,
    context: TransactionContext,
) -> TransactionalIdChanged:
    """The transaction as it is once it is decided; complete at once where it has no partitions."""
    if transaction.partitions:
        state = TransactionState.PREPARE_COMMIT if is_commit else TransactionState.PREPARE_ABORT
    else:
        state = _complete(is_commit=is_commit)
    return replace(
        transaction,
        granted=next_identity(transaction.granted, context),
        state=state,
        updated_timestamp_ms=context.timestamp_ms,
        ended=EndedTransaction(transaction.granted, is_commit, by),
    )


def marker_identity(ended: EndedTransaction) -> ProducerIdentity:
    """What the markers of a decided transaction carry.

    One epoch more than its records: a log that has the marker refuses whatever of the transaction
    arrives after it, and takes the same marker once only (KIP-890).
    """
    identity = ended.identity
    return ProducerIdentity(identity.producer_id, identity.producer_epoch + 1)


def _answer_again(
    transaction: TransactionalIdChanged, command: EndTransaction
) -> EndTransactionResponse:
    """The answer to a decision about the last transaction, which has been made."""
    ended = transaction.ended
    if ended is None or ended.identity != command.identity or ended.by is EndedBy.SUCCESSOR:
        raise fenced(transaction, command.identity)
    if ended.is_committed == command.is_commit:
        return EndTransactionResponse(transaction.granted)
    if ended.by is EndedBy.PRODUCER:
        done, wanted = ("committed", "aborted") if ended.is_committed else ("aborted", "committed")
        raise InvalidTransactionStateError(
            f"The transaction of {transaction.transactional_id!r} is {done} already and cannot be "
            f"{wanted}."
        )
    raise aborted_by_others(transaction, ended)


def _complete(*, is_commit: bool) -> TransactionState:
    return TransactionState.COMPLETE_COMMIT if is_commit else TransactionState.COMPLETE_ABORT
