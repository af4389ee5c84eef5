"""The membership that one poll works under."""

import asyncio
from collections.abc import Iterable, Mapping

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.services.coordinator_calls import CoordinatorCalls
from ottla_broker.services.leader_reads import TopicPartition
from ottla_cluster.groups.commands import (
    AssignedTopic,
    Heartbeat,
    HeartbeatResponse,
    Join,
    JoinResponse,
    OwnedTopic,
    Response,
)
from ottla_protocol.errors import (
    FencedMemberEpochError,
    OttlaError,
    Outcome,
    UnavailableError,
    UnknownMemberIdError,
)
from ottla_protocol.models_groups import MAX_HEARTBEAT_WAIT_MS
from ottla_protocol.models_poll import GroupPollRequest

MAX_CONFIRMATIONS = 5
"""How often in a row a member answers news with a heartbeat; what is left the next one hears."""


class PollMembership:
    """A member as the coordinator last told it.

    Args:
        calls: the way to the coordinator.
        group: the group.
        member_id: the member.
        request: what it reads, and its settings.

    Attributes:
        is_new: the poll made the member.
        generation: of the last answer.
        owned: what the member may read.
        topic_ids: of which topics, by name: a deleted topic's name may be given to another one.
        isolation: whether it reads committed records alone.
    """

    def __init__(
        self, calls: CoordinatorCalls, group: str, member_id: str, request: GroupPollRequest
    ) -> None:
        self.group = group
        self.member_id = member_id
        self.is_new = False
        self.generation = 0
        self.owned: frozenset[TopicPartition] = frozenset()
        self.topic_ids: Mapping[str, str] = {}
        self.isolation = request.isolation
        self._calls = calls
        self._request = request
        self._session_timeout_ms = request.session_timeout_ms
        self._heartbeat_interval_ms = 0
        # When the last answered call was sent: its session counts from then at the earliest.
        self._confirmed_ms = 0
        self._joining: asyncio.Task[tuple[Response, int]] | None = None
        self._lost: frozenset[TopicPartition] = frozenset()

    async def begin(self, *, was_named: bool) -> None:
        """Find out whether the poll is to make the member.

        Args:
            was_named: the client knows the member id; else it was chosen for this poll.

        Raises:
            OttlaError: the coordinator's refusal, or it did not answer in time.
        """
        if not was_named:
            self.is_new = True
            return
        try:
            await self._decide(Heartbeat(self.group, self.member_id, 0))
        except UnknownMemberIdError:
            self.is_new = True

    async def join(self) -> None:
        """Join, or join again, which also takes a subscription that has changed.

        Raises:
            OttlaError: as `begin`.
        """
        request = self._request
        command = Join(
            group=self.group,
            topics=None if request.topics is None else tuple(request.topics),
            pattern=request.pattern,
            member_id=self.member_id,
            assignor=request.assignor,
            session_timeout_ms=request.session_timeout_ms,
        )
        sent_ms = monotonic_ms()
        # A join that is on its way cannot be taken back: whoever leaves has to wait for its end.
        self._joining = asyncio.create_task(
            self._calls.decide(self.group, command, repeatable=True)
        )
        self._joining.add_done_callback(_take_note)
        response, _ = await asyncio.shield(self._joining)
        assert isinstance(response, JoinResponse)
        self._session_timeout_ms = response.session_timeout_ms
        self._adopt(response, sent_ms)

    async def may_have_joined(self) -> bool:
        """Wait for the end of a join that was sent; False where it certainly made no member."""
        if self._joining is None:
            return False
        await asyncio.wait({self._joining})
        error = None if self._joining.cancelled() else self._joining.exception()
        return not isinstance(error, OttlaError) or error.outcome is Outcome.UNKNOWN

    def take_lost(self) -> frozenset[TopicPartition]:
        """What left the member since this was asked last, come back or not.

        Somebody else may have read it meanwhile, so former positions in it mean nothing.
        """
        lost, self._lost = self._lost, frozenset()
        return lost

    def kept(self, partition: TopicPartition) -> bool:
        """Whether a partition has been the member's since it was told what left it last."""
        return partition in self.owned and partition not in self._lost

    async def heartbeat(self, *, max_wait_ms: int) -> bool:
        """Tell what the member reads, and so give up what was taken; whether there are news.

        Raises:
            UnknownMemberIdError, FencedMemberEpochError: it is no member any more.
            UnavailableError: no coordinator decided in time.
        """
        sent_ms = monotonic_ms()
        command = Heartbeat(
            self.group,
            self.member_id,
            self.generation,
            owned=by_topic(self.owned),
            max_wait_ms=max_wait_ms,
        )
        response = await self._decide(command)
        assert isinstance(response, HeartbeatResponse)
        return self._adopt(response, sent_ms)

    async def settle(self) -> None:
        """Take what the coordinator says until it has no news, confirming each time.

        Raises:
            OttlaError: as `heartbeat`.
        """
        for _ in range(MAX_CONFIRMATIONS):
            if not await self.heartbeat(max_wait_ms=0):
                return

    async def watch(self, wait_ms: int) -> bool:
        """Be the member's heartbeat for up to `wait_ms`, until its assignment changes.

        Whether it did: what is read must be looked at anew then. A coordinator that is away is
        waited for; the session lasts meanwhile.

        Raises:
            UnknownMemberIdError, FencedMemberEpochError: it is no member any more.
        """
        end_ms = monotonic_ms() + wait_ms
        while (remaining_ms := end_ms - monotonic_ms()) > 0:
            sent_ms = monotonic_ms()
            park_ms = min(remaining_ms, MAX_HEARTBEAT_WAIT_MS, self._session_timeout_ms // 3)
            before = self.owned, self.topic_ids
            try:
                await self.heartbeat(max_wait_ms=park_ms)
                if (self.owned, self.topic_ids) != before:
                    # Nobody reads what was taken away: its next owner need not wait for it.
                    await self.settle()
                    return True
            except UnavailableError:
                self.require_session()
                if (self.owned, self.topic_ids) != before:
                    return True
            if monotonic_ms() - sent_ms < park_ms:
                # Answered early and without news: there is no room to wait, or another poll of the
                # same member.
                await asyncio.sleep(min(self._heartbeat_interval_ms, remaining_ms) / 1000)
        return False

    def require_session(self) -> None:
        """That the coordinator cannot have given away what the member owns.

        Raises:
            UnknownMemberIdError: it may have, by this broker's clock: it may have stood still.
        """
        if monotonic_ms() - self._confirmed_ms >= self._session_timeout_ms:
            raise UnknownMemberIdError(
                f"The session of the member {self.member_id!r} may have ended meanwhile."
            )

    async def _decide(self, command: Heartbeat) -> Response:
        response, _ = await self._calls.decide(self.group, command, repeatable=True)
        return response

    def _adopt(self, response: JoinResponse | HeartbeatResponse, sent_ms: int) -> bool:
        before = self.generation, self.owned, self.topic_ids
        self.generation = response.generation
        if response.assignment is not None:
            self._take(response.assignment)
        self._heartbeat_interval_ms = response.heartbeat_interval_ms
        self._confirmed_ms = sent_ms
        return before != (self.generation, self.owned, self.topic_ids)

    def _take(self, assignment: Iterable[AssignedTopic]) -> None:
        before, former_ids = self.owned, self.topic_ids
        self.owned = _partitions(assignment)
        self.topic_ids = {each.topic: each.topic_id for each in assignment}
        self._lost |= {
            (topic, partition)
            for topic, partition in before
            if (topic, partition) not in self.owned or self.topic_ids[topic] != former_ids[topic]
        }


def _take_note(joining: "asyncio.Task[tuple[Response, int]]") -> None:
    """A join whose client went away fails unheard; asyncio would report that as a defect."""
    if not joining.cancelled():
        joining.exception()


def fenced_for_good(error: UnknownMemberIdError) -> FencedMemberEpochError:
    """For a client that acknowledges: whatever its member had may be others' now."""
    return FencedMemberEpochError(
        f"{error.detail} What it was given may be with others; poll again without ack.",
        outcome=Outcome.NOT_APPLIED,
    )


def _partitions(assignment: Iterable[AssignedTopic]) -> frozenset[TopicPartition]:
    return frozenset(
        (topic.topic, partition) for topic in assignment for partition in topic.partitions
    )


def by_topic(partitions: Iterable[TopicPartition]) -> tuple[OwnedTopic, ...]:
    """Partitions as commands name them."""
    numbers: dict[str, list[int]] = {}
    for topic, partition in sorted(partitions):
        numbers.setdefault(topic, []).append(partition)
    return tuple(OwnedTopic(topic, tuple(found)) for topic, found in numbers.items())
