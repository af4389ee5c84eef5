"""What a consumer does, whether for threads or for asyncio.

Both shells do the same: they look, wait, commit, and call the application's listener in between. So
every call that may wait is written once, as a generator of `Step`s, and each shell carries the
steps out in its own way: `Wait` until there is news, `Run` a coroutine on the driver's loop, `Tell`
the application something. What a step gives, or raises, comes back at its `yield`.
"""

import logging
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping
from copy import copy
from random import Random
from re import Pattern
from time import monotonic
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, TypeVar
from urllib.parse import quote

import msgspec

from ottla._consumer_config import ConsumerConfig
from ottla._consumer_io import ConsumerIO, ConsumerTransport
from ottla._consumer_record import ConsumerRecord
from ottla._consumer_types import OffsetAndMetadata, OffsetAndTimestamp, TopicPartition
from ottla._errors import (
    ClusterUnreachableError,
    ConsumerClosedError,
    ForkedProcessError,
    SubscriptionError,
    WakeupError,
)
from ottla._futures import WaitTimedOutError
from ottla._group_calls import committed_call, committed_in
from ottla._offset_commits import OffsetCommit
from ottla._partitioner import PartitionInfo
from ottla._positions import Start
from ottla._producer_io import monotonic_ms
from ottla._transport import BrokerUnreachableError
from ottla_protocol import routes
from ottla_protocol.errors import InvalidRequestError, OttlaError
from ottla_protocol.models import MetadataResponse, OffsetResponse
from ottla_protocol.topic_names import validate_topic_name

T = TypeVar("T")

DEFAULT_CLOSE_TIMEOUT_S: Final = 30.0
"""How long close() may take to commit and to leave the group, unless it is told."""

TopicsOption: TypeAlias = str | Iterable[str]
PartitionsOption: TypeAlias = Iterable[TopicPartition | tuple[str, int]]
CommitOption: TypeAlias = ConsumerRecord | Mapping[TopicPartition, int | OffsetAndMetadata] | None
"""What commit takes: one record, the next offset of partitions, or None for all positions."""

CommitCallback: TypeAlias = Callable[
    [OttlaError | None, dict[TopicPartition, OffsetAndMetadata]], object
]
"""What `commit_async` takes: called with (error, offsets) or (None, offsets)."""

Records: TypeAlias = dict[TopicPartition, list[ConsumerRecord]]

_logger = logging.getLogger("ottla.consumer")
_decode_metadata = msgspec.json.Decoder(MetadataResponse).decode


class RebalanceListener:
    """What a consumer's group tells the application; override what is of interest.

    All are called within poll() or an iteration, in that thread, and with asyncio they may be
    coroutines. They may use the consumer, save for polling.
    """

    def on_partitions_assigned(self, partitions: set[TopicPartition]) -> Any:
        """These are read from now on, from the committed offsets unless you seek()."""

    def on_partitions_revoked(self, partitions: set[TopicPartition]) -> Any:
        """These go to another consumer when this returns: finish with them, and commit()."""

    def on_partitions_lost(self, partitions: set[TopicPartition]) -> Any:
        """These are gone, perhaps read by another consumer already; commits are refused."""


class Wait(NamedTuple):
    """Wait for news, until a time by `time.monotonic`."""

    deadline_s: float


class Run(NamedTuple):
    """Run a coroutine on the driver's loop and give its result."""

    work: Callable[[], Coroutine[Any, Any, Any]]


class Tell(NamedTuple):
    """Call the application."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


Step: TypeAlias = Wait | Run | Tell
Steps: TypeAlias = Generator[Step, Any, T]


class News(Protocol):
    """What a waiting poll is woken by: an event of threads or of asyncio."""

    def set(self) -> None: ...
    def clear(self) -> None: ...


class ConsumerCore:
    """One consumer without its shell.

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
        self.config = config
        self.io = ConsumerIO(config, transport, on_news=news.set, wake=wake, random=Random())
        self.positions = self.io.positions
        self.is_closed = False
        self.is_woken = False
        self.subscription: frozenset[str] | None = None
        self.pattern: str | None = None
        self._is_assigned = False
        self._wake = wake
        self._news = news
        self._listener: Any = None
        self._on_consume = _methods(config.interceptors, "on_consume")
        self._on_commit = _methods(config.interceptors, "on_commit")
        # The driver appends, and who polls takes away.
        self._told: deque[tuple[OffsetCommit, CommitCallback | None]] = deque()
        self.polls = 0
        self.ticket: object = None
        """Of the latest look for records; see `Positions.ticket`."""

    @property
    def lock(self) -> Any:
        """Guards the machines."""
        return self.io.monitor.lock

    def check_usable(self) -> None:
        """Raise when the consumer is closed, belongs to another process, or has a defect."""
        if self.io.monitor.is_forked:
            raise ForkedProcessError("this consumer was made in the parent process, before a fork")
        if self.is_closed:
            raise ConsumerClosedError("the consumer is closed")
        if self.io.defect is not None:
            raise self.io.failure()

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
        names = (topics,) if isinstance(topics, str) else tuple(topics)
        if bool(names) == (pattern is not None):
            raise SubscriptionError("subscribe needs topics or a pattern, and not both")
        for name in names:
            validate_topic_name(name)
        text = pattern.pattern if isinstance(pattern, Pattern) else pattern
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
        names = [_partition(each) for each in partitions]
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
            for state in [self.positions.state(_partition(each)) for each in partitions]:
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
        if most < 1:
            raise InvalidRequestError(f"max_records must be at least 1, not {most}")
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
                taken = take()
                if taken or monotonic() >= deadline_s:
                    if not taken:
                        self._check_reached(timeout_s)
                    return taken
                yield Wait(deadline_s)
        finally:
            io.end_poll()

    def _check_reached(self, waited_s: float) -> None:
        """Tell of a cluster of which nobody answers, instead of finding nothing for ever."""
        io = self.io
        silent_ms = monotonic_ms() - io.unreachable_since_ms
        reasons = io.reasons
        if len(reasons) < len(self.config.bootstrap_servers):
            return
        if not io.was_reached or silent_ms >= self.config.default_api_timeout_ms:
            raise ClusterUnreachableError.after(max(silent_ms, waited_s * 1000), reasons)

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

    def _commit_finished_steps(
        self, names: Iterable[TopicPartition], timeout_ms: int
    ) -> Steps[None]:
        """Auto commit, now; what fails is logged, and read again by whoever is next.

        Commits on their way are waited for before: they may be of more, and are not to be undone.
        """
        deadline_ms = monotonic_ms() + timeout_ms
        yield from self._settle_steps(timeout_ms)
        if not self.config.enable_auto_commit:
            return
        timeout_ms = max(1, deadline_ms - monotonic_ms())
        with self.lock:
            assert self.io.commits is not None, "auto commit needs a group"
            offsets = self.positions.finished(names, without=self.io.commits.asked)
        if not offsets:
            return
        try:
            yield Run(lambda: self.io.commit_now(offsets, timeout_ms))
        except OttlaError as error:
            _logger.warning("%s: auto commit: %s", self.config.client_id, error)

    def _settle_steps(self, timeout_ms: int) -> Steps[None]:
        """Wait until the commits that were asked for are settled, while there is time."""
        if self.io.commits is not None and not self.io.commits.is_idle:
            # One of nothing is settled when its turn comes.
            yield Run(lambda: self.io.commit_now({}, timeout_ms))

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

    # --- commits --------------------------------------------------------------------------------

    def commit_steps(self, what: CommitOption, timeout_s: float | None) -> Steps[None]:
        """See `Consumer.commit`."""
        offsets = self._offsets_to_commit(what)
        timeout_ms = max(1, round(self._timeout_s(timeout_s) * 1000))
        try:
            if offsets:
                yield Run(lambda: self.io.commit_now(offsets, timeout_ms))
        finally:
            yield from self._tell_commits()
        for on_commit in self._on_commit:
            yield Tell(on_commit, (offsets,))

    def commit_async(self, what: CommitOption, callback: CommitCallback | None) -> None:
        """See `Consumer.commit_async`."""
        offsets = self._offsets_to_commit(what)

        def on_settled(commit: OffsetCommit) -> None:
            self._told.append((commit, callback))
            self._news.set()

        with self.lock:
            self.io.commit(offsets, self.config.default_api_timeout_ms, on_settled)
        self._wake()

    def _tell_commits(self) -> Steps[None]:
        """Call the callbacks of asynchronous commits that are settled, in their order."""
        left = len(self._told)
        while left and self._told:
            left -= 1
            commit, callback = self._told.popleft()
            if callback is not None:
                yield Tell(callback, (commit.error, commit.offsets))
            elif commit.error is not None:
                _logger.warning("%s: commit_async: %s", self.config.client_id, commit.error)
            for on_commit in self._on_commit if commit.error is None else ():
                yield Tell(on_commit, (commit.offsets,))

    def _offsets_to_commit(self, what: CommitOption) -> dict[TopicPartition, OffsetAndMetadata]:
        self.check_usable()
        self._check_group("commit")
        if what is None:
            with self.lock:
                return self.positions.consumed()
        if isinstance(what, ConsumerRecord):
            name = TopicPartition(what.topic, what.partition)
            epoch = what.leader_epoch if what.leader_epoch >= 0 else None
            return {name: OffsetAndMetadata(what.offset + 1, "", epoch)}
        if not isinstance(what, Mapping):
            raise InvalidRequestError(
                "commit takes a record, or a mapping of partitions to the next offset, not "
                f"{type(what).__qualname__}"
            )
        offsets: dict[TopicPartition, OffsetAndMetadata] = {}
        for each, next_offset in what.items():
            given = (
                next_offset
                if isinstance(next_offset, OffsetAndMetadata)
                else OffsetAndMetadata(next_offset)
            )
            _check_offset(given.offset)
            offsets[_partition(each)] = given
        return offsets

    def _check_group(self, method: str) -> None:
        if self.config.group_id is None:
            raise SubscriptionError(
                f"{method} needs a group_id: offsets are kept by group", hint="set group_id"
            )

    # --- offsets --------------------------------------------------------------------------------

    def seek(self, partition: TopicPartition | tuple[str, int], offset: int) -> None:
        """See `Consumer.seek`."""
        _check_offset(offset)
        with self.lock:
            self.positions.settle_iteration()
            self.positions.seek(_partition(partition), offset)
        self._wake()

    def seek_to(self, partitions: PartitionsOption, start: Start) -> None:
        """See `Consumer.seek_to_beginning` and `Consumer.seek_to_end`."""
        names = [_partition(each) for each in partitions]
        with self.lock:
            self.positions.settle_iteration()
            for name in names or list(self.positions.states):
                self.positions.seek_to(name, start)
        self._wake()

    def position_steps(
        self, partition: TopicPartition | tuple[str, int], timeout_s: float | None
    ) -> Steps[int]:
        """See `Consumer.position`."""
        name = _partition(partition)
        wait_s = self._timeout_s(timeout_s)
        deadline_s = monotonic() + wait_s
        self._wake()
        try:
            while (position := self._known_position(name)) is None:
                if monotonic() >= deadline_s:
                    self._check_reached(wait_s)
                    raise WaitTimedOutError(
                        f"the position of {name.topic}-{name.partition} was not found in time"
                    )
                yield Wait(deadline_s)
        finally:
            # A poll whose listener has asked has to look at what came meanwhile.
            self._news.set()
        return position

    def _known_position(self, name: TopicPartition) -> int | None:
        self._news.clear()
        self.check_usable()
        with self.lock:
            state = self.positions.states.get(name)
            if state is None:
                state = self.positions.state(name)
            position = self.positions.position(state)
            if position is None and state.error is not None:
                raise copy(state.error)
            return position

    def committed_steps(
        self, partitions: PartitionsOption, timeout_s: float | None
    ) -> Steps[dict[TopicPartition, OffsetAndMetadata | None]]:
        """See `Consumer.committed`."""
        self.check_usable()
        self._check_group("committed")
        names = [_partition(each) for each in partitions]
        timeout_ms = round(self._timeout_s(timeout_s) * 1000)
        call = committed_call(self.config.group_id or "", timeout_ms=timeout_ms)
        found = yield Run(lambda: self.io.ask(call.path, committed_in, timeout_ms))
        return {name: found.get(name) for name in names}

    def offsets_steps(
        self, at: Mapping[TopicPartition, str | int], timeout_s: float | None
    ) -> Steps[dict[TopicPartition, OffsetResponse]]:
        """Where partitions begin or end, or their first record of a time."""
        self.check_usable()
        timeout_ms = round(self._timeout_s(timeout_s) * 1000)
        found: dict[TopicPartition, OffsetResponse] = yield Run(
            lambda: self.io.offsets_at(at, timeout_ms)
        )
        return found

    def ends_steps(
        self, partitions: PartitionsOption, at: str, timeout_s: float | None
    ) -> Steps[dict[TopicPartition, int]]:
        """See `Consumer.beginning_offsets` and `Consumer.end_offsets`."""
        wanted: dict[TopicPartition, str | int] = {_partition(each): at for each in partitions}
        found = yield from self.offsets_steps(wanted, timeout_s)
        return {name: answer.offset for name, answer in found.items()}

    def times_steps(
        self, timestamps: Mapping[TopicPartition, int], timeout_s: float | None
    ) -> Steps[dict[TopicPartition, OffsetAndTimestamp | None]]:
        """See `Consumer.offsets_for_times`."""
        wanted: dict[TopicPartition, str | int] = {}
        for each, timestamp in timestamps.items():
            if type(timestamp) is not int or timestamp < 0:
                raise InvalidRequestError(
                    f"timestamps are ints of ms since the epoch, not {timestamp!r}"
                )
            wanted[_partition(each)] = timestamp
        found = yield from self.offsets_steps(wanted, timeout_s)
        return {
            name: None
            if answer.timestamp is None
            else OffsetAndTimestamp(answer.offset, answer.timestamp, answer.leader_epoch)
            for name, answer in found.items()
        }

    def partitions_steps(
        self, topic: str, timeout_s: float | None
    ) -> Steps[tuple[PartitionInfo, ...]]:
        """See `Consumer.partitions_for`."""
        self.check_usable()
        validate_topic_name(topic)
        timeout_ms = round(self._timeout_s(timeout_s) * 1000)
        path = f"{routes.METADATA}?topics={quote(topic, safe='')}"
        answer: MetadataResponse = yield Run(
            lambda: self.io.ask(path, _checked_metadata, timeout_ms)
        )
        return tuple(
            PartitionInfo(topic, each.partition, each.leader, tuple(each.replicas), tuple(each.isr))
            for described in answer.topics
            for each in described.partitions
        )

    def current_lag(self, partition: TopicPartition | tuple[str, int]) -> int | None:
        """See `Consumer.current_lag`."""
        with self.lock:
            state = self.positions.state(_partition(partition))
            position = self.positions.position(state)
            if position is None or state.high_watermark is None:
                return None
            return max(0, state.high_watermark - position)

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

    def _timeout_s(self, timeout_s: float | None) -> float:
        """Seconds that a call may take."""
        if timeout_s is None:
            return self.config.default_api_timeout_ms / 1000
        if timeout_s < 0:
            raise InvalidRequestError(f"timeout must be at least 0 seconds, not {timeout_s}")
        return timeout_s


def _methods(interceptors: Iterable[Any], name: str) -> list[Callable[..., Any]]:
    found = [getattr(each, name, None) for each in interceptors]
    return [each for each in found if callable(each)]


def _partition(given: object) -> TopicPartition:
    """A partition as callers name it."""
    if isinstance(given, tuple) and len(given) == 2:
        topic, partition = given
        if isinstance(topic, str) and type(partition) is int and partition >= 0:
            validate_topic_name(topic)
            return TopicPartition(topic, partition)
    raise InvalidRequestError(
        f"a partition is TopicPartition(topic, number), the number at least 0, not {given!r}"
    )


def _check_offset(offset: object) -> None:
    if type(offset) is not int or not 0 <= offset < 2**63:
        raise InvalidRequestError(f"an offset is an int of at least 0, not {offset!r}")


def _checked_metadata(body: bytes) -> MetadataResponse:
    return _decoded(body, _decode_metadata)


def _decoded(body: bytes, decode: Callable[[bytes], T]) -> T:
    try:
        return decode(body)
    except msgspec.MsgspecError as error:
        raise BrokerUnreachableError(f"not an answer of a broker: {error}") from error
