"""Parameters of the path that many operations share."""

from ottla_broker.http.operations import Parameter, integer
from ottla_cluster.groups.limits import MAX_GROUP_ID_LENGTH, MAX_MEMBER_ID_LENGTH
from ottla_protocol.json_records import MAX_PARTITION
from ottla_protocol.topic_names import MAX_TOPIC_NAME_LENGTH

MAX_NODE_ID = 2**31 - 1

TOPIC_NAME_SCHEMA = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_TOPIC_NAME_LENGTH,
    "pattern": r"^[A-Za-z0-9._-]+$",
}

TOPIC = Parameter("topic", "path", "The topic's name.", TOPIC_NAME_SCHEMA, "flights")

PARTITION = Parameter("partition", "path", "The partition's number.", integer(0, MAX_PARTITION), 0)

GROUP = Parameter(
    "group",
    "path",
    "The group's name: printable characters, and neither `.` nor `..`.",
    {"type": "string", "minLength": 1, "maxLength": MAX_GROUP_ID_LENGTH},
    "reports",
)

MEMBER = Parameter(
    "member",
    "path",
    "The member's id, as the join answered it.",
    {"type": "string", "minLength": 1, "maxLength": MAX_MEMBER_ID_LENGTH},
    "laptop",
)

BROKER = Parameter("broker", "path", "The broker's node id.", integer(1, MAX_NODE_ID), 1)
