"""One membership of a consumer group: what to tell the coordinator, and what may be read.

Pure: time comes in as `now_ms`, of a monotonic clock. `next_call` says what to send now; every call
ends with exactly one `on_answer` or `on_failure`. `expire` tells what ran out meanwhile; it is due
at `next_call_ms` at the latest. What changes for the application is told as a `MemberChange`.

    unjoined ──join──▶ joined ──leave──▶ leaving ──▶ left
        ▲                │                            │
        └─session over,──┘        └──────resume───────┘
          member unknown

A partition has one reader at a time as long as each member keeps to these rules:

1. A revoked partition is told as owned until the application has let go of it (`release`); from
   then on it is not touched before a later generation assigns it again.
2. When time is over, everything is lost; `MemberAssignment` knows when that is.
3. After the end of a membership, answers to what it asked mean nothing.

While nothing changes, one heartbeat is parked at the coordinator, so that news arrive at once. What
cannot wait for its answer is told by a second heartbeat, which is not parked.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import Final, NamedTuple, TypeAlias

from ottla._consumer_types import TopicPartition
from ottla._group_calls import (
    GroupCall,
    GroupCallKind,
    heartbeat_call,
    join_call,
    leave_call,
    membership_in,
    partitions_in,
)
from ottla._member_assignment import NO_GENERATION, NO_PARTITIONS, MemberAssignment
from ottla._member_assignment import MemberChange as MemberChange
from ottla_protocol.errors import (
    FencedInstanceIdError,
    FencedMemberEpochError,
    InternalError,
    NotFoundError,
    OttlaError,
    Outcome,
    UnavailableError,
    UnknownMemberIdError,
)
from ottla_protocol.models_groups import (
    MAX_HEARTBEAT_WAIT_MS,
    JoinGroupRequest,
    MembershipResponse,
)

DEFAULT_SESSION_TIMEOUT_MS: Final = 10_000
"""What is reckoned with until the coordinator has told the session timeout."""

HEARTBEAT_WAIT_MS: Final = 3_000
"""How long a heartbeat is parked, where the session and the rebalance timeout leave room for it."""

MIN_ANSWER_TIMEOUT_MS: Final = 250
MAX_ANSWER_TIMEOUT_MS: Final = 3_000
"""How long an answer may take beyond the time that it is parked; a fifth of the session else."""

JOIN_TIMEOUT_MS: Final = 5_000
"""How long a join may take: the first one of all has the offsets topic created. It is repeated
under the same member id, so that no second member comes of it."""

MAX_RETRY_BACKOFF_MS: Final = 1_000
MAX_BACKOFF_DOUBLINGS: Final = 10

_Subscription: TypeAlias = tuple[tuple[str, ...] | None, str | None]
_MEMBER_ID_BITS: Final = 128


class Membership(NamedTuple):
    """How a member names itself, in commits too."""

    member_id: str
    generation: int


class _State(Enum):
    UNJOINED = "unjoined"
    JOINED = "joined"
    LEAVING = "leaving"
    LEFT = "left"


@dataclass(frozen=True, slots=True)
class _Sent:
    """What must be known of a call that is out; `life` is that of the membership it belongs to."""

    sent_ms: int
    life: int
    max_wait_ms: int = 0
    generation: int = NO_GENERATION
    owned: frozenset[TopicPartition] = NO_PARTITIONS
    subscription: _Subscription = (None, None)


class GroupMember:
    """The membership of one consumer.

    Args:
        group_id: the group.
        topics, pattern: what to read; exactly one of them.
        instance_id: makes the member static.
        assignor: None takes the group's.
        session_timeout_ms: None takes the coordinator's default.
        rebalance_timeout_ms: how long letting go of revoked partitions may take.
        retry_backoff_ms: before the second attempt; doubles up to MAX_RETRY_BACKOFF_MS.
        random: for member ids and to spread retries.

    Attributes:
        last_error: why the latest call failed; None once one was answered.
    """

    assignment_type = MemberAssignment

    def __init__(
        self,
        group_id: str,
        *,
        topics: tuple[str, ...] | None,
        pattern: str | None,
        instance_id: str | None,
        assignor: str | None,
        session_timeout_ms: int | None,
        rebalance_timeout_ms: int,
        retry_backoff_ms: int,
        random: Random,
    ) -> None:
        self._group_id = group_id
        self._topics = topics
        self._pattern = pattern
        self._instance_id = instance_id
        self._assignor = assignor
        self._wanted_session_ms = session_timeout_ms
        self._rebalance_ms = rebalance_timeout_ms
        self._retry_backoff_ms = retry_backoff_ms
        self._random = random
        self._assignment = self.assignment_type(
            session_timeout_ms or DEFAULT_SESSION_TIMEOUT_MS, rebalance_timeout_ms
        )
        self._state = _State.UNJOINED
        self._out: dict[GroupCall, _Sent] = {}
        self._failures = 0
        self._not_before_ms = 0
        self._leave_until_ms = 0
        self._resumes_after_leave = False
        self.last_error: OttlaError | None = None
        # Of the life of one membership; `_begin_life` and `_new_member_id` set them anew.
        self._life = 0
        self._member_id = self._new_id()
        # Whether a coordinator may know this member id: a join was answered, or may have arrived.
        self._may_be_known = False
        self._join_in_doubt: _Subscription | None = None
        self._join_is_due = True
        self._interval_ms = 0
        self._next_heartbeat_ms = 0
        self._told: frozenset[TopicPartition] | None = None

    # --- what is known ------------------------------------------------------------------------

    @property
    def membership(self) -> Membership | None:
        """How to name the member in commits; None while it is none."""
        if self._state is not _State.JOINED:
            return None
        return Membership(self._member_id, self._assignment.generation)

    @property
    def assigned(self) -> frozenset[TopicPartition]:
        """What may be read; without what is to be let go of."""
        return self._assignment.assigned

    @property
    def revoking(self) -> frozenset[TopicPartition]:
        """What is to be let go of and was not released yet."""
        return self._assignment.revoking

    @property
    def has_left(self) -> bool:
        """Whether there is no membership, and none is sought."""
        return self._state is _State.LEFT

    def may_own(self, partition: TopicPartition, now_ms: int) -> bool:
        """Whether the partition is certainly nobody else's at this time."""
        return self._assignment.owns(partition, now_ms)

    # --- calls --------------------------------------------------------------------------------

    def next_call(self, now_ms: int) -> GroupCall | None:
        """What to send now, if anything; ask again until there is nothing."""
        self._run_out(now_ms)
        due = self._due()
        if due is None or due[1] > now_ms:
            return None
        match due[0]:
            case GroupCallKind.JOIN:
                return self._join_call(now_ms)
            case GroupCallKind.LEAVE:
                return self._leave_call(now_ms)
            case _:
                return self._heartbeat_call(now_ms)

    def next_call_ms(self, now_ms: int) -> int | None:
        """When to call `next_call` and `expire` again although nothing happens; None is never."""
        due = self._due()
        times_ms = [] if due is None else [due[1]]
        if self._state is _State.JOINED:
            times_ms.append(self._assignment.until_ms)
        elif self._state is _State.LEAVING:
            times_ms.append(self._leave_until_ms)
        if self._assignment.lost:
            times_ms.append(now_ms)
        return min(times_ms, default=None)

    def expire(self, now_ms: int) -> MemberChange:
        """What is lost because time ran out."""
        self._run_out(now_ms)
        return self._change()

    def on_answer(self, call: GroupCall, body: bytes, now_ms: int) -> MemberChange:
        """A broker answered with success."""
        answer = None
        if call.kind is not GroupCallKind.LEAVE:
            try:
                answer = membership_in(body)
            except OttlaError as error:
                return self.on_failure(call, error, now_ms)
        self._may_be_known |= call.kind is GroupCallKind.JOIN
        sent = self._ended(call, now_ms)
        if sent is None:
            return self._change()
        self._failures = 0
        self._not_before_ms = 0
        self.last_error = None
        if answer is None:
            self._finish_leaving()
            return self._change()
        return self._adopted(sent, answer, now_ms)

    def on_failure(self, call: GroupCall, error: OttlaError, now_ms: int) -> MemberChange:
        """A broker refused a call, or gave no answer."""
        is_join = call.kind is GroupCallKind.JOIN
        self._may_be_known |= is_join and error.outcome is not Outcome.NOT_APPLIED
        sent = self._ended(call, now_ms)
        if sent is None:
            return self._change()
        self.last_error = error
        if call.kind is GroupCallKind.LEAVE:
            if isinstance(error, UnavailableError | InternalError) or error.retriable:
                self._back_off(now_ms)
            else:
                self._finish_leaving()
        elif isinstance(error, FencedInstanceIdError):
            return self._ended_for_good(error)
        elif isinstance(error, UnknownMemberIdError | FencedMemberEpochError | NotFoundError):
            if self._state is _State.JOINED:
                self._begin_life()
                self._new_member_id()
            self._back_off(now_ms)
        elif error.retriable or error.status >= InternalError.status:
            if is_join and error.outcome is not Outcome.NOT_APPLIED:
                self._join_in_doubt = sent.subscription
            self._join_is_due |= is_join
            self._back_off(now_ms)
        else:
            return self._ended_for_good(error)
        return self._change()

    # --- what the application does ------------------------------------------------------------

    def release(self, partitions: Iterable[TopicPartition]) -> None:
        """The application has let go of these; those that are not revoked (any more) stay."""
        self._assignment.release(partitions)

    def change_subscription(self, topics: tuple[str, ...] | None, pattern: str | None) -> None:
        """Read these from now on; partitions of topics in both stay.

        After the membership ended for good, this tries again.
        """
        if (topics, pattern) == (self._topics, self._pattern) and not self.has_left:
            return
        self._topics, self._pattern = topics, pattern
        if self.has_left:
            self.resume()
        elif self._state is not _State.LEAVING:
            self._join_is_due = True

    def leave(self, now_ms: int, *, is_static_too: bool = False) -> None:
        """End the membership; the application has let go of everything.

        A static member only falls silent, so that its next process may take its place within the
        session timeout, unless `is_static_too`.
        """
        if self._state in (_State.LEAVING, _State.LEFT):
            self._resumes_after_leave = False
            return
        stays = self._instance_id is not None and not is_static_too
        self._begin_life()
        self._assignment.take_lost()
        self._state = _State.LEAVING
        self._leave_until_ms = now_ms + self._assignment.session_ms
        self._not_before_ms = 0
        is_joining = any(call.kind is GroupCallKind.JOIN for call in self._out)
        if stays or not (self._may_be_known or is_joining):
            self._finish_leaving()

    def resume(self) -> None:
        """Join again, as a new member, once the former membership has ended."""
        if self._state is _State.LEAVING:
            self._resumes_after_leave = True
        elif self._state is _State.LEFT:
            self._state = _State.UNJOINED
            self._begin_life()
            self._new_member_id()
            self._assignment.take_lost()
            self._failures = 0
            self._not_before_ms = 0

    # --- what is due --------------------------------------------------------------------------

    def _due(self) -> tuple[GroupCallKind, int] | None:
        """The next call and its time; None while one has to be answered first."""
        match self._state:
            case _State.LEFT:
                return None
            case _State.LEAVING:
                # A join that is still out would come after the leave, and leave a member behind.
                before = (GroupCallKind.JOIN, GroupCallKind.LEAVE)
                if any(call.kind in before for call in self._out):
                    return None
                return GroupCallKind.LEAVE, self._not_before_ms
        is_wanted = self._join_is_due or self._state is _State.UNJOINED
        if is_wanted and not self._is_out(GroupCallKind.JOIN):
            return GroupCallKind.JOIN, self._not_before_ms
        due_ms = self._heartbeat_due_ms()
        return None if due_ms is None else (GroupCallKind.HEARTBEAT, due_ms)

    def _heartbeat_due_ms(self) -> int | None:
        beats = [
            sent
            for call, sent in self._out.items()
            if sent.life == self._life and call.kind is GroupCallKind.HEARTBEAT
        ]
        if self._state is not _State.JOINED or any(not sent.max_wait_ms for sent in beats):
            return None
        if self._told != self._assignment.held:
            return self._not_before_ms
        return None if beats else self._next_heartbeat_ms

    def _is_out(self, kind: GroupCallKind) -> bool:
        return any(
            call.kind is kind and sent.life == self._life for call, sent in self._out.items()
        )

    # --- making calls -------------------------------------------------------------------------

    def _join_call(self, now_ms: int) -> GroupCall:
        subscription = self._topics, self._pattern
        if self._join_in_doubt not in (None, subscription):
            # A join without an answer may still be on its way; it must not undo this one.
            self._begin_life()
            self._new_member_id()
        call = join_call(
            self._group_id,
            JoinGroupRequest(
                topics=None if self._topics is None else list(self._topics),
                pattern=self._pattern,
                member_id=self._member_id,
                instance_id=self._instance_id,
                assignor=self._assignor,
                session_timeout_ms=self._wanted_session_ms,
                rebalance_timeout_ms=self._rebalance_ms,
            ),
            timeout_ms=JOIN_TIMEOUT_MS,
            wants_other_broker=self._failures > 0,
        )
        self._join_is_due = False
        self._assignment.joining(now_ms)
        self._out[call] = _Sent(now_ms, self._life, subscription=subscription)
        return call

    def _heartbeat_call(self, now_ms: int) -> GroupCall:
        owned = self._assignment.held
        is_alone = not self._is_out(GroupCallKind.HEARTBEAT)
        # After a failure a quick answer is worth more than early news: the session must not end.
        max_wait_ms = self._park_ms() if is_alone and not self._failures else 0
        call = heartbeat_call(
            self._group_id,
            self._member_id,
            self._assignment.generation,
            owned,
            max_wait_ms=max_wait_ms,
            timeout_ms=max_wait_ms + self._answer_timeout_ms(),
            wants_other_broker=self._failures > 0,
        )
        self._told = owned
        self._out[call] = _Sent(now_ms, self._life, max_wait_ms, self._assignment.generation, owned)
        return call

    def _leave_call(self, now_ms: int) -> GroupCall:
        call = leave_call(
            self._group_id,
            self._member_id,
            timeout_ms=self._answer_timeout_ms(),
            wants_other_broker=self._failures > 0,
        )
        self._out[call] = _Sent(now_ms, self._life)
        return call

    def _park_ms(self) -> int:
        wait_ms = max(HEARTBEAT_WAIT_MS, self._interval_ms)
        room_ms = min(self._assignment.session_ms, self._rebalance_ms) // 3
        return max(1, min(wait_ms, room_ms, MAX_HEARTBEAT_WAIT_MS))

    def _answer_timeout_ms(self) -> int:
        wanted_ms = self._assignment.session_ms // 5
        return min(max(wanted_ms, MIN_ANSWER_TIMEOUT_MS), MAX_ANSWER_TIMEOUT_MS)

    # --- answers ------------------------------------------------------------------------------

    def _ended(self, call: GroupCall, now_ms: int) -> _Sent | None:
        """What is known of a call that is over; None if its membership has ended before."""
        self._run_out(now_ms)
        sent = self._out.pop(call, None)
        return None if sent is None or sent.life != self._life else sent

    def _adopted(self, sent: _Sent, answer: MembershipResponse, now_ms: int) -> MemberChange:
        """What an answer of this life changes."""
        self._assignment.session_ms = answer.session_timeout_ms
        if self._state is _State.UNJOINED:
            self._assignment.begin(sent.sent_ms)
            if now_ms >= self._assignment.until_ms:
                # So late that the coordinator may have given up this member already.
                self._back_off(now_ms)
                return self._change()
            self._state = _State.JOINED
        self._interval_ms = answer.heartbeat_interval_ms
        assigned, revoked = self._assignment.adopt(answer.generation, partitions_in(answer))
        is_heard = answer.generation == sent.generation
        self._assignment.answered(sent.sent_ms, sent.owned if is_heard else None)
        # Mostly the answer took as long; but brokers without room for it do not park a heartbeat.
        pace_ms = min(self._interval_ms, self._park_ms())
        self._next_heartbeat_ms = max(now_ms, sent.sent_ms + pace_ms)
        return self._change(assigned, revoked)

    def _back_off(self, now_ms: int) -> None:
        doublings = min(self._failures, MAX_BACKOFF_DOUBLINGS)
        backoff_ms = min(self._retry_backoff_ms << doublings, MAX_RETRY_BACKOFF_MS)
        self._failures += 1
        self._not_before_ms = now_ms + round(backoff_ms * self._random.uniform(0.8, 1.2))
        # Whatever was to be told has to be told again.
        self._told = None

    # --- ends ---------------------------------------------------------------------------------

    def _run_out(self, now_ms: int) -> None:
        """End what time has ended."""
        if self._state is _State.JOINED and now_ms >= self._assignment.until_ms:
            # Under the same member id, if that may be: if it was the coordinator that was away,
            # nobody else is given what this member gets back.
            may_return = self._assignment.fall_silent(now_ms)
            self._next_life()
            if not may_return:
                self._new_member_id()
        elif self._state is _State.UNJOINED and self._assignment.is_given_up(now_ms):
            self._begin_life()
            self._new_member_id()
        elif self._state is _State.LEAVING and now_ms >= self._leave_until_ms:
            self._finish_leaving()

    def _begin_life(self) -> None:
        """Lose everything, and what the coordinator may wait for with it."""
        self._assignment.end()
        self._next_life()

    def _next_life(self) -> None:
        """Answers to earlier calls count no more, and a join is due."""
        self._life += 1
        self._told = None
        self._join_is_due = True
        self._next_heartbeat_ms = 0
        if self._state is _State.JOINED:
            self._state = _State.UNJOINED

    def _ended_for_good(self, error: OttlaError) -> MemberChange:
        self._begin_life()
        self._state = _State.LEFT
        return self._change(error=error)

    def _finish_leaving(self) -> None:
        if self._state is _State.LEAVING:
            self._state = _State.LEFT
            if self._resumes_after_leave:
                self._resumes_after_leave = False
                self.resume()

    def _change(
        self,
        assigned: frozenset[TopicPartition] = NO_PARTITIONS,
        revoked: frozenset[TopicPartition] = NO_PARTITIONS,
        error: OttlaError | None = None,
    ) -> MemberChange:
        return MemberChange(assigned, revoked, self._assignment.take_lost(), error)

    def _new_member_id(self) -> None:
        """Nothing that was sent under the former id may touch the next membership."""
        self._member_id = self._new_id()
        self._may_be_known = False
        self._join_in_doubt = None

    def _new_id(self) -> str:
        return f"{self._random.getrandbits(_MEMBER_ID_BITS):032x}"
