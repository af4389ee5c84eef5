"""The synchronous producer: any threads fill batches, one background thread sends them."""

import asyncio
import atexit
import concurrent.futures.thread  # noqa: F401  see the end of this module
import contextlib
import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import partial
from random import Random
from types import TracebackType
from typing import Any, Final, Self, TypeVar, Unpack

from ottla import _threads
from ottla._config import ProducerConfig, ProducerOptions
from ottla._errors import BufferExhaustedError, ProducerClosedError
from ottla._futures import ManyFuture, RecordFuture, WaitTimedOutError
from ottla._intake import PendingRecord
from ottla._partitioner import PartitionInfo
from ottla._producer_io import CONNECTIONS_BESIDE_PRODUCE, ProducerIO
from ottla._producer_transactions import ProducerTransactions
from ottla._record import DeliveryCallback, HeadersOption, ProducerRecord
from ottla._send_many import joined, pairs_of
from ottla._timeouts import seconds_in
from ottla._transactions_io import TransactionsIO, required
from ottla._transport import AiohttpTransport, Transport
from ottla_protocol.counted_nouns import counted
from ottla_protocol.errors import OttlaError, Outcome

EXIT_FLUSH_S: Final = 5.0
"""How long the interpreter's exit waits for the records of a producer that nobody closed."""

THREAD_STOP_S: Final = 10.0
"""How long close() waits for the background thread once nothing is left to send."""

LOOK_INTERVAL_S: Final = 1.0
"""How often a call that waits for the background thread looks whether that has ended."""

GIVE_WAY_INTERVAL_S: Final = 0.001
GIVE_WAY_S: Final = 0.00005
"""How often, and for how long, a thread that sends without a pause gives way to the sender's."""

Answer = TypeVar("Answer")


class _Background:
    """The thread, its event loop and the driver on it.

    It knows nothing of the Producer, so that one that is dropped can be collected.
    """

    def __init__(self, config: ProducerConfig, transport: Transport | None) -> None:
        self._owns_transport = transport is None
        self.transport: Transport = transport or AiohttpTransport(
            client_id=config.client_id,
            connections_per_broker=config.max_in_flight + CONNECTIONS_BESIDE_PRODUCE,
        )
        self.loop = _threads.new_event_loop()
        self.io = ProducerIO(
            config,
            self.transport,
            future_type=RecordFuture,
            wake=self.wake,
            random=Random(),
            give_way=self.give_way,
        )
        self._close_lock = threading.Lock()
        self._is_stopped = False
        self._gave_way_s = 0.0
        self._driving: asyncio.Task[None] | None = None
        self._ended = _threads.start(self._run, f"{config.client_id}-sender")

    def _run(self) -> None:
        self.io.monitor.sender_thread_id = _threads.thread_id()
        asyncio.set_event_loop(self.loop)
        self._driving = self.loop.create_task(self.io.run())
        try:
            self.loop.run_forever()
        finally:
            # Whatever ended the loop, nobody may be left waiting.
            self.io.give_up(ProducerClosedError("the producer's thread has ended"))
            self.loop.close()

    def give_way(self) -> None:
        """Let the background thread have the interpreter, if it has requests out.

        Otherwise a thread that does nothing but send would keep it for 5 ms at a time (Python's
        switch interval), and each of a request's system calls would wait that long to go on.
        """
        if not self.io.sender.requests_in_flight:
            return
        now_s = time.monotonic()
        if now_s - self._gave_way_s >= GIVE_WAY_INTERVAL_S:
            time.sleep(GIVE_WAY_S)
            self._gave_way_s = time.monotonic()

    def wake(self) -> None:
        """Have the driver poll; any thread."""
        try:
            self.loop.call_soon_threadsafe(self.io.wake)
        except RuntimeError:
            # The loop is closed: close() has settled every record by then.
            if not self.loop.is_closed():
                raise

    def call(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        """Run a coroutine on the driver's loop and wait for it; not on its own thread."""
        ended = threading.Event()
        tasks: list[asyncio.Task[Answer]] = []

        def begin() -> None:
            task = self.loop.create_task(work)
            tasks.append(task)
            task.add_done_callback(lambda _: ended.set())

        try:
            self.loop.call_soon_threadsafe(begin)
        except RuntimeError:
            work.close()
            if self.loop.is_closed():
                raise ProducerClosedError("the producer is closed") from None
            raise
        while not _threads.wait(ended, LOOK_INTERVAL_S):
            if self._ended.is_set() and not ended.is_set():
                work.close()
                raise ProducerClosedError("the producer was closed during the call")
        return tasks[0].result()

    def close(self, timeout_s: float | None) -> None:
        """Send what is there, for at most `timeout_s`, then fail the rest and end the thread."""
        self.io.close_intake()
        if self.io.monitor.sender_thread_id == _threads.thread_id():
            # From a callback. The thread cannot wait for itself.
            self.loop.create_task(self._finish(timeout_s))
            return
        with self._close_lock:
            if self._is_stopped:
                return
            if not self._ended.is_set():
                # It may have been closed from a callback, and end before or during the call.
                with contextlib.suppress(ProducerClosedError):
                    self.call(self._finish(timeout_s))
                _threads.wait(self._ended, THREAD_STOP_S)
            self._is_stopped = True

    def schedule_finish(self) -> None:
        """Begin to close, for at most EXIT_FLUSH_S, without waiting for it; any thread."""
        try:
            self.loop.call_soon_threadsafe(
                lambda: self.loop.create_task(self._finish(EXIT_FLUSH_S))
            )
        except RuntimeError:
            if not self.loop.is_closed():
                raise

    async def _finish(self, timeout_s: float | None) -> None:
        await self.io.finish(timeout_s)
        self.io.give_up(ProducerClosedError("the producer was closed before the acknowledgement"))
        assert self._driving is not None, "not running"
        self._driving.cancel()
        await asyncio.gather(self._driving, return_exceptions=True)
        if self._owns_transport:
            await self.transport.close()
        self.loop.call_soon(self.loop.stop)


_open_producers: "weakref.WeakSet[Producer]" = weakref.WeakSet()


class Producer(ProducerTransactions):
    """Sends records to topics, from any thread.

    Records are batched per partition and sent by one background thread, to the partitions' leaders.
    By default every in-sync replica acknowledges them, and retries never store a second copy.

    Args:
        bootstrap_servers: some brokers, as "host:port" or URLs; any live one will do.
        options: see `ottla.ProducerConfig`.
        transport: takes the place of the network, for tests; it is not closed.

    Raises:
        ConfigError: an option is unknown, out of range or at odds with another.

    Example:
        with Producer(bootstrap_servers="127.0.0.1:7101", value_serializer="json") as producer:
            metadata = producer.send("orders", {"id": 1}, key=b"user-1").get(timeout=10)
    """

    def __init__(
        self,
        bootstrap_servers: str | Iterable[str] | None = None,
        *,
        transport: Transport | None = None,
        **options: Unpack[ProducerOptions],
    ) -> None:
        self._is_closed = True  # Until there is something to close.
        given: dict[str, Any] = dict(options)
        if bootstrap_servers is not None:
            given["bootstrap_servers"] = bootstrap_servers
        config = ProducerConfig.from_options(given)
        self._config = config
        self._background = _Background(config, transport)
        self._io = self._background.io
        self._intake = self._io.intake
        self._routes = self._intake.routes
        self._put = self._intake.put
        self._intercepts = self._intake.has_interceptors
        self._is_closed = False
        _open_producers.add(self)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, transport: Transport | None = None) -> Self:
        """A producer from options in Kafka's spelling, `{"bootstrap.servers": ...}`.

        Raises:
            ConfigError: an option is unknown, out of range or at odds with another.
        """
        return cls(transport=transport, **config)

    # --- sending ------------------------------------------------------------------------------

    def send(
        self,
        topic: str,
        value: Any = None,
        key: Any = None,
        partition: int | None = None,
        headers: HeadersOption = None,
        timestamp: int | None = None,
        on_delivery: DeliveryCallback | None = None,
    ) -> RecordFuture:
        """Take a record to be sent.

        It blocks, for at most `max_block_ms`, only while the topic is not known yet or the buffer
        is full. A transaction lacks a record that was not taken, so it can then only be aborted,
        except after SerializationError and InvalidRecordError.

        Args:
            topic: an existing topic.
            value: for the value serializer; None is a tombstone.
            key: for the key serializer; records with one key go to one partition.
            partition: overrides the partitioner.
            headers: a mapping, or pairs of a name and bytes.
            timestamp: ms since the epoch; None is now.
            on_delivery: called with (error, None) or (None, metadata) on the background thread.

        Returns:
            The future of where the record is; `get` waits for it.

        Raises:
            SerializationError: key or value is none that its serializer takes.
            InvalidRecordError: the partition, the timestamp or a header breaks a rule.
            MessageTooLargeError: the record is over `max_request_size` or `buffer_memory`.
            UnknownTopicOrPartitionError: there is no such topic.
            ClusterUnreachableError: no broker told of the topic within `max_block_ms`.
            BufferExhaustedError: there was no room within `max_block_ms`.
            ProducerClosedError: the producer is closed.
            ForkedProcessError: this process is a fork of the one that made the producer.
        """
        if self._intercepts:
            record = self._intake.intercepted(
                ProducerRecord(topic, value, key, partition, headers, timestamp, on_delivery)
            )
            topic, value, key = record.topic, record.value, record.key
            partition, headers, timestamp = record.partition, record.headers, record.timestamp
            on_delivery = record.on_delivery
        try:
            if topic not in self._routes:
                self._learn(topic)
            taken = self._put(topic, value, key, partition, headers, timestamp, on_delivery)
            if type(taken) is PendingRecord:
                taken = self._with_room(partial(self._intake.put_again, taken))
        except OttlaError as error:
            self._intake.not_taken(error)
            raise
        return taken  # type: ignore[no-any-return]

    def send_many(
        self,
        topic: str,
        values: Iterable[Any],
        keys: Iterable[Any] | None = None,
        partition: int | None = None,
        headers: HeadersOption = None,
        timestamp: int | None = None,
        on_delivery: DeliveryCallback | None = None,
    ) -> ManyFuture:
        """Take many records of one topic at once, several times faster than one by one.

        Args:
            topic: an existing topic.
            values: one value for each record.
            keys: as many keys, or None for none.
            partition: of all of them; overrides the partitioner.
            headers: of each of them.
            timestamp: of each of them.
            on_delivery: called for each of them.

        Returns:
            One future of them all.

        Raises:
            OttlaError: as `send` does. SerializationError, InvalidRecordError and
                MessageTooLargeError are raised before any record is taken; after
                BufferExhaustedError or ProducerClosedError some may have been.
        """
        if self._intercepts:
            return self._intercept_many(
                topic, values, keys, partition, headers, timestamp, on_delivery
            )
        try:
            if topic not in self._routes:
                self._learn(topic)
            draft = self._intake.many(
                topic, values, keys, partition, headers, timestamp, on_delivery
            )
            if not draft.advance():
                try:
                    self._with_room(lambda: draft.advance() or None)
                except OttlaError as error:
                    raise draft.given_up(error) from error.__cause__
        except OttlaError as error:
            self._intake.not_taken(error)
            raise
        return draft.future(ManyFuture)  # type: ignore[no-any-return]

    def _intercept_many(
        self,
        topic: str,
        values: Iterable[Any],
        keys: Iterable[Any] | None,
        partition: int | None,
        headers: HeadersOption,
        timestamp: int | None,
        on_delivery: DeliveryCallback | None,
    ) -> ManyFuture:
        """One by one, because interceptors may change each record."""
        futures = [
            self.send(topic, value, key, partition, headers, timestamp, on_delivery)
            for value, key in pairs_of(values, keys)
        ]
        return joined(topic, futures, ManyFuture, self._io.monitor)  # type: ignore[no-any-return]

    def _learn(self, topic: str) -> None:
        """Wait until the topic is known."""
        self._check_usable()
        self._background.call(self._io.learn(topic, self._config.max_block_ms / 1000))

    def _with_room(self, attempt: Callable[[], Answer | None]) -> Answer:
        """Repeat `attempt` as room becomes free, until it gives something."""
        deadline_s = time.monotonic() + self._config.max_block_ms / 1000
        self._intake.start_waiting()
        try:
            while True:
                event = threading.Event()
                with self._io.monitor.lock:
                    self._io.room_wakers.append(event.set)
                answer = attempt()
                if answer is not None:
                    return answer
                self._check_usable()
                if not _threads.wait(event, max(0.0, deadline_s - time.monotonic())):
                    raise BufferExhaustedError(
                        f"no room in buffer_memory ({self._config.buffer_memory} bytes) "
                        f"within max_block_ms ({self._config.max_block_ms})",
                        outcome=Outcome.NOT_APPLIED,
                    )
        finally:
            self._intake.stop_waiting()

    def _check_usable(self) -> None:
        self._io.monitor.check_process()
        if self._is_closed:
            raise ProducerClosedError("the producer is closed")
        self._io.monitor.check_thread()

    @property
    def _transactions(self) -> TransactionsIO:
        return required(self._io.transactions)

    def _call(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        return self._background.call(work)

    # --- the rest -----------------------------------------------------------------------------

    def flush(self, timeout: float | None = None) -> None:
        """Send everything that was taken so far, and wait until it is acknowledged or given up.

        Args:
            timeout: seconds; None waits until then, which takes `delivery_timeout_ms` at most.

        Raises:
            WaitTimedOutError: some records were neither within `timeout`; they go on being sent.
            ProducerClosedError, ForkedProcessError: as `send`.
        """
        self._check_usable()
        left = self._background.call(self._io.flush(seconds_in(timeout)))
        if left:
            raise WaitTimedOutError(
                f"{counted(left, 'record')} neither acknowledged nor given up within {timeout} s"
            )

    def close(self, timeout: float | None = None) -> None:
        """Send what is there, then stop; closing twice is no error.

        A transaction that is open is aborted instead.

        Args:
            timeout: seconds that sending may take; None waits until every record is acknowledged
                or given up. What is left then fails with ProducerClosedError.
        """
        timeout = seconds_in(timeout)
        self._is_closed = True
        if self._io.monitor.is_forked:
            return
        self._background.close(timeout)

    def partitions_for(self, topic: str) -> tuple[PartitionInfo, ...]:
        """The topic's partitions, with their leaders as last heard of.

        Raises:
            OttlaError: as `send`.
        """
        if topic not in self._routes:
            self._learn(topic)
        return self._io.metadata.cluster.partitions_for_topic(topic)

    def metrics(self) -> dict[str, float]:
        """Counters since the start and gauges of this moment, by name.

        Counters: records_sent (taken by send), records_acknowledged, records_failed,
        bytes_acknowledged, requests, batches_sent, batches_retried, epoch_bumps,
        transactions_begun, transactions_committed and transactions_aborted (by this producer, or
        acknowledged by it), transactions_fenced (1 once another producer has its
        transactional_id). Gauges:
        requests_in_flight, buffer_total_bytes, buffer_available_bytes, waiting_callers,
        metadata_age_ms.
        """
        return self._io.metrics()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if self._is_closed or self._io.monitor.is_forked:
            return
        warnings.warn(
            f"{self._config.client_id}: a producer was dropped without close()",
            ResourceWarning,
            source=self,
            stacklevel=1,
        )
        # Nobody can wait for it here; its thread sends what it has and ends.
        background = self._background
        background.io.close_intake()
        background.schedule_finish()


def _close_all() -> None:
    """At the interpreter's exit: send what producers that nobody closed still have."""
    for producer in list(_open_producers):
        if not producer._is_closed:  # noqa: SLF001 - this module's own class
            producer.close(EXIT_FLUSH_S)


def _forget_parent() -> None:
    """In a forked child: the threads are gone, and locks may be held for ever."""
    for producer in list(_open_producers):
        producer._io.forget_parent()  # noqa: SLF001 - this module's own class


# Before the executors end, without which asyncio resolves no names; `threading` runs what was
# registered last first, and they have registered theirs when they were imported.
getattr(threading, "_register_atexit", atexit.register)(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)
