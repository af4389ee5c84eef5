"""What a member of a group holds, and until when that is certain.

Pure: time comes in as `now_ms`, of a monotonic clock. `GroupMember` has the calls and their
answers; here is what they mean for partitions:

    assigned ──the coordinator takes it──▶ revoking ──released──▶ gone
        └───────────── time is over, or the membership ends ─────▶ lost

Answers may overtake one another. Within one generation an assignment only shrinks, and a later
generation replaces it; an answer of an earlier one says nothing any more.

Time is over here before it is over at the coordinator, which gives up a member after a session of
silence, or when it has waited too long for a revoked partition. Both are reckoned from the sending
of calls that were answered, and the coordinator has heard those later than they were sent.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ottla._consumer_types import TopicPartition
from ottla_protocol.errors import OttlaError

NO_PARTITIONS: Final[frozenset[TopicPartition]] = frozenset()
NO_GENERATION: Final = -1


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


class MemberAssignment:
    """The partitions of one member.

    Args:
        session_ms: how long the coordinator bears silence; it may tell another time later.
        rebalance_ms: how long it waits for a revoked partition.

    Attributes:
        generation: of the assignment; NO_GENERATION before there is one.
        assigned: what may be read.
        lost: what was lost since it was last told to the application.
    """

    def __init__(self, session_ms: int, rebalance_ms: int) -> None:
        self.session_ms = session_ms
        self._rebalance_ms = rebalance_ms
        self.generation = NO_GENERATION
        self.assigned: frozenset[TopicPartition] = NO_PARTITIONS
        self.lost: frozenset[TopicPartition] = NO_PARTITIONS
        # With the time when the coordinator may give up this member for its sake.
        self._revoking: dict[TopicPartition, int] = {}
        # The same for what was released, until the coordinator has heard of that.
        self._released: dict[TopicPartition, int] = {}
        # When the latest call that was answered was sent.
        self._answered_ms = 0
        # Until when the coordinator may wait for what this member does not know to have: it was
        # lost in a silence, or the answer to a join was lost. None once it heard what is held.
        self._unconfirmed_until_ms: int | None = None

    @property
    def revoking(self) -> frozenset[TopicPartition]:
        """What is to be let go of and was not released yet."""
        return frozenset(self._revoking)

    @property
    def held(self) -> frozenset[TopicPartition]:
        """What the coordinator is told to be owned."""
        return self.assigned.union(self._revoking)

    @property
    def until_ms(self) -> int:
        """Until when the coordinator cannot have given up this member."""
        return min(self._answered_ms + self.session_ms, self._waited_for_ms)

    @property
    def _waited_for_ms(self) -> int:
        """Until when the coordinator waits for revoked partitions.

        There may be one of which this member has not heard yet, if it was revoked after the latest
        call that was answered.
        """
        told_ms = (*self._revoking.values(), *self._released.values())
        until_ms = min((self._answered_ms + self._rebalance_ms, *told_ms))
        if self._unconfirmed_until_ms is not None:
            until_ms = min(until_ms, self._unconfirmed_until_ms)
        return until_ms

    def owns(self, partition: TopicPartition, now_ms: int) -> bool:
        """Whether the partition is certainly nobody else's at this time."""
        held = partition in self.assigned or partition in self._revoking
        return held and now_ms < self.until_ms

    def is_given_up(self, now_ms: int) -> bool:
        """Whether the coordinator may have given up a member that has not joined (again) yet."""
        return self._unconfirmed_until_ms is not None and now_ms >= self._unconfirmed_until_ms

    # --- what changes it ----------------------------------------------------------------------

    def joining(self, sent_ms: int) -> None:
        """A join is sent; it may be applied even if no answer comes, and partitions be revoked."""
        if self._unconfirmed_until_ms is None:
            self._unconfirmed_until_ms = sent_ms + self._rebalance_ms

    def begin(self, sent_ms: int) -> None:
        """The member joined, by a call that was sent at this time."""
        self._answered_ms = sent_ms

    def adopt(
        self, generation: int, told: frozenset[TopicPartition] | None
    ) -> tuple[frozenset[TopicPartition], frozenset[TopicPartition]]:
        """Take an answer's assignment, None where it did not change; returns (assigned, revoked).

        `answered` follows, because what is revoked here was not yet at the call before.
        """
        if told is None or generation < self.generation:
            return NO_PARTITIONS, NO_PARTITIONS
        assigned = NO_PARTITIONS
        if generation > self.generation:
            # Of a partition that it thought to be still ours the coordinator knew better.
            self._lose(told & self._revoking.keys())
            for partition in told & self._released.keys():
                del self._released[partition]
            assigned = told - self.assigned
            self.generation = generation
        revoked = self.assigned - told
        until_ms = self._answered_ms + self._rebalance_ms
        self._revoking.update(dict.fromkeys(revoked, until_ms))
        self.assigned = (self.assigned - revoked) | assigned
        return assigned, revoked

    def answered(self, sent_ms: int, heard: frozenset[TopicPartition] | None) -> None:
        """A call that was sent at this time was answered.

        If it told, in the generation that was the current one, what was held, then `heard` is that,
        and the coordinator waits for nothing else.
        """
        self._answered_ms = max(self._answered_ms, sent_ms)
        if heard is not None:
            self._unconfirmed_until_ms = None
            self._released = {key: until for key, until in self._released.items() if key in heard}

    def release(self, partitions: Iterable[TopicPartition]) -> None:
        """The application has let go of these; those that are not revoked (any more) stay."""
        for partition in partitions:
            until_ms = self._revoking.pop(partition, None)
            if until_ms is not None:
                self._released[partition] = until_ms

    def fall_silent(self, now_ms: int) -> bool:
        """Time is over: lose everything; returns whether the membership may be taken up again.

        Then the coordinator may still wait for what was lost, until it hears of that.
        """
        waited_for_ms = self._waited_for_ms
        self.end()
        self._unconfirmed_until_ms = waited_for_ms if now_ms < waited_for_ms else None
        return self._unconfirmed_until_ms is not None

    def end(self) -> None:
        """Lose everything; what is assigned next is another membership's."""
        self._lose(self.held)
        self._released.clear()
        self.generation = NO_GENERATION
        self._unconfirmed_until_ms = None

    def take_lost(self) -> frozenset[TopicPartition]:
        """What was lost since the last time."""
        lost, self.lost = self.lost, NO_PARTITIONS
        return lost

    def _lose(self, partitions: frozenset[TopicPartition]) -> None:
        self.lost |= partitions
        self.assigned -= partitions
        for partition in partitions:
            self._revoking.pop(partition, None)
