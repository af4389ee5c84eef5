"""What reads that go on have in common, of a topic and of one partition."""

from ottla_broker.http.operations import Content, Parameter, choice
from ottla_protocol import routes
from ottla_protocol.cursors import MAX_CURSOR_CHARACTERS
from ottla_protocol.errors import (
    CorruptMessageError,
    CursorOfDeletedTopicError,
    LogTruncatedError,
    MessageTooLargeError,
)

CURSOR_SCHEMA = {
    "type": "string",
    "pattern": "^[A-Za-z0-9_-]+$",
    "maxLength": MAX_CURSOR_CHARACTERS,
}

NDJSON_SCHEMA = {"type": "string", "description": "A record as JSON in each line."}
EVENT_SCHEMA = {
    "description": "Each event of the stream.",
    "type": "object",
    "properties": {
        "data": {
            "description": "A record; of the event `error`, the problem that ends the stream.",
            "type": "string",
            "contentMediaType": "application/json",
        },
        "id": {
            "description": "The cursor behind the record; of LOG_TRUNCATED, that to go on from.",
            "type": "string",
        },
        "event": {"type": "string", "enum": ["message", "error"]},
    },
    "required": ["data"],
}
"""OpenAPI 3.1 has no word for what a stream repeats; programs take this for an event's."""


CURSOR = Parameter(
    "cursor",
    "query",
    "Where to begin: the cursor of an earlier answer, of any broker.",
    CURSOR_SCHEMA,
)

FOLLOWING = (
    CURSOR,
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

LINES = Content(NDJSON_SCHEMA, routes.NDJSON)
EVENTS = Content(EVENT_SCHEMA, routes.EVENT_STREAM)

FOLLOW_PROBLEMS = (
    CursorOfDeletedTopicError,
    LogTruncatedError,
    CorruptMessageError,
    MessageTooLargeError,
)
"""What these may end in, besides what reads that end may."""
