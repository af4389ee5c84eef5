"""The requests of a group's member, as HTTP calls, and what their answers say.

Pure. Bodies are JSON both ways. Any broker takes these calls and forwards them to the group's
coordinator, so a call names no broker.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal, TypeVar
from urllib.parse import quote

import msgspec

from ottla._consumer_types import OffsetAndMetadata, TopicPartition
from ottla._transport import BrokerUnreachableError
from ottla_protocol import routes
from ottla_protocol.models_groups import (
    CommitOffsetsRequest,
    CommitOffsetsResponse,
    CommittedOffsets,
    GroupHeartbeatRequest,
    JoinGroupRequest,
    MembershipResponse,
    OffsetToCommit,
    OwnedPartitions,
)

MAX_OFFSETS_PER_COMMIT: Final = 1_000
"""Partitions of one commit request; brokers refuse more."""

MAX_COMMIT_METADATA_LENGTH: Final = 65_536
"""Characters of metadata of one commit request, all partitions together; brokers refuse more."""

Model = TypeVar("Model")

_encode = msgspec.json.Encoder().encode


class GroupCallKind(StrEnum):
    """What a call asks."""

    JOIN = "join"
    HEARTBEAT = "heartbeat"
    LEAVE = "leave"
    COMMIT = "commit"
    COMMITTED = "committed"


@dataclass(frozen=True, slots=True, eq=False)
class GroupCall:
    """One request for whoever has the sockets; each is itself, even if another has equal fields.

    Attributes:
        kind: what it asks.
        method, path, body: the request; the body is JSON, empty without one.
        timeout_ms: how long to wait for the answer; it covers the time that a broker may park it.
        wants_other_broker: the last call failed, so a broker other than that one should be asked.
    """

    kind: GroupCallKind
    method: Literal["GET", "POST", "DELETE"]
    path: str
    body: bytes
    timeout_ms: int
    wants_other_broker: bool = False


# --- calls ----------------------------------------------------------------------------------


def join_call(
    group_id: str, request: JoinGroupRequest, *, timeout_ms: int, wants_other_broker: bool
) -> GroupCall:
    """`POST …/members`."""
    path = _path(routes.GROUP_MEMBERS, group_id)
    body = _encode(request)
    return GroupCall(GroupCallKind.JOIN, "POST", path, body, timeout_ms, wants_other_broker)


def heartbeat_call(
    group_id: str,
    member_id: str,
    generation: int,
    owned: Iterable[TopicPartition],
    *,
    max_wait_ms: int,
    timeout_ms: int,
    wants_other_broker: bool,
) -> GroupCall:
    """`POST …/heartbeat`; an answer without news comes after `max_wait_ms`."""
    request = GroupHeartbeatRequest(
        generation=generation, owned=_by_topic(owned), max_wait_ms=max_wait_ms
    )
    path = _path(routes.GROUP_HEARTBEAT, group_id, member_id)
    body = _encode(request)
    return GroupCall(GroupCallKind.HEARTBEAT, "POST", path, body, timeout_ms, wants_other_broker)


def leave_call(
    group_id: str, member_id: str, *, timeout_ms: int, wants_other_broker: bool
) -> GroupCall:
    """`DELETE …/members/{member}`."""
    path = _path(routes.GROUP_MEMBER, group_id, member_id)
    return GroupCall(GroupCallKind.LEAVE, "DELETE", path, b"", timeout_ms, wants_other_broker)


def commit_call(
    group_id: str,
    offsets: Mapping[TopicPartition, OffsetAndMetadata],
    membership: tuple[str, int] | None,
    *,
    timeout_ms: int,
    wants_other_broker: bool,
) -> GroupCall:
    """`POST …/offsets`, of a member or, with None, of a consumer that is none."""
    member_id, generation = (None, None) if membership is None else membership
    request = CommitOffsetsRequest(
        offsets=offsets_to_commit(offsets.items()),
        member_id=member_id,
        generation=generation,
    )
    path = _path(routes.GROUP_OFFSETS, group_id)
    body = _encode(request)
    return GroupCall(GroupCallKind.COMMIT, "POST", path, body, timeout_ms, wants_other_broker)


def offsets_to_commit(
    offsets: Iterable[tuple[TopicPartition, OffsetAndMetadata]],
) -> list[OffsetToCommit]:
    """Offsets as a request has them."""
    return [
        OffsetToCommit(
            topic=partition.topic,
            partition=partition.partition,
            offset=committed.offset,
            leader_epoch=committed.leader_epoch,
            metadata=committed.metadata,
        )
        for partition, committed in offsets
    ]


def committed_call(
    group_id: str,
    *,
    timeout_ms: int,
    wants_other_broker: bool = False,
    requires_stable: bool = False,
) -> GroupCall:
    """`GET …/offsets`: everything that the group has committed.

    With `requires_stable` it is refused, for a while, while a transaction may yet change it
    (KIP-447).
    """
    path = _path(routes.GROUP_OFFSETS, group_id)
    if requires_stable:
        path += "?require_stable=true"
    return GroupCall(GroupCallKind.COMMITTED, "GET", path, b"", timeout_ms, wants_other_broker)


# --- answers --------------------------------------------------------------------------------


def membership_in(body: bytes) -> MembershipResponse:
    """The answer to a join or a heartbeat.

    Raises:
        BrokerUnreachableError: it is no such answer.
    """
    return decoded_body(body, MembershipResponse)


def partitions_in(answer: MembershipResponse) -> frozenset[TopicPartition] | None:
    """The assignment of an answer; None where it did not change."""
    if answer.assignment is None:
        return None
    return frozenset(
        TopicPartition(assigned.topic, partition)
        for assigned in answer.assignment
        for partition in assigned.partitions
    )


def check_commit(body: bytes) -> None:
    """Look whether an answer is one to a commit.

    Raises:
        BrokerUnreachableError: it is not.
    """
    decoded_body(body, CommitOffsetsResponse)


def committed_in(body: bytes) -> dict[TopicPartition, OffsetAndMetadata]:
    """What a group has committed; partitions without a committed offset are missing.

    Raises:
        BrokerUnreachableError: it is no such answer.
    """
    return {
        TopicPartition(each.topic, each.partition): OffsetAndMetadata(
            each.offset, each.metadata, each.leader_epoch
        )
        for each in decoded_body(body, CommittedOffsets).offsets
    }


def _path(route: str, group_id: str, member_id: str = "") -> str:
    return route.format(group=quote(group_id, safe=""), member=quote(member_id, safe=""))


def _by_topic(partitions: Iterable[TopicPartition]) -> list[OwnedPartitions]:
    topics: dict[str, list[int]] = {}
    for topic, partition in sorted(partitions):
        topics.setdefault(topic, []).append(partition)
    return [OwnedPartitions(topic, numbers) for topic, numbers in topics.items()]


def decoded_body(body: bytes, model: type[Model]) -> Model:
    """The answer that a body of JSON is.

    Raises:
        BrokerUnreachableError: it is none.
    """
    try:
        return msgspec.json.decode(body, type=model)
    except msgspec.MsgspecError as error:
        raise BrokerUnreachableError(f"not an answer of a broker: {error}") from error
