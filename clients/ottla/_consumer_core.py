"""What a consumer does, whether for threads or for asyncio: reading, polling, rebalances, closing.

Both shells do the same: they look, wait, commit, and call the application's listener in between. So
it is written here once, as generators of steps (`_consumer_steps`).
"""

from collections.abc import Callable, Iterable
from copy import copy
from re import Pattern
from time import monotonic
from typing import Any, Final

from ottla._broker_questions import ConsumerTransport
from ottla._commit_steps import CommitSteps
from ottla._consumer_base import interceptors_of
from ottla._consumer_config import ConsumerConfig
from ottla._consumer_record import ConsumerRecord
from ottla._consumer_steps import (
    News,
    PartitionsOption,
    Records,
    Run,
    Steps,
    T,
    Tell,
    TopicsOption,
    Wait,
)
from ottla._consumer_types import TopicPartition, partitions_of
from ottla._errors import SubscriptionError, WakeupError
from ottla._offset_steps import OffsetSteps
from ottla_protocol.errors import InvalidRequestError
from ottla_protocol.topic_names import validate_topic_name

DEFAULT_CLOSE_TIMEOUT_S: Final = 30.0
"""How long close() may take to commit and to leave the group, unless it is told."""


class ConsumerCore(CommitSteps, OffsetSteps):
    """One consumer without its shell: what it reads, polls and rebalances.

    Args:
        config: its options.
        transport: the way to the brokers.
        news: wakes a poll that waits; set on the driver's loop.
        wake: has the driver look again; any thread.
    """

    def __init__(
        self,
        config: ConsumerConfig,
        transport: ConsumerTransport,
        *,
        news: News,
        wake: Callable[[], None],
    ) -> None:
        super().__init__(config, transport, news=news, wake=wake)
        self.is_woken = False
        self.subscription: frozenset[str] | None = None
        self.pattern: str | None = None
        self._is_assigned = False
        self._listener: Any = None
        self._on_consume = interceptors_of(config.interceptors, "on_consume")
        self.polls = 0
        self.ticket: object = None
        """Of the latest look for records; see `Positions.ticket`."""

    # --- what is read ---------------------------------------------------------------------------

    def subscribe(
        self, topics: TopicsOption, pattern: str | Pattern[str] | None, listener: Any
    ) -> None:
        """See `Consumer.subscribe`."""
        if self.config.group_id is None:
            raise SubscriptionError(
                "subscribe needs a group_id: the group's coordinator is who gives partitions to "
                "consumers",
                hint="set group_id, or name the partitions yourself with assign()",
            )
        if self._is_assigned:
            raise SubscriptionError(
                "partitions were assigned by hand", hint="unsubscribe() before subscribe()"
            )
        names = _topics_of(topics)
        if bool(names) == (pattern is not None):
            raise SubscriptionError("subscribe needs topics or a pattern, and not both")
        for name in names:
            validate_topic_name(name, field="topics")
        text = pattern.pattern if isinstance(pattern, Pattern) else pattern
        if text is not None and not isinstance(text, str):
            raise InvalidRequestError(
                f"pattern must be a regular expression of text, not {pattern!r}", field="pattern"
            )
        self.subscription = None if pattern is not None else frozenset(names)
        self.pattern = text
        self._listener = listener
        with self.lock:
            wanted = tuple(dict.fromkeys(names)) if text is None else None
            self.io.join(wanted, text)
        self._wake()

    def assign(self, partitions: PartitionsOption) -> None:
        """See `Consumer.assign`."""
        if self.subscription is not None or self.pattern is not None:
            raise SubscriptionError(
                "the consumer is subscribed, so its group gives it partitions",
                hint="unsubscribe() before assign()",
            )
        names = partitions_of(partitions)
        self._is_assigned = True
        with self.lock:
            self.positions.settle_iteration()
            if self.config.enable_auto_commit:
                self.io.commit_finished(self.positions.states.keys() - names)
            self.positions.assign(names)
        self._wake()

    def unsubscribe_steps(self) -> Steps[None]:
        """See `Consumer.unsubscribe`."""
        with self.lock:
            self.positions.settle_iteration()
        wait_s = self.config.default_api_timeout_ms / 1000
        try:
            yield from self._leave_steps(wait_s, is_static_too=False)
        finally:
            self.subscription = self.pattern = self._listener = None
            self._is_assigned = False
            self.io.fetcher.tells_unknown = self.io.lookups.tells_unknown = True

    def assignment(self) -> set[TopicPartition]:
        """See `Consumer.assignment`."""
        with self.lock:
            return {
                name
                for name, state in self.positions.states.items()
                if state.is_announced and not state.is_held
            }

    def pause(self, partitions: PartitionsOption, *, is_paused: bool) -> None:
        """See `Consumer.pause` and `Consumer.resume`."""
        with self.lock:
            self.positions.settle_iteration()
            for state in [self.positions.state(name) for name in partitions_of(partitions)]:
                state.is_paused = is_paused
        self._wake()

    def paused(self) -> set[TopicPartition]:
        """See `Consumer.paused`."""
        with self.lock:
            return {name for name, state in self.positions.states.items() if state.is_paused}

    # --- polling --------------------------------------------------------------------------------

    def poll_steps(self, timeout_s: float | None, max_records: int | None) -> Steps[Records]:
        """See `Consumer.poll`."""
        most = self.config.max_poll_records if max_records is None else max_records
        if type(most) is not int or most < 1:
            raise InvalidRequestError(
                f"max_records must be a whole number from 1 on, not {most!r}", field="max_records"
            )
        wait_s = self._timeout_s(timeout_s)
        taken = yield from self._take_steps(lambda: self.io.handout.take(most), wait_s)
        if not (taken and self._on_consume):
            return taken
        return (yield from self._intercept_steps(taken))

    def _intercept_steps(self, taken: Records) -> Steps[Records]:
        """Records after every interceptor; where one fails, nothing was handed out."""
        changed = taken
        try:
            for on_consume in self._on_consume:
                changed = yield Tell(on_consume, (changed,))
        except BaseException:
            self.io.handout.take_back(taken)
            raise
        return changed

    def chunk_steps(self, timeout_s: float) -> Steps[list[ConsumerRecord]]:
        """The next records of an iteration, of one partition; none when the time is over."""
        most = self.config.max_poll_records
        chunk = yield from self._take_steps(
            lambda: self.io.handout.take_to_iterate(most), timeout_s
        )
        if not (chunk and self._on_consume):
            return chunk
        name = TopicPartition(chunk[0].topic, chunk[0].partition)
        records = yield from self._intercept_steps({name: chunk})
        left = [record for part in records.values() for record in part]
        with self.lock:
            # What interceptors have left out counts as given out.
            self.positions.iterate_to(left[-1] if left else None)
        return left

    def _take_steps(self, take: Callable[[], T], timeout_s: float) -> Steps[T]:
        """Look, and wait, until `take` has something or the time is over."""
        self.check_usable()
        if not (self._is_assigned or self.subscription is not None or self.pattern is not None):
            raise SubscriptionError(
                "there is nothing to read", hint="subscribe() or assign() before polling"
            )
        deadline_s = monotonic() + timeout_s
        io = self.io
        self.polls += 1
        with self.lock:
            was_evicted = io.is_evicted
            self.positions.finish()
            io.begin_poll()
        if was_evicted:
            self._wake()
        try:
            while True:
                self._news.clear()
                self.ticket = self.positions.ticket = object()
                self.check_usable()
                if self.is_woken:
                    self.is_woken = False
                    raise WakeupError("wakeup() was called")
                if self._told:
                    yield from self._tell_commits()
                while io.rebalance:
                    yield from self._rebalance_steps()
                # Before the look: as a member of now it may answer for no record of before.
                with self.lock:
                    self.read_as = None if io.member is None else io.member.membership
                taken = take()
                if taken or monotonic() >= deadline_s:
                    if not taken:
                        self._check_reached(timeout_s)
                    return taken
                yield Wait(deadline_s)
        finally:
            io.end_poll()

    # --- rebalances -----------------------------------------------------------------------------

    def _rebalance_steps(self) -> Steps[None]:
        """Tell the application what the group changed."""
        told = self.io.rebalance
        with self.lock:
            lost, told.lost = told.lost, set()
            revoked = set(told.revoked)
        if lost:
            yield from self._tell_listener("on_partitions_lost", lost)
        if revoked:
            yield from self._give_up_steps(revoked)
        if told.error is not None:
            raise copy(told.error)
        with self.lock:
            assigned, told.assigned = told.assigned, set()
            for name in assigned:
                self.positions.states[name].is_announced = True
        if assigned:
            self._wake()
            yield from self._tell_listener("on_partitions_assigned", assigned)

    def _give_up_steps(self, names: set[TopicPartition]) -> Steps[None]:
        """Commit what is finished with, tell the application, and only then let go."""
        timeout_ms = min(self.config.default_api_timeout_ms, self.config.rebalance_limit_ms)
        yield from self._commit_finished_steps(names, timeout_ms)
        try:
            yield from self._tell_listener("on_partitions_revoked", set(names))
            yield from self._settle_steps(timeout_ms)
        finally:
            with self.lock:
                kept = names & self.io.rebalance.revoked
                self.io.rebalance.revoked -= kept
                self.positions.remove(kept)
                if self.io.member is not None:
                    self.io.member.release(kept)
            self._wake()

    def _tell_listener(self, method: str, names: set[TopicPartition]) -> Steps[None]:
        function = getattr(self._listener, method, None)
        if function is not None:
            yield Tell(function, (names,))

    def _leave_steps(self, timeout_s: float, *, is_static_too: bool) -> Steps[None]:
        """Let go of everything, and end the membership."""
        deadline_s = monotonic() + timeout_s
        with self.lock:
            names = {
                name
                for name, state in self.positions.states.items()
                if state.is_announced and self.io.may_read(name)
            }
            lost, self.io.rebalance.lost = self.io.rebalance.lost, set()
            self.positions.hold(names)
        yield from self._commit_finished_steps(names, max(1, round(timeout_s * 1000)))
        try:
            if self.io.member is not None:
                if lost:
                    yield from self._tell_listener("on_partitions_lost", lost)
                if names:
                    yield from self._tell_listener("on_partitions_revoked", names)
                    yield from self._settle_steps(max(1, round((deadline_s - monotonic()) * 1000)))
        finally:
            with self.lock:
                self.positions.remove(list(self.positions.states))
            left_ms = max(1, round((deadline_s - monotonic()) * 1000))
            yield Run(lambda: self.io.leave(left_ms, is_static_too=is_static_too))

    # --- the rest -------------------------------------------------------------------------------

    def finish(self) -> None:
        """The application is done with everything that it has."""
        with self.lock:
            self.positions.finish()

    def close_steps(self, timeout_s: float | None, *, leave: bool | None) -> Steps[None]:
        """See `Consumer.close`; the shell stops the driver afterwards."""
        wait_s = DEFAULT_CLOSE_TIMEOUT_S if timeout_s is None else timeout_s
        with self.lock:
            self.positions.settle_iteration()
        try:
            yield from self._leave_steps(wait_s, is_static_too=bool(leave))
            yield from self._tell_commits()
        finally:
            self.is_closed = True
            # It may have been a listener, within a poll.
            self._news.set()

    def metrics(self) -> dict[str, float]:
        """See `Consumer.metrics`."""
        io = self.io
        with self.lock:
            states = self.positions.states.values()
            return {
                "records_consumed": io.handout.records,
                "bytes_fetched": io.fetcher.fetched_bytes,
                "batches_fetched": io.fetcher.fetched_batches,
                "fetches": io.fetcher.calls,
                "polls": self.polls,
                "buffered_bytes": sum(state.buffered_bytes for state in states),
                "assigned_partitions": len(self.positions.states),
                **io.counters,
            }


def _topics_of(given: object) -> tuple[str, ...]:
    """The names to subscribe to, none of them checked."""
    if isinstance(given, str):
        return (given,)
    if isinstance(given, bytes) or not isinstance(given, Iterable):
        raise InvalidRequestError(
            f"topics must be a name or several, not {given!r}", field="topics"
        )
    return tuple(given)
