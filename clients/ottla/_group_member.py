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
2. The session counts from the sending of the last call that was answered, so it is over here before
   it is over at the coordinator. So does the time to let go of what was revoked: it counts from
   the last answered call that still assigned it. When either is over, everything is lost.
3. Answers may overtake one another. Within one generation an assignment only shrinks, and a later
   one replaces it; an answer of an earlier generation says nothing any more.

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

NO_PARTITIONS: Final[frozenset[TopicPartition]] = frozenset()

_Subscription: TypeAlias = tuple[tuple[str, ...] | None, str | None]
_MEMBER_ID_BITS: Final = 128
_NO_GENERATION: Final = -1


class Membership(NamedTuple):
    """How a member names itself, in commits too."""

    member_id: str
    generation: int


@dataclass(frozen=True, slots=True)
class MemberChange:
    """What changed for the application, in the order lost, revoked, assigned.

    Attributes:
        assigned: may be read from now on, from the committed offsets.
        revoked: to be let go of: hand out nothing more, commit, then `release`.
        lost: gone at once; commits of them are refused. A partition may be lost and assigned at
            the same time: somebody else may have read it in between.
        error: the membership ended for good, until `change_subscription` or `resume`.
    """

    assigned: frozenset[TopicPartition] = NO_PARTITIONS
    revoked: frozenset[TopicPartition] = NO_PARTITIONS
    lost: frozenset[TopicPartition] = NO_PARTITIONS
    error: OttlaError | None = None

    def __bool__(self) -> bool:
        """Whether anything changed."""
        return bool(self.assigned or self.revoked or self.lost or self.error is not None)


NO_CHANGE: Final = MemberChange()


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
    generation: int = _NO_GENERATION
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
        self._session_ms = session_timeout_ms or DEFAULT_SESSION_TIMEOUT_MS
        self._rebalance_ms = rebalance_timeout_ms
        self._retry_backoff_ms = retry_backoff_ms
        self._random = random
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
        self._join_was_sent = False
        self._join_in_doubt: _Subscription | None = None
        self._join_is_due = True
        self._generation = _NO_GENERATION
        self._answered_ms = 0
        self._interval_ms = 0
        self._next_heartbeat_ms = 0
        # After a session that was over: until when the coordinator may wait for what was lost then.
        self._unconfirmed_until_ms: int | None = None
        self._told: frozenset[TopicPartition] | None = None
        self._assigned: frozenset[TopicPartition] = NO_PARTITIONS
        self._revoking: dict[TopicPartition, int] = {}
        # Lost since the last change that was told.
        self._lost: frozenset[TopicPartition] = NO_PARTITIONS

    # --- what is known ------------------------------------------------------------------------

    @property
    def membership(self) -> Membership | None:
        """How to name the member in commits; None while it is none."""
        if self._state is not _State.JOINED:
            return None
        return Membership(self._member_id, self._generation)

    @property
    def assigned(self) -> frozenset[TopicPartition]:
        """What may be read; without what is to be let go of."""
        return self._assigned

    @property
    def revoking(self) -> frozenset[TopicPartition]:
        """What is to be let go of and was not released yet."""
        return frozenset(self._revoking)

    @property
    def has_left(self) -> bool:
        """Whether there is no membership, and none is sought."""
        return self._state is _State.LEFT

    def may_own(self, partition: TopicPartition, now_ms: int) -> bool:
        """Whether the partition is certainly nobody else's at this time."""
        if self._state is not _State.JOINED or now_ms >= self._held_until_ms():
            return False
        return partition in self._assigned or partition in self._revoking

    # --- calls --------------------------------------------------------------------------------

    def next_call(self, now_ms: int) -> GroupCall | None:
        """What to send now, if anything; ask again until there is nothing."""
        self._run_out(now_ms)
        due_ms = self._call_due_ms()
        if due_ms is None or due_ms > now_ms:
            return None
        match self._state:
            case _State.LEAVING:
                return self._leave_call(now_ms)
            case _State.JOINED if not self._joins_now():
                return self._heartbeat_call(now_ms)
            case _:
                return self._join_call(now_ms)

    def next_call_ms(self, now_ms: int) -> int | None:
        """When to call `next_call` and `expire` again although nothing happens; None is never."""
        times_ms = [self._call_due_ms()]
        if self._state is _State.JOINED:
            times_ms.append(self._held_until_ms())
        elif self._state is _State.LEAVING:
            times_ms.append(self._leave_until_ms)
        if self._lost:
            times_ms.append(now_ms)
        return min((each for each in times_ms if each is not None), default=None)

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
        sent = self._ended(call, now_ms)
        if sent is None:
            return self._change()
        self.last_error = error
        is_join = call.kind is GroupCallKind.JOIN
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
        for partition in partitions:
            self._revoking.pop(partition, None)

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
        self._lost = NO_PARTITIONS
        self._state = _State.LEAVING
        self._leave_until_ms = now_ms + self._session_ms
        self._not_before_ms = 0
        if stays or not self._join_was_sent:
            self._finish_leaving()

    def resume(self) -> None:
        """Join again, as a new member, once the former membership has ended."""
        if self._state is _State.LEAVING:
            self._resumes_after_leave = True
        elif self._state is _State.LEFT:
            self._state = _State.UNJOINED
            self._begin_life()
            self._new_member_id()
            self._lost = NO_PARTITIONS
            self._failures = 0
            self._not_before_ms = 0

    # --- what is due --------------------------------------------------------------------------

    def _call_due_ms(self) -> int | None:
        """When the next call is due; None while one has to be answered first."""
        joining = any(call.kind is GroupCallKind.JOIN for call in self._out)
        match self._state:
            case _State.LEFT:
                return None
            case _State.LEAVING:
                leaving = any(call.kind is GroupCallKind.LEAVE for call in self._out)
                # A join that is still out would come after the leave, and leave a member behind.
                return None if joining or leaving else self._not_before_ms
            case _State.UNJOINED:
                return None if self._is_out(GroupCallKind.JOIN) else self._not_before_ms
            case _State.JOINED:
                if self._join_is_due and not self._is_out(GroupCallKind.JOIN):
                    return self._not_before_ms
                due_ms = self._heartbeat_due_ms()
                return None if due_ms is None else max(due_ms, self._not_before_ms)

    def _joins_now(self) -> bool:
        return self._join_is_due and not self._is_out(GroupCallKind.JOIN)

    def _heartbeat_due_ms(self) -> int | None:
        beats = [
            sent
            for call, sent in self._out.items()
            if sent.life == self._life and call.kind is GroupCallKind.HEARTBEAT
        ]
        if any(not sent.max_wait_ms for sent in beats):
            return None
        if self._told != self._held():
            return 0
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
        self._join_was_sent = True
        self._out[call] = _Sent(now_ms, self._life, subscription=subscription)
        return call

    def _heartbeat_call(self, now_ms: int) -> GroupCall:
        owned = self._held()
        is_alone = not self._is_out(GroupCallKind.HEARTBEAT)
        # After a failure a quick answer is worth more than early news: the session must not end.
        max_wait_ms = self._park_ms() if is_alone and not self._failures else 0
        call = heartbeat_call(
            self._group_id,
            self._member_id,
            self._generation,
            owned,
            max_wait_ms=max_wait_ms,
            timeout_ms=max_wait_ms + self._answer_timeout_ms(),
            wants_other_broker=self._failures > 0,
        )
        self._told = owned
        self._out[call] = _Sent(now_ms, self._life, max_wait_ms, self._generation)
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
        room_ms = min(self._session_ms, self._rebalance_ms) // 3
        return max(1, min(wait_ms, room_ms, MAX_HEARTBEAT_WAIT_MS))

    def _answer_timeout_ms(self) -> int:
        return min(max(self._session_ms // 5, MIN_ANSWER_TIMEOUT_MS), MAX_ANSWER_TIMEOUT_MS)

    # --- answers ------------------------------------------------------------------------------

    def _ended(self, call: GroupCall, now_ms: int) -> _Sent | None:
        """What is known of a call that is over; None if its membership has ended before."""
        self._run_out(now_ms)
        sent = self._out.pop(call, None)
        return None if sent is None or sent.life != self._life else sent

    def _adopted(self, sent: _Sent, answer: MembershipResponse, now_ms: int) -> MemberChange:
        """What an answer of this life changes."""
        if self._state is _State.UNJOINED:
            if now_ms >= sent.sent_ms + answer.session_timeout_ms:
                # So late that the coordinator may have given up this member already.
                self._back_off(now_ms)
                return self._change()
            self._state = _State.JOINED
            self._answered_ms = sent.sent_ms
        self._session_ms = answer.session_timeout_ms
        self._interval_ms = answer.heartbeat_interval_ms
        if answer.generation == sent.generation:
            self._unconfirmed_until_ms = None
        change = self._assignment_adopted(answer)
        self._answered_ms = max(self._answered_ms, sent.sent_ms)
        waited = now_ms - sent.sent_ms >= sent.max_wait_ms > 0
        if change or waited:
            self._next_heartbeat_ms = now_ms
        else:
            # Brokers without room for it do not park a heartbeat; then it is paced here.
            self._next_heartbeat_ms = max(now_ms, sent.sent_ms + self._interval_ms)
        return change

    def _assignment_adopted(self, answer: MembershipResponse) -> MemberChange:
        told = partitions_in(answer)
        if told is None or answer.generation < self._generation:
            return self._change()
        if answer.generation == self._generation:
            assigned: frozenset[TopicPartition] = NO_PARTITIONS
        else:
            # Of a partition that it thought to be still ours the coordinator knew better.
            self._lose(told & self._revoking.keys())
            assigned = told - self._assigned
            self._generation = answer.generation
        revoked = self._assigned - told
        until_ms = self._answered_ms + self._rebalance_ms
        self._revoking.update(dict.fromkeys(revoked, until_ms))
        self._assigned = (self._assigned - revoked) | assigned
        return self._change(assigned=assigned, revoked=revoked)

    def _back_off(self, now_ms: int) -> None:
        doublings = min(self._failures, MAX_BACKOFF_DOUBLINGS)
        backoff_ms = min(self._retry_backoff_ms << doublings, MAX_RETRY_BACKOFF_MS)
        self._failures += 1
        self._not_before_ms = now_ms + round(backoff_ms * self._random.uniform(0.8, 1.2))
        # Whatever was to be told has to be told again.
        self._told = None

    # --- ends ---------------------------------------------------------------------------------

    def _held(self) -> frozenset[TopicPartition]:
        return self._assigned.union(self._revoking)

    def _held_until_ms(self) -> int:
        """Until when the coordinator cannot have given up this member.

        It does so after a session of silence, or when it has waited too long for a revoked
        partition; it may wait for one of which this member has not heard yet.
        """
        times_ms = [self._answered_ms + min(self._session_ms, self._rebalance_ms)]
        times_ms.extend(self._revoking.values())
        if self._unconfirmed_until_ms is not None:
            times_ms.append(self._unconfirmed_until_ms)
        return min(times_ms)

    def _run_out(self, now_ms: int) -> None:
        """End what time has ended."""
        if self._state is _State.JOINED and now_ms >= self._held_until_ms():
            waited_for_ms = [self._answered_ms + self._rebalance_ms, *self._revoking.values()]
            if self._unconfirmed_until_ms is not None:
                waited_for_ms.append(self._unconfirmed_until_ms)
            self._begin_life()
            if now_ms < min(waited_for_ms):
                # Under the same member id: if it was the coordinator that was away, nobody else
                # is given what this member gets back. What the coordinator waits for it hears of
                # with the first heartbeat.
                self._unconfirmed_until_ms = min(waited_for_ms)
            else:
                self._new_member_id()
        elif self._state is _State.LEAVING and now_ms >= self._leave_until_ms:
            self._finish_leaving()

    def _begin_life(self) -> None:
        """Lose everything; answers to earlier calls count no more, and a join is due."""
        self._lose(self._held())
        self._life += 1
        self._generation = _NO_GENERATION
        self._told = None
        self._join_is_due = True
        self._next_heartbeat_ms = 0
        if self._state is _State.JOINED:
            self._state = _State.UNJOINED

    def _lose(self, partitions: frozenset[TopicPartition]) -> None:
        self._lost |= partitions
        self._assigned -= partitions
        for partition in partitions:
            self._revoking.pop(partition, None)

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
        lost, self._lost = self._lost, NO_PARTITIONS
        return MemberChange(assigned, revoked, lost, error)

    def _new_member_id(self) -> None:
        """Nothing that was sent under the former id may touch the next membership."""
        self._member_id = self._new_id()
        self._join_was_sent = False
        self._join_in_doubt = None
        self._unconfirmed_until_ms = None

    def _new_id(self) -> str:
        return f"{self._random.getrandbits(_MEMBER_ID_BITS):032x}"
