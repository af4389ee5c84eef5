"""What a transaction coordinator is asked, and what it answers, as it crosses the wire.

Commands and responses are maps that name their type; a command with an unknown field is refused,
a response may gain fields, as those of `ottla_cluster.groups.commands`.

`ClientCommand` is what brokers forward for clients and leaders; the coordinator's own commands
never cross the wire, and `decode_command` refuses them.
"""

import msgspec

from ottla_cluster.transactions.records import (
    EndedBy,
    ProducerIdentity,
    TransactionalIdChanged,
    TransactionPartition,
    TransactionState,
)
from ottla_protocol.errors import MalformedBodyError


class _Command(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """The encoding that all commands share."""


class _Response(msgspec.Struct, frozen=True, tag_field="type"):
    """The encoding that all responses share."""


class InitialiseProducer(_Command, frozen=True, tag="initialise_producer"):
    """A producer takes a transactional id over; whoever held it before is fenced (KIP-98)."""

    transactional_id: str
    timeout_ms: int | None
    """How long each of its transactions may be open; None for the default."""
    identity: ProducerIdentity | None
    """What it was granted before, where it only wants to go on after an error (KIP-360): it is
    refused if somebody else has taken the id over meanwhile."""


class InitialiseProducerResponse(_Response, frozen=True, tag="producer_initialised"):
    """What the producer is granted; None while its predecessor's transaction is being aborted.

    Then the same command is to be sent again once the markers are written.
    """

    granted: ProducerIdentity | None


class AddPartitions(_Command, frozen=True, tag="add_partitions"):
    """Partitions enter the producer's transaction, which begins with the first of them.

    A leader asks this before it takes the transaction's first batch (KIP-890).
    """

    transactional_id: str
    identity: ProducerIdentity
    partitions: tuple[TransactionPartition, ...]


class AddPartitionsResponse(_Response, frozen=True, tag="partitions_added"):
    """They are in it, durably."""


class EndTransaction(_Command, frozen=True, tag="end_transaction"):
    """The producer commits or aborts. May be sent again: the decision stands."""

    transactional_id: str
    identity: ProducerIdentity
    """The one that the transaction's records were written by."""
    is_commit: bool


class EndTransactionResponse(_Response, frozen=True, tag="transaction_ended"):
    """It is decided, durably; `granted` is the producer's identity from now on (KIP-890)."""

    granted: ProducerIdentity


class AbortTransaction(_Command, frozen=True, tag="abort_transaction"):
    """The open transaction of that identity is aborted, by whoever is not its producer."""

    transactional_id: str
    identity: ProducerIdentity
    by: EndedBy
    """TIMEOUT or OPERATOR."""


class AbortTransactionResponse(_Response, frozen=True, tag="transaction_aborted"):
    """Whether that transaction was open; it is being aborted now."""

    was_open: bool


class CompleteTransaction(_Command, frozen=True, tag="complete_transaction"):
    """Every partition has the marker of the decision; the coordinator's own command."""

    transactional_id: str
    marker: ProducerIdentity
    """What the markers carry."""


class CompleteTransactionResponse(_Response, frozen=True, tag="transaction_completed"):
    """Done; nothing was to be done where another transaction is under way by now."""


class ExpireTransactionalIds(_Command, frozen=True, tag="expire_transactional_ids"):
    """Ids that nobody has used for long are forgotten; the coordinator's own command."""

    transactional_ids: tuple[str, ...]


class ExpireTransactionalIdsResponse(_Response, frozen=True, tag="transactional_ids_expired"):
    """How many were."""

    removed: int


class DescribeTransaction(_Command, frozen=True, tag="describe_transaction"):
    """All about one transactional id."""

    transactional_id: str


class DescribeTransactionResponse(_Response, frozen=True, tag="transaction_described"):
    """As it stands."""

    transaction: TransactionalIdChanged


class ListTransactions(_Command, frozen=True, tag="list_transactions"):
    """The transactional ids of this coordinator, all or those in some states."""

    states: frozenset[TransactionState] | None = None


class ListTransactionsResponse(_Response, frozen=True, tag="transactions_listed"):
    """By transactional id."""

    transactions: tuple[TransactionalIdChanged, ...]


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

_COMMAND_DECODER: msgspec.msgpack.Decoder[ClientCommand] = msgspec.msgpack.Decoder(ClientCommand)
_RESPONSE_DECODER: msgspec.msgpack.Decoder[Response] = msgspec.msgpack.Decoder(Response)


def encode_message(message: Command | Response) -> bytes:
    """A command or response as MessagePack."""
    return msgspec.msgpack.encode(message)


def decode_command(body: bytes) -> ClientCommand:
    """The command that a broker forwarded.

    Raises:
        MalformedBodyError: it does not parse, has an unknown type or field, or is one of the
            coordinator's own.
    """
    try:
        return _COMMAND_DECODER.decode(body)
    except msgspec.DecodeError as error:
        raise MalformedBodyError(f"A transaction command does not parse: {error}") from error


def decode_response(body: bytes | bytearray) -> Response:
    """The response that a coordinator sent.

    Raises:
        MalformedBodyError: it does not parse, or is of an unknown type.
    """
    try:
        return _RESPONSE_DECODER.decode(body)
    except msgspec.DecodeError as error:
        raise MalformedBodyError(f"A transaction response does not parse: {error}") from error
