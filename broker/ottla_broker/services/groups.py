"""Consumer groups, as clients see them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import uuid4

import msgspec

from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.peer_messages import PartitionBounds, PartitionName
from ottla_broker.services.coordinator_calls import CoordinatorCalls
from ottla_broker.services.partition_bounds import SETTLING_WAIT_MS, PartitionBoundsService
from ottla_broker.services.topics import TopicService
from ottla_cluster.controller.features import TRANSACTIONS, require
from ottla_cluster.groups.commands import (
    AssignedTopic,
    CommitOffsets,
    CommitOffsetsResponse,
    DeleteGroup,
    DescribeGroup,
    DescribeGroupResponse,
    FetchedOffset,
    FetchOffsets,
    FetchOffsetsResponse,
    GroupListing,
    Heartbeat,
    HeartbeatResponse,
    Join,
    JoinResponse,
    Leave,
    ListGroups,
    ListGroupsResponse,
    MemberDescription,
    OffsetToSeek,
    OwnedTopic,
    SeekOffsets,
    SeekOffsetsResponse,
)
from ottla_cluster.groups.limits import MAX_OFFSETS_PER_COMMIT
from ottla_cluster.groups.messages import OffsetToCommit
from ottla_cluster.groups.transaction_commands import (
    CommitTransactionOffsets,
    PendingTransaction,
)
from ottla_cluster.transactions.records import ProducerIdentity
from ottla_protocol import models_groups as models
from ottla_protocol.errors import (
    GroupIdNotFoundError,
    InvalidRequestError,
    OffsetNotAvailableError,
    OttlaError,
    Outcome,
)
from ottla_protocol.missing_partitions import missing_partition
from ottla_protocol.models import Isolation
from ottla_protocol.models_transactions import CommitTransactionOffsetsRequest, TransactionOffsets


class GroupService:
    """Members, committed offsets and administration of consumer groups."""

    def __init__(
        self,
        *,
        metadata: MetadataCache,
        topics: TopicService,
        calls: CoordinatorCalls,
        bounds: PartitionBoundsService,
    ) -> None:
        self._metadata = metadata
        self._topics = topics
        self._calls = calls
        self._bounds = bounds

    # --- members ----------------------------------------------------------------------------

    async def join(self, group: str, request: models.JoinGroupRequest) -> models.MembershipResponse:
        """Become a member, or join again as the member that `request` names.

        Raises:
            InvalidRequestError: a field breaks a rule; `detail` names both.
            GroupMaxSizeReachedError: the group is full.
            UnavailableError: no coordinator decided in time.
        """
        command = Join(
            group=group,
            topics=None if request.topics is None else tuple(request.topics),
            pattern=request.pattern,
            # Chosen here where the client chose none, so that a lost answer can be asked for again
            # without leaving a second member behind.
            member_id=str(uuid4()) if request.member_id is None else request.member_id,
            instance_id=request.instance_id,
            assignor=request.assignor,
            session_timeout_ms=request.session_timeout_ms,
            rebalance_timeout_ms=request.rebalance_timeout_ms,
        )
        response, _ = await self._calls.decide(group, command, repeatable=True)
        assert isinstance(response, JoinResponse)
        return _membership(response)

    async def heartbeat(
        self, group: str, member_id: str, request: models.GroupHeartbeatRequest
    ) -> models.MembershipResponse:
        """Tell that a member lives and what it reads; hear what it may read, once that is news.

        Raises:
            UnknownMemberIdError: it is no member (any more) and must join again.
            FencedMemberEpochError: the generation is not the member's.
            InvalidRequestError: it would wait for longer than it may.
            UnavailableError: no coordinator decided in time.
        """
        command = Heartbeat(
            group=group,
            member_id=member_id,
            generation=request.generation,
            owned=None if request.owned is None else _owned(request.owned),
            max_wait_ms=request.max_wait_ms,
        )
        response, _ = await self._calls.decide(group, command, repeatable=True)
        assert isinstance(response, HeartbeatResponse)
        return _membership(response)

    async def leave(self, group: str, member_id: str) -> None:
        """End a membership; its partitions are free at once.

        Raises:
            UnknownMemberIdError: there is no such member.
            UnavailableError: no coordinator decided in time.
        """
        await self._calls.decide(group, Leave(group, member_id), repeatable=False)

    # --- offsets ----------------------------------------------------------------------------

    async def commit(
        self, group: str, request: models.CommitOffsetsRequest
    ) -> models.CommitOffsetsResponse:
        """Commit all offsets, or none.

        Raises:
            UnknownMemberIdError: the member is gone, or the group has members and none is named.
            FencedMemberEpochError: the member does not hold one of the partitions, or its
                generation is stale.
            UnknownTopicOrPartitionError: there is no such topic or partition.
            UnavailableError: no coordinator decided in time.
        """
        command = CommitOffsets(
            group=group,
            offsets=_to_commit(request.offsets),
            member_id=request.member_id,
            generation=request.generation,
        )
        response, _ = await self._calls.decide(group, command, repeatable=False)
        assert isinstance(response, CommitOffsetsResponse)
        return models.CommitOffsetsResponse(
            [
                models.PartitionOffset(each.topic, each.partition, each.offset)
                for each in response.offsets
            ]
        )

    async def commit_transaction_offsets(
        self,
        transactional_id: str,
        identity: ProducerIdentity,
        request: CommitTransactionOffsetsRequest,
    ) -> TransactionOffsets:
        """Have offsets of a group committed if the producer's transaction is: all, or none.

        May be sent again: within a transaction an offset only goes forward.

        Raises:
            UnsupportedFeatureLevelError: not all brokers know transactions.
            ProducerFencedError: another producer has taken the transactional id over.
            TransactionAbortableError: the transaction is over.
            OttlaError: as `commit`.
        """
        require(self._metadata.image, TRANSACTIONS)
        command = CommitTransactionOffsets(
            group=request.group,
            transactional_id=transactional_id,
            producer_id=identity.producer_id,
            producer_epoch=identity.producer_epoch,
            offsets=_to_commit(request.offsets),
            member_id=request.member_id,
            generation=request.generation,
        )
        await self._calls.decide(request.group, command, repeatable=True)
        return TransactionOffsets(
            request.group,
            [
                models.PartitionOffset(each.topic, each.partition, each.offset)
                for each in request.offsets
            ],
        )

    async def committed(
        self, group: str, *, require_stable: bool = False
    ) -> models.CommittedOffsets:
        """Everything that a group has committed; nothing for a group that never did.

        Args:
            group: its name.
            require_stable: whether to refuse what a transaction may yet change (KIP-447).

        Raises:
            UnstableOffsetCommitError: a transaction that is not over has offsets in the group.
            UnavailableError: no coordinator answered in time.
        """
        try:
            offsets = await self._fetch(group, require_stable=require_stable)
        except GroupIdNotFoundError:
            offsets = ()
        return models.CommittedOffsets(
            group,
            [
                models.CommittedOffset(
                    topic=each.topic,
                    partition=each.partition,
                    offset=each.offset,
                    leader_epoch=each.leader_epoch,
                    metadata=each.metadata,
                    commit_timestamp=each.commit_timestamp_ms or 0,
                )
                for each in offsets
                if each.offset is not None
            ],
        )

    async def _fetch(self, group: str, *, require_stable: bool) -> Sequence[FetchedOffset]:
        command = FetchOffsets(group, require_stable=require_stable)
        response, _ = await self._calls.decide(group, command, repeatable=True)
        assert isinstance(response, FetchOffsetsResponse)
        return response.offsets

    # --- administration ---------------------------------------------------------------------

    async def list_groups(self) -> models.GroupList:
        """All groups, by name.

        Raises:
            UnavailableError: a coordinator did not answer in time.
        """
        return models.GroupList(
            [
                models.GroupListing(each.group, each.state, each.members)
                for each, _ in await self.listings()
            ]
        )

    async def listings(self) -> list[tuple[GroupListing, int]]:
        """All groups, by name, each with the node id of its coordinator.

        Raises:
            UnavailableError: a coordinator did not answer in time.
        """
        found: list[tuple[GroupListing, int]] = []
        for response, coordinator in await self._calls.ask_all(ListGroups()):
            assert isinstance(response, ListGroupsResponse)
            found.extend((listing, coordinator) for listing in response.groups)
        return sorted(found, key=lambda each: each[0].group)

    async def describe(
        self, group: str, *, isolation: Isolation = "read_uncommitted"
    ) -> models.GroupDescription:
        """A group's members, and how far it is on every partition that it reads or has committed.

        Its lag is that of members who read so.

        Raises:
            GroupIdNotFoundError: there is no such group.
            UnavailableError: no coordinator answered in time.
        """
        response, coordinator = await self._calls.decide(
            group, DescribeGroup(group), repeatable=True
        )
        assert isinstance(response, DescribeGroupResponse)
        return models.GroupDescription(
            group=response.group,
            state=response.state,
            coordinator=coordinator,
            generation=response.generation,
            assignor=response.assignor,
            members=[_describe_member(member) for member in response.members],
            offsets=await self._lags(response, isolation),
            pending=[_describe_pending(pending) for pending in response.pending],
        )

    async def _lags(
        self, group: DescribeGroupResponse, isolation: Isolation
    ) -> list[models.PartitionLag]:
        owners = {
            (topic.topic, number): member.member_id
            for member in group.members
            for topic in member.owned
            for number in topic.partitions
        }
        committed = {(each.topic, each.partition): each for each in group.offsets}
        partitions = sorted(owners.keys() | committed.keys())
        bounds = await self._bounds_of(partitions)
        lags = []
        for topic, number in partitions:
            fetched = committed.get((topic, number))
            offset = None if fetched is None else fetched.offset
            known = bounds.get((topic, number))
            end = None if known is None else known.latest(isolation)
            lags.append(
                models.PartitionLag(
                    topic=topic,
                    partition=number,
                    committed=offset,
                    end=end,
                    lag=None if offset is None or end is None else max(0, end - offset),
                    member_id=owners.get((topic, number)),
                    metadata="" if fetched is None else fetched.metadata,
                )
            )
        return lags

    async def _bounds_of(
        self, partitions: Iterable[tuple[str, int]]
    ) -> dict[tuple[str, int], PartitionBounds]:
        """The bounds of those partitions that exist and whose leader tells them."""
        names = self._names_of(partitions)
        found = await self._bounds.look_up(names.values(), wait_ms=SETTLING_WAIT_MS)
        return {key: found[name] for key, name in names.items() if name in found}

    def _names_of(
        self, partitions: Iterable[tuple[str, int]]
    ) -> dict[tuple[str, int], PartitionName]:
        topic_ids = self._metadata.image.topic_ids
        return {
            (topic, number): PartitionName(topic_ids[topic], number)
            for topic, number in partitions
            if topic in topic_ids
        }

    async def delete(self, group: str) -> None:
        """Remove a group that has no members, with its offsets.

        Raises:
            GroupIdNotFoundError: there is no such group.
            NonEmptyGroupError: it has members.
            UnavailableError: no coordinator decided in time.
        """
        await self._calls.decide(group, DeleteGroup(group), repeatable=False)

    async def seek(self, group: str, request: models.SeekGroupRequest) -> models.SeekGroupResponse:
        """Set the committed offsets of a group without members, or tell what would be set.

        More than MAX_OFFSETS_PER_COMMIT partitions are moved in pieces, one after the other; where
        a piece fails after others were moved, the outcome is `unknown`.

        Raises:
            InvalidRequestError: `value` is missing or too much, or nothing is committed to shift.
            UnknownTopicOrPartitionError: there is no such topic or partition.
            NonEmptyGroupError: the group has members.
            OffsetNotAvailableError: a partition's leader does not tell its bounds now.
            UnavailableError: no coordinator decided in time.
        """
        _check_seek(request)
        committed = {
            (each.topic, each.partition): each.offset
            for each in (await self.committed(group)).offsets
        }
        partitions = await self._partitions_to_seek(request, committed)
        sought = await self._sought_offsets(request, partitions, committed)
        offsets = []
        for topic, number in partitions:
            if (topic, number) not in sought:
                raise OffsetNotAvailableError(
                    f"the leader of {topic}-{number} does not tell its bounds at this moment"
                )
            offsets.append(OffsetToSeek(topic, number, sought[topic, number].offset))
        pieces = [
            offsets[start : start + MAX_OFFSETS_PER_COMMIT]
            for start in range(0, len(offsets), MAX_OFFSETS_PER_COMMIT)
        ]
        if len(pieces) > 1 and not request.dry_run:
            # What refuses a piece refuses it before the first one moves anything.
            for piece in pieces:
                await self._seek_piece(group, piece, dry_run=True)
        sought_offsets = []
        for number, piece in enumerate(pieces):
            try:
                sought_offsets += await self._seek_piece(group, piece, dry_run=request.dry_run)
            except OttlaError as error:
                if number and not request.dry_run:
                    error.outcome = Outcome.UNKNOWN  # The pieces before are applied.
                raise
        return models.SeekGroupResponse(
            group,
            request.dry_run,
            [
                msgspec.structs.replace(
                    each, clamped_to=sought[each.topic, each.partition].clamped_to
                )
                for each in sought_offsets
            ],
        )

    async def _seek_piece(
        self, group: str, offsets: Sequence[OffsetToSeek], *, dry_run: bool
    ) -> list[models.SoughtOffset]:
        command = SeekOffsets(group, tuple(offsets), dry_run=dry_run)
        response, _ = await self._calls.decide(group, command, repeatable=dry_run)
        assert isinstance(response, SeekOffsetsResponse)
        return [
            models.SoughtOffset(each.topic, each.partition, each.before, each.offset)
            for each in response.offsets
        ]

    async def _sought_offsets(
        self,
        request: models.SeekGroupRequest,
        partitions: Iterable[tuple[str, int]],
        committed: Mapping[tuple[str, int], int],
    ) -> dict[tuple[str, int], "_Sought"]:
        """Where the seek goes in those partitions whose leader tells what it takes."""
        if request.to == "timestamp":
            assert request.value is not None
            names = self._names_of(partitions)
            found = await self._bounds.look_up_timestamp(
                names.values(), request.value, wait_ms=SETTLING_WAIT_MS
            )
            return {key: _Sought(found[name]) for key, name in names.items() if name in found}
        bounds = await self._bounds_of(partitions)
        return {key: _sought(request, known, committed.get(key)) for key, known in bounds.items()}

    async def _partitions_to_seek(
        self, request: models.SeekGroupRequest, committed: Iterable[tuple[str, int]]
    ) -> list[tuple[str, int]]:
        if request.topics is None:
            found = [
                (topic, number)
                for topic, number in committed
                if request.partitions is None or number in request.partitions
            ]
        else:
            found = []
            for name in request.topics:
                count = len((await self._topics.find(name)).partitions)
                wanted = range(count) if request.partitions is None else request.partitions
                missing = [number for number in wanted if not 0 <= number < count]
                if missing:
                    raise missing_partition(name, missing[0], count)
                found.extend((name, number) for number in wanted)
        if not found:
            raise InvalidRequestError(
                "the group has committed nothing there; topics must name those to seek in",
                field="topics",
            )
        return sorted(set(found))


def _check_seek(request: models.SeekGroupRequest) -> None:
    needs_value = request.to in ("offset", "shift", "timestamp")
    if needs_value != (request.value is not None):
        rule = "needs" if needs_value else "takes no"
        raise InvalidRequestError(f"to '{request.to}' {rule} value", field="value")
    if request.to == "timestamp" and request.value is not None and request.value < 0:
        raise InvalidRequestError("a timestamp is not negative", field="value")


@dataclass(frozen=True, slots=True)
class _Sought:
    """Where a seek goes in a partition, and to which of its ends it was held, if to one."""

    offset: int
    clamped_to: Literal["earliest", "latest"] | None = None


def _sought(
    request: models.SeekGroupRequest, bounds: PartitionBounds, committed: int | None
) -> _Sought:
    earliest, latest = bounds.log_start_offset, bounds.high_watermark
    if request.to == "earliest":
        return _Sought(earliest)
    if request.to == "latest":
        return _Sought(latest)
    assert request.value is not None
    wanted = request.value
    if request.to == "shift":
        if committed is None:
            raise InvalidRequestError(
                f"partition {bounds.partition} has no committed offset to shift from", field="to"
            )
        wanted += committed
    if wanted < earliest:
        return _Sought(earliest, "earliest")
    return _Sought(latest, "latest") if wanted > latest else _Sought(wanted)


def _membership(response: JoinResponse | HeartbeatResponse) -> models.MembershipResponse:
    return models.MembershipResponse(
        member_id=response.member_id,
        generation=response.generation,
        assignment=None if response.assignment is None else _assigned(response.assignment),
        session_timeout_ms=response.session_timeout_ms,
        heartbeat_interval_ms=response.heartbeat_interval_ms,
    )


def _assigned(topics: Sequence[AssignedTopic]) -> list[models.AssignedPartitions]:
    return [models.AssignedPartitions(each.topic, list(each.partitions)) for each in topics]


def _owned(topics: Sequence[models.OwnedPartitions]) -> tuple[OwnedTopic, ...]:
    return tuple(OwnedTopic(each.topic, tuple(each.partitions)) for each in topics)


def _to_commit(offsets: Sequence[models.OffsetToCommit]) -> tuple[OffsetToCommit, ...]:
    return tuple(
        OffsetToCommit(each.topic, each.partition, each.offset, each.leader_epoch, each.metadata)
        for each in offsets
    )


def _describe_pending(pending: PendingTransaction) -> models.PendingOffsets:
    return models.PendingOffsets(
        pending.producer_id,
        pending.producer_epoch,
        [
            models.PartitionOffset(each.topic, each.partition, each.offset)
            for each in pending.offsets
        ],
    )


def _describe_member(member: MemberDescription) -> models.GroupMemberDescription:
    return models.GroupMemberDescription(
        member_id=member.member_id,
        instance_id=member.instance_id,
        generation=member.generation,
        topics=list(member.topics),
        pattern=member.pattern,
        assignment=_assigned(member.owned),
        revoking=_assigned(member.revoking),
        session_timeout_ms=member.session_timeout_ms,
    )
