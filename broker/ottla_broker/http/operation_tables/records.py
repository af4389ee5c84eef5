"""Records: read, where partitions begin and end, and the SDK's binary calls."""

from ottla_broker.http import producer_ids, records
from ottla_broker.http.operation_tables.parameters import PARTITION, TOPIC
from ottla_broker.http.operations import Content, Operation, Parameter, Reply, choice, integer, ok
from ottla_broker.http.query import MAX_OFFSET, MAX_TIMESTAMP
from ottla_protocol import routes
from ottla_protocol.errors import (
    ControllerNotAvailableError,
    CorruptMessageError,
    DuplicateSequenceNumberError,
    FencedLeaderEpochError,
    InsufficientStorageError,
    InvalidProducerEpochError,
    InvalidRequiredAcksError,
    InvalidTimestampError,
    LeaderNotAvailableError,
    MessageTooLargeError,
    NotEnoughReplicasAfterAppendError,
    NotEnoughReplicasError,
    NotLeaderOrFollowerError,
    OffsetNotAvailableError,
    OffsetOutOfRangeError,
    OutOfOrderSequenceNumberError,
    RecordsLostError,
    RecordWithoutKeyError,
    ReplicaNotAvailableError,
    RequestTimedOutError,
    StaleBrokerEpochError,
    StorageError,
    UnavailableError,
    UnknownLeaderEpochError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
)
from ottla_protocol.models import (
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
)

LEADER_HEADER = {routes.HEADER_LEADER: "Node id of the partition's leader."}
NO_STORE = {"Cache-Control": "`no-store`."}

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
                (Content(PartitionRecords),),
                LEADER_HEADER | NO_STORE,
            ),
        ),
        records.read,
        description="With `max_wait_ms` a long-poll. `next_offset` is the next read's `offset`.",
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
            Parameter(
                "format",
                "query",
                "How keys and values are told.",
                choice(*records.FORMATS, default="auto"),
            ),
            Parameter(
                "replica",
                "query",
                "Whose copy to read: the leader's, or that of the broker that is asked.",
                choice("leader", "local", default="leader"),
            ),
        ),
        problems=READ,
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
                "`earliest`, `latest` (the high watermark), or a time in milliseconds since the "
                "epoch.",
                {
                    "anyOf": [integer(0, MAX_TIMESTAMP), {"enum": ["earliest", "latest"]}],
                    "default": "latest",
                },
                "latest",
            ),
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
        request=(Content(BinaryProduceRequest, routes.MSGPACK),),
        problems=(
            *APPEND,
            OutOfOrderSequenceNumberError,
            InvalidProducerEpochError,
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
        request=(Content(BinaryFetchRequest, routes.MSGPACK),),
        problems=(*READ, FencedLeaderEpochError, UnknownLeaderEpochError),
        broker_only=True,
    ),
)
