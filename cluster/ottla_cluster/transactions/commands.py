"""What a transaction coordinator is asked, and what it answers."""

from dataclasses import dataclass

from ottla_cluster.transactions.records import (
    EndedBy,
    ProducerIdentity,
    TransactionalIdChanged,
    TransactionPartition,
    TransactionState,
)


@dataclass(frozen=True, slots=True)
class InitialiseProducer:
    """A producer takes a transactional id over; whoever held it before is fenced (KIP-98)."""

    transactional_id: str
    timeout_ms: int | None
    """How long each of its transactions may be open; None for the default."""
    identity: ProducerIdentity | None
    """What it was granted before, where it only wants to go on after an error (KIP-360): it is
    refused if somebody else has taken the id over meanwhile."""


@dataclass(frozen=True, slots=True)
class InitialiseProducerResponse:
    """What the producer is granted; None while its predecessor's transaction is being aborted.

    Then the same command is to be sent again once the markers are written.
    """

    granted: ProducerIdentity | None


@dataclass(frozen=True, slots=True)
class AddPartitions:
    """Partitions enter the producer's transaction, which begins with the first of them.

    A leader asks this before it takes the transaction's first batch (KIP-890).
    """

    transactional_id: str
    identity: ProducerIdentity
    partitions: tuple[TransactionPartition, ...]


@dataclass(frozen=True, slots=True)
class AddPartitionsResponse:
    """They are in it, durably."""


@dataclass(frozen=True, slots=True)
class EndTransaction:
    """The producer commits or aborts. May be sent again: the decision stands."""

    transactional_id: str
    identity: ProducerIdentity
    """The one that the transaction's records were written by."""
    is_commit: bool


@dataclass(frozen=True, slots=True)
class EndTransactionResponse:
    """It is decided, durably; `granted` is the producer's identity from now on (KIP-890)."""

    granted: ProducerIdentity


@dataclass(frozen=True, slots=True)
class AbortTransaction:
    """The open transaction of that identity is aborted, by whoever is not its producer."""

    transactional_id: str
    identity: ProducerIdentity
    by: EndedBy
    """TIMEOUT or OPERATOR."""


@dataclass(frozen=True, slots=True)
class AbortTransactionResponse:
    """Whether that transaction was open; it is being aborted now."""

    was_open: bool


@dataclass(frozen=True, slots=True)
class CompleteTransaction:
    """Every partition has the marker of the decision; the coordinator's own command."""

    transactional_id: str
    marker: ProducerIdentity
    """What the markers carry."""


@dataclass(frozen=True, slots=True)
class CompleteTransactionResponse:
    """Done; nothing was to be done where another transaction is under way by now."""


@dataclass(frozen=True, slots=True)
class ExpireTransactionalIds:
    """Ids that nobody has used for long are forgotten; the coordinator's own command."""

    transactional_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExpireTransactionalIdsResponse:
    """How many were."""

    removed: int


@dataclass(frozen=True, slots=True)
class DescribeTransaction:
    """All about one transactional id."""

    transactional_id: str


@dataclass(frozen=True, slots=True)
class DescribeTransactionResponse:
    """As it stands."""

    transaction: TransactionalIdChanged


@dataclass(frozen=True, slots=True)
class ListTransactions:
    """The transactional ids of this coordinator, all or those in some states."""

    states: frozenset[TransactionState] | None = None


@dataclass(frozen=True, slots=True)
class ListTransactionsResponse:
    """By transactional id."""

    transactions: tuple[TransactionalIdChanged, ...]


Command = (
    InitialiseProducer
    | AddPartitions
    | EndTransaction
    | AbortTransaction
    | CompleteTransaction
    | ExpireTransactionalIds
    | DescribeTransaction
    | ListTransactions
)

Response = (
    InitialiseProducerResponse
    | AddPartitionsResponse
    | EndTransactionResponse
    | AbortTransactionResponse
    | CompleteTransactionResponse
    | ExpireTransactionalIdsResponse
    | DescribeTransactionResponse
    | ListTransactionsResponse
)
