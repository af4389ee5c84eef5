"""`poll`: a consumer group in one call, for clients that are no more than an HTTP request.

Nothing of a poll outlives it at the broker: who is a member, who owns what and how far the group is
is the coordinator's to know, so any broker may serve the next one. The position is always the
committed offset. A poll begins by committing what the client acknowledges; what it was given and
does not acknowledge it is given again, or another member is, once it has left. So by its next poll
a client is done with all that it was given before, one way or the other, and partitions that were
taken from it are given up then, after the ack.

While a poll waits it is its member's heartbeat: one parked at the coordinator, which answers when
the assignment changes, beside the reads parked at the leaders.
"""

import asyncio
from collections.abc import Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias
from uuid import uuid4

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.purgatory import Purgatory
from ottla_broker.services.coordinator_calls import CoordinatorCalls
from ottla_broker.services.leader_reads import LeaderReads, Results, TopicPartition, cancel_all
from ottla_broker.services.poll_acks import (
    MAX_ACK_PARTITIONS,
    PollAck,
    decode_ack,
    encode_ack,
)
from ottla_broker.services.poll_membership import PollMembership
from ottla_broker.services.poll_positions import PollPositions
from ottla_broker.services.polled_records import PolledPartition, take_records
from ottla_cluster.groups.commands import Leave
from ottla_protocol.errors import (
    FencedMemberEpochError,
    InvalidRequestError,
    NotFoundError,
    OffsetOutOfRangeError,
    OttlaError,
    Outcome,
    OverloadedError,
    UnknownMemberIdError,
)
from ottla_protocol.models_poll import GroupPollRequest

READ_WAIT_MS = 5_000
"""How long one read of a waiting poll stays at a leader, before it is asked who leads now."""

RETRY_INTERVAL_MS = 100
"""How long a waiting poll leaves a partition alone that could not be read."""

RECORD_BYTES = 1 << 10
LEAST_READ_BYTES = 64 << 10
"""How much is asked of each leader for every record that a poll may take, and at least. What is not
taken is read again by the next poll; those who have larger records get fewer of them at a time."""

MAX_LEAVES_UNDER_WAY = 1_000
"""Members whose clients went away and who are about to leave; the sessions of others end."""


_Looked: TypeAlias = tuple[list[PolledPartition], bool]


@dataclass(frozen=True, slots=True)
class Polled:
    """What a poll found; `ack` is None where it found nothing.

    Partitions may come without records: there was only what is passed over, such as markers and
    what was aborted, and the ack is to keep the next poll from looking through it again.

    `is_new` tells that the client cannot know yet that it is a member.
    """

    group: str
    member_id: str
    generation: int
    partitions: Sequence[PolledPartition]
    ack: str | None
    is_new: bool


class GroupPollService:
    """Serves `POST /v1/groups/{group}/poll`."""

    def __init__(
        self,
        *,
        calls: CoordinatorCalls,
        reads: LeaderReads,
        positions: PollPositions,
        purgatory: Purgatory,
    ) -> None:
        self._calls = calls
        self._reads = reads
        self._positions = positions
        self._purgatory = purgatory
        self._leaving: set[asyncio.Task[None]] = set()

    async def stop(self) -> None:
        """Give up on members that are about to leave; their sessions end."""
        for task in self._leaving:
            task.cancel()
        await asyncio.gather(*self._leaving, return_exceptions=True)

    async def poll(self, group: str, request: GroupPollRequest) -> Polled:
        """Commit the ack, be a member, and wait for records of what the member owns.

        A poll that made its member takes it away again when it fails or is cancelled: the client
        never learns its id.

        Raises:
            InvalidRequestError: a field breaks a rule; `detail` names both.
            FencedMemberEpochError: the ack is of a partition that the member lost; nothing was
                committed.
            OffsetOutOfRangeError: there is no offset to go on from, and `auto_offset_reset` is
                `none`.
            UnavailableError: the coordinator, or the leaders, did not answer in time.
        """
        deadline_ms = monotonic_ms() + request.max_wait_ms
        ack = _checked_ack(group, request)
        is_known = False
        if ack is not None:
            is_known = await self._positions.commit_ack(ack)
        member_id = request.member_id
        if member_id is None:
            member_id = str(uuid4()) if ack is None else ack.member_id
        membership = PollMembership(self._calls, group, member_id, request)
        try:
            if not is_known:
                await membership.begin(was_named=request.member_id is not None or ack is not None)
            await membership.join()
            found = await self._wait_as_member(membership, request, deadline_ms)
        except BaseException as error:
            if membership.is_new:
                self._leave_soon(membership)
            if ack is not None and isinstance(error, OttlaError):
                # Whatever failed says nothing of the ack, and that is committed.
                error.outcome = Outcome.UNKNOWN
            raise
        offsets = {each.key: each.next_offset for each in found}
        made = PollAck(group, member_id, membership.generation, offsets) if found else None
        return Polled(
            group=group,
            member_id=member_id,
            generation=membership.generation,
            partitions=found,
            ack=None if made is None else encode_ack(made),
            is_new=membership.is_new,
        )

    def abandon(self, polled: Polled) -> None:
        """The client will never get this answer: a member that it does not know of leaves."""
        if polled.is_new:
            self._begin_leave(self._leave(polled.group, polled.member_id))

    # --- waiting ----------------------------------------------------------------------------

    async def _wait_as_member(
        self, membership: PollMembership, request: GroupPollRequest, deadline_ms: int
    ) -> list[PolledPartition]:
        while True:
            try:
                return await self._wait(membership, request, deadline_ms)
            except (UnknownMemberIdError, FencedMemberEpochError):
                # Expired, or the group was deleted, while the poll waited.
                if monotonic_ms() >= deadline_ms:
                    raise
                await membership.join()

    async def _wait(
        self, membership: PollMembership, request: GroupPollRequest, deadline_ms: int
    ) -> list[PolledPartition]:
        """Records of the partitions that the member owns; none when the time is up."""
        where: dict[TopicPartition, int] = {}
        passed: dict[TopicPartition, int] = {}
        # The client is done with what it had: what has been taken from it is given up.
        await membership.settle()
        beating: asyncio.Task[bool] | None = None
        try:
            while True:
                await self._positions.locate(membership, request.auto_offset_reset, where)
                found, is_paced = await self._look(
                    membership, request, where, passed, max_wait_ms=0
                )
                while not found:
                    remaining_ms = deadline_ms - monotonic_ms()
                    if remaining_ms <= 0 or self._purgatory.is_released:
                        return _passed(membership, passed, where, found)
                    if beating is None:
                        beating = asyncio.create_task(membership.watch(remaining_ms))
                    looking = asyncio.create_task(
                        self._look_again(
                            membership, request, where, passed, remaining_ms, paced=is_paced
                        )
                    )
                    try:
                        await asyncio.wait({beating, looking}, return_when=asyncio.FIRST_COMPLETED)
                        is_stale = looking.done() and not _are_kept(membership, looking)
                        if is_stale:
                            # The heartbeat has just heard of it, and confirms that now.
                            await asyncio.wait({beating}, timeout=RETRY_INTERVAL_MS / 1000)
                        if beating.done():
                            # Before the records: they may be of partitions that are taken away.
                            ended, beating = beating, None
                            if ended.result():
                                break
                        if looking.done() and not is_stale:
                            found, is_paced = looking.result()
                    finally:
                        await cancel_all({looking})
                if found:
                    membership.require_session()
                    return [*found, *_passed(membership, passed, where, found)]
        finally:
            if beating is not None:
                await cancel_all({beating})

    async def _look_again(
        self,
        membership: PollMembership,
        request: GroupPollRequest,
        where: dict[TopicPartition, int],
        passed: dict[TopicPartition, int],
        remaining_ms: int,
        *,
        paced: bool,
    ) -> _Looked:
        """Look once more: soon where something could not be read, else as soon as there is more."""
        unlocated = membership.owned - where.keys()
        if not where and not unlocated:
            # Nothing to read before the coordinator gives the member something.
            with self._purgatory.parked_request():
                await self._purgatory.pause(remaining_ms)
            return [], False
        if paced or unlocated:
            await self._purgatory.pause(min(RETRY_INTERVAL_MS, remaining_ms))
            if unlocated:
                await self._positions.locate(membership, request.auto_offset_reset, where)
        wait_ms = 0 if membership.owned - where.keys() else min(READ_WAIT_MS, remaining_ms)
        return await self._look(membership, request, where, passed, max_wait_ms=wait_ms)

    async def _look(
        self,
        membership: PollMembership,
        request: GroupPollRequest,
        where: dict[TopicPartition, int],
        passed: dict[TopicPartition, int],
        *,
        max_wait_ms: int,
    ) -> _Looked:
        """Read at `where`; the records, and whether something must be left alone for a moment.

        What is passed over without records moves `where`, and is noted in `passed`.
        """
        if not where:
            return [], False
        max_bytes = max(LEAST_READ_BYTES, request.max_records * RECORD_BYTES)
        results = await self._reads.read(
            where,
            max_wait_ms=max_wait_ms,
            topic_ids=membership.topic_ids,
            max_bytes=max_bytes,
            isolation=membership.isolation,
        )
        found = await take_records(results, where, max_records=request.max_records)
        # Records are not stepped over: they may not be given out yet.
        stepped_over = {each.key: each.next_offset for each in found if not each.records}
        where.update(stepped_over)
        passed.update(stepped_over)
        records = [each for each in found if each.records]
        out_of_range = out_of_range_in(results)
        await self._positions.reset(membership, request.auto_offset_reset, where, out_of_range)
        if not records:
            raise_lasting(results, out_of_range)
        failed = any(isinstance(result, OttlaError) for result in results.values())
        return records, failed

    # --- leaving ----------------------------------------------------------------------------

    def _leave_soon(self, membership: PollMembership) -> None:
        async def leave() -> None:
            if await membership.may_have_joined():
                await self._leave(membership.group, membership.member_id)

        self._begin_leave(leave())

    def _begin_leave(self, leave: Coroutine[None, None, None]) -> None:
        if len(self._leaving) >= MAX_LEAVES_UNDER_WAY:
            leave.close()
            return
        task = asyncio.create_task(leave)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _leave(self, group: str, member_id: str) -> None:
        try:
            await self._calls.decide(group, Leave(group, member_id), repeatable=True)
        except OttlaError:
            # It never became a member, or the coordinator is away and will miss its heartbeats.
            return


def _checked_ack(group: str, request: GroupPollRequest) -> PollAck | None:
    """The poll's ack, of a poll that says what it reads.

    Raises:
        InvalidRequestError: it does not, or the ack is none of this group and member.
    """
    if (request.topics is None) == (request.pattern is None):
        raise InvalidRequestError(
            "exactly one of topics and pattern is needed",
            field="topics",
            outcome=Outcome.NOT_APPLIED,
        )
    if request.ack is None:
        return None
    try:
        return decode_ack(request.ack, group=group, member_id=request.member_id)
    except InvalidRequestError as error:
        raise error.with_outcome(Outcome.NOT_APPLIED) from error


def _are_kept(membership: PollMembership, looking: "asyncio.Task[_Looked]") -> bool:
    """Whether all that was found is of partitions that the member has had all along."""
    if looking.exception() is not None:
        return True
    found, _ = looking.result()
    return all(membership.kept(each.key) for each in found)


def _passed(
    membership: PollMembership,
    passed: Mapping[TopicPartition, int],
    where: Mapping[TopicPartition, int],
    found: Sequence[PolledPartition],
) -> list[PolledPartition]:
    """Partitions that the member has had all along, and of which nothing was found to be shown.

    As many as an ack has room for.
    """
    told = {each.key for each in found}
    return [
        PolledPartition(key, (), offset)
        for key, offset in passed.items()
        if key not in told and where.get(key) == offset and membership.kept(key)
    ][: MAX_ACK_PARTITIONS - len(told)]


def out_of_range_in(results: Results) -> Collection[TopicPartition]:
    """The partitions whose leaders refused the position."""
    return [key for key, result in results.items() if isinstance(result, OffsetOutOfRangeError)]


def raise_lasting(results: Results, handled: Collection[TopicPartition]) -> None:
    """Tell what waiting does not help against.

    A topic that is not there is no error: the coordinator takes it out of the assignment.
    """
    for key, result in results.items():
        if not isinstance(result, OttlaError) or key in handled:
            continue
        if isinstance(result, OverloadedError) or not (
            result.retriable or isinstance(result, NotFoundError)
        ):
            raise result
