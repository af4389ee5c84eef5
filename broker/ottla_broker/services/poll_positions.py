"""Where a poll reads: the group's committed offsets, and what stands in for missing ones."""

from collections.abc import Collection, Iterable, Mapping
from hashlib import sha256
from typing import Literal

from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.peer_messages import PartitionBounds, PartitionName
from ottla_broker.services.coordinator_calls import CoordinatorCalls
from ottla_broker.services.leader_reads import TopicPartition
from ottla_broker.services.partition_bounds import PartitionBoundsService
from ottla_broker.services.poll_acks import PollAck
from ottla_broker.services.poll_membership import PollMembership, by_topic, fenced_for_good
from ottla_cluster.controller.features import TRANSACTIONS, is_enabled
from ottla_cluster.groups.commands import (
    CommitOffsets,
    CommitOffsetsResponse,
    FetchedOffset,
    FetchOffsets,
    FetchOffsetsResponse,
)
from ottla_cluster.groups.limits import MAX_OFFSETS_PER_COMMIT
from ottla_cluster.groups.messages import OffsetToCommit
from ottla_protocol.errors import (
    OffsetOutOfRangeError,
    OttlaError,
    Outcome,
    UnknownMemberIdError,
    UnstableOffsetCommitError,
)

Reset = Literal["earliest", "latest", "none"]

MARK_CHARACTERS = 16


class PollPositions:
    """Reads and writes the committed offsets of members that poll."""

    def __init__(
        self,
        *,
        calls: CoordinatorCalls,
        bounds: PartitionBoundsService,
        metadata: MetadataCache,
    ) -> None:
        self._calls = calls
        self._bounds = bounds
        self._metadata = metadata

    async def commit_ack(self, ack: PollAck) -> bool:
        """Commit what a client says it is done with: all of it or nothing, and never backwards.

        An ack may come twice, since its answer may be lost. Each commit is marked with the member
        that made it, so that what this member has committed already, or gone beyond, is done,
        whoever owns the partition now. The coordinator sees to it that nothing goes back, since
        another poll of the member may commit at the same time.

        Returns:
            Whether the coordinator knows the member, as far as this has shown.

        Raises:
            FencedMemberEpochError: the member lost one of the partitions; nothing was committed.
            UnavailableError: no coordinator decided in time.
        """
        try:
            return await self._commit_what_is_due(ack)
        except UnknownMemberIdError as error:
            raise fenced_for_good(error) from error
        except OttlaError as error:
            # What is not certain says so itself.
            raise error.with_outcome(Outcome.NOT_APPLIED) from error

    async def _commit_what_is_due(self, ack: PollAck) -> bool:
        committed = await self._committed(ack.group, ack.offsets)
        mark = mark_of(ack.member_id)
        due: dict[TopicPartition, int] = {}
        for key, offset in ack.offsets.items():
            before = committed.get(key)
            is_beyond = before is not None and before.offset is not None and before.offset >= offset
            if before is None or not is_beyond or before.metadata != mark:
                due[key] = offset
        await self._commit(ack.group, ack.member_id, ack.generation, due, only_forward=True)
        return bool(due)

    async def locate(
        self, membership: PollMembership, reset: Reset, where: dict[TopicPartition, int]
    ) -> None:
        """Bring `where` up to what the member owns.

        What is new begins at the committed offset, or where `reset` says. A partition whose leader
        does not tell its bounds now stays out, and so does all that is new while a transaction may
        still move a committed offset of it, for a member that reads committed records (KIP-447).

        Raises:
            OffsetOutOfRangeError: nothing is committed, and `reset` is `none`.
            UnknownMemberIdError, FencedMemberEpochError: it is no member any more.
            UnavailableError: no coordinator decided in time.
        """
        for key in membership.take_lost():
            where.pop(key, None)
        new = membership.owned - where.keys()
        if not new:
            return
        require_stable = membership.isolation == "read_committed" and is_enabled(
            self._metadata.image, TRANSACTIONS
        )
        try:
            committed = await self._committed(membership.group, new, require_stable=require_stable)
        except UnstableOffsetCommitError:
            return
        known = {key: found.offset for key, found in committed.items() if found.offset is not None}
        where.update(known)
        await self._place(membership, reset, where, dict.fromkeys(new - known.keys()))

    async def reset(
        self,
        membership: PollMembership,
        reset: Reset,
        where: dict[TopicPartition, int],
        out_of_range: Collection[TopicPartition],
    ) -> None:
        """Replace positions that their leaders refused.

        Raises:
            OffsetOutOfRangeError: `reset` is `none`.
            OttlaError: as `locate`.
        """
        refused = {key: where.pop(key) for key in out_of_range}
        await self._place(membership, reset, where, refused)

    async def _place(
        self,
        membership: PollMembership,
        reset: Reset,
        where: dict[TopicPartition, int],
        refused: Mapping[TopicPartition, int | None],
    ) -> None:
        """Give partitions a position within their bounds, those without a valid one a new one."""
        if not refused:
            return
        bounds = await self._bounds_of(membership, refused)
        forward: dict[TopicPartition, int] = {}
        backward: dict[TopicPartition, int] = {}
        for key, known in bounds.items():
            offset, start = refused[key], known.log_start_offset
            if offset is not None and start <= offset <= known.high_watermark:
                where[key] = offset
                continue
            if reset == "none":
                raise _nowhere(key, offset, known)
            where[key] = start if reset == "earliest" else known.latest(membership.isolation)
            if offset is not None or reset == "latest":
                # Lest the next poll skips what has come meanwhile, or is refused the same offset.
                is_back = offset is not None and where[key] < offset
                (backward if is_back else forward)[key] = where[key]
        group, member_id, generation = membership.group, membership.member_id, membership.generation
        await self._commit(group, member_id, generation, backward)
        # Another poll of the member may have begun there before, and be further already.
        where.update(await self._commit(group, member_id, generation, forward, only_forward=True))

    async def _bounds_of(
        self, membership: PollMembership, partitions: Iterable[TopicPartition]
    ) -> dict[TopicPartition, PartitionBounds]:
        names = {
            (topic, number): PartitionName(membership.topic_ids[topic], number)
            for topic, number in partitions
            if topic in membership.topic_ids
        }
        found = await self._bounds.look_up(names.values())
        return {key: found[name] for key, name in names.items() if name in found}

    async def _committed(
        self, group: str, partitions: Iterable[TopicPartition], *, require_stable: bool = False
    ) -> dict[TopicPartition, FetchedOffset]:
        command = FetchOffsets(group, by_topic(partitions), require_stable=require_stable)
        response, _ = await self._calls.decide(group, command, repeatable=True)
        assert isinstance(response, FetchOffsetsResponse)
        return {(each.topic, each.partition): each for each in response.offsets}

    async def _commit(
        self,
        group: str,
        member_id: str,
        generation: int,
        offsets: Mapping[TopicPartition, int],
        *,
        only_forward: bool = False,
    ) -> dict[TopicPartition, int]:
        """What is committed then."""
        committed: dict[TopicPartition, int] = {}
        entries = [
            OffsetToCommit(topic, partition, offset, metadata=mark_of(member_id))
            for (topic, partition), offset in offsets.items()
        ]
        for start in range(0, len(entries), MAX_OFFSETS_PER_COMMIT):
            command = CommitOffsets(
                group,
                tuple(entries[start : start + MAX_OFFSETS_PER_COMMIT]),
                member_id,
                generation,
                only_forward=only_forward,
            )
            response, _ = await self._calls.decide(group, command, repeatable=False)
            assert isinstance(response, CommitOffsetsResponse)
            committed.update(
                {(each.topic, each.partition): each.offset for each in response.offsets}
            )
        return committed


def mark_of(member_id: str) -> str:
    """What the metadata of a member's commits says; short, for a commit may have many."""
    return "poll:" + sha256(member_id.encode()).hexdigest()[:MARK_CHARACTERS]


def _nowhere(
    key: TopicPartition, offset: int | None, bounds: PartitionBounds
) -> OffsetOutOfRangeError:
    topic, partition = key
    what = "no offset is committed" if offset is None else f"the committed offset {offset} is gone"
    return OffsetOutOfRangeError(
        f"{topic}-{partition}: {what}, and auto_offset_reset is none",
        topic=topic,
        partition=partition,
        log_start_offset=bounds.log_start_offset,
        high_watermark=bounds.high_watermark,
    )
