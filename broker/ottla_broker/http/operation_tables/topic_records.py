"""Reads of a whole topic with a cursor, and what reads that go on have in common."""

from ottla_broker.http import topic_records
from ottla_broker.http.operation_tables.parameters import TOPIC
from ottla_broker.http.operation_tables.records import NO_STORE, READ
from ottla_broker.http.operations import Content, Operation, Parameter, Reply, choice, integer
from ottla_broker.http.query import MAX_OFFSET, MAX_TIMESTAMP
from ottla_broker.http.record_streams import FORMATS
from ottla_broker.http.records import DEFAULT_READ_BYTES, DEFAULT_READ_RECORDS, DEFAULT_WAIT_MS
from ottla_broker.services.leader_reads import READ_BYTES
from ottla_protocol import routes
from ottla_protocol.cursors import MAX_CURSOR_CHARACTERS
from ottla_protocol.errors import (
    CorruptMessageError,
    CursorOfDeletedTopicError,
    MessageTooLargeError,
    NotAcceptableError,
)
from ottla_protocol.models import MAX_WAIT_MS
from ottla_protocol.models_records import TopicRecords

CURSOR_SCHEMA = {
    "type": "string",
    "pattern": "^[A-Za-z0-9_-]+$",
    "maxLength": MAX_CURSOR_CHARACTERS,
}

NDJSON_SCHEMA = {"type": "string", "description": "A record as JSON in each line."}
EVENTS_SCHEMA = {"type": "string", "description": "Events with a record as JSON in `data`."}

CURSOR = Parameter(
    "cursor",
    "query",
    "Where to begin: the cursor of an earlier answer, of any broker.",
    CURSOR_SCHEMA,
)

FOLLOWING = (
    Parameter(
        "follow",
        "query",
        "Go on with what comes, as NDJSON or as an event stream, until the client goes.",
        choice("true", "false", default="false"),
    ),
    Parameter(
        "last_event_id",
        "query",
        "As `cursor`: the id of the last event that was received.",
        CURSOR_SCHEMA,
    ),
    Parameter(
        routes.HEADER_LAST_EVENT_ID,
        "header",
        "As `cursor`, and before everything in the query: an EventSource sends it by itself.",
        {"type": "string", "maxLength": MAX_CURSOR_CHARACTERS},
    ),
)

CURSOR_HEADER = {
    routes.HEADER_CURSOR: "The cursor behind the records; of a read that goes on, before them."
}

OPERATIONS = (
    Operation(
        "GET",
        routes.TOPIC_RECORDS,
        "readTopic",
        "records",
        "Read all partitions of a topic",
        (
            Reply(
                200,
                "A fair share of each partition, in order within each; none where none came in "
                "time. As NDJSON the cursor is a header.",
                (
                    Content(TopicRecords),
                    Content(NDJSON_SCHEMA, routes.NDJSON),
                    Content(EVENTS_SCHEMA, routes.EVENT_STREAM),
                ),
                CURSOR_HEADER | NO_STORE,
            ),
        ),
        topic_records.read,
        description=(
            "Any broker goes on from a cursor. Partitions that the topic has got since it was made "
            "begin at their earliest record. `text/event-stream` goes on until the client leaves, "
            "and so does NDJSON with `follow=true`: the id of an event, or the member `cursor` of "
            "a line, is the cursor behind its record; an error is the last event (`event: error`) "
            'or line (`{"error": ...}`). `max_bytes`, `max_records` and `max_wait_ms` are for '
            "reads that end."
        ),
        parameters=(
            TOPIC,
            CURSOR,
            Parameter(
                "offset",
                "query",
                "Where to begin in each partition: `earliest`, `latest`, or -N from the latest.",
                {
                    "anyOf": [
                        {"type": "integer", "minimum": -MAX_OFFSET, "maximum": -1},
                        {"enum": ["earliest", "latest"]},
                    ],
                    "default": "earliest",
                },
                "earliest",
            ),
            Parameter(
                "timestamp",
                "query",
                "In place of `offset`: the first record of each partition at or after this time, "
                "in milliseconds since the epoch.",
                integer(0, MAX_TIMESTAMP),
            ),
            Parameter(
                "max_bytes",
                "query",
                "About how many bytes of record batches each leader answers at most.",
                integer(1, READ_BYTES, DEFAULT_READ_BYTES),
            ),
            Parameter(
                "max_records",
                "query",
                "How many records at most.",
                integer(1, topic_records.MAX_TOPIC_READ_RECORDS, DEFAULT_READ_RECORDS),
            ),
            Parameter(
                "max_wait_ms",
                "query",
                "How long to wait for a record, in milliseconds.",
                integer(0, MAX_WAIT_MS, DEFAULT_WAIT_MS),
            ),
            Parameter(
                "format", "query", "How keys and values are told.", choice(*FORMATS, default="auto")
            ),
            *FOLLOWING,
        ),
        problems=(
            *READ,
            CursorOfDeletedTopicError,
            NotAcceptableError,
            CorruptMessageError,
            MessageTooLargeError,
        ),
        broker_only=True,
    ),
)
