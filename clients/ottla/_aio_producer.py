"""The asyncio producer: the same machines and driver, on the caller's event loop, without a thread.

`send` awaits only where the synchronous one would block: for a topic that is not known yet, and for
room in the buffer. What it returns is awaited for the acknowledgement.
"""

import asyncio
import os
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from random import Random
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from ottla._aio_producer_transactions import AsyncProducerTransactions
from ottla._config import ProducerConfig, ProducerOptions
from ottla._errors import BufferExhaustedError, ProducerClosedError
from ottla._futures import AsyncManyFuture, AsyncRecordFuture, WaitTimedOutError
from ottla._intake import PendingRecord
from ottla._partitioner import PartitionInfo
from ottla._producer_io import CONNECTIONS_BESIDE_PRODUCE, ProducerIO
from ottla._record import DeliveryCallback, HeadersOption, ProducerRecord
from ottla._send_many import joined, pairs_of
from ottla._timeouts import seconds_in
from ottla._transactions_io import TransactionsIO, required
from ottla._transport import AiohttpTransport, Transport
from ottla_protocol.counted_nouns import counted
from ottla_protocol.errors import OttlaError, Outcome

Answer = TypeVar("Answer")


_open_producers: "weakref.WeakSet[Producer]" = weakref.WeakSet()


class Producer(AsyncProducerTransactions):
    """Sends records to topics, on one event loop.

    Made anywhere, it begins to work with its first call, on the loop of that call, and is used on
    that loop only.

    Args:
        bootstrap_servers: some brokers, as "host:port" or URLs; any live one will do.
        options: see `ottla.ProducerConfig`.
        transport: takes the place of the network, for tests; it is not closed.

    Raises:
        ConfigError: an option is unknown, out of range or at odds with another.

    Example:
        async with Producer(bootstrap_servers="127.0.0.1:7101") as producer:
            future = await producer.send("orders", b"...", key=b"user-1")
            metadata = await future
    """

    def __init__(
        self,
        bootstrap_servers: str | Iterable[str] | None = None,
        *,
        transport: Transport | None = None,
        **options: Unpack[ProducerOptions],
    ) -> None:
        self._driving: asyncio.Task[None] | None = None
        self._is_closed = False
        given: dict[str, Any] = dict(options)
        if bootstrap_servers is not None:
            given["bootstrap_servers"] = bootstrap_servers
        config = ProducerConfig.from_options(given)
        self._config = config
        self._owns_transport = transport is None
        self._transport: Transport = transport or AiohttpTransport(
            client_id=config.client_id,
            connections_per_broker=config.max_in_flight + CONNECTIONS_BESIDE_PRODUCE,
        )
        self._io = ProducerIO(
            config,
            self._transport,
            future_type=AsyncRecordFuture,
            wake=self._wake,
            random=Random(),
        )
        self._intake = self._io.intake
        self._routes = self._intake.routes
        self._intercepts = self._intake.has_interceptors
        _open_producers.add(self)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, transport: Transport | None = None) -> Self:
        """A producer from options in Kafka's spelling, `{"bootstrap.servers": ...}`.

        Raises:
            ConfigError: an option is unknown, out of range or at odds with another.
        """
        return cls(transport=transport, **config)

    # --- sending ------------------------------------------------------------------------------

    async def send(
        self,
        topic: str,
        value: Any = None,
        key: Any = None,
        partition: int | None = None,
        headers: HeadersOption = None,
        timestamp: int | None = None,
        on_delivery: DeliveryCallback | None = None,
    ) -> AsyncRecordFuture:
        """Take a record to be sent.

        Args:
            topic: an existing topic.
            value: for the value serializer; None is a tombstone.
            key: for the key serializer; records with one key go to one partition.
            partition: overrides the partitioner.
            headers: a mapping, or pairs of a name and bytes.
            timestamp: ms since the epoch; None is now.
            on_delivery: called with (error, None) or (None, metadata) on the event loop.

        Returns:
            The future of where the record is, to be awaited or not.

        Raises:
            OttlaError: as `ottla.Producer.send` does.
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
                await self._learn(topic)
            taken = self._intake.put(topic, value, key, partition, headers, timestamp, on_delivery)
            if type(taken) is PendingRecord:
                taken = await self._with_room(partial(self._intake.put_again, taken))
        except OttlaError as error:
            self._intake.not_taken(error)
            raise
        return taken  # type: ignore[no-any-return]

    async def send_many(
        self,
        topic: str,
        values: Iterable[Any],
        keys: Iterable[Any] | None = None,
        partition: int | None = None,
        headers: HeadersOption = None,
        timestamp: int | None = None,
        on_delivery: DeliveryCallback | None = None,
    ) -> AsyncManyFuture:
        """Take many records of one topic at once, several times faster than one by one.

        Arguments, result and errors are those of `ottla.Producer.send_many`; the future is awaited
        for the report.
        """
        if self._intercepts:
            futures = [
                await self.send(topic, value, key, partition, headers, timestamp, on_delivery)
                for value, key in pairs_of(values, keys)
            ]
            return joined(topic, futures, AsyncManyFuture, self._io.monitor)  # type: ignore[no-any-return]
        try:
            if topic not in self._routes:
                await self._learn(topic)
            draft = self._intake.many(
                topic, values, keys, partition, headers, timestamp, on_delivery
            )
            if not draft.advance():
                try:
                    await self._with_room(lambda: draft.advance() or None)
                except OttlaError as error:
                    raise draft.given_up(error) from error.__cause__
        except OttlaError as error:
            self._intake.not_taken(error)
            raise
        return draft.future(AsyncManyFuture)  # type: ignore[no-any-return]

    async def _learn(self, topic: str) -> None:
        self._check_usable()
        self._drive()
        await self._io.learn(topic, self._config.max_block_ms / 1000)

    async def _with_room(self, attempt: Callable[[], Answer | None]) -> Answer:
        """Repeat `attempt` as room becomes free, until it gives something."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._config.max_block_ms / 1000
        self._intake.start_waiting()
        try:
            while True:
                freed = asyncio.Event()
                with self._io.monitor.lock:
                    self._io.room_wakers.append(freed.set)
                answer = attempt()
                if answer is not None:
                    return answer
                self._check_usable()
                try:
                    async with asyncio.timeout_at(deadline_s):
                        await freed.wait()
                except TimeoutError:
                    raise BufferExhaustedError(
                        f"no room in buffer_memory ({self._config.buffer_memory} bytes) "
                        f"within max_block_ms ({self._config.max_block_ms})",
                        outcome=Outcome.NOT_APPLIED,
                    ) from None
        finally:
            self._intake.stop_waiting()

    def _wake(self) -> None:
        self._drive()
        self._io.wake()

    def _drive(self) -> None:
        """Start the driver with the first call, on that call's loop."""
        if self._driving is None and not self._is_closed:
            self._driving = asyncio.get_running_loop().create_task(
                self._io.run(), name=f"{self._config.client_id}-sender"
            )

    def _check_usable(self) -> None:
        self._io.monitor.check_process()
        if self._is_closed:
            raise ProducerClosedError("the producer is closed")

    @property
    def _transactions(self) -> TransactionsIO:
        return required(self._io.transactions)

    # --- the rest -----------------------------------------------------------------------------

    async def flush(self, timeout: float | None = None) -> None:
        """Send everything that was taken so far, and wait until it is acknowledged or given up.

        Args:
            timeout: seconds; None waits until then, which takes `delivery_timeout_ms` at most.

        Raises:
            WaitTimedOutError: some records were neither within `timeout`; they go on being sent.
            ProducerClosedError, ForkedProcessError: as `send`.
        """
        self._check_usable()
        left = await self._io.flush(seconds_in(timeout))
        if left:
            raise WaitTimedOutError(
                f"{counted(left, 'record')} neither acknowledged nor given up within {timeout} s"
            )

    async def close(self, timeout: float | None = None) -> None:
        """Send what is there, then stop; closing twice is no error.

        A transaction that is open is aborted instead.

        Args:
            timeout: seconds that sending may take; None waits until every record is acknowledged
                or given up. What is left then fails with ProducerClosedError.
        """
        timeout = seconds_in(timeout)
        if self._is_closed:
            return
        self._is_closed = True
        if self._io.monitor.is_forked:
            return
        self._io.close_intake()
        try:
            if self._driving is not None or self._io.transactions is not None:
                await self._io.finish(timeout)
        finally:
            # Also when the flush was cancelled: nobody closes a second time.
            self._io.give_up(
                ProducerClosedError("the producer was closed before the acknowledgement")
            )
            if self._driving is not None:
                self._driving.cancel()
                await asyncio.gather(self._driving, return_exceptions=True)
            if self._owns_transport:
                await self._transport.close()

    async def partitions_for(self, topic: str) -> tuple[PartitionInfo, ...]:
        """The topic's partitions, with their leaders as last heard of.

        Raises:
            OttlaError: as `ottla.Producer.partitions_for` does.
        """
        if topic not in self._routes:
            await self._learn(topic)
        return self._io.metadata.cluster.partitions_for_topic(topic)

    def metrics(self) -> dict[str, float]:
        """Counters since the start and gauges of this moment; see `ottla.Producer.metrics`."""
        return self._io.metrics()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        if self._driving is not None and not self._is_closed and not self._io.monitor.is_forked:
            warnings.warn(
                f"{self._config.client_id}: a producer was dropped without close()",
                ResourceWarning,
                source=self,
                stacklevel=1,
            )


def _forget_parent() -> None:
    """In a forked child: connections and loop are the parent's."""
    for producer in list(_open_producers):
        producer._io.forget_parent()  # noqa: SLF001 - this module's own class


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)
