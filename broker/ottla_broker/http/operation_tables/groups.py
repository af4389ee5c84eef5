"""Consumer groups: `/v1/groups`."""

from ottla_broker.http import group_poll, groups
from ottla_broker.http.operation_tables.parameters import (
    GROUP,
    ISOLATION,
    MEMBER,
    PRINTABLE,
    TOPIC_NAME_SCHEMA,
)
from ottla_broker.http.operations import (
    THROUGH_THE_CONTROLLER,
    Content,
    Operation,
    Parameter,
    Reply,
    ok,
)
from ottla_cluster.groups.assignors import ASSIGNORS, OTHER_SPELLINGS
from ottla_cluster.groups.config import GroupConfig
from ottla_cluster.groups.limits import (
    MAX_MEMBER_ID_LENGTH,
    MAX_OFFSET_METADATA_LENGTH,
    MAX_OFFSETS_PER_COMMIT,
    MAX_PATTERN_LENGTH,
    MAX_SUBSCRIBED_TOPICS,
)
from ottla_protocol import routes
from ottla_protocol.errors import (
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    FencedInstanceIdError,
    FencedMemberEpochError,
    GroupIdNotFoundError,
    GroupMaxSizeReachedError,
    InsufficientStorageError,
    InvalidGroupIdError,
    InvalidPatternError,
    InvalidSessionTimeoutError,
    InvalidTopicError,
    LeaderNotAvailableError,
    NonEmptyGroupError,
    NotCoordinatorError,
    NotEnoughReplicasAfterAppendError,
    NotEnoughReplicasError,
    OffsetNotAvailableError,
    OffsetOutOfRangeError,
    RecordsLostError,
    ReplicaNotAvailableError,
    StorageError,
    UnknownMemberIdError,
    UnknownTopicOrPartitionError,
    UnstableOffsetCommitError,
    UnsupportedAssignorError,
)
from ottla_protocol.models_groups import (
    CommitOffsetsRequest,
    CommitOffsetsResponse,
    CommittedOffsets,
    GroupDescription,
    GroupHeartbeatRequest,
    GroupList,
    JoinGroupRequest,
    MembershipResponse,
    SeekGroupRequest,
    SeekGroupResponse,
)
from ottla_protocol.models_poll import GroupPollRequest, GroupPollResponse

COORDINATOR = (
    *THROUGH_THE_CONTROLLER,
    InvalidGroupIdError,
    CoordinatorNotAvailableError,
    CoordinatorLoadInProgressError,
    NotCoordinatorError,
    LeaderNotAvailableError,
    OffsetNotAvailableError,
    NotEnoughReplicasError,
    NotEnoughReplicasAfterAppendError,
    InsufficientStorageError,
    GroupMaxSizeReachedError,
    StorageError,
)
"""What a call may end in that the group's coordinator has to answer."""

MEMBERSHIP = (UnknownMemberIdError, FencedMemberEpochError, FencedInstanceIdError)

SUBSCRIPTION = (
    InvalidPatternError,
    InvalidTopicError,
    InvalidSessionTimeoutError,
    UnsupportedAssignorError,
)

MEMBER_ID_SCHEMA = {
    "minLength": 1,
    "maxLength": MAX_MEMBER_ID_LENGTH,
    "pattern": f"^[{PRINTABLE}]+$",
}
TOPICS_SCHEMA = {
    "minItems": 1,
    "maxItems": MAX_SUBSCRIBED_TOPICS,
    "items": TOPIC_NAME_SCHEMA,
}
PATTERN_SCHEMA = {"minLength": 1, "maxLength": MAX_PATTERN_LENGTH}

ONE_SUBSCRIPTION = [
    {
        "required": ["topics"],
        "properties": {"topics": {"type": "array"}, "pattern": {"type": "null"}},
    },
    {
        "required": ["pattern"],
        "properties": {"pattern": {"type": "string"}, "topics": {"type": "null"}},
    },
]
"""Exactly one of `topics` and `pattern`."""

A_MEMBER_OR_NOBODY = [
    {
        "required": ["member_id", "generation"],
        "properties": {"member_id": {"type": "string"}, "generation": {"type": "integer"}},
    },
    {"properties": {"member_id": {"type": "null"}, "generation": {"type": "null"}}},
]
"""Both or neither of `member_id` and `generation`."""

SESSION_TIMEOUT_SCHEMA = {
    "minimum": GroupConfig().min_session_timeout_ms,
    "maximum": GroupConfig().max_session_timeout_ms,
}
REBALANCE_TIMEOUT_SCHEMA = {
    "minimum": GroupConfig().min_rebalance_timeout_ms,
    "maximum": GroupConfig().max_rebalance_timeout_ms,
}
ASSIGNOR_SCHEMA = {"enum": [*ASSIGNORS, *OTHER_SPELLINGS, None]}

SEEK_TARGETS = [
    {
        "properties": {
            "to": {"enum": ["earliest", "latest"]},
            "value": {"type": "null"},
        }
    },
    {
        "required": ["value"],
        "properties": {"to": {"enum": ["offset", "shift"]}, "value": {"type": "integer"}},
    },
    {
        "required": ["value"],
        "properties": {
            "to": {"const": "timestamp"},
            "value": {"type": "integer", "minimum": 0},
        },
    },
]
"""Which `to` goes with which `value`."""

OPERATIONS = (
    Operation(
        "GET",
        routes.GROUPS,
        "listGroups",
        "groups",
        "Every consumer group",
        ok(GroupList, "Groups by name."),
        groups.list_groups,
        problems=COORDINATOR,
        broker_only=True,
    ),
    Operation(
        "POST",
        routes.GROUP_POLL,
        "poll",
        "groups",
        "Consume in one call",
        (
            Reply(
                200,
                "Records, and the `ack` that commits them.",
                (Content(GroupPollResponse),),
                {"Cache-Control": "`no-store`."},
            ),
        ),
        group_poll.poll,
        description=(
            "Joins or stays, commits what `ack` names, and reads. Without `ack` the same records "
            "come again. A poll that waits keeps its member in the group."
        ),
        parameters=(GROUP,),
        request=(
            Content(
                GroupPollRequest,
                also={
                    "oneOf": ONE_SUBSCRIPTION,
                    "properties": {
                        "topics": TOPICS_SCHEMA,
                        "pattern": PATTERN_SCHEMA,
                        "member_id": MEMBER_ID_SCHEMA,
                        "session_timeout_ms": SESSION_TIMEOUT_SCHEMA,
                        "assignor": ASSIGNOR_SCHEMA,
                    },
                },
                example={"topics": ["flights"], "member_id": "laptop"},
            ),
        ),
        problems=(
            *COORDINATOR,
            *MEMBERSHIP,
            *SUBSCRIPTION,
            UnknownTopicOrPartitionError,
            OffsetOutOfRangeError,
            ReplicaNotAvailableError,
            RecordsLostError,
        ),
        broker_only=True,
    ),
    Operation(
        "POST",
        routes.GROUP_MEMBERS,
        "joinGroup",
        "groups",
        "Join a group",
        ok(MembershipResponse, "What the new member may read.", status=201),
        groups.join,
        parameters=(GROUP,),
        request=(
            Content(
                JoinGroupRequest,
                also={
                    "oneOf": ONE_SUBSCRIPTION,
                    "properties": {
                        "topics": TOPICS_SCHEMA,
                        "pattern": PATTERN_SCHEMA,
                        "member_id": MEMBER_ID_SCHEMA,
                        "instance_id": MEMBER_ID_SCHEMA,
                        "session_timeout_ms": SESSION_TIMEOUT_SCHEMA,
                        "rebalance_timeout_ms": REBALANCE_TIMEOUT_SCHEMA,
                        "assignor": ASSIGNOR_SCHEMA,
                    },
                },
                example={"topics": ["flights"], "member_id": "laptop"},
            ),
        ),
        problems=(*COORDINATOR, *MEMBERSHIP, *SUBSCRIPTION),
        broker_only=True,
    ),
    Operation(
        "POST",
        routes.GROUP_HEARTBEAT,
        "heartbeat",
        "groups",
        "Stay a member, and hear of changes",
        ok(MembershipResponse, "`assignment` is null where nothing changed."),
        parameters=(GROUP, MEMBER),
        request=(Content(GroupHeartbeatRequest, example={"generation": 2}),),
        problems=(*COORDINATOR, *MEMBERSHIP),
        broker_only=True,
    ),
    Operation(
        "GET",
        routes.GROUP,
        "describeGroup",
        "groups",
        "One group",
        ok(GroupDescription, "Its members, what they read, and its lag."),
        groups.describe,
        parameters=(GROUP, ISOLATION),
        problems=(*COORDINATOR, GroupIdNotFoundError),
        broker_only=True,
    ),
    Operation(
        "DELETE",
        routes.GROUP_MEMBER,
        "leaveGroup",
        "groups",
        "Leave a group",
        (Reply(204, "The member is gone, and others take over."),),
        groups.leave,
        parameters=(GROUP, MEMBER),
        problems=(*COORDINATOR, *MEMBERSHIP),
        broker_only=True,
    ),
    Operation(
        "POST",
        routes.GROUP_OFFSETS,
        "commitOffsets",
        "groups",
        "Commit offsets",
        ok(CommitOffsetsResponse, "What is committed now."),
        description=(
            "The next offset to read of each partition. Members name themselves and their "
            "generation; without both, the group must have no members."
        ),
        parameters=(GROUP,),
        request=(
            Content(
                CommitOffsetsRequest,
                also={
                    "oneOf": A_MEMBER_OR_NOBODY,
                    "properties": {
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
                example={"offsets": [{"topic": "flights", "partition": 0, "offset": 0}]},
            ),
        ),
        problems=(
            *COORDINATOR,
            *MEMBERSHIP,
            NonEmptyGroupError,
            UnknownTopicOrPartitionError,
        ),
        broker_only=True,
    ),
    Operation(
        "GET",
        routes.GROUP_OFFSETS,
        "committedOffsets",
        "groups",
        "What a group has committed",
        ok(CommittedOffsets, "The next offset to read of each partition."),
        groups.committed,
        parameters=(
            GROUP,
            Parameter(
                "require_stable",
                "query",
                "Refuse with `UNSTABLE_OFFSET_COMMIT` what a transaction that is not over may yet "
                "change; for readers of committed records.",
                {"type": "string", "enum": ["false", "true"], "default": "false"},
            ),
        ),
        problems=(*COORDINATOR, GroupIdNotFoundError, UnstableOffsetCommitError),
        broker_only=True,
    ),
    Operation(
        "POST",
        routes.GROUP_SEEK,
        "seekGroup",
        "groups",
        "Set a group back or forward",
        ok(SeekGroupResponse, "What was committed, and what is now."),
        groups.seek,
        description="Only a group without members. With `dry_run` nothing changes.",
        parameters=(GROUP,),
        request=(
            Content(
                SeekGroupRequest,
                also={"oneOf": SEEK_TARGETS},
                example={"to": "earliest", "topics": ["flights"]},
            ),
        ),
        problems=(
            *COORDINATOR,
            GroupIdNotFoundError,
            NonEmptyGroupError,
            UnstableOffsetCommitError,
            UnknownTopicOrPartitionError,
            ReplicaNotAvailableError,
            RecordsLostError,
        ),
        broker_only=True,
    ),
    Operation(
        "DELETE",
        routes.GROUP,
        "deleteGroup",
        "groups",
        "Delete a group without members",
        (Reply(204, "It is gone, with what it committed."),),
        groups.delete,
        parameters=(GROUP,),
        problems=(
            *COORDINATOR,
            GroupIdNotFoundError,
            NonEmptyGroupError,
            UnstableOffsetCommitError,
        ),
        broker_only=True,
    ),
)
