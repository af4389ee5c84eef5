"""Parameters that many operations share."""

from ottla_broker.http.operations import Parameter, choice, integer
from ottla_broker.http.query import ISOLATIONS
from ottla_cluster.groups.limits import MAX_GROUP_ID_LENGTH, MAX_MEMBER_ID_LENGTH
from ottla_protocol import routes
from ottla_protocol.json_records import MAX_PARTITION
from ottla_protocol.topic_names import MAX_TOPIC_NAME_LENGTH
from ottla_protocol.transaction_tokens import (
    MAX_TRANSACTION_TOKEN_CHARACTERS,
    MAX_TRANSACTIONAL_ID_CHARACTERS,
)

MAX_NODE_ID = 2**31 - 1

TOPIC_NAME_SCHEMA = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_TOPIC_NAME_LENGTH,
    "pattern": r"^(?!\.\.?$)[A-Za-z0-9._-]+$",
}

PRINTABLE = r"\p{L}\p{M}\p{N}\p{P}\p{S} "
"""What Unicode has that can be seen, and the space: the rest of a character class of ECMA-262."""

NAME_PATTERN = rf"^(?!\.\.?$)[{PRINTABLE}]+$"
"""Printable characters, and neither `.` nor `..`, which no path can have."""

TOPIC = Parameter("topic", "path", "The topic's name.", TOPIC_NAME_SCHEMA, "flights")

PARTITION = Parameter("partition", "path", "The partition's number.", integer(0, MAX_PARTITION), 0)

GROUP = Parameter(
    "group",
    "path",
    "The group's name: printable characters, and neither `.` nor `..`.",
    {
        "type": "string",
        "minLength": 1,
        "maxLength": MAX_GROUP_ID_LENGTH,
        "pattern": NAME_PATTERN,
    },
    "reports",
)

MEMBER = Parameter(
    "member",
    "path",
    "The member's id, as the join answered it.",
    {"type": "string", "minLength": 1, "maxLength": MAX_MEMBER_ID_LENGTH},
    "laptop",
)

TRANSACTIONAL_ID_SCHEMA = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_TRANSACTIONAL_ID_CHARACTERS,
    "pattern": NAME_PATTERN,
}

TRANSACTIONAL_ID = Parameter(
    "transactional_id",
    "path",
    "The transactional id: printable characters, and neither `.` nor `..`.",
    TRANSACTIONAL_ID_SCHEMA,
    "payments",
)

TOKEN_SCHEMA = {
    "type": "string",
    # Some more are taken: ids and epochs that a pattern cannot bound.
    "pattern": (r"^(0|[1-9][0-9]{0,17})\.(0|[1-9][0-9]{0,3})\.([A-Za-z0-9._~-]|%[0-9A-Fa-f]{2})+$"),
    "maxLength": MAX_TRANSACTION_TOKEN_CHARACTERS,
}
"""The token of a transaction."""

TRANSACTION_HEADER = Parameter(
    routes.HEADER_TRANSACTION,
    "header",
    "The token of the transaction that the records belong to: nobody who reads committed records "
    "sees them before its commit. `acks` must be `all`.",
    TOKEN_SCHEMA,
)

ISOLATION = Parameter(
    "isolation",
    "query",
    "With `read_committed` reads end at the last stable offset, and leave out records of "
    "transactions that were aborted.",
    choice(*ISOLATIONS, default=ISOLATIONS[0]),
)

BROKER = Parameter("broker", "path", "The broker's node id.", integer(1, MAX_NODE_ID), 1)
