"""The synchronous consumer: one thread polls, one background thread fetches and heartbeats."""

import atexit
import concurrent.futures.thread  # noqa: F401  see the end of this module
import contextlib
import os
import threading
import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping
from re import Pattern
from time import monotonic
from types import TracebackType
from typing import Any, Final, Self, Unpack

from ottla import _threads
from ottla._broker_questions import ConsumerTransport
from ottla._consumer_config import ConsumerConfig, ConsumerOptions
from ottla._consumer_record import ConsumerRecord
from ottla._consumer_steps import (
    CommitCallback,
    CommitOption,
    PartitionsOption,
    Records,
    Run,
    Steps,
    Tell,
    TopicsOption,
    Wait,
)
from ottla._consumer_thread import ConsumerThread
from ottla._consumer_types import (
    ConsumerGroupMetadata,
    OffsetAndMetadata,
    OffsetAndTimestamp,
    TopicPartition,
)
from ottla._errors import ConcurrentUseError, ConsumerClosedError
from ottla._partitioner import PartitionInfo
from ottla._positions import Start
from ottla._timeouts import seconds_in

EXIT_CLOSE_S: Final = 5.0
"""How long the interpreter's exit waits for a consumer that nobody closed."""


_open_consumers: "weakref.WeakSet[Consumer]" = weakref.WeakSet()


class Consumer:
    """Reads records of topics, in one thread.

    With topics, it shares them with the other consumers of its group: each partition has one
    consumer, and when consumers come and go, only partitions that move stop for a moment. With
    `assign` it reads the partitions that it is told to. One background thread fetches ahead,
    heartbeats and commits, so that slow work on records disturbs none of it.

    A consumer is for one thread at a time; only `wakeup` is for others.

    Args:
        topics: to subscribe to at once; see `subscribe`.
        bootstrap_servers: some brokers, as "host:port" or URLs; any live one will do.
        options: see `ottla.ConsumerConfig`.
        transport: takes the place of the network, for tests; it is not closed.

    Raises:
        ConfigError: an option is unknown, out of range or at odds with another.
        SubscriptionError: there are topics, but no group_id.

    Example:
        with Consumer("orders", bootstrap_servers="127.0.0.1:7101", group_id="billing") as consumer:
            for record in consumer:
                bill(record.value)
    """

    def __init__(
        self,
        *topics: str,
        bootstrap_servers: str | Iterable[str] | None = None,
        transport: ConsumerTransport | None = None,
        **options: Unpack[ConsumerOptions],
    ) -> None:
        self._is_closed = True  # Until there is something to close.
        given: dict[str, Any] = dict(options)
        if bootstrap_servers is not None:
            given["bootstrap_servers"] = bootstrap_servers
        config = ConsumerConfig.from_options(given)
        self._config = config
        self._gate = threading.Lock()
        self._user: int | None = None
        self._depth = 0
        self._is_polling = False
        self._iterator: Iterator[ConsumerRecord] | None = None
        self._background = ConsumerThread(config, transport)
        self._core = self._background.core
        self._news = self._background.news
        self._is_closed = False
        _open_consumers.add(self)
        if topics:
            try:
                self.subscribe(topics)
            except BaseException:
                self.close()
                raise

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        *topics: str,
        transport: ConsumerTransport | None = None,
    ) -> Self:
        """A consumer from options in Kafka's spelling, `{"bootstrap.servers": ...}`.

        Raises:
            ConfigError: an option is unknown, out of range or at odds with another.
        """
        return cls(*topics, transport=transport, **config)

    # --- what is read ---------------------------------------------------------------------------

    def subscribe(
        self,
        topics: TopicsOption = (),
        pattern: str | Pattern[str] | None = None,
        listener: Any = None,
    ) -> None:
        """Read these topics, together with the group; it takes the place of what was subscribed.

        Partitions are given to the consumer during poll().

        Args:
            topics: one name, or several.
            pattern: a regular expression instead: every topic whose whole name matches, also those
                that are created later.
            listener: told of what is given and taken; see `RebalanceListener`.

        Raises:
            SubscriptionError: there is no group_id, partitions were assigned by hand, or there are
                neither topics nor a pattern, or both.
            InvalidTopicError: a name is no topic's.
        """
        with self._use():
            self._core.subscribe(topics, pattern, listener)

    def unsubscribe(self) -> None:
        """Leave the group, or forget what was assigned; then there is nothing to read.

        The listener is told of everything as revoked. It waits for the group, for at most
        `default_api_timeout_ms`.
        """
        with self._use():
            self._carry_out(self._core.unsubscribe_steps())

    def assign(self, partitions: PartitionsOption) -> None:
        """Read exactly these partitions, without sharing them; only commits need a group_id.

        Args:
            partitions: what was read before goes on where it is; others begin at the group's
                committed offset, else as `auto_offset_reset` says.

        Raises:
            SubscriptionError: the consumer is subscribed.
        """
        with self._use():
            self._core.assign(partitions)

    def assignment(self) -> set[TopicPartition]:
        """What is read now."""
        return self._core.assignment()

    def subscription(self) -> set[str] | None:
        """The topics subscribed to; None with a pattern, or without a subscription."""
        topics = self._core.subscription
        return None if topics is None else set(topics)

    def pause(self, *partitions: TopicPartition) -> None:
        """Hand out nothing of these until `resume`; they stay this consumer's.

        Raises:
            NotAssignedError: one is not read by this consumer.
        """
        with self._use():
            self._core.pause(partitions, is_paused=True)

    def resume(self, *partitions: TopicPartition) -> None:
        """Hand out records of these again.

        Raises:
            NotAssignedError: one is not read by this consumer.
        """
        with self._use():
            self._core.pause(partitions, is_paused=False)

    def paused(self) -> set[TopicPartition]:
        """What is paused."""
        return self._core.paused()

    # --- records --------------------------------------------------------------------------------

    def poll(self, timeout: float | None = None, max_records: int | None = None) -> Records:
        """The next records that are there, by partition; wait for some if there are none.

        Everything that earlier polls handed out counts as finished with.

        Args:
            timeout: seconds to wait; 0 looks only, None takes `default_api_timeout_ms`.
            max_records: the most to hand out; None takes `max_poll_records`.

        Returns:
            Records in the order of their offsets; empty when none came in time.

        Raises:
            RecordDeserializationError: a deserializer does not take the next record.
            OffsetOutOfRangeError, NoOffsetForPartitionError: `auto_offset_reset` is none.
            CorruptMessageError: what was fetched is damaged.
            UnknownTopicOrPartitionError: an assigned partition does not exist.
            ClusterUnreachableError: no broker ever answered, or none for `default_api_timeout_ms`.
            WakeupError: `wakeup` was called.
            SubscriptionError: there is neither a subscription nor an assignment.
            ConsumerClosedError, ForkedProcessError, ConcurrentUseError: as their names say.
        """
        with self._use(polls=True):
            taken: Records = self._carry_out(self._core.poll_steps(timeout, max_records))
            return taken

    def __iter__(self) -> Iterator[ConsumerRecord]:
        """Records one by one, for ever, or until none came for `consumer_timeout_ms`.

        Every record before the current one counts as finished with. Errors are those of `poll`.
        """
        positions = self._core.positions
        while chunk := self._next_chunk():
            ticket = self._core.ticket
            for record in chunk:
                if positions.ticket is not ticket:
                    break
                positions.current = record
                yield record

    def __next__(self) -> ConsumerRecord:
        """The next record; StopIteration when none came for `consumer_timeout_ms`."""
        if self._iterator is None:
            self._iterator = iter(self)
        try:
            return next(self._iterator)
        except BaseException:
            self._iterator = None
            raise

    def _next_chunk(self) -> list[ConsumerRecord]:
        timeout_ms = self._config.consumer_timeout_ms
        deadline_s = None if timeout_ms is None else monotonic() + timeout_ms / 1000
        while True:
            wait_s = self._config.default_api_timeout_ms / 1000
            if deadline_s is not None:
                wait_s = min(wait_s, max(0.0, deadline_s - monotonic()))
            with self._use(polls=True):
                chunk: list[ConsumerRecord] = self._carry_out(self._core.chunk_steps(wait_s))
            if chunk or (deadline_s is not None and monotonic() >= deadline_s):
                return chunk

    def wakeup(self) -> None:
        """End the poll that waits, or the next one, with WakeupError; any thread, any handler."""
        self._core.is_woken = True
        self._core.positions.ticket = None
        self._background.tell()

    # --- commits --------------------------------------------------------------------------------

    def commit(self, offsets: CommitOption = None, timeout: float | None = None) -> None:
        """Commit, and wait until it is replicated.

        Args:
            offsets: a record commits everything up to and with it; a mapping names the next offset
                to read of partitions; None commits what was handed out, in an iteration up to and
                with the current record.
            timeout: seconds, retries included; None takes `default_api_timeout_ms`.

        Raises:
            CommitFailedError: the partitions are another consumer's now.
            SubscriptionError: there is no group_id.
            OttlaError: it was refused, or no broker answered in time.
        """
        with self._use():
            self._carry_out(self._core.commit_steps(offsets, timeout))

    def commit_async(
        self, offsets: CommitOption = None, callback: CommitCallback | None = None
    ) -> None:
        """Commit without waiting for it.

        Args:
            offsets: as for `commit`.
            callback: called with (error or None, offsets) within a later poll, commit or close; in
                the order of the commits.

        Raises:
            CommitQueueFullError: MAX_COMMITS_TO_TELL of them are not settled and told yet.
            SubscriptionError: there is no group_id.
        """
        with self._use():
            self._core.commit_async(offsets, callback)

    def committed(
        self, *partitions: TopicPartition, timeout: float | None = None
    ) -> dict[TopicPartition, OffsetAndMetadata | None]:
        """What the group has committed of these; None where nothing is.

        Raises:
            SubscriptionError: there is no group_id.
            OttlaError: no broker told it in time.
        """
        with self._use():
            found: dict[TopicPartition, OffsetAndMetadata | None] = self._carry_out(
                self._core.committed_steps(partitions, timeout)
            )
            return found

    # --- offsets --------------------------------------------------------------------------------

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Go on from this offset.

        Raises:
            NotAssignedError: the partition is not read by this consumer.
        """
        with self._use():
            self._core.seek(partition, offset)

    def seek_to_beginning(self, *partitions: TopicPartition) -> None:
        """Go on from the first record that there is; of all partitions if none is named.

        Raises:
            NotAssignedError: one is not read by this consumer.
        """
        with self._use():
            self._core.seek_to(partitions, Start.EARLIEST)

    def seek_to_end(self, *partitions: TopicPartition) -> None:
        """Go on with the next record that is written; of all partitions if none is named.

        Raises:
            NotAssignedError: one is not read by this consumer.
        """
        with self._use():
            self._core.seek_to(partitions, Start.LATEST)

    def position(self, partition: TopicPartition, timeout: float | None = None) -> int:
        """The offset of the next record to be handed out.

        Raises:
            NotAssignedError: the partition is not read by this consumer.
            WaitTimedOutError: it was not found in time.
        """
        with self._use():
            found: int = self._carry_out(self._core.position_steps(partition, timeout))
            return found

    def beginning_offsets(
        self, partitions: PartitionsOption, timeout: float | None = None
    ) -> dict[TopicPartition, int]:
        """The first offset that there is of each partition, whoever reads it.

        Raises:
            UnknownTopicOrPartitionError: there is no such partition.
            OttlaError: no broker told it in time.
        """
        with self._use():
            found: dict[TopicPartition, int] = self._carry_out(
                self._core.ends_steps(partitions, "earliest", timeout)
            )
            return found

    def end_offsets(
        self, partitions: PartitionsOption, timeout: float | None = None
    ) -> dict[TopicPartition, int]:
        """The offset after the last record that may be read of each partition, whoever reads it.

        Raises:
            UnknownTopicOrPartitionError: there is no such partition.
            OttlaError: no broker told it in time.
        """
        with self._use():
            found: dict[TopicPartition, int] = self._carry_out(
                self._core.ends_steps(partitions, "latest", timeout)
            )
            return found

    def offsets_for_times(
        self, timestamps: Mapping[TopicPartition, int], timeout: float | None = None
    ) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        """The first record of each partition that is not older than a time.

        Args:
            timestamps: ms since the epoch.
            timeout: seconds; None takes `default_api_timeout_ms`.

        Returns:
            None where all records are older.

        Raises:
            UnknownTopicOrPartitionError: there is no such partition.
            OttlaError: no broker told it in time.
        """
        with self._use():
            found: dict[TopicPartition, OffsetAndTimestamp | None] = self._carry_out(
                self._core.times_steps(timestamps, timeout)
            )
            return found

    def partitions_for(self, topic: str, timeout: float | None = None) -> tuple[PartitionInfo, ...]:
        """The topic's partitions, with their leaders.

        Raises:
            UnknownTopicOrPartitionError: there is no such topic.
            OttlaError: no broker told it in time.
        """
        with self._use():
            found: tuple[PartitionInfo, ...] = self._carry_out(
                self._core.partitions_steps(topic, timeout)
            )
            return found

    def current_lag(self, partition: TopicPartition) -> int | None:
        """Records behind the end, as far as the last fetch told; None before there was one.

        Raises:
            NotAssignedError: the partition is not read by this consumer.
        """
        return self._core.current_lag(partition)

    def consumer_group_metadata(self) -> ConsumerGroupMetadata:
        """Whose offsets a producer commits with its transaction: this group's, read by this member.

        Ask for it after the poll whose records the transaction is about. Auto commit has to be off.

        Raises:
            SubscriptionError: there is no group.
            CommitFailedError: the group gave the partitions to others; poll to join it again.
            ConsumerClosedError: the consumer is closed.
        """
        return self._core.group_metadata()

    # --- the rest -------------------------------------------------------------------------------

    def close(self, timeout: float | None = None, *, leave: bool | None = None) -> None:
        """Commit what is finished with, leave the group at once, and stop; twice is no error.

        What the last poll handed out, and the current record of an iteration, count as finished
        with by another poll, by `commit`, or where a `with` block ends without an error, and not by
        `close`: it is also how an application ends that has failed.

        Args:
            timeout: seconds that commit and leaving may take; None is 30.
            leave: whether a static member (`group_instance_id`) leaves too; None and False leave
                its partitions to its next process, within the session timeout.

        Raises:
            ConcurrentUseError: another thread is polling; `wakeup` it, and let it close.
        """
        timeout = seconds_in(timeout)
        if self._is_closed:
            return
        if self._core.io.monitor.is_forked:
            self._is_closed = True
            return
        with self._use():
            self._is_closed = True
            try:
                self._carry_out(self._core.close_steps(timeout, leave=leave))
            except ConsumerClosedError:
                pass  # Its thread has ended before.
            finally:
                self._background.stop()

    def metrics(self) -> dict[str, float]:
        """Counters since the start and gauges of this moment, by name.

        Counters: records_consumed (handed out), bytes_fetched, batches_fetched, fetches, polls,
        commits, commits_failed, rebalances, heartbeats. Gauges: buffered_bytes,
        assigned_partitions.
        """
        return self._core.metrics()

    @contextlib.contextmanager
    def _use(self, *, polls: bool = False) -> Iterator[None]:
        """Refuse a second thread; the first one may come again, from a listener."""
        user = threading.get_ident()
        if self._user == user:
            if polls and self._is_polling:
                raise ConcurrentUseError("a listener or callback must not poll")
            self._depth += 1
        elif self._gate.acquire(blocking=False):
            self._user, self._depth = user, 1
        else:
            raise ConcurrentUseError("another thread is using this consumer")
        was_polling, self._is_polling = self._is_polling, self._is_polling or polls
        try:
            yield
        finally:
            self._is_polling = was_polling
            self._depth -= 1
            if not self._depth:
                self._user = None
                self._gate.release()

    def _carry_out(self, steps: Steps[Any]) -> Any:
        """Do the steps of a call, on this thread."""
        try:
            step = next(steps)
            while True:
                try:
                    given: Any = None
                    if isinstance(step, Wait):
                        _threads.wait(self._news, max(0.0, step.deadline_s - monotonic()))
                    elif isinstance(step, Run):
                        given = self._background.call(step.work)
                    elif isinstance(step, Tell):
                        given = step.function(*step.arguments)
                except BaseException as error:  # noqa: BLE001  it is raised in the steps
                    step = steps.throw(error)
                else:
                    step = steps.send(given)
        except StopIteration as ended:
            return ended.value

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is None and not self._is_closed:
            with self._use():
                self._core.finish()
        self.close()

    def __del__(self) -> None:
        if self._is_closed or self._core.io.monitor.is_forked:
            return
        warnings.warn(
            f"{self._config.client_id}: a consumer was dropped without close()",
            ResourceWarning,
            source=self,
            stacklevel=1,
        )
        self._background.schedule_stop()


def _close_all() -> None:
    """At the interpreter's exit: leave the groups of consumers that nobody closed."""
    failures: list[Exception] = []
    for consumer in list(_open_consumers):
        if not consumer._is_closed:  # noqa: SLF001 - this module's own class
            try:
                consumer.close(EXIT_CLOSE_S)
            except ConcurrentUseError:
                pass  # A thread that goes on is still polling.
            except Exception as error:  # noqa: BLE001 - a listener's; the others are closed too
                failures.append(error)
    if failures:
        raise failures[0]


def _forget_parent() -> None:
    """In a forked child: the threads are gone, and locks may be held for ever."""
    for consumer in list(_open_consumers):
        consumer._gate = threading.Lock()  # noqa: SLF001 - this module's own class
        consumer._user = None  # noqa: SLF001
        consumer._core.io.forget_parent(_threads.new_lock())  # noqa: SLF001


# Before the executors end, without which asyncio resolves no names; `threading` runs what was
# registered last first, and they have registered theirs when they were imported.
getattr(threading, "_register_atexit", atexit.register)(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)
