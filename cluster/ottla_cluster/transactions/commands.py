"""What a transaction coordinator is asked, and what it answers, as it crosses the wire.

How they are encoded is in `ottla_cluster.state_machine.messages`.

`ClientCommand` is what brokers forward for clients and leaders; the coordinator's own commands
never cross the wire, and `decode_command` refuses them.
"""

from ottla_cluster.state_machine.messages import CommandMessage, MessageDecoder, ResponseMessage
from ottla_cluster.transactions.limits import MAX_LISTED_IDS
from ottla_cluster.transactions.records import (
    EndedBy,
    ProducerIdentity,
    TransactionalIdChanged,
    TransactionPartition,
    TransactionState,
)


class InitialiseProducer(CommandMessage, frozen=True, tag="initialise_producer"):
    """A producer takes a transactional id over; whoever held it before is fenced (KIP-98)."""

    transactional_id: str
    timeout_ms: int | None
    """How long each of its transactions may be open; None for the default."""
    identity: ProducerIdentity | None
    """What it was granted before, where it only wants to go on after an error (KIP-360): it is
    refused if somebody else has taken the id over meanwhile. May be sent again as it is."""
    attempt: bytes | None = None
    """What tells a repetition of this take-over from another producer's, ATTEMPT_BYTES long: one
    that was granted already is answered the same. None where nobody can tell; then each one is a
    take-over of its own. Of no account where there is an identity."""


class InitialiseProducerResponse(ResponseMessage, frozen=True, tag="producer_initialised"):
    """What the producer is granted; None while its predecessor's transaction is being aborted.

    Then the same command is to be sent again once the markers are written.
    """

    granted: ProducerIdentity | None


class AddPartitions(CommandMessage, frozen=True, tag="add_partitions"):
    """Partitions enter the producer's transaction, which begins with the first of them.

    A leader asks this before it takes the transaction's first batch (KIP-890).
    """

    transactional_id: str
    identity: ProducerIdentity
    partitions: tuple[TransactionPartition, ...]


class AddPartitionsResponse(ResponseMessage, frozen=True, tag="partitions_added"):
    """They are in it, durably."""


class EndTransaction(CommandMessage, frozen=True, tag="end_transaction"):
    """The producer commits or aborts. May be sent again: the decision stands."""

    transactional_id: str
    identity: ProducerIdentity
    """The one that the transaction's records were written by."""
    is_commit: bool


class EndTransactionResponse(ResponseMessage, frozen=True, tag="transaction_ended"):
    """It is decided, durably; `granted` is the producer's identity from now on (KIP-890)."""

    granted: ProducerIdentity


class AbortTransaction(CommandMessage, frozen=True, tag="abort_transaction"):
    """The open transaction of that identity is aborted, by whoever is not its producer."""

    transactional_id: str
    identity: ProducerIdentity
    by: EndedBy
    """TIMEOUT or OPERATOR."""


class AbortTransactionResponse(ResponseMessage, frozen=True, tag="transaction_aborted"):
    """Whether that transaction was open; it is being aborted now."""

    was_open: bool


class CompleteTransaction(CommandMessage, frozen=True, tag="complete_transaction"):
    """Every partition has the marker of the decision; the coordinator's own command."""

    transactional_id: str
    marker: ProducerIdentity
    """What the markers carry."""


class CompleteTransactionResponse(ResponseMessage, frozen=True, tag="transaction_completed"):
    """Done; nothing was to be done where another transaction is under way by now."""


class ExpireTransactionalIds(CommandMessage, frozen=True, tag="expire_transactional_ids"):
    """Ids that nobody has used for long are forgotten; the coordinator's own command."""

    transactional_ids: tuple[str, ...]


class ExpireTransactionalIdsResponse(ResponseMessage, frozen=True, tag="transactional_ids_expired"):
    """How many were."""

    removed: int


class DescribeTransaction(CommandMessage, frozen=True, tag="describe_transaction"):
    """All about one transactional id."""

    transactional_id: str


class DescribeTransactionResponse(ResponseMessage, frozen=True, tag="transaction_described"):
    """As it stands."""

    transaction: TransactionalIdChanged


class ListTransactions(CommandMessage, frozen=True, tag="list_transactions"):
    """The transactional ids of this coordinator, by id, from one on."""

    states: frozenset[TransactionState] | None = None
    """Only those in these states; None for all."""
    started_before_ms: int | None = None
    """Only those whose transaction, open or being ended, began before this time; None for all."""
    behind: str | None = None
    """Only ids that sort behind this one."""
    limit: int = MAX_LISTED_IDS
    """How many at most; never more than MAX_LISTED_IDS, fewer where they have many partitions."""


class ListTransactionsResponse(ResponseMessage, frozen=True, tag="transactions_listed"):
    """By transactional id; `has_more` tells that others sort behind the last of them."""

    transactions: tuple[TransactionalIdChanged, ...]
    has_more: bool = False


ClientCommand = (
    InitialiseProducer
    | AddPartitions
    | EndTransaction
    | AbortTransaction
    | DescribeTransaction
    | ListTransactions
)
"""What brokers forward to one another."""

Command = ClientCommand | CompleteTransaction | ExpireTransactionalIds
"""Any command to a transaction coordinator."""

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
"""Any response of a transaction coordinator."""

decode_command = MessageDecoder[ClientCommand](ClientCommand, "transaction command").decode
"""The command that a broker forwarded; those of the coordinator's own are refused."""

decode_response = MessageDecoder[Response](Response, "transaction response").decode
"""The response that a coordinator sent."""
