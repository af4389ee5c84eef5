"""Reads of a whole topic with a cursor."""

from ottla_broker.http import topic_records
from ottla_broker.http.operation_tables.following import (
    CURSOR_HEADER,
    EVENTS,
    FOLLOW_PROBLEMS,
    FOLLOWING,
    LINES,
)
from ottla_broker.http.operation_tables.parameters import ISOLATION, TOPIC
from ottla_broker.http.operation_tables.records import NO_STORE, READ, SELECTION
from ottla_broker.http.operations import Content, Operation, Parameter, Reply, integer
from ottla_broker.http.query import MAX_OFFSET, MAX_TIMESTAMP
from ottla_broker.http.records import DEFAULT_READ_BYTES, DEFAULT_READ_RECORDS, DEFAULT_WAIT_MS
from ottla_broker.services.leader_reads import READ_BYTES
from ottla_protocol import routes
from ottla_protocol.errors import NotAcceptableError
from ottla_protocol.models import MAX_WAIT_MS
from ottla_protocol.models_records import TopicRecords

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
                    LINES,
                    EVENTS,
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
            "reads that end. With a filter an answer may have no records though its cursor has "
            "moved."
        ),
        parameters=(
            TOPIC,
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
            ISOLATION,
            *SELECTION,
            *FOLLOWING,
        ),
        problems=(
            *READ,
            *FOLLOW_PROBLEMS,
            NotAcceptableError,
        ),
        broker_only=True,
    ),
)
