"""How a producer comes to a transactional id, and partitions into its transaction."""

from msgspec.structs import replace

from ottla_cluster.state_machine.result import Result
from ottla_cluster.transactions.commands import (
    AddPartitions,
    AddPartitionsResponse,
    InitialiseProducer,
    InitialiseProducerResponse,
)
from ottla_cluster.transactions.config import TransactionConfig
from ottla_cluster.transactions.context import TransactionContext
from ottla_cluster.transactions.ending import decided
from ottla_cluster.transactions.image import TransactionsImage
from ottla_cluster.transactions.known_ids import (
    DECIDED,
    fenced,
    known_transaction,
    next_identity,
    require_granted,
    validate_transactional_id,
)
from ottla_cluster.transactions.limits import (
    MAX_PARTITIONS_PER_TRANSACTION,
    MAX_TRANSACTIONAL_IDS,
)
from ottla_cluster.transactions.records import (
    EndedBy,
    ProducerIdentity,
    TransactionalIdChanged,
    TransactionRecord,
    TransactionState,
)
from ottla_protocol.errors import (
    ConcurrentTransactionsError,
    InvalidRequestError,
    InvalidTransactionTimeoutError,
    OverloadedError,
)


def initialise_producer(
    image: TransactionsImage, command: InitialiseProducer, context: TransactionContext
) -> Result[TransactionRecord, InitialiseProducerResponse]:
    """Grants the transactional id to whoever asks, in an epoch that nobody has had.

    An open transaction of the predecessor is aborted first, and the answer then grants nothing yet.

    Raises:
        InvalidRequestError: the id breaks a rule.
        InvalidTransactionTimeoutError: the time-out is not between 1 ms and the allowed most.
        TransactionalIdNotFoundError: an identity is given and the id is not known.
        ProducerFencedError: the given identity does not hold the id any more.
        ConcurrentTransactionsError: markers of the last transaction are being written.
        OverloadedError: there are MAX_TRANSACTIONAL_IDS already.
        CoordinatorNotAvailableError: see `next_identity`.
    """
    validate_transactional_id(command.transactional_id)
    timeout_ms = _allowed_timeout_ms(command.timeout_ms, context.config)
    found = image.transactions.get(command.transactional_id)
    if command.identity is not None:
        found = known_transaction(image, command.transactional_id)
        _require_may_go_on(found, command.identity)
    if found is None:
        return _first_grant(image, command, timeout_ms, context)
    if found.state in DECIDED:
        raise markers_missing(found)
    if found.state is TransactionState.ONGOING:
        aborting = decided(
            found,
            is_commit=False,
            # Who goes on with its own identity is not to be fenced by its own command.
            by=EndedBy.SUCCESSOR if command.identity is None else EndedBy.PRODUCER,
            context=context,
        )
        return Result((aborting,), InitialiseProducerResponse(None))
    granted = next_identity(found.granted, context)
    changed = replace(
        found,
        granted=granted,
        timeout_ms=timeout_ms,
        state=TransactionState.EMPTY,
        updated_timestamp_ms=context.timestamp_ms,
        ended=None,
    )
    return Result((changed,), InitialiseProducerResponse(granted))


def add_partitions(
    image: TransactionsImage, command: AddPartitions, context: TransactionContext
) -> Result[TransactionRecord, AddPartitionsResponse]:
    """Has partitions in the producer's transaction; one begins where none is open.

    Raises:
        TransactionalIdNotFoundError: the id is not known.
        ProducerFencedError: the producer does not hold the id, or its transaction is decided.
        TransactionAbortableError: its time-out or an operator has aborted the transaction.
        ConcurrentTransactionsError: markers of the last transaction are being written.
        InvalidRequestError: none, or more than MAX_PARTITIONS_PER_TRANSACTION.
    """
    if not command.partitions:
        raise InvalidRequestError("partitions must name one partition at least.")
    found = known_transaction(image, command.transactional_id)
    require_granted(found, command.identity)
    if found.state in DECIDED:
        raise markers_missing(found)
    has_begun = found.state is TransactionState.ONGOING
    partitions = tuple(sorted({*found.partitions, *command.partitions}))
    if len(partitions) > MAX_PARTITIONS_PER_TRANSACTION:
        raise InvalidRequestError(
            f"A transaction has at most {MAX_PARTITIONS_PER_TRANSACTION} partitions."
        )
    if has_begun and len(partitions) == len(found.partitions):
        return Result((), AddPartitionsResponse())
    changed = replace(
        found,
        state=TransactionState.ONGOING,
        partitions=partitions,
        started_timestamp_ms=(found.started_timestamp_ms if has_begun else context.timestamp_ms),
        updated_timestamp_ms=context.timestamp_ms,
    )
    return Result((changed,), AddPartitionsResponse())


def markers_missing(transaction: TransactionalIdChanged) -> ConcurrentTransactionsError:
    """The refusal while the last decision is still carried to its partitions."""
    return ConcurrentTransactionsError(
        f"The last transaction of {transaction.transactional_id!r} is decided, and its markers are "
        "being written; try again in a moment."
    )


def _first_grant(
    image: TransactionsImage,
    command: InitialiseProducer,
    timeout_ms: int,
    context: TransactionContext,
) -> Result[TransactionRecord, InitialiseProducerResponse]:
    if len(image.transactions) >= MAX_TRANSACTIONAL_IDS:
        raise OverloadedError(
            f"This coordinator has {MAX_TRANSACTIONAL_IDS} transactional ids already."
        )
    granted = next_identity(None, context)
    made = TransactionalIdChanged(
        transactional_id=command.transactional_id,
        granted=granted,
        timeout_ms=timeout_ms,
        state=TransactionState.EMPTY,
        partitions=(),
        started_timestamp_ms=None,
        updated_timestamp_ms=context.timestamp_ms,
        ended=None,
    )
    return Result((made,), InitialiseProducerResponse(granted))


def _require_may_go_on(transaction: TransactionalIdChanged, identity: ProducerIdentity) -> None:
    """Refuses a producer that wants to go on when somebody else has taken its id over."""
    ended = transaction.ended
    if identity == transaction.granted:
        return
    if (
        ended is not None
        and identity == ended.identity
        and ended.by is not EndedBy.SUCCESSOR
        # Who has begun the next transaction knows its identity: this command comes late.
        and transaction.state is not TransactionState.ONGOING
    ):
        return
    raise fenced(transaction, identity)


def _allowed_timeout_ms(timeout_ms: int | None, config: TransactionConfig) -> int:
    if timeout_ms is None:
        return config.default_timeout_ms
    if not 0 < timeout_ms <= config.max_timeout_ms:
        raise InvalidTransactionTimeoutError(
            f"timeout_ms must be 1 to {config.max_timeout_ms}, it is {timeout_ms}."
        )
    return timeout_ms
