"""Requests and responses of transactions; the rules are those of `models`.

`transaction` is the token of one transaction, see `transaction_tokens`. A producer has its first
one when it takes its transactional id over, and the next one with each commit and abort; every
call that belongs to a transaction carries that transaction's token.
"""

from typing import Annotated, Literal

from msgspec import Meta

from ottla_protocol.models import Request, Response
from ottla_protocol.models_groups import Count, Offset, OffsetToCommit, PartitionOffset
from ottla_protocol.transaction_tokens import MAX_PRODUCER_EPOCH, MAX_TRANSACTIONAL_ID_CHARACTERS

TransactionalId = Annotated[str, Meta(min_length=1, max_length=MAX_TRANSACTIONAL_ID_CHARACTERS)]
"""Printable characters; neither `.` nor `..`."""

IdempotencyKey = Annotated[str, Meta(min_length=1, max_length=255)]

TransactionStateName = Literal[
    "Empty", "Ongoing", "PrepareCommit", "PrepareAbort", "CompleteCommit", "CompleteAbort"
]
"""Where a transactional id is on its way; the names are Kafka's."""

GrantedEpoch = Annotated[int, Meta(ge=0, le=MAX_PRODUCER_EPOCH - 1)]
"""That of records; their marker carries one more."""

Decision = Literal["committed", "aborted"]

DEFAULT_LISTED_TRANSACTIONS = 100
MAX_LISTED_TRANSACTIONS = 1_000
"""How many transactional ids one answer tells of."""


class InitialiseProducerRequest(Request, frozen=True):
    """`POST /v1/transactions`: take a transactional id over; whoever held it before is fenced.

    With `transaction`, the token that the producer has, it only goes on after an error (KIP-360),
    and is refused if somebody else has taken the id over meanwhile. In both cases what was open is
    aborted before the answer. `timeout_ms` is how long each of its transactions may be open.

    With an `idempotency_key`, a new one each time that a producer starts, the call may be sent
    again: it takes the id over once. With `transaction` it may be sent again as it is.
    """

    transactional_id: TransactionalId
    timeout_ms: Count | None = None
    transaction: str | None = None
    idempotency_key: IdempotencyKey | None = None


class TransactionalProducer(Response, frozen=True):
    """What a producer is granted; `transaction` is the token of the transaction that it begins."""

    transactional_id: str
    transaction: str
    producer_id: int
    producer_epoch: int
    timeout_ms: int


class CommitTransactionOffsetsRequest(Request, frozen=True):
    """`POST …/offsets`: the group's offsets that are committed if the transaction is.

    Members name themselves and their generation, as in a commit without a transaction (KIP-447).
    """

    transaction: str
    group: str
    offsets: list[OffsetToCommit]
    member_id: str | None = None
    generation: Offset | None = None


class TransactionOffsets(Response, frozen=True):
    """What the group's offsets become with the commit, in the order of the request."""

    group: str
    offsets: list[PartitionOffset]


class CommitTransactionRequest(Request, frozen=True):
    """`POST …/commit`: with the token of the transaction that is to be committed."""

    transaction: str


class AbortTransactionRequest(Request, frozen=True):
    """`POST …/abort`: without `transaction` it is an operator's, of whatever is open.

    So is one without a body.
    """

    transaction: str | None = None


class TransactionEnd(Response, frozen=True):
    """What is decided, durably; `transaction` is the token of the producer's next transaction.

    Markers may be on their way yet: readers of committed records see the records in a moment.
    """

    transactional_id: str
    transaction: str
    producer_id: int
    producer_epoch: int
    state: Decision


class TransactionListing(Response, frozen=True):
    """One transactional id of a list; `age_ms` is None where nothing is open or being ended."""

    transactional_id: str
    state: TransactionStateName
    producer_id: int
    producer_epoch: int
    timeout_ms: int
    partitions: int
    age_ms: int | None


class TransactionList(Response, frozen=True):
    """`GET /v1/transactions`: by transactional id.

    Where there are more than the answer has, `next_cursor` is what to ask with as `cursor` for the
    rest.
    """

    transactions: list[TransactionListing]
    next_cursor: str | None = None


class TransactionPartition(Response, frozen=True):
    """A partition that is in a transaction."""

    topic: str
    partition: int


class EndedTransaction(Response, frozen=True):
    """The last transaction that was decided; `producer_epoch` is that of its records."""

    producer_id: int
    producer_epoch: int
    state: Decision
    by: Literal["producer", "timeout", "operator", "successor"]


class TransactionDescription(Response, frozen=True):
    """`GET /v1/transactions/{transactional_id}`; `coordinator` is a node id, or None.

    `partitions` are those of the open transaction, or those that may lack a marker. `ended` is None
    where nothing was decided since the id was taken over. Timestamps in ms since the epoch.
    """

    transactional_id: str
    coordinator: int | None
    state: TransactionStateName
    producer_id: int
    producer_epoch: int
    timeout_ms: int
    partitions: list[TransactionPartition]
    started_timestamp: int | None
    age_ms: int | None
    updated_timestamp: int
    ended: EndedTransaction | None


class OpenTransaction(Response, frozen=True):
    """A transaction that is open in one log: it has records there and no marker.

    `last_timestamp` is the largest of the producer's last batch, in ms since the epoch; `idle_ms`
    is how long ago that was.
    """

    producer_id: int
    producer_epoch: int
    first_offset: int
    last_timestamp: int
    idle_ms: int


class PartitionTransactions(Response, frozen=True):
    """`GET …/partitions/{partition}/transactions`: the oldest first, as the leader has them."""

    topic: str
    partition: int
    leader: int
    last_stable_offset: int
    high_watermark: int
    transactions: list[OpenTransaction]


class HangingTransaction(Response, frozen=True):
    """A transaction that is open in a log, and that no coordinator is going to end.

    `transactional_id` is None where no coordinator knows the producer.
    """

    topic: str
    partition: int
    producer_id: int
    producer_epoch: int
    first_offset: int
    last_timestamp: int
    idle_ms: int
    transactional_id: str | None


class HangingTransactionList(Response, frozen=True):
    """`GET /v1/hanging-transactions`: by topic, partition and first offset.

    `unavailable` are partitions whose leader did not tell what is open there.
    """

    transactions: list[HangingTransaction]
    unavailable: list[TransactionPartition]


class AbortHangingRequest(Request, frozen=True):
    """`POST …/transactions/{producer_id}/abort`: write an abort marker to one partition.

    Refused while a coordinator has the partition in a transaction of that producer: that one is
    aborted by its transactional id.
    """

    producer_epoch: GrantedEpoch
    """That of the open records, so that no later transaction is hit."""


class AbortedHanging(Response, frozen=True):
    """The marker is written; `aborted` is false where nothing was open, or no more by then."""

    topic: str
    partition: int
    producer_id: int
    producer_epoch: int
    aborted: bool
