"""Produce: to a topic, a partition, or many topics, in every form that a body may have."""

from ottla_broker.http import produce, produce_stream
from ottla_broker.http.operation_tables.parameters import PARTITION, TOPIC, TRANSACTION_HEADER
from ottla_broker.http.operation_tables.records import APPEND, IN_A_TRANSACTION
from ottla_broker.http.operations import Content, Operation, Parameter, Reply, choice, integer
from ottla_broker.http.query import MAX_TIMESTAMP
from ottla_protocol import cloud_events, routes
from ottla_protocol.errors import IdempotencyKeyReusedError, UnsupportedFeatureLevelError
from ottla_protocol.idempotency import MAX_LINE_NUMBER
from ottla_protocol.json_records import (
    MAX_RECORDS_PER_REQUEST,
    _JsonRecord,
    _JsonRecords,
    _JsonTopicRecord,
)
from ottla_protocol.models import (
    DEFAULT_PRODUCE_TIMEOUT_MS,
    MAX_PRODUCE_TIMEOUT_MS,
    ManyTopicsProduceResponse,
    ProduceResponse,
)

_SOME = {"properties": {"records": {"minItems": 1, "maxItems": MAX_RECORDS_PER_REQUEST}}}

RECORDS = Content(
    _JsonRecords[_JsonRecord],
    also=_SOME,
    example={"records": [{"key": "N14228", "value": {"origin": "EWR", "dest": "IAH"}}]},
)
TOPIC_RECORDS = Content(
    _JsonRecords[_JsonTopicRecord],
    also=_SOME,
    example={"records": [{"topic": "flights", "key": "N14228", "value": {"dest": "IAH"}}]},
)
LINES = Content(
    _JsonRecord,
    routes.NDJSON,
    example={"key": "N14228", "value": {"origin": "EWR", "dest": "IAH"}},
)
TOPIC_LINES = Content(
    _JsonTopicRecord,
    routes.NDJSON,
    example={"topic": "flights", "key": "N14228", "value": {"dest": "IAH"}},
)
ANSWER_LINES = Content(
    {
        "description": "One for each line, in order.",
        "anyOf": [
            {
                "type": "object",
                "required": ["partition", "offset"],
                "properties": {
                    "topic": {"type": "string"},
                    "partition": {"type": "integer", "minimum": 0},
                    "offset": {"type": "integer", "minimum": -1},
                    "duplicate": {"const": True},
                },
            },
            {
                "type": "object",
                "required": ["error", "index"],
                "properties": {
                    "error": {"type": "object"},
                    "index": {"type": "integer", "minimum": 0},
                },
            },
        ],
    },
    routes.NDJSON,
)
RAW = Content({"description": "The value of one record, as it is."}, routes.OCTET_STREAM)

_EVENT_SCHEMA = {
    "type": "object",
    "description": "A CloudEvent 1.0 in structured form.",
    "required": ["id", "source", "specversion", "type"],
    "properties": {
        "id": {"type": "string", "minLength": 1},
        "source": {"type": "string", "minLength": 1},
        "specversion": {"const": cloud_events.SPECVERSION},
        "type": {"type": "string", "minLength": 1},
        "partitionkey": {"type": "string", "minLength": 1},
    },
}
_EVENT_EXAMPLE = {
    "specversion": "1.0",
    "id": "1",
    "source": "/flights",
    "type": "landed",
    "partitionkey": "N14228",
    "data": {"dest": "IAH"},
}
EVENTS = (
    Content(_EVENT_SCHEMA, cloud_events.STRUCTURED, example=_EVENT_EXAMPLE),
    Content(
        {"type": "array", "minItems": 1, "items": _EVENT_SCHEMA},
        cloud_events.BATCH,
        example=[_EVENT_EXAMPLE],
    ),
)

PARAMETERS = (
    Parameter(
        "acks",
        "query",
        "Who has to have the records: nobody (0), the leader (1), or all replicas in sync.",
        choice("0", "1", "all", "-1", default="all"),
    ),
    Parameter(
        "timeout_ms",
        "query",
        "How long to wait for that, in milliseconds.",
        integer(1, MAX_PRODUCE_TIMEOUT_MS, DEFAULT_PRODUCE_TIMEOUT_MS),
    ),
    Parameter(
        routes.HEADER_IDEMPOTENCY_KEY,
        "header",
        "Sent again with the same body, it stores nothing a second time. For NDJSON it names a "
        "stream, whose lines are known by their numbers.",
        {"type": "string", "minLength": 1, "maxLength": produce.MAX_IDEMPOTENCY_KEY_CHARACTERS},
    ),
    TRANSACTION_HEADER,
)

FIRST_INDEX = Parameter(
    produce_stream.FIRST_INDEX,
    "query",
    "For NDJSON: the number of the first line, counted from 0 in all that has one Idempotency-Key.",
    integer(0, MAX_LINE_NUMBER, 0),
)

RAW_PARAMETERS = (
    Parameter(
        "key",
        "query",
        "The record's key as text, where the body is the value of one record.",
        {"type": "string"},
    ),
    Parameter(
        "key_b64",
        "query",
        "As `key`, in base64.",
        {"type": "string", "contentEncoding": "base64"},
    ),
    Parameter(
        "timestamp",
        "query",
        "The record's time in milliseconds since the epoch, where the body is its value.",
        integer(0, MAX_TIMESTAMP),
    ),
)

PROBLEMS = (
    *APPEND,
    *IN_A_TRANSACTION,
    IdempotencyKeyReusedError,
    UnsupportedFeatureLevelError,
)

LINES_STREAM = (
    "NDJSON streams: each line is one record, and is answered by one line while others are on "
    "their way. A line that fails is told in its place; with an Idempotency-Key it ends the stream."
)

BODIES = (
    "The body is JSON, one or several CloudEvents (structured, or binary with headers `ce-*`), or "
    "the value of one record: `application/octet-stream`, or any other type that comes with `key`, "
    "`key_b64`, `timestamp` or a header `Ottla-Header-<name>`, which the record then has. "
    f"{LINES_STREAM}"
)

PRODUCED = (
    Reply(200, "All records are stored.", (Content(ProduceResponse), ANSWER_LINES)),
    Reply(207, "Some partitions failed: see `error`.", (Content(ProduceResponse),)),
)

OPERATIONS = (
    Operation(
        "POST",
        routes.TOPIC_RECORDS,
        "produce",
        "records",
        "Produce to a topic",
        PRODUCED,
        description=(
            "A record goes to the partition that it names, else to the one of its key's hash "
            f"(murmur2), and those with neither go together to any one. {BODIES}"
        ),
        parameters=(TOPIC, *PARAMETERS, FIRST_INDEX, *RAW_PARAMETERS),
        request=(RECORDS, LINES, RAW, *EVENTS),
        problems=PROBLEMS,
        broker_only=True,
    ),
    Operation(
        "POST",
        routes.PARTITION_RECORDS,
        "produceToPartition",
        "records",
        "Produce to a partition",
        PRODUCED,
        description=BODIES,
        parameters=(TOPIC, PARTITION, *PARAMETERS, FIRST_INDEX, *RAW_PARAMETERS),
        request=(RECORDS, LINES, RAW, *EVENTS),
        problems=PROBLEMS,
        broker_only=True,
    ),
    Operation(
        "POST",
        routes.RECORDS,
        "produceToTopics",
        "records",
        "Produce to many topics",
        (
            Reply(
                200,
                "All records are stored.",
                (Content(ManyTopicsProduceResponse), ANSWER_LINES),
            ),
            Reply(
                207,
                "Some topics or partitions failed: see `error`.",
                (Content(ManyTopicsProduceResponse),),
            ),
        ),
        description=f"Each topic's records succeed or fail for themselves. {LINES_STREAM}",
        parameters=(*PARAMETERS, FIRST_INDEX),
        request=(TOPIC_RECORDS, TOPIC_LINES),
        problems=PROBLEMS,
        broker_only=True,
    ),
)
