"""Transactions: `/v1/transactions`, and what is open in a log."""

from ottla_broker.http import transactions
from ottla_broker.http.operation_tables.groups import (
    A_MEMBER_OR_NOBODY,
    COORDINATOR,
    MEMBER_ID_SCHEMA,
    MEMBERSHIP,
)
from ottla_broker.http.operation_tables.parameters import (
    GROUP,
    PARTITION,
    TOKEN_SCHEMA,
    TOPIC,
    TOPIC_NAME_SCHEMA,
    TRANSACTIONAL_ID,
    TRANSACTIONAL_ID_SCHEMA,
)
from ottla_broker.http.operations import Content, Operation, Parameter, integer, ok
from ottla_cluster.groups.limits import MAX_OFFSET_METADATA_LENGTH, MAX_OFFSETS_PER_COMMIT
from ottla_cluster.transactions.config import TransactionConfig
from ottla_cluster.transactions.records import TransactionState
from ottla_protocol import routes
from ottla_protocol.errors import (
    ConcurrentTransactionsError,
    IdempotencyKeyReusedError,
    InvalidProducerEpochError,
    InvalidTransactionStateError,
    InvalidTransactionTimeoutError,
    NonEmptyGroupError,
    ProducerFencedError,
    TransactionAbortableError,
    TransactionalIdNotFoundError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
    UnsupportedFeatureLevelError,
)
from ottla_protocol.listing_cursors import MAX_LISTING_CURSOR_CHARACTERS
from ottla_protocol.models_transactions import (
    DEFAULT_LISTED_TRANSACTIONS,
    MAX_LISTED_TRANSACTIONS,
    AbortedHanging,
    AbortHangingRequest,
    AbortTransactionRequest,
    CommitTransactionOffsetsRequest,
    CommitTransactionRequest,
    HangingTransactionList,
    InitialiseProducerRequest,
    PartitionTransactions,
    TransactionalProducer,
    TransactionDescription,
    TransactionEnd,
    TransactionList,
    TransactionOffsets,
)
from ottla_protocol.transaction_tokens import MAX_PRODUCER_ID

HELD = (
    *COORDINATOR,
    UnsupportedFeatureLevelError,
    TransactionalIdNotFoundError,
    ProducerFencedError,
    ConcurrentTransactionsError,
)
"""What a call may end in that the transactional id's coordinator has to answer."""

TOKEN = "7001.0.payments"  # noqa: S105  no secret: it tells what the coordinator granted
"""An example."""

TOKEN_OR_NONE = {**TOKEN_SCHEMA, "type": ["string", "null"]}

_STATES = "|".join(
    "".join(f"[{letter.upper()}{letter.lower()}]" for letter in state) for state in TransactionState
)
"""Capitals do not matter, which a pattern has no other word for."""

OPERATIONS = (
    Operation(
        "POST",
        routes.TRANSACTIONS,
        "initialiseProducer",
        "transactions",
        "Take a transactional id over",
        ok(TransactionalProducer, "`transaction` is the token of the transaction that begins."),
        description=(
            "Whoever held the id before is fenced, and what it left open is aborted before the "
            "answer. With `transaction` a producer that had an error goes on, and is refused if "
            "somebody else has taken the id over. With an `idempotency_key`, a new one each time "
            "that the producer starts, the call may be sent again and takes the id over once. A "
            "transaction begins with its first record."
        ),
        request=(
            Content(
                InitialiseProducerRequest,
                also={
                    "properties": {
                        "transactional_id": TRANSACTIONAL_ID_SCHEMA,
                        "transaction": TOKEN_OR_NONE,
                        "timeout_ms": {"minimum": 1, "maximum": TransactionConfig().max_timeout_ms},
                    }
                },
                example={"transactional_id": "payments"},
            ),
        ),
        problems=(*HELD, InvalidTransactionTimeoutError, IdempotencyKeyReusedError),
        broker_only=True,
    ),
    Operation(
        "POST",
        routes.TRANSACTION_OFFSETS,
        "commitTransactionOffsets",
        "transactions",
        "Commit a group's offsets with the transaction",
        ok(TransactionOffsets, "What the group's offsets become with the commit."),
        description=(
            "Until the transaction is decided the group's offsets stay as they are; an abort "
            "leaves them so. Members name themselves and their generation."
        ),
        parameters=(TRANSACTIONAL_ID,),
        request=(
            Content(
                CommitTransactionOffsetsRequest,
                also={
                    "oneOf": A_MEMBER_OR_NOBODY,
                    "properties": {
                        "transaction": TOKEN_SCHEMA,
                        "group": GROUP.schema,
                        "offsets": {
                            "minItems": 1,
                            "maxItems": MAX_OFFSETS_PER_COMMIT,
                            "items": {
                                "properties": {
                                    "metadata": {"maxLength": MAX_OFFSET_METADATA_LENGTH}
                                }
                            },
                        },
                        "member_id": MEMBER_ID_SCHEMA,
                    },
                },
                example={
                    "transaction": TOKEN,
                    "group": "billing",
                    "offsets": [{"topic": "flights", "partition": 0, "offset": 1}],
                },
            ),
        ),
        problems=(
            *HELD,
            *MEMBERSHIP,
            NonEmptyGroupError,
            TransactionAbortableError,
            InvalidTransactionStateError,
            UnknownTopicOrPartitionError,
        ),
        broker_only=True,
    ),
    Operation(
        "POST",
        routes.TRANSACTION_COMMIT,
        "commitTransaction",
        "transactions",
        "Commit the transaction",
        ok(TransactionEnd, "It is decided; `transaction` is the next one's token."),
        description=(
            "May be sent again: the decision stands, and the answer is the same. An empty "
            "transaction is committed, too."
        ),
        parameters=(TRANSACTIONAL_ID,),
        request=(
            Content(
                CommitTransactionRequest,
                also={"properties": {"transaction": TOKEN_SCHEMA}},
                example={"transaction": TOKEN},
            ),
        ),
        problems=(*HELD, TransactionAbortableError, InvalidTransactionStateError),
        broker_only=True,
    ),
    Operation(
        "POST",
        routes.TRANSACTION_ABORT,
        "abortTransaction",
        "transactions",
        "Abort the transaction",
        ok(TransactionEnd, "It is decided; `transaction` is the next one's token."),
        description=(
            "May be sent again. Without `transaction`, or without a body, it is an operator's, of "
            "whatever is open: the producer's commit is refused, and it goes on once it has "
            "aborted, too."
        ),
        parameters=(TRANSACTIONAL_ID,),
        request=(
            Content(
                AbortTransactionRequest,
                also={"properties": {"transaction": TOKEN_OR_NONE}},
                example={"transaction": TOKEN},
            ),
        ),
        is_body_required=False,
        problems=(*HELD, TransactionAbortableError, InvalidTransactionStateError),
        broker_only=True,
    ),
    Operation(
        "GET",
        routes.TRANSACTIONS,
        "listTransactions",
        "transactions",
        "Every transactional id",
        ok(TransactionList, "By transactional id; `next_cursor` goes on."),
        transactions.list_transactions,
        parameters=(
            Parameter(
                "state",
                "query",
                f"Only in these states, separated by commas: {', '.join(TransactionState)}. "
                "Capitals do not matter.",
                {
                    "type": "string",
                    "pattern": f"^({_STATES})(,({_STATES})){{0,{len(TransactionState) - 1}}}$",
                },
                "Ongoing",
            ),
            Parameter(
                "older_than_ms",
                "query",
                "Only transactions that have been open, or ending, for longer, in milliseconds.",
                integer(0, transactions.MAX_AGE_MS),
            ),
            Parameter(
                "limit",
                "query",
                "How many to list at most.",
                integer(1, MAX_LISTED_TRANSACTIONS, DEFAULT_LISTED_TRANSACTIONS),
            ),
            Parameter(
                "cursor",
                "query",
                "The `next_cursor` of the answer before.",
                {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": MAX_LISTING_CURSOR_CHARACTERS,
                },
            ),
        ),
        problems=COORDINATOR,
        broker_only=True,
    ),
    Operation(
        "GET",
        routes.TRANSACTION,
        "describeTransaction",
        "transactions",
        "One transactional id",
        ok(
            TransactionDescription, "Its state, what is in its transaction, and how the last ended."
        ),
        transactions.describe,
        parameters=(TRANSACTIONAL_ID,),
        problems=(*COORDINATOR, TransactionalIdNotFoundError),
        broker_only=True,
    ),
    Operation(
        "GET",
        routes.PARTITION_TRANSACTIONS,
        "partitionTransactions",
        "transactions",
        "What is open in a partition",
        ok(PartitionTransactions, "The oldest first: it holds readers of committed records back."),
        transactions.of_partition,
        parameters=(TOPIC, PARTITION),
        problems=(*COORDINATOR, UnknownTopicOrPartitionError),
        broker_only=True,
    ),
    Operation(
        "GET",
        routes.HANGING_TRANSACTIONS,
        "listHangingTransactions",
        "transactions",
        "Transactions that nobody is going to end",
        ok(HangingTransactionList, "Those that are open in a log and at no coordinator."),
        transactions.list_hanging,
        description=(
            "Looks at the logs of all partitions, or of one topic, and at all coordinators."
        ),
        parameters=(
            Parameter("topic", "query", "Only there.", TOPIC_NAME_SCHEMA, "flights"),
            Parameter(
                "idle_ms",
                "query",
                "Only those whose producers have written nothing for longer, in milliseconds; by "
                "default longer than any transaction may be open.",
                integer(0, transactions.MAX_AGE_MS),
            ),
        ),
        problems=(*COORDINATOR, UnknownTopicOrPartitionError),
        broker_only=True,
    ),
    Operation(
        "POST",
        routes.PARTITION_TRANSACTION_ABORT,
        "abortHangingTransaction",
        "transactions",
        "Abort what hangs in a partition",
        ok(AbortedHanging, "`aborted` is false where nothing of that producer was open."),
        transactions.abort_hanging,
        description=(
            "Writes an abort marker to this partition alone. Refused while a coordinator has it in "
            "that transaction, which is aborted by its transactional id."
        ),
        parameters=(
            TOPIC,
            PARTITION,
            Parameter(
                "producer",
                "path",
                "The id of the producer whose records they are.",
                integer(0, MAX_PRODUCER_ID),
                7001,
            ),
        ),
        request=(Content(AbortHangingRequest, example={"producer_epoch": 0}),),
        problems=(
            *COORDINATOR,
            UnsupportedFeatureLevelError,
            UnknownTopicOrPartitionError,
            UnknownTopicIdError,
            InvalidProducerEpochError,
            InvalidTransactionStateError,
        ),
        broker_only=True,
    ),
)
