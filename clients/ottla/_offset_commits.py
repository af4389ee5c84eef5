"""The commits of one consumer: one request at a time, in the order in which they were asked for.

Pure: time comes in as `now_ms`, of a monotonic clock. `next_call` says what to send now; every call
ends with exactly one `on_answer` or `on_failure`. Commits are told as settled in the order in which
they were asked for, so callbacks run in that order.

What was asked for while a request was out goes together into the next one; where two name one
partition, the later counts. A request is taken as a whole or not at all, so when several commits
are refused together, each is tried alone before it is given up.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Final

from ottla._consumer_types import OffsetAndMetadata, TopicPartition
from ottla._errors import ClientError
from ottla._group_calls import (
    MAX_COMMIT_METADATA_LENGTH,
    MAX_OFFSETS_PER_COMMIT,
    GroupCall,
    check_commit,
    commit_call,
)
from ottla_protocol.errors import (
    ConflictError,
    InternalError,
    OttlaError,
    Outcome,
    RequestTimedOutError,
)

MAX_RETRY_BACKOFF_MS: Final = 1_000
MAX_BACKOFF_DOUBLINGS: Final = 10

Offsets = Mapping[TopicPartition, OffsetAndMetadata]


class CommitFailedError(ClientError):
    """The group did not take a commit: the partitions are this consumer's no longer.

    `__cause__` is the coordinator's answer, if it was asked. Nothing was committed; whoever reads
    the partitions now begins at the last offsets that were.
    """

    code = "COMMIT_FAILED"
    title = "Commit failed"
    default_outcome = Outcome.NOT_APPLIED
    default_hint = (
        "the group gave the partitions to another consumer: poll more often, or raise "
        "max_poll_interval_ms or session_timeout_ms"
    )


@dataclass(slots=True, eq=False)
class OffsetCommit:
    """One commit that was asked for.

    Attributes:
        offsets: the next offset to read of each partition.
        deadline_ms: when to give up.
        is_member: whether it is made as a member of the group.
        is_done: whether it is settled.
        error: why it failed; None once it is done and succeeded.
        is_alone: it was refused together with others, so the next time it goes alone.
        was_sent: whether it may have been applied.
        last_failure: why it had to be tried again.
    """

    offsets: dict[TopicPartition, OffsetAndMetadata]
    deadline_ms: int
    is_member: bool
    is_done: bool = False
    error: OttlaError | None = None
    is_alone: bool = False
    was_sent: bool = False
    last_failure: OttlaError | None = None

    def settle(self, error: OttlaError | None) -> None:
        """Decide what became of it, once."""
        if not self.is_done:
            self.is_done = True
            self.error = error


class OffsetCommits:
    """The commits of one consumer that are not settled.

    Args:
        group_id: the group.
        request_timeout_ms: of one request.
        retry_backoff_ms: before the second attempt; doubles up to MAX_RETRY_BACKOFF_MS.
        random: to spread retries.
    """

    def __init__(
        self, group_id: str, *, request_timeout_ms: int, retry_backoff_ms: int, random: Random
    ) -> None:
        self._group_id = group_id
        self._request_timeout_ms = request_timeout_ms
        self._retry_backoff_ms = retry_backoff_ms
        self._random = random
        self._unsettled: deque[OffsetCommit] = deque()
        # The commits that the requests of now are for, and what is left to send of them.
        self._round: tuple[OffsetCommit, ...] = ()
        self._chunks: deque[Offsets] = deque()
        self._call: GroupCall | None = None
        self._failures = 0
        self._not_before_ms = 0

    @property
    def is_idle(self) -> bool:
        """Whether every commit is settled."""
        return not self._unsettled

    @property
    def asked(self) -> set[TopicPartition]:
        """The partitions of the commits that are not settled."""
        return {name for commit in self._unsettled for name in commit.offsets}

    def commit(
        self, offsets: Offsets, now_ms: int, *, timeout_ms: int, is_member: bool
    ) -> OffsetCommit:
        """Ask for a commit; it is settled by one of the calls below, an empty one too."""
        commit = OffsetCommit(dict(offsets), now_ms + timeout_ms, is_member)
        if not offsets:
            commit.settle(None)
        self._unsettled.append(commit)
        return commit

    # --- calls --------------------------------------------------------------------------------

    def next_call(self, now_ms: int, membership: tuple[str, int] | None) -> GroupCall | None:
        """What to send now, if anything; `membership` is that of this moment."""
        if self._call is not None:
            return None
        self._run_out(now_ms)
        while now_ms >= self._not_before_ms:
            if all(commit.is_done for commit in self._round):
                self._begin_round()
            if not self._round:
                return None
            if membership is not None or not self._round[0].is_member:
                return self._made(now_ms, membership)
            for commit in self._round:
                commit.settle(_failed("the consumer is no member of the group", commit.offsets))
        return None

    def next_call_ms(self) -> int | None:
        """When to call `next_call` and `expire` again although nothing happens; None is never."""
        waiting = [commit for commit in self._unsettled if not commit.is_done]
        if len(waiting) < len(self._unsettled) and self._unsettled[0].is_done:
            return 0
        if not waiting:
            return None
        deadline_ms = min(commit.deadline_ms for commit in waiting)
        return deadline_ms if self._call is not None else min(deadline_ms, self._not_before_ms)

    def on_answer(self, call: GroupCall, body: bytes, now_ms: int) -> tuple[OffsetCommit, ...]:
        """A broker answered with success; returns the commits that are settled now."""
        try:
            check_commit(body)
        except OttlaError as error:
            return self.on_failure(call, error, now_ms)
        if self._ended(call):
            self._failures = 0
            self._not_before_ms = 0
            self._chunks.popleft()
            if not self._chunks:
                for commit in self._round:
                    commit.settle(None)
        return self._settled(now_ms)

    def on_failure(
        self, call: GroupCall, error: OttlaError, now_ms: int
    ) -> tuple[OffsetCommit, ...]:
        """A broker refused, or gave no answer; returns the commits that are settled now."""
        if self._ended(call):
            for commit in self._round:
                commit.last_failure = error
            if error.retriable or error.status >= InternalError.status:
                self._back_off(now_ms)
                if any(commit.is_done for commit in self._round):
                    # What was given up meanwhile is not to be sent once more.
                    self._round, self._chunks = (), deque()
            else:
                self._refused(error)
        return self._settled(now_ms)

    # --- ends ---------------------------------------------------------------------------------

    def expire(self, now_ms: int) -> tuple[OffsetCommit, ...]:
        """Give up what is past its deadline; returns the commits that are settled now."""
        return self._settled(now_ms)

    def drop(self, partitions: Iterable[TopicPartition], now_ms: int) -> tuple[OffsetCommit, ...]:
        """These partitions were lost: fail their commits; returns those that are settled now."""
        lost = frozenset(partitions)
        for commit in self._unsettled:
            if not lost.isdisjoint(commit.offsets):
                commit.settle(_failed("the consumer lost the partitions", commit.offsets))
        if self._call is None:
            self._round, self._chunks = (), deque()
        return self._settled(now_ms)

    def abort(self, error: OttlaError) -> tuple[OffsetCommit, ...]:
        """Fail everything; returns it."""
        aborted = tuple(self._unsettled)
        for commit in aborted:
            commit.settle(error)
        self._unsettled.clear()
        return aborted

    # --- rounds -------------------------------------------------------------------------------

    def _begin_round(self) -> None:
        """Take the next commits together, as many as fit one request."""
        self._round, self._chunks = (), deque()
        waiting = [commit for commit in self._unsettled if not commit.is_done]
        taken: list[OffsetCommit] = []
        merged: dict[TopicPartition, OffsetAndMetadata] = {}
        for commit in waiting:
            if taken and not _fits(taken[0], merged, commit):
                break
            taken.append(commit)
            merged.update(commit.offsets)
        self._round = tuple(taken)
        self._chunks.extend(_chunks(merged))

    def _made(self, now_ms: int, membership: tuple[str, int] | None) -> GroupCall:
        latest_ms = max(commit.deadline_ms for commit in self._round if not commit.is_done)
        for commit in self._round:
            commit.was_sent = True
        self._call = commit_call(
            self._group_id,
            self._chunks[0],
            membership if self._round[0].is_member else None,
            timeout_ms=max(1, min(self._request_timeout_ms, latest_ms - now_ms)),
            wants_other_broker=self._failures > 0,
        )
        return self._call

    def _ended(self, call: GroupCall) -> bool:
        if call is not self._call:
            return False
        self._call = None
        return True

    def _refused(self, error: OttlaError) -> None:
        """Trying the same again cannot help."""
        self._failures = 0
        if len(self._round) > 1:
            for commit in self._round:
                commit.is_alone = True
        else:
            for commit in self._round:
                failure = error
                if isinstance(error, ConflictError):
                    failure = _failed(error.detail, commit.offsets)
                    failure.__cause__ = error
                commit.settle(failure)
        self._round, self._chunks = (), deque()

    def _back_off(self, now_ms: int) -> None:
        doublings = min(self._failures, MAX_BACKOFF_DOUBLINGS)
        backoff_ms = min(self._retry_backoff_ms << doublings, MAX_RETRY_BACKOFF_MS)
        self._failures += 1
        self._not_before_ms = now_ms + round(backoff_ms * self._random.uniform(0.8, 1.2))

    def _run_out(self, now_ms: int) -> None:
        for commit in self._unsettled:
            if not commit.is_done and now_ms >= commit.deadline_ms:
                failure = RequestTimedOutError(
                    f"the commit of {_names(commit.offsets)} was not answered in time",
                    outcome=Outcome.UNKNOWN if commit.was_sent else Outcome.NOT_APPLIED,
                )
                failure.__cause__ = commit.last_failure
                commit.settle(failure)

    def _settled(self, now_ms: int) -> tuple[OffsetCommit, ...]:
        """Those at the head that are done: nobody hears of a later one before an earlier one."""
        self._run_out(now_ms)
        settled: list[OffsetCommit] = []
        while self._unsettled and self._unsettled[0].is_done:
            settled.append(self._unsettled.popleft())
        return tuple(settled)


def _fits(first: OffsetCommit, merged: Offsets, commit: OffsetCommit) -> bool:
    if first.is_alone or commit.is_alone or first.is_member != commit.is_member:
        return False
    together = {**merged, **commit.offsets}
    return (
        len(together) <= MAX_OFFSETS_PER_COMMIT
        and sum(len(each.metadata) for each in together.values()) <= MAX_COMMIT_METADATA_LENGTH
    )


def _chunks(offsets: Offsets) -> Iterator[Offsets]:
    """The offsets in pieces that brokers take; mostly one."""
    chunk: dict[TopicPartition, OffsetAndMetadata] = {}
    length = 0
    for partition, committed in offsets.items():
        length += len(committed.metadata)
        if chunk and (len(chunk) == MAX_OFFSETS_PER_COMMIT or length > MAX_COMMIT_METADATA_LENGTH):
            yield chunk
            chunk, length = {}, len(committed.metadata)
        chunk[partition] = committed
    if chunk:
        yield chunk


def _failed(reason: str, offsets: Offsets) -> OttlaError:
    return CommitFailedError(f"the commit of {_names(offsets)} failed: {reason}")


def _names(offsets: Offsets) -> str:
    names = [f"{topic}-{partition}" for topic, partition in offsets]
    shown = ", ".join(names[:_MAX_NAMES])
    return shown if len(names) <= _MAX_NAMES else f"{shown} and {len(names) - _MAX_NAMES} more"


_MAX_NAMES: Final = 5
"""Partitions that an error names."""
