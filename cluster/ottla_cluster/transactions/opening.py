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
    SUCCESSOR,
    fenced,
    known_transaction,
    next_identity,
    require_granted,
    validate_transactional_id,
)
from ottla_cluster.transactions.limits import (
    MAX_PARTITIONS_PER_TRANSACTION,
    MAX_REMEMBERED_TAKEOVERS,
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
    IdempotencyKeyReusedError,
    InvalidRequestError,
    InvalidTransactionTimeoutError,
    OverloadedError,
    ProducerFencedError,
)


def initialise_producer(
    image: TransactionsImage, command: InitialiseProducer, context: TransactionContext
) -> Result[TransactionRecord, InitialiseProducerResponse]:
    """Grants the transactional id to whoever asks, in an epoch that nobody has had.

    An open transaction of the predecessor is aborted first, and the answer then grants nothing yet.
    A take-over that comes again, late or because its answer was lost, is answered the same while
    its producer has begun nothing, and never takes the id from anybody: not from those who came
    after it, nor from the producer that was answered before.

    Raises:
        InvalidRequestError: the id breaks a rule.
        InvalidTransactionTimeoutError: the time-out is not between 1 ms and the allowed most.
        IdempotencyKeyReusedError: the same attempt with another time-out.
        TransactionalIdNotFoundError: an identity is given and the id is not known.
        ProducerFencedError: the given identity does not hold the id any more; or the attempt was
            granted before, and its producer or another one has gone on since.
        ConcurrentTransactionsError: markers of the last transaction are being written.
        OverloadedError: there are MAX_TRANSACTIONAL_IDS already.
        CoordinatorNotAvailableError: see `next_identity`.
    """
    validate_transactional_id(command.transactional_id)
    timeout_ms = _allowed_timeout_ms(command.timeout_ms, context.config)
    if command.identity is not None:
        known = known_transaction(image, command.transactional_id)
        return _go_on(known, command.identity, timeout_ms, context)
    found = image.transactions.get(command.transactional_id)
    if found is None:
        return _first_grant(image, command, timeout_ms, context)
    if command.attempt and command.attempt in found.takeovers:
        return Result((), _granted_again(found, command.attempt, timeout_ms))
    if found.state in DECIDED:
        raise markers_missing(found)
    if found.state is TransactionState.ONGOING:
        aborting = decided(found, is_commit=False, by=EndedBy.SUCCESSOR, context=context)
        return Result((aborting,), InitialiseProducerResponse(None))
    granted = next_identity(found.granted, context)
    changed = replace(
        found,
        granted=granted,
        timeout_ms=timeout_ms,
        state=TransactionState.EMPTY,
        updated_timestamp_ms=context.timestamp_ms,
        ended=None,
        takeovers=_takeovers(command.attempt, found.takeovers),
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


def _granted_again(
    transaction: TransactionalIdChanged, attempt: bytes, timeout_ms: int
) -> InitialiseProducerResponse:
    """The answer to a take-over that was granted before."""
    is_last = attempt == transaction.takeovers[0]
    if is_last and transaction.state is TransactionState.EMPTY:
        if timeout_ms != transaction.timeout_ms:
            raise IdempotencyKeyReusedError(
                f"{transaction.transactional_id!r} was taken over under this idempotency_key with "
                f"timeout_ms {transaction.timeout_ms}, not {timeout_ms}. Repeat the call as it "
                "was, or use a new key."
            )
        return InitialiseProducerResponse(transaction.granted)
    since, what_to_do = (
        ("the producer that did so has gone on", "Go on with its token")
        if is_last
        else (f"{SUCCESSOR} has taken it over", "Stop this producer")
    )
    raise ProducerFencedError(
        f"{transaction.transactional_id!r} was taken over under this idempotency_key before, and "
        f"{since} since. {what_to_do}; a producer that starts again uses a new key."
    )


def _takeovers(attempt: bytes | None, former: tuple[bytes, ...]) -> tuple[bytes, ...]:
    # One that nobody can tell from others counts, too: it makes the one before it a former one.
    return (attempt or b"", *former)[:MAX_REMEMBERED_TAKEOVERS]


def _go_on(
    found: TransactionalIdChanged,
    identity: ProducerIdentity,
    timeout_ms: int,
    context: TransactionContext,
) -> Result[TransactionRecord, InitialiseProducerResponse]:
    """Ends what the identity had open, if anything, and grants what comes after that.

    The end is a decision like any other, and what it grants is all that the producer is granted:
    so the same command again, when the end is there, changes nothing and is answered the same.
    """
    _require_may_go_on(found, identity)
    if found.state in DECIDED:
        raise markers_missing(found)
    changed = found
    if identity == found.granted:
        # By the producer: who goes on is not to be fenced by its own command.
        changed = decided(found, is_commit=False, by=EndedBy.PRODUCER, context=context)
    if timeout_ms != changed.timeout_ms:
        changed = replace(changed, timeout_ms=timeout_ms, updated_timestamp_ms=context.timestamp_ms)
    granted = None if changed.state in DECIDED else changed.granted
    records = () if changed is found else (changed,)
    return Result(records, InitialiseProducerResponse(granted))


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
        takeovers=_takeovers(command.attempt, ()),
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
            f"timeout_ms must be 1 to {config.max_timeout_ms}, it is {timeout_ms}.",
            field="timeout_ms",
        )
    return timeout_ms
