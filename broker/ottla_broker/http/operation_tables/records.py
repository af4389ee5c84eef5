"""Records: read, where partitions begin and end, and the SDK's binary calls."""

from ottla_broker.http import binary, producer_ids, records
from ottla_broker.http.operation_tables.following import (
    CURSOR_HEADER,
    EVENTS,
    FOLLOW_PROBLEMS,
    FOLLOWING,
)
from ottla_broker.http.operation_tables.parameters import ISOLATION, PARTITION, TOPIC
from ottla_broker.http.operations import Content, Operation, Parameter, Reply, choice, integer, ok
from ottla_broker.http.query import MAX_OFFSET, MAX_TIMESTAMP
from ottla_broker.http.selections import FORMATS, MAX_KEY_CHARACTERS
from ottla_broker.services.predicate_syntax import MAX_PREDICATE_CHARACTERS
from ottla_broker.services.record_view import FIELDS, MAX_FIELDS_CHARACTERS
from ottla_protocol import routes
from ottla_protocol.errors import (
    ConcurrentTransactionsError,
    ControllerNotAvailableError,
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    CorruptMessageError,
    DuplicateSequenceNumberError,
    FencedLeaderEpochError,
    InsufficientStorageError,
    InvalidProducerEpochError,
    InvalidRequiredAcksError,
    InvalidTimestampError,
    InvalidTransactionStateError,
    LeaderNotAvailableError,
    MessageTooLargeError,
    NotAcceptableError,
    NotCoordinatorError,
    NotEnoughReplicasAfterAppendError,
    NotEnoughReplicasError,
    NotLeaderOrFollowerError,
    OffsetNotAvailableError,
    OffsetOutOfRangeError,
    OutOfOrderSequenceNumberError,
    PartitionCountChangedError,
    ProducerFencedError,
    RecordsLostError,
    RecordWithoutKeyError,
    ReplicaNotAvailableError,
    RequestTimedOutError,
    StaleBrokerEpochError,
    StorageError,
    TransactionAbortableError,
    TransactionalIdNotFoundError,
    UnavailableError,
    UnknownLeaderEpochError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
    UnsupportedFeatureLevelError,
)
from ottla_protocol.models import (
    ACKS_ALL,
    MAX_PRODUCE_TIMEOUT_MS,
    MAX_WAIT_MS,
    AllocateProducerIdRequest,
    BinaryFetchRequest,
    BinaryFetchResponse,
    BinaryProduceRequest,
    BinaryProduceResponse,
    OffsetResponse,
    ProducerIdentity,
)
from ottla_protocol.models_records import PartitionRecords

LEADER_IS_ELSEWHERE = (NotLeaderOrFollowerError, LeaderNotAvailableError)

APPEND = (
    *LEADER_IS_ELSEWHERE,
    UnknownTopicOrPartitionError,
    UnknownTopicIdError,
    ControllerNotAvailableError,
    UnavailableError,
    RequestTimedOutError,
    NotEnoughReplicasError,
    NotEnoughReplicasAfterAppendError,
    PartitionCountChangedError,
    InsufficientStorageError,
    MessageTooLargeError,
    CorruptMessageError,
    InvalidTimestampError,
    InvalidRequiredAcksError,
    RecordWithoutKeyError,
    FencedLeaderEpochError,
    StaleBrokerEpochError,
    StorageError,
)
"""What may become of a record batch at its leader, or on the way there."""

IN_A_TRANSACTION = (
    CoordinatorNotAvailableError,
    CoordinatorLoadInProgressError,
    NotCoordinatorError,
    TransactionalIdNotFoundError,
    ProducerFencedError,
    InvalidProducerEpochError,
    InvalidTransactionStateError,
    ConcurrentTransactionsError,
    TransactionAbortableError,
)
"""What may become of it besides where it belongs to a transaction."""

READ = (
    *LEADER_IS_ELSEWHERE,
    UnknownTopicOrPartitionError,
    ControllerNotAvailableError,
    UnavailableError,
    OffsetOutOfRangeError,
    OffsetNotAvailableError,
    ReplicaNotAvailableError,
    RecordsLostError,
    StorageError,
    RequestTimedOutError,
    UnsupportedFeatureLevelError,
)

LEADER_HEADER = {routes.HEADER_LEADER: "Node id of the partition's leader."}
NO_STORE = {"Cache-Control": "`no-store`."}

READ_HEADERS = LEADER_HEADER | {
    routes.HEADER_NEXT_OFFSET: "Where the next read begins.",
    routes.HEADER_HIGH_WATERMARK: "First offset that nobody may read yet.",
    routes.HEADER_LOG_START_OFFSET: "First offset that is retained.",
    routes.HEADER_LAST_STABLE_OFFSET: "With `read_committed`: first offset it does not read.",
    "Cache-Control": (
        "`no-store` where more may be appended to the answer; else `no-cache` where records may be "
        "taken from it, or the URL names no offset; else a `max-age` with `immutable`."
    ),
    "ETag": "Of what may be kept. It is weak for JSON, which also tells bounds that move.",
    "Vary": "`Accept`.",
}
RECORD_HEADERS = {
    routes.HEADER_OFFSET: f"With `{routes.OCTET_STREAM}`: the record's offset.",
    routes.HEADER_TIMESTAMP: "Also then: its timestamp, in milliseconds since the epoch.",
    routes.HEADER_KEY: "Also then: its key, percent-encoded, if it has one.",
    routes.HEADER_TOMBSTONE: "Also then: `true` if it has no value.",
}

SELECTION = (
    Parameter(
        "format",
        "query",
        "How keys and values are told.",
        choice(*FORMATS, default="auto"),
    ),
    Parameter(
        "fields",
        "query",
        f"What to tell of a record: {', '.join(FIELDS)}, and members of a JSON value as "
        "`value.name`, separated by commas: `offset,key,value.origin`.",
        {"type": "string", "minLength": 1, "maxLength": MAX_FIELDS_CHARACTERS},
    ),
    Parameter(
        "key",
        "query",
        "Only records with this key.",
        {"type": "string", "maxLength": MAX_KEY_CHARACTERS},
    ),
    Parameter(
        "key_prefix",
        "query",
        "Only records whose keys begin so.",
        {"type": "string", "maxLength": MAX_KEY_CHARACTERS},
    ),
    Parameter(
        "where",
        "query",
        "Only records whose JSON values satisfy this logical expression of RFC 9535 (section "
        "2.3.5), in which `$` is the value: paths of names and indices, literals, comparisons, "
        '`&&`, `||`, `!` and parentheses; no functions. `$.origin == "EWR" && $.dep_delay > 30`',
        {"type": "string", "minLength": 1, "maxLength": MAX_PREDICATE_CHARACTERS},
    ),
)
"""What `selections.selection_of` reads."""

OPERATIONS = (
    Operation(
        "GET",
        routes.PARTITION_RECORDS,
        "read",
        "records",
        "Read a partition",
        (
            Reply(
                200,
                "Records from the offset on; none where none came in time.",
                (
                    Content(PartitionRecords),
                    Content({"type": "string"}, routes.NDJSON),
                    Content({"type": "string", "format": "binary"}, routes.OCTET_STREAM),
                    EVENTS,
                ),
                READ_HEADERS | RECORD_HEADERS | CURSOR_HEADER,
            ),
            Reply(204, "No record came in time whose bytes could be told.", headers=READ_HEADERS),
            Reply(304, "The client has this very answer.", headers=READ_HEADERS),
        ),
        records.read,
        description=(
            "With `max_wait_ms` a long-poll. `next_offset` is the next read's `offset`. `Accept` "
            "decides what comes: one JSON document, one record in each line "
            f"(`{routes.NDJSON}`), or the bytes of the first record's value "
            f"(`{routes.OCTET_STREAM}`), whose key and headers are then header fields, "
            "percent-encoded. `text/event-stream` goes on until the client leaves, and so does "
            "NDJSON with `follow=true`; they take `cursor` in place of `offset`, and no limits."
        ),
        parameters=(
            TOPIC,
            PARTITION,
            Parameter(
                "offset",
                "query",
                "Where to begin: an offset, `earliest`, `latest`, or -N from the latest.",
                {
                    "anyOf": [
                        {"type": "integer", "minimum": -MAX_OFFSET, "maximum": MAX_OFFSET},
                        {"enum": ["earliest", "latest"]},
                    ],
                    "default": "earliest",
                },
                "earliest",
            ),
            Parameter(
                "timestamp",
                "query",
                "In place of `offset`: the first record at or after this time, in milliseconds "
                "since the epoch.",
                integer(0, MAX_TIMESTAMP),
            ),
            Parameter(
                "max_bytes",
                "query",
                "About how many bytes of record batches at most.",
                integer(1, records.MAX_READ_BYTES, records.DEFAULT_READ_BYTES),
            ),
            Parameter(
                "max_records",
                "query",
                "How many records at most.",
                integer(1, records.MAX_READ_RECORDS, records.DEFAULT_READ_RECORDS),
            ),
            Parameter(
                "min_bytes",
                "query",
                "How many bytes to wait for.",
                integer(0, records.MAX_READ_BYTES, 1),
            ),
            Parameter(
                "max_wait_ms",
                "query",
                "How long to wait for them, in milliseconds.",
                integer(0, MAX_WAIT_MS, records.DEFAULT_WAIT_MS),
            ),
            ISOLATION,
            *SELECTION,
            *FOLLOWING,
            Parameter(
                "replica",
                "query",
                "Whose copy to read: the leader's, or that of the broker that is asked.",
                choice("leader", "local", default="leader"),
            ),
            Parameter(
                "If-None-Match",
                "header",
                "The `ETag` of an answer that the client has.",
                {"type": "string"},
            ),
        ),
        problems=(*READ, *FOLLOW_PROBLEMS, NotAcceptableError),
        broker_only=True,
    ),
    Operation(
        "GET",
        routes.PARTITION_OFFSETS,
        "offset",
        "records",
        "Where a partition begins, ends, or was at a time",
        (Reply(200, "The offset.", (Content(OffsetResponse),), LEADER_HEADER | NO_STORE),),
        records.offsets,
        parameters=(
            TOPIC,
            PARTITION,
            Parameter(
                "at",
                "query",
                "`earliest`, `latest` (the high watermark; with `read_committed` the last stable "
                "offset), or a time in milliseconds since the epoch.",
                {
                    "anyOf": [integer(0, MAX_TIMESTAMP), {"enum": ["earliest", "latest"]}],
                    "default": "latest",
                },
                "latest",
            ),
            ISOLATION,
        ),
        problems=READ,
        broker_only=True,
    ),
    Operation(
        "POST",
        routes.PRODUCER_IDS,
        "allocateProducerId",
        "records",
        "Get a producer id of one's own",
        ok(ProducerIdentity, "An id that nobody else gets."),
        producer_ids.allocate_producer_id,
        request=(Content(AllocateProducerIdRequest, example={}),),
        problems=(StaleBrokerEpochError, ControllerNotAvailableError, UnavailableError),
        broker_only=True,
    ),
    Operation(
        "POST",
        routes.PRODUCE,
        "produceBatches",
        "records",
        "Produce record batches",
        (
            Reply(200, "All are stored.", (Content(BinaryProduceResponse, routes.MSGPACK),)),
            Reply(207, "Some failed.", (Content(BinaryProduceResponse, routes.MSGPACK),)),
        ),
        description=(
            "The SDK's call: MessagePack, with Kafka's record batches (magic 2) as `bin`. Only the "
            "partition's leader takes it; another broker answers 421 with the leader's URL."
        ),
        request=(
            Content(
                BinaryProduceRequest,
                routes.MSGPACK,
                also={
                    "properties": {
                        "batches": {"minItems": 1, "maxItems": binary.MAX_BATCHES_PER_REQUEST},
                        "acks": {"enum": [0, 1, ACKS_ALL]},
                        "timeout_ms": {"minimum": 1, "maximum": MAX_PRODUCE_TIMEOUT_MS},
                    }
                },
            ),
        ),
        problems=(
            *APPEND,
            *IN_A_TRANSACTION,
            UnsupportedFeatureLevelError,
            OutOfOrderSequenceNumberError,
            DuplicateSequenceNumberError,
        ),
        broker_only=True,
    ),
    Operation(
        "POST",
        routes.FETCH,
        "fetchBatches",
        "records",
        "Fetch record batches",
        (
            Reply(200, "All are served.", (Content(BinaryFetchResponse, routes.MSGPACK),)),
            Reply(207, "Some failed.", (Content(BinaryFetchResponse, routes.MSGPACK),)),
        ),
        description=(
            "The SDK's call: MessagePack, many partitions at once. With `replica: any` a broker "
            "also serves partitions that it follows in sync."
        ),
        request=(
            Content(
                BinaryFetchRequest,
                routes.MSGPACK,
                also={"properties": {"partitions": {"minItems": 1}}},
            ),
        ),
        problems=(*READ, FencedLeaderEpochError, UnknownLeaderEpochError),
        broker_only=True,
    ),
)
