"""Transactional ids: which may be, which are known, who holds one, and which are forgotten."""

from ottla_cluster.state_machine.identifiers import validate_identifier
from ottla_cluster.state_machine.result import Result
from ottla_cluster.transactions.commands import (
    ExpireTransactionalIds,
    ExpireTransactionalIdsResponse,
)
from ottla_cluster.transactions.context import TransactionContext
from ottla_cluster.transactions.image import TransactionsImage
from ottla_cluster.transactions.limits import (
    MAX_GRANTED_PRODUCER_EPOCH,
    MAX_TRANSACTIONAL_ID_LENGTH,
)
from ottla_cluster.transactions.records import (
    EndedBy,
    EndedTransaction,
    ProducerIdentity,
    TransactionalIdChanged,
    TransactionalIdRemoved,
    TransactionRecord,
    TransactionState,
)
from ottla_protocol.errors import (
    CoordinatorNotAvailableError,
    InvalidRequestError,
    ProducerFencedError,
    TransactionAbortableError,
    TransactionalIdNotFoundError,
)

AT_REST = frozenset(
    {TransactionState.EMPTY, TransactionState.COMPLETE_COMMIT, TransactionState.COMPLETE_ABORT}
)
"""Nothing is open and no marker is missing."""

DECIDED = frozenset({TransactionState.PREPARE_COMMIT, TransactionState.PREPARE_ABORT})
"""The decision is made, and markers may be missing."""

BY_OTHERS = frozenset({EndedBy.TIMEOUT, EndedBy.OPERATOR})
"""Who ends a transaction without taking its id over: its producer is to abort it and go on."""

SUCCESSOR = "another producer, or a later start of the same one,"
"""Who has taken an id over. Nobody but they can tell these two apart."""

_STOP = "Stop this producer."
_STOP_UNLESS_OLD = (
    "Go on with the token that the last commit or abort was answered with; if it is this one, stop "
    "this producer."
)
"""Where nobody knows any more whether the id was taken over."""


def validate_transactional_id(transactional_id: str) -> None:
    """Refuses an id that breaks a rule; call it after URL-decoding.

    Raises:
        InvalidRequestError: its detail names the rule.
    """
    validate_identifier(
        transactional_id,
        name="transactional_id",
        max_length=MAX_TRANSACTIONAL_ID_LENGTH,
        refusal=InvalidRequestError,
    )


def known_transaction(image: TransactionsImage, transactional_id: str) -> TransactionalIdChanged:
    """What is known of an id.

    Raises:
        TransactionalIdNotFoundError: nothing; it was never initialised, or has expired.
    """
    transaction = image.transactions.get(transactional_id)
    if transaction is None:
        raise TransactionalIdNotFoundError(
            f"The transactional id {transactional_id!r} is not known: it was never initialised, or "
            "nobody has used it for long."
        )
    return transaction


def require_granted(transaction: TransactionalIdChanged, identity: ProducerIdentity) -> None:
    """Refuses whoever does not hold the id (any more).

    Raises:
        ProducerFencedError: another identity is granted, to somebody else or for the next
            transaction.
        TransactionAbortableError: that identity's transaction was aborted by its time-out or by an
            operator, and nobody has taken the id over: once the producer aborts, too, it goes on.
    """
    if identity == transaction.granted:
        return
    ended = transaction.ended
    if ended is not None and ended.identity == identity and ended.by in BY_OTHERS:
        raise aborted_by_others(transaction, ended)
    raise fenced(transaction, identity)


def aborted_by_others(
    transaction: TransactionalIdChanged, ended: EndedTransaction
) -> TransactionAbortableError:
    """The refusal to go on with a transaction that its producer did not end."""
    why = (
        f"it was open for longer than {transaction.timeout_ms} ms"
        if ended.by is EndedBy.TIMEOUT
        else "an operator did so"
    )
    return TransactionAbortableError(
        f"The transaction of {transaction.transactional_id!r} was aborted: {why}. Abort it, too, "
        "and go on with the next one."
    )


def fenced(transaction: TransactionalIdChanged, identity: ProducerIdentity) -> ProducerFencedError:
    """The refusal of an identity that is not the granted one.

    It says why, as far as that is known, and what to do. Identities of before the last decision are
    not remembered: what is made up looks like an old one then, and is told so.
    """
    why, what_to_do = _why_fenced(transaction, identity)
    return ProducerFencedError(
        f"Producer {identity.producer_id} epoch {identity.producer_epoch} does not hold the "
        f"transactional id {transaction.transactional_id!r}: {why}. {what_to_do}"
    )


def _why_fenced(transaction: TransactionalIdChanged, identity: ProducerIdentity) -> tuple[str, str]:
    """Why, and what to do."""
    ended, granted = transaction.ended, transaction.granted
    if ended is not None and ended.identity == identity:
        if ended.by is EndedBy.SUCCESSOR:
            return (
                f"{SUCCESSOR} has taken the id over, and the transaction of this one is aborted",
                _STOP,
            )
        done, end = ("committed", "commit") if ended.is_committed else ("aborted", "abort")
        return f"its transaction is {done}", (
            f"Go on with the token that the {end} was answered with; if that answer was lost, send "
            f"the {end} again."
        )
    if identity.producer_id != granted.producer_id:
        return "another producer id does; this one did before, or never", _STOP_UNLESS_OLD
    if identity.producer_epoch > granted.producer_epoch:
        return "its coordinator knows of no such epoch", "Take the id over to get one."
    if ended is None:
        return f"{SUCCESSOR} has taken the id over since", _STOP
    return f"its transaction is over, or {SUCCESSOR} has taken the id over", _STOP_UNLESS_OLD


def next_identity(
    identity: ProducerIdentity | None, context: TransactionContext
) -> ProducerIdentity:
    """What is granted after an identity: its next epoch, or a new id where none is left.

    Raises:
        CoordinatorNotAvailableError: it takes a new producer id, and there is none just now.
    """
    if identity is not None and identity.producer_epoch < MAX_GRANTED_PRODUCER_EPOCH:
        return ProducerIdentity(identity.producer_id, identity.producer_epoch + 1)
    if context.fresh_producer_id is None:
        raise CoordinatorNotAvailableError("This coordinator waits for producer ids.")
    return ProducerIdentity(context.fresh_producer_id, 0)


def expire_transactional_ids(
    image: TransactionsImage, command: ExpireTransactionalIds, context: TransactionContext
) -> Result[TransactionRecord, ExpireTransactionalIdsResponse]:
    """Forgets those of the named ids that are at rest and too old."""
    removed = tuple(
        TransactionalIdRemoved(name)
        for name in command.transactional_ids
        if (found := image.transactions.get(name)) is not None and has_expired(found, context)
    )
    return Result(removed, ExpireTransactionalIdsResponse(len(removed)))


def has_expired(transaction: TransactionalIdChanged, context: TransactionContext) -> bool:
    """Whether an id is at rest, and nobody has used it for long."""
    age_ms = context.timestamp_ms - transaction.updated_timestamp_ms
    return transaction.state in AT_REST and age_ms >= context.config.transactional_id_expiration_ms
