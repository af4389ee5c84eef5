"""Produce: to a topic, a partition, or many topics, in every form that a body may have."""

from ottla_broker.http import produce
from ottla_broker.http.operation_tables.parameters import PARTITION, TOPIC
from ottla_broker.http.operation_tables.records import APPEND
from ottla_broker.http.operations import Content, Operation, Parameter, Reply, choice, integer
from ottla_broker.http.query import MAX_TIMESTAMP
from ottla_protocol import cloud_events, routes
from ottla_protocol.errors import IdempotencyKeyReusedError
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
        "Sent again with the same body, it stores nothing a second time.",
        {"type": "string", "minLength": 1, "maxLength": produce.MAX_IDEMPOTENCY_KEY_CHARACTERS},
    ),
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

BODIES = (
    "The body is JSON, one or several CloudEvents (structured, or binary with headers `ce-*`), or "
    "the value of one record: `application/octet-stream`, or any other type that comes with `key`, "
    "`key_b64`, `timestamp` or a header `Ottla-Header-<name>`, which the record then has."
)

PRODUCED = (
    Reply(200, "All records are stored.", (Content(ProduceResponse),)),
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
        parameters=(TOPIC, *PARAMETERS, *RAW_PARAMETERS),
        request=(RECORDS, RAW, *EVENTS),
        problems=(*APPEND, IdempotencyKeyReusedError),
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
        parameters=(TOPIC, PARTITION, *PARAMETERS, *RAW_PARAMETERS),
        request=(RECORDS, RAW, *EVENTS),
        problems=(*APPEND, IdempotencyKeyReusedError),
        broker_only=True,
    ),
    Operation(
        "POST",
        routes.RECORDS,
        "produceToTopics",
        "records",
        "Produce to many topics",
        (
            Reply(200, "All records are stored.", (Content(ManyTopicsProduceResponse),)),
            Reply(
                207,
                "Some topics or partitions failed: see `error`.",
                (Content(ManyTopicsProduceResponse),),
            ),
        ),
        description="Each topic's records succeed or fail for themselves.",
        parameters=PARAMETERS,
        request=(TOPIC_RECORDS,),
        problems=(*APPEND, IdempotencyKeyReusedError),
        broker_only=True,
    ),
)
