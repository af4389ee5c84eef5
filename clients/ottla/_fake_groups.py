"""The consumer groups of the fake cluster: the calls below `/v1/groups`.

Each call takes a request's query and body and returns the answer, or raises what a broker would
answer. `_fake_cluster` holds the lock around all of them. A heartbeat that may wait for news is
answered with `Unfinished`, for the transport to ask again.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final
from uuid import uuid4

from ottla._consumer_types import TopicPartition
from ottla._fake_group import FakeGroup, FakeMember
from ottla._fake_metadata import FakeMetadata, Unfinished, json_answer, parse_json
from ottla._transport import Response
from ottla_protocol import routes
from ottla_protocol.counted_nouns import counted
from ottla_protocol.errors import (
    GroupIdNotFoundError,
    InvalidGroupIdError,
    NonEmptyGroupError,
    OttlaError,
    UnknownMemberIdError,
    UnknownTopicOrPartitionError,
    UnstableOffsetCommitError,
)
from ottla_protocol.models_groups import (
    AssignedPartitions,
    CommitOffsetsRequest,
    CommitOffsetsResponse,
    CommittedOffset,
    CommittedOffsets,
    GroupDescription,
    GroupHeartbeatRequest,
    GroupList,
    GroupListing,
    GroupMemberDescription,
    JoinGroupRequest,
    MembershipResponse,
    OffsetToCommit,
    PartitionLag,
    PartitionOffset,
)

MAX_GROUP_ID_LENGTH: Final = 249
HEARTBEAT_INTERVAL_MS: Final = 3_000
REBALANCE_HEARTBEAT_INTERVAL_MS: Final = 100


class FakeGroups:
    """Every group of one fake cluster.

    Args:
        metadata: the topics.
    """

    def __init__(self, metadata: FakeMetadata) -> None:
        self._metadata = metadata
        self._groups: dict[str, FakeGroup] = {}
        self.pending: set[tuple[str, int]] = set()
        """Groups whose offsets a transaction is to commit, with its producer id."""
        self._commits = 0
        # When each offset came that is committed: by group and partition.
        self._came: dict[tuple[str, TopicPartition], int] = {}
        # Generations never begin anew, lest a commit of a deleted group's member be taken.
        self._last_generation = 0
        self.calls: dict[tuple[str, str], Callable[..., Response]] = {
            ("GET", routes.GROUPS): self._list,
            ("GET", routes.GROUP): self._describe,
            ("DELETE", routes.GROUP): self._delete,
            ("POST", routes.GROUP_MEMBERS): self._join,
            ("POST", routes.GROUP_HEARTBEAT): self._heartbeat,
            ("DELETE", routes.GROUP_MEMBER): self._leave,
            ("POST", routes.GROUP_OFFSETS): self._commit,
            ("GET", routes.GROUP_OFFSETS): self._committed,
        }

    def committed(self, group: str) -> dict[TopicPartition, CommittedOffset]:
        """The committed offsets of a group; of one that never was there are none."""
        found = self._groups.get(group)
        return {} if found is None else dict(found.offsets)

    def assignment(self, group: str) -> dict[str, frozenset[TopicPartition]]:
        """What each member of a group may read, by member id."""
        found = self._groups.get(group)
        members = {} if found is None else found.members
        return {name: frozenset(member.owned) for name, member in members.items()}

    def expire_member(self, group: str, member_id: str) -> None:
        """End a membership as if the member had fallen silent.

        Raises:
            UnknownMemberIdError: there is no such member.
        """
        found = self._groups.get(group)
        if found is None:
            raise UnknownMemberIdError(f"the group {group!r} has no member {member_id!r}")
        found.leave(member_id, self._counts(), _now_ms())

    # --- members --------------------------------------------------------------------------------

    def _join(self, _node_id: int, _query: Mapping[str, str], body: bytes, group: str) -> Response:
        request = parse_json(body, JoinGroupRequest)
        found = self._made(group)
        member = found.join(request, str(uuid4()), self._counts(), _now_ms())
        return json_answer(_membership(found, member, is_news=True), 201)

    def _heartbeat(
        self, _node_id: int, _query: Mapping[str, str], body: bytes, group: str, member: str
    ) -> Response:
        request = parse_json(body, GroupHeartbeatRequest)
        told = None
        if request.owned is not None:
            told = frozenset(
                TopicPartition(each.topic, partition)
                for each in request.owned
                for partition in each.partitions
            )
        found = self._member_group(group, member)
        beaten = found.heartbeat(member, request.generation, told, self._counts(), _now_ms())
        is_news = beaten.generation != request.generation or beaten.owned.keys() != told
        answer = json_answer(_membership(found, beaten, is_news=is_news))
        if is_news or not request.max_wait_ms:
            return answer
        wait_ms = min(request.max_wait_ms, beaten.session_timeout_ms)
        return Unfinished(answer.status, answer.content_type, answer.body, wait_ms)

    def _leave(
        self, _node_id: int, _query: Mapping[str, str], _body: bytes, group: str, member: str
    ) -> Response:
        self._member_group(group, member).leave(member, self._counts(), _now_ms())
        return Response(204, routes.JSON, b"")

    # --- offsets --------------------------------------------------------------------------------

    def _commit(
        self, _node_id: int, _query: Mapping[str, str], body: bytes, group: str
    ) -> Response:
        request = parse_json(body, CommitOffsetsRequest)
        self.check_commit(group, request.member_id, request.generation, request.offsets)
        self.commit(group, request.offsets, self.next_commit())
        return json_answer(
            CommitOffsetsResponse(
                [
                    PartitionOffset(each.topic, each.partition, each.offset)
                    for each in request.offsets
                ]
            )
        )

    def check_commit(
        self,
        group: str,
        member_id: str | None,
        generation: int | None,
        offsets: Iterable[OffsetToCommit],
    ) -> None:
        """Refuse a commit that its sender may not make; see `FakeGroup.check_commit`."""
        found = self._made(group)
        found.look(self._counts(), _now_ms())
        partitions = [TopicPartition(each.topic, each.partition) for each in offsets]
        found.check_commit(member_id, generation, partitions, _now_ms())
        for partition in partitions:
            self._metadata.partition(*partition)

    def next_commit(self) -> int:
        """Numbers commits in the order in which they come."""
        self._commits += 1
        return self._commits

    def commit(self, group: str, offsets: Iterable[OffsetToCommit], came: int) -> None:
        """These are the group's offsets from now on, but for what was committed since they came."""
        found = self._made(group)
        for each in offsets:
            key = group, TopicPartition(each.topic, each.partition)
            if came < self._came.get(key, 0):
                continue
            self._came[key] = came
            found.offsets[TopicPartition(each.topic, each.partition)] = CommittedOffset(
                topic=each.topic,
                partition=each.partition,
                offset=each.offset,
                leader_epoch=each.leader_epoch,
                metadata=each.metadata,
                commit_timestamp=int(time.time() * 1000),
            )

    def _committed(
        self, _node_id: int, query: Mapping[str, str], _body: bytes, group: str
    ) -> Response:
        _check_group_id(group)
        if query.get("require_stable") == "true" and any(name == group for name, _ in self.pending):
            raise UnstableOffsetCommitError(f"a transaction has offsets of {group!r} pending")
        found = self._groups.get(group)
        offsets = [] if found is None else [each for _, each in sorted(found.offsets.items())]
        return json_answer(CommittedOffsets(group, offsets))

    # --- whole groups ---------------------------------------------------------------------------

    def _list(self, _node_id: int, _query: Mapping[str, str], _body: bytes) -> Response:
        return json_answer(
            GroupList(
                [
                    GroupListing(name, _state(group), len(group.members))
                    for name, group in sorted(self._groups.items())
                ]
            )
        )

    def _describe(
        self, node_id: int, _query: Mapping[str, str], _body: bytes, group: str
    ) -> Response:
        found = self._existing(group)
        found.look(self._counts(), _now_ms())
        owners = {key: name for name, each in found.members.items() for key in each.owned}
        return json_answer(
            GroupDescription(
                group=group,
                state=_state(found),
                coordinator=node_id,
                generation=found.generation,
                assignor=found.assignor,
                members=[_described(each) for _, each in sorted(found.members.items())],
                offsets=[
                    self._lag(found.offsets.get(key), key, owners.get(key))
                    for key in sorted(owners.keys() | found.offsets.keys())
                ],
            )
        )

    def _delete(
        self, _node_id: int, _query: Mapping[str, str], _body: bytes, group: str
    ) -> Response:
        found = self._existing(group)
        found.look(self._counts(), _now_ms())
        if found.members:
            raise NonEmptyGroupError(
                f"the group {group!r} has {counted(len(found.members), 'member')}"
            )
        self._last_generation = max(self._last_generation, found.generation)
        del self._groups[group]
        return Response(204, routes.JSON, b"")

    def _lag(
        self, committed: CommittedOffset | None, key: TopicPartition, owner: str | None
    ) -> PartitionLag:
        offset = None if committed is None else committed.offset
        end: int | None
        try:
            end = self._metadata.partition(*key).end_offset
        except UnknownTopicOrPartitionError:
            end = None
        return PartitionLag(
            topic=key.topic,
            partition=key.partition,
            committed=offset,
            end=end,
            lag=None if offset is None or end is None else max(0, end - offset),
            member_id=owner,
            metadata="" if committed is None else committed.metadata,
        )

    # --- finding --------------------------------------------------------------------------------

    def _counts(self) -> dict[str, int]:
        return {name: len(topic.partitions) for name, topic in self._metadata.topics.items()}

    def _made(self, group: str) -> FakeGroup:
        _check_group_id(group)
        if group not in self._groups:
            self._groups[group] = FakeGroup(group, self._last_generation)
        return self._groups[group]

    def _existing(self, group: str) -> FakeGroup:
        found = self._groups.get(group)
        if found is None:
            raise GroupIdNotFoundError(f"there is no group {group!r}")
        return found

    def _member_group(self, group: str, member_id: str) -> FakeGroup:
        found = self._groups.get(group)
        if found is None:
            raise UnknownMemberIdError(f"the group {group!r} has no member {member_id!r}")
        return found


def _check_group_id(group: str) -> None:
    if not 0 < len(group) <= MAX_GROUP_ID_LENGTH:
        error: OttlaError = InvalidGroupIdError(
            f"a group id has 1 to {MAX_GROUP_ID_LENGTH} characters; it has {len(group)}"
        )
        raise error


def _state(group: FakeGroup) -> str:
    if not group.members:
        return "empty"
    return "stable" if group.is_settled else "reconciling"


def _membership(group: FakeGroup, member: FakeMember, *, is_news: bool) -> MembershipResponse:
    interval_ms = min(HEARTBEAT_INTERVAL_MS, member.session_timeout_ms // 3)
    if not group.is_settled:
        interval_ms = min(interval_ms, REBALANCE_HEARTBEAT_INTERVAL_MS)
    return MembershipResponse(
        member.member_id,
        member.generation,
        _assigned(member.owned) if is_news else None,
        member.session_timeout_ms,
        interval_ms,
    )


def _described(member: FakeMember) -> GroupMemberDescription:
    return GroupMemberDescription(
        member_id=member.member_id,
        instance_id=member.instance_id,
        generation=member.generation,
        topics=sorted({key.topic for key in member.owned} | set(member.topics or ())),
        pattern=member.pattern,
        assignment=_assigned(member.owned),
        revoking=_assigned(member.revoking),
        session_timeout_ms=member.session_timeout_ms,
    )


def _assigned(partitions: Iterable[TopicPartition]) -> list[AssignedPartitions]:
    topics: dict[str, list[int]] = {}
    for topic, partition in sorted(partitions):
        topics.setdefault(topic, []).append(partition)
    return [AssignedPartitions(topic, numbers) for topic, numbers in topics.items()]


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
