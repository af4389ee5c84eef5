"""What a client may ask for: names, numbers and sizes, checked before anything is decided."""

from ottla_cluster.controller.topic_names import is_internal, validate_topic_name
from ottla_cluster.groups.assignors import assignor
from ottla_cluster.groups.commands import Join, OffsetToSeek
from ottla_cluster.groups.config import GroupConfig
from ottla_cluster.groups.limits import (
    MAX_COMMIT_METADATA_LENGTH,
    MAX_GROUP_ID_LENGTH,
    MAX_MEMBER_ID_LENGTH,
    MAX_OFFSET,
    MAX_OFFSET_METADATA_LENGTH,
    MAX_OFFSETS_PER_COMMIT,
    MAX_SUBSCRIBED_TOPICS,
)
from ottla_cluster.groups.messages import OffsetToCommit
from ottla_cluster.groups.pattern import Pattern
from ottla_cluster.state_machine.identifiers import validate_identifier
from ottla_protocol.errors import (
    InvalidGroupIdError,
    InvalidRequestError,
    InvalidSessionTimeoutError,
    InvalidTopicError,
)
from ottla_protocol.models_groups import MAX_HEARTBEAT_WAIT_MS


def validate_group_id(group_id: str) -> None:
    """Refuses a group id that breaks a rule; call it after URL-decoding.

    Raises:
        InvalidGroupIdError: its detail names the rule.
    """
    validate_identifier(
        group_id,
        name="A group id",
        max_length=MAX_GROUP_ID_LENGTH,
        refusal=InvalidGroupIdError,
    )


def validate_member_id(field: str, member_id: str) -> None:
    """Refuses a member id, instance id or client id that breaks a rule.

    Raises:
        InvalidRequestError: its detail names the field and the rule.
    """
    if not 0 < len(member_id) <= MAX_MEMBER_ID_LENGTH or not member_id.isprintable():
        raise InvalidRequestError(
            f"{field} must have 1 to {MAX_MEMBER_ID_LENGTH} printable characters.", field=field
        )


def validate_wait(max_wait_ms: int, session_timeout_ms: int) -> None:
    """Refuses a heartbeat that would wait for news for too long.

    Raises:
        InvalidRequestError: its detail names the field and the bound.
    """
    limit_ms = min(MAX_HEARTBEAT_WAIT_MS, session_timeout_ms)
    if not 0 <= max_wait_ms <= limit_ms:
        raise InvalidRequestError(
            f"max_wait_ms must be 0 to {limit_ms}, for it may be no longer than the member's "
            f"session and {MAX_HEARTBEAT_WAIT_MS} ms; it is {max_wait_ms}.",
            field="max_wait_ms",
        )


def validate_join(command: Join, config: GroupConfig) -> None:
    """Refuses a join with a field out of its bounds.

    Raises:
        InvalidGroupIdError: the group id breaks a rule.
        InvalidSessionTimeoutError: the session timeout is out of bounds.
        InvalidPatternError: the pattern does not parse.
        InvalidTopicError: a topic's name breaks a rule, or is internal.
        UnsupportedAssignorError: there is no such assignor.
        InvalidRequestError: another field breaks its rule.
    """
    validate_group_id(command.group)
    if command.member_id is not None:
        validate_member_id("member_id", command.member_id)
    if command.instance_id is not None:
        validate_member_id("instance_id", command.instance_id)
    if command.client_id:
        validate_member_id("client_id", command.client_id)
    if command.assignor is not None:
        assignor(command.assignor)
    session_ms = command.session_timeout_ms
    low_ms, high_ms = config.min_session_timeout_ms, config.max_session_timeout_ms
    if session_ms is not None and not low_ms <= session_ms <= high_ms:
        raise InvalidSessionTimeoutError(
            f"session_timeout_ms must be {low_ms} to {high_ms}; it is {session_ms}.",
            field="session_timeout_ms",
        )
    rebalance_ms = command.rebalance_timeout_ms
    low_ms, high_ms = config.min_rebalance_timeout_ms, config.max_rebalance_timeout_ms
    if rebalance_ms is not None and not low_ms <= rebalance_ms <= high_ms:
        raise InvalidRequestError(
            f"rebalance_timeout_ms must be {low_ms} to {high_ms}; it is {rebalance_ms}.",
            field="rebalance_timeout_ms",
        )
    _validate_subscription(command)


def _validate_subscription(command: Join) -> None:
    if (command.topics is None) == (command.pattern is None):
        raise InvalidRequestError(
            "topics must be a list of names, or pattern a pattern, and not both.", field="topics"
        )
    if command.pattern is not None:
        Pattern(command.pattern)
    topics = command.topics or ()
    if command.topics is not None and not 0 < len(topics) <= MAX_SUBSCRIBED_TOPICS:
        raise InvalidRequestError(
            f"topics must name 1 to {MAX_SUBSCRIBED_TOPICS} topics; it names {len(topics)}.",
            field="topics",
        )
    for index, topic in enumerate(topics):
        field = f"topics[{index}]"
        validate_topic_name(topic, field=field)
        if is_internal(topic):
            raise InvalidTopicError(
                f"The topic {topic!r} is internal: no group may read it.", field=field
            )


def validate_offsets(offsets: tuple[OffsetToCommit, ...] | tuple[OffsetToSeek, ...]) -> None:
    """Refuses offsets that cannot be, too many of them, or two of one partition.

    Raises:
        InvalidRequestError: its detail names the field and the rule.
    """
    if not 0 < len(offsets) <= MAX_OFFSETS_PER_COMMIT:
        raise InvalidRequestError(
            f"offsets must have 1 to {MAX_OFFSETS_PER_COMMIT} partitions; it has {len(offsets)}.",
            field="offsets",
        )
    seen: set[tuple[str, int]] = set()
    metadata_length = 0
    for entry in offsets:
        path = f"offsets[{len(seen)}]"
        where = f"{entry.topic}-{entry.partition}"
        if not 0 <= entry.offset <= MAX_OFFSET:
            raise InvalidRequestError(
                f"offset of {where} must be 0 to {MAX_OFFSET}; it is {entry.offset}.",
                field=f"{path}.offset",
            )
        if (entry.topic, entry.partition) in seen:
            raise InvalidRequestError(f"offsets names {where} twice.", field=f"{path}.partition")
        seen.add((entry.topic, entry.partition))
        if isinstance(entry, OffsetToCommit):
            metadata_length += len(entry.metadata)
            if len(entry.metadata) > MAX_OFFSET_METADATA_LENGTH:
                raise InvalidRequestError(
                    f"metadata of {where} must have at most {MAX_OFFSET_METADATA_LENGTH} "
                    f"characters; it has {len(entry.metadata)}.",
                    field=f"{path}.metadata",
                )
    if metadata_length > MAX_COMMIT_METADATA_LENGTH:
        raise InvalidRequestError(
            f"metadata of all offsets must have at most {MAX_COMMIT_METADATA_LENGTH} characters "
            f"together; it has {metadata_length}.",
            field="offsets",
        )
