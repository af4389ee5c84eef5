"""The asyncio consumer: the same machines and driver, on the caller's event loop, without a thread.

Arguments, results and errors are those of `ottla.Consumer`; what may wait is awaited.
"""

import asyncio
import contextlib
import inspect
import os
import warnings
import weakref
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from re import Pattern
from time import monotonic
from types import TracebackType
from typing import Any, Self, Unpack

from ottla import _threads
from ottla._aio_admin import AiohttpAdminTransport
from ottla._broker_questions import CONNECTIONS_PER_BROKER, ConsumerTransport
from ottla._consumer_config import ConsumerConfig, ConsumerOptions
from ottla._consumer_core import ConsumerCore
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
from ottla._consumer_types import (
    ConsumerGroupMetadata,
    OffsetAndMetadata,
    OffsetAndTimestamp,
    TopicPartition,
)
from ottla._errors import ConcurrentUseError
from ottla._partitioner import PartitionInfo
from ottla._positions import Start
from ottla._timeouts import seconds_in

_open_consumers: "weakref.WeakSet[Consumer]" = weakref.WeakSet()


class Consumer:
    """Reads records of topics, on one event loop.

    Made anywhere, it begins to work with its first call, on the loop of that call, and is used on
    that loop only, by one task at a time. `ottla.Consumer` tells the rest.

    Heartbeats and fetches need the loop: work that keeps it busy for longer than the session
    timeout loses the partitions.

    Args:
        topics: to subscribe to; see `subscribe`.
        bootstrap_servers: some brokers, as "host:port" or URLs; any live one will do.
        options: see `ottla.ConsumerConfig`.
        transport: takes the place of the network, for tests; it is not closed.

    Raises:
        ConfigError: an option is unknown, out of range or at odds with another.
        SubscriptionError: there are topics, but no group_id.

    Example:
        async with Consumer("orders", bootstrap_servers="...", group_id="billing") as consumer:
            async for record in consumer:
                await bill(record.value)
    """

    def __init__(
        self,
        *topics: str,
        bootstrap_servers: str | Iterable[str] | None = None,
        transport: ConsumerTransport | None = None,
        **options: Unpack[ConsumerOptions],
    ) -> None:
        self._driving: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = True  # Until there is something to close.
        given: dict[str, Any] = dict(options)
        if bootstrap_servers is not None:
            given["bootstrap_servers"] = bootstrap_servers
        config = ConsumerConfig.from_options(given)
        self._config = config
        self._user: asyncio.Task[Any] | None = None
        self._is_polling = False
        self._iterator: AsyncIterator[ConsumerRecord] | None = None
        self._owns_transport = transport is None
        self._transport: ConsumerTransport = transport or AiohttpAdminTransport(
            client_id=config.client_id, connections_per_broker=CONNECTIONS_PER_BROKER
        )
        self._news = asyncio.Event()
        self._core = ConsumerCore(config, self._transport, news=self._news, wake=self._wake)
        self._is_closed = False
        _open_consumers.add(self)
        if topics:
            self.subscribe(topics)

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

    async def unsubscribe(self) -> None:
        """Leave the group, or forget what was assigned; then there is nothing to read.

        The listener is told of everything as revoked. It waits for the group, for at most
        `default_api_timeout_ms`.
        """
        with self._use():
            await self._carry_out(self._core.unsubscribe_steps())

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

    async def poll(self, timeout: float | None = None, max_records: int | None = None) -> Records:
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
            taken: Records = await self._carry_out(self._core.poll_steps(timeout, max_records))
            return taken

    async def __aiter__(self) -> AsyncIterator[ConsumerRecord]:
        """Records one by one, for ever, or until none came for `consumer_timeout_ms`.

        Every record before the current one counts as finished with. Errors are those of `poll`.
        """
        positions = self._core.positions
        while chunk := await self._next_chunk():
            ticket = self._core.ticket
            for record in chunk:
                if positions.ticket is not ticket:
                    break
                positions.current = record
                yield record

    async def __anext__(self) -> ConsumerRecord:
        """The next record; StopAsyncIteration when none came for `consumer_timeout_ms`."""
        if self._iterator is None:
            self._iterator = aiter(self)
        try:
            return await anext(self._iterator)
        except BaseException:
            self._iterator = None
            raise

    async def _next_chunk(self) -> list[ConsumerRecord]:
        timeout_ms = self._config.consumer_timeout_ms
        deadline_s = None if timeout_ms is None else monotonic() + timeout_ms / 1000
        while True:
            wait_s = self._config.default_api_timeout_ms / 1000
            if deadline_s is not None:
                wait_s = min(wait_s, max(0.0, deadline_s - monotonic()))
            with self._use(polls=True):
                chunk: list[ConsumerRecord] = await self._carry_out(self._core.chunk_steps(wait_s))
            if chunk or (deadline_s is not None and monotonic() >= deadline_s):
                return chunk

    def wakeup(self) -> None:
        """End the poll that waits, or the next one, with WakeupError; any thread."""
        self._core.is_woken = True
        self._core.positions.ticket = None
        if self._loop is None:
            return
        try:
            self._loop.call_soon_threadsafe(self._news.set)
        except RuntimeError:
            if not self._loop.is_closed():
                raise

    # --- commits --------------------------------------------------------------------------------

    async def commit(self, offsets: CommitOption = None, timeout: float | None = None) -> None:
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
            await self._carry_out(self._core.commit_steps(offsets, timeout))

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

    async def committed(
        self, *partitions: TopicPartition, timeout: float | None = None
    ) -> dict[TopicPartition, OffsetAndMetadata | None]:
        """What the group has committed of these; None where nothing is.

        Raises:
            SubscriptionError: there is no group_id.
            OttlaError: no broker told it in time.
        """
        with self._use():
            found: dict[TopicPartition, OffsetAndMetadata | None] = await self._carry_out(
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

    async def position(self, partition: TopicPartition, timeout: float | None = None) -> int:
        """The offset of the next record to be handed out.

        Raises:
            NotAssignedError: the partition is not read by this consumer.
            WaitTimedOutError: it was not found in time.
        """
        with self._use():
            found: int = await self._carry_out(self._core.position_steps(partition, timeout))
            return found

    async def beginning_offsets(
        self, partitions: PartitionsOption, timeout: float | None = None
    ) -> dict[TopicPartition, int]:
        """The first offset that there is of each partition, whoever reads it.

        Raises:
            UnknownTopicOrPartitionError: there is no such partition.
            OttlaError: no broker told it in time.
        """
        with self._use():
            found: dict[TopicPartition, int] = await self._carry_out(
                self._core.ends_steps(partitions, "earliest", timeout)
            )
            return found

    async def end_offsets(
        self, partitions: PartitionsOption, timeout: float | None = None
    ) -> dict[TopicPartition, int]:
        """The offset after the last record that may be read of each partition, whoever reads it.

        Raises:
            UnknownTopicOrPartitionError: there is no such partition.
            OttlaError: no broker told it in time.
        """
        with self._use():
            found: dict[TopicPartition, int] = await self._carry_out(
                self._core.ends_steps(partitions, "latest", timeout)
            )
            return found

    async def offsets_for_times(
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
            found: dict[TopicPartition, OffsetAndTimestamp | None] = await self._carry_out(
                self._core.times_steps(timestamps, timeout)
            )
            return found

    async def partitions_for(
        self, topic: str, timeout: float | None = None
    ) -> tuple[PartitionInfo, ...]:
        """The topic's partitions, with their leaders.

        Raises:
            UnknownTopicOrPartitionError: there is no such topic.
            OttlaError: no broker told it in time.
        """
        with self._use():
            found: tuple[PartitionInfo, ...] = await self._carry_out(
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

    async def close(self, timeout: float | None = None, *, leave: bool | None = None) -> None:
        """Commit what is finished with, leave the group at once, and stop; twice is no error.

        What the last poll handed out, and the current record of an iteration, count as finished
        with by another poll, by `commit`, or where an `async with` block ends without an error, and
        not by `close`: it is also how an application ends that has failed.

        Args:
            timeout: seconds that commit and leaving may take; None is 30.
            leave: whether a static member (`group_instance_id`) leaves too; None and False leave
                its partitions to its next process, within the session timeout.

        Raises:
            ConcurrentUseError: another task is polling; `wakeup` it, and let it close.
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
                if self._driving is not None:
                    await self._carry_out(self._core.close_steps(timeout, leave=leave))
            finally:
                self._core.is_closed = True
                if self._driving is not None:
                    self._driving.cancel()
                    await asyncio.gather(self._driving, return_exceptions=True)
                if self._owns_transport:
                    await self._transport.close()

    def metrics(self) -> dict[str, float]:
        """Counters since the start and gauges of this moment, by name.

        Counters: records_consumed (handed out), bytes_fetched, batches_fetched, fetches, polls,
        commits, commits_failed, rebalances, heartbeats. Gauges: buffered_bytes,
        assigned_partitions.
        """
        return self._core.metrics()

    def _wake(self) -> None:
        """Have the driver look again, and start it with the first call, on that call's loop."""
        if self._driving is None:
            if self._is_closed:
                return
            try:
                self._loop = asyncio.get_running_loop()
            except RuntimeError:
                return  # Subscribed or assigned before there was a loop: polling starts it.
            self._driving = self._loop.create_task(
                self._core.io.run(), name=f"{self._config.client_id}-fetcher"
            )
        self._core.io.wake()

    @contextlib.contextmanager
    def _use(self, *, polls: bool = False) -> Iterator[None]:
        """Refuse a second task; the first one may come again, from a listener."""
        user = _current_task()
        former = self._user
        if former is not None and former is not user:
            raise ConcurrentUseError("another task is using this consumer")
        if polls and self._is_polling:
            raise ConcurrentUseError("a listener or callback must not poll")
        was_polling, self._is_polling = self._is_polling, self._is_polling or polls
        self._user = user
        try:
            yield
        finally:
            self._user = former
            self._is_polling = was_polling

    async def _carry_out(self, steps: Steps[Any]) -> Any:
        """Do the steps of a call, on this loop.

        The loop gets a turn in any case: heartbeats and fetches must go on also where a program
        awaits nothing but polls that have records at once.
        """
        await asyncio.sleep(0)
        if self._driving is None:
            self._core.check_usable()
            self._wake()
        try:
            step = next(steps)
            while True:
                try:
                    given: Any = None
                    if isinstance(step, Wait):
                        await self._wait(step.deadline_s)
                    elif isinstance(step, Run):
                        given = await step.work()
                    elif isinstance(step, Tell):
                        given = step.function(*step.arguments)
                        if inspect.isawaitable(given):
                            given = await given
                except BaseException as error:  # noqa: BLE001  it is raised in the steps
                    step = steps.throw(error)
                else:
                    step = steps.send(given)
        except StopIteration as ended:
            return ended.value

    async def _wait(self, deadline_s: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, deadline_s - monotonic())):
                await self._news.wait()
        except TimeoutError:
            pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is None and not self._is_closed:
            with self._use():
                self._core.finish()
        await self.close()

    def __del__(self) -> None:
        if self._driving is not None and not self._is_closed and not self._is_forked:
            warnings.warn(
                f"{self._config.client_id}: a consumer was dropped without close()",
                ResourceWarning,
                source=self,
                stacklevel=1,
            )

    @property
    def _is_forked(self) -> bool:
        return self._core.io.monitor.is_forked


def _current_task() -> "asyncio.Task[Any] | None":
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def _forget_parent() -> None:
    """In a forked child: connections and loop are the parent's."""
    for consumer in list(_open_consumers):
        consumer._user = None  # noqa: SLF001 - this module's own class
        consumer._core.io.forget_parent(_threads.new_lock())  # noqa: SLF001


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)
