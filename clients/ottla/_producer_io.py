"""The one driver of a producer's machines: it polls the sender, talks to brokers and reports back.

It lives on one event loop: that of the asyncio producer's caller, or that of the synchronous
producer's background thread. The machines are used under the monitor's lock, because there other
threads fill the batches; bytes are built and compressed without it.

A defect in here must not leave anybody waiting: whatever ends the driver fails every record.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from copy import copy
from random import Random
from typing import Final, TypeVar

import msgspec

from ottla import _threads
from ottla._accumulator import Accumulator
from ottla._batch import Batch
from ottla._config import ProducerConfig
from ottla._driver import Driver, monotonic_ms
from ottla._errors import ClusterUnreachableError, ProducerClosedError, TransactionAbortedError
from ottla._futures import AsyncRecordFuture, Monitor, RecordFuture, wait_async
from ottla._intake import Intake, Route
from ottla._metadata import Metadata, MetadataFetch
from ottla._sender import ProduceCall, Sender
from ottla._transaction_state import TransactionCounters, TransactionState
from ottla._transactional_sender import TransactionalSender
from ottla._transactions_io import TransactionsIO
from ottla._transport import BrokerUnreachableError, Response, Transport, error_of
from ottla._verdict import Result
from ottla_protocol import routes
from ottla_protocol.errors import OttlaError, Outcome
from ottla_protocol.models import (
    MAX_PRODUCE_TIMEOUT_MS,
    BatchToAppend,
    BinaryProduceRequest,
    BinaryProduceResponse,
    MetadataResponse,
    ProducerIdentity,
)
from ottla_protocol.topic_names import validate_topic_name

Answer = TypeVar("Answer")

METADATA_TIMEOUT_MS: Final = 2_000
"""How long one broker may take over metadata or a producer id before the next one is asked."""

CONNECTIONS_BESIDE_PRODUCE: Final = 3
"""Connections to one broker for metadata and producer ids, beyond those for produce requests."""

_logger = logging.getLogger("ottla.producer")

_encode = msgspec.msgpack.Encoder().encode
_decode_produce = msgspec.msgpack.Decoder(BinaryProduceResponse).decode
_decode_metadata = msgspec.json.Decoder(MetadataResponse).decode
_decode_identity = msgspec.json.Decoder(ProducerIdentity).decode


class ProducerIO(Driver):
    """Accumulator, metadata and sender of one producer, and what drives them.

    Args:
        config: the producer's options.
        transport: the way to the brokers; the caller closes it.
        future_type: what the intake makes for each record.
        wake: called, on any thread, when there is something to send.
        random: for sticky partitions.
        give_way: called now and then by whoever fills batches, on his thread: see `Intake`.
    """

    def __init__(
        self,
        config: ProducerConfig,
        transport: Transport,
        *,
        future_type: type[RecordFuture] | type[AsyncRecordFuture],
        wake: Callable[[], None],
        random: Random,
        give_way: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__("producer")
        self._config = config
        self._transport = transport
        self.monitor = Monitor()
        self.accumulator = Accumulator(
            batch_size=config.batch_size,
            buffer_memory=config.buffer_memory,
            max_request_size=config.max_request_size,
            linger_ms=config.linger_ms,
            delivery_timeout_ms=config.delivery_timeout_ms,
            is_transactional=config.transactional_id is not None,
        )
        self.metadata = Metadata(
            config.bootstrap_servers,
            max_age_ms=config.metadata_max_age_ms,
            retry_backoff_ms=config.retry_backoff_ms,
        )
        self.sender = Sender(config, self.accumulator, self.metadata)
        self.transactions: TransactionsIO | None = None
        state = None
        self._transaction_counters = TransactionCounters()
        if config.transactional_id is not None:
            state = TransactionState(config.transactional_id)
            self._transaction_counters = state.counters
            self.sender = self._transact(state)
        self.intake = Intake(
            config,
            self.accumulator,
            self.metadata,
            self.monitor,
            future_type=future_type,
            wake=wake,
            random=random,
            now_ms=monotonic_ms,
            give_way=give_way,
            transaction=state,
        )
        # Called, and forgotten, when memory may have become free; guarded by the lock.
        self.room_wakers: list[Callable[[], object]] = []
        self._metadata_news: list[asyncio.Future[None]] = []

    def _transact(self, state: TransactionState) -> TransactionalSender:
        sender = TransactionalSender(self._config, self.accumulator, self.metadata, state)
        self.transactions = TransactionsIO(
            self._config,
            state,
            sender,
            self.accumulator,
            self.metadata,
            self.monitor,
            self._transport,
            flush=self.flush,
            announce=self._announce,
        )
        return sender

    # --- the loop -----------------------------------------------------------------------------

    def _fail_all(self, failure: OttlaError) -> None:
        self.intake.refusal = failure
        self.give_up(failure)
        self._tell_news()

    def _poll_once(self) -> int | None:
        now_ms = monotonic_ms()
        with self.monitor.lock:
            self.accumulator.polled()
            actions = self.sender.poll(now_ms)
            fetch = self.metadata.next_fetch(now_ms)
            times_ms = [actions.next_poll_ms, self.metadata.next_fetch_ms(now_ms)]
        self._announce(actions.settled)
        for call in actions.calls:
            self._start(self._deliver(call))
        if fetch is not None:
            self._start(self._fetch(fetch))
        if actions.wants_producer_id:
            self._start(self._ask_for_id())
        return min((each for each in times_ms if each is not None), default=None)

    def _announce(self, settled: Sequence[Batch]) -> None:
        """Tell everybody who asked, and let go on who waited for room."""
        for batch in settled:
            if batch.error is not None:
                # That a transaction is given up is told where that is decided.
                is_given_up = isinstance(batch.error, TransactionAbortedError)
                _logger.log(
                    logging.DEBUG if is_given_up else logging.WARNING,
                    "%s-%d: %d records failed: %s",
                    batch.queue.topic,
                    batch.queue.partition,
                    batch.count,
                    batch.error,
                )
            for raised in batch.announce():
                _logger.error("a delivery callback failed", exc_info=raised)
        if self.room_wakers:
            with self.monitor.lock:
                wakers, self.room_wakers = self.room_wakers, []
            for wake in wakers:
                wake()

    # --- produce ------------------------------------------------------------------------------

    async def _deliver(self, call: ProduceCall) -> None:
        """Send one request and report what came of it."""
        results: Sequence[Result]
        try:
            if call.batches[0].is_done:
                # Its transaction was given up before the request left.
                raise ProducerClosedError("given up before it was sent")
            results = await self._send(call)
        except OttlaError as error:
            _logger.debug("produce to %s failed: %s", call.leader.url, error)
            results = [error] * len(call.batches)
        with self.monitor.lock:
            settled = self.sender.on_answer(call, results, monotonic_ms())
        self._announce(settled)

    async def _send(self, call: ProduceCall) -> Sequence[Result]:
        compression = self._config.compression
        request = BinaryProduceRequest(
            [
                BatchToAppend(
                    batch.queue.topic, batch.queue.partition, memoryview(batch.encode(compression))
                )
                for batch in call.batches
            ],
            acks=self._config.acks,
            timeout_ms=min(call.timeout_ms, MAX_PRODUCE_TIMEOUT_MS),
            transactional_id=self._config.transactional_id,
        )
        response = await self._transport.post(
            call.leader.url, routes.PRODUCE, _encode(request), timeout_ms=call.timeout_ms
        )
        if response.status not in (200, 207):
            raise error_of(response, call.leader.url)
        return _results_in(response, call)

    # --- metadata and producer ids ------------------------------------------------------------

    async def _fetch(self, fetch: MetadataFetch) -> None:
        now_ms = monotonic_ms
        try:
            response = await self._transport.get(
                fetch.url, fetch.path, timeout_ms=self._short_timeout_ms
            )
            if response.status != 200:
                raise error_of(response, fetch.url)
            described = _decoded(_decode_metadata, response, fetch.url)
        except OttlaError as error:
            _logger.debug("metadata from %s failed: %s", fetch.url, error)
            with self.monitor.lock:
                self.metadata.on_failure(fetch, error, now_ms())
                for topic in fetch.topics:
                    if self.metadata.gone(topic) is not None:
                        self.intake.routes.pop(topic, None)
        else:
            with self.monitor.lock:
                changed = self.metadata.on_answer(fetch, described, now_ms())
                self.sender.on_new_leaders(changed)
                for name in fetch.topics:
                    self._route(name)
        self._tell_news()

    def _tell_news(self) -> None:
        """Have those look again who wait for a topic."""
        news, self._metadata_news = self._metadata_news, []
        for waiter in news:
            if not waiter.done():
                waiter.set_result(None)

    def _route(self, name: str) -> None:
        """Bring a topic's route in line with its number of partitions; under the lock."""
        described = self.metadata.topic(name)
        if described is None:
            self.intake.routes.pop(name, None)
            return
        partitions = len(described.partitions)
        known = self.intake.routes.get(name)
        if partitions and (known is None or len(known.queues) != partitions):
            queues = [self.accumulator.queue(name, partition) for partition in range(partitions)]
            self.intake.routes[name] = Route(queues)
        max_batch_bytes = described.configs.get("max.message.bytes")
        if isinstance(max_batch_bytes, int) and name in self.intake.routes:
            for queue in self.intake.routes[name].queues:
                queue.max_batch_bytes = max_batch_bytes

    async def _ask_for_id(self) -> None:
        with self.monitor.lock:
            url = self.metadata.any_url()
        try:
            response = await self._transport.post(
                url,
                routes.PRODUCER_IDS,
                b"{}",
                timeout_ms=self._short_timeout_ms,
                content_type=routes.JSON,
            )
            if response.status != 200:
                raise error_of(response, url)
            identity = _decoded(_decode_identity, response, url)
        except OttlaError as error:
            _logger.debug("no producer id from %s: %s", url, error)
            with self.monitor.lock:
                settled = self.sender.on_producer_id_failed(error, monotonic_ms())
            self._announce(settled)
            return
        _logger.debug("producer id %d", identity.producer_id)
        with self.monitor.lock:
            self.sender.on_producer_id(identity.producer_id, identity.producer_epoch)

    @property
    def _short_timeout_ms(self) -> int:
        return min(METADATA_TIMEOUT_MS, self._config.request_timeout_ms)

    async def learn(self, topic: str, timeout_s: float) -> None:
        """Wait until the topic has a route.

        Nothing was sent, so every error says of a record that it was not applied.

        Raises:
            InvalidTopicError: there can be no such topic.
            UnknownTopicOrPartitionError: there is no such topic.
            ClusterUnreachableError: no broker said anything within `timeout_s`.
            ProducerClosedError: closed meanwhile.
        """
        try:
            await self._learn(topic, timeout_s)
        except OttlaError as error:
            raise copy(error).with_outcome(Outcome.NOT_APPLIED) from error.__cause__

    async def _learn(self, topic: str, timeout_s: float) -> None:
        validate_topic_name(topic, field="topic")
        deadline_s = time.monotonic() + timeout_s
        with self.monitor.lock:
            self.metadata.watch(topic)
        while topic not in self.intake.routes:
            if self.accumulator.is_closed:
                raise self.intake.refusal
            with self.monitor.lock:
                gone = self.metadata.gone(topic)
                reasons = dict(self.metadata.reasons)
            if gone is not None:
                raise gone
            remaining_s = deadline_s - time.monotonic()
            if remaining_s <= 0:
                raise ClusterUnreachableError.after(timeout_s * 1000, reasons)
            self.wake()
            news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._metadata_news.append(news)
            await asyncio.wait([news], timeout=remaining_s)

    # --- the end ------------------------------------------------------------------------------

    async def finish(self, timeout_s: float | None) -> None:
        """Abort the transaction that is open, else send what was taken, for `timeout_s` at most."""
        if self.transactions is not None:
            await self.transactions.abort_at_close(timeout_s)
        await self.flush(timeout_s)

    async def flush(self, timeout_s: float | None) -> int:
        """Send everything that was taken so far; returns how many records are not settled yet."""
        with self.monitor.lock:
            self.accumulator.flushing += 1
            batches = list(self.accumulator.unsettled)
        self.wake()
        try:
            async with asyncio.timeout(timeout_s):
                for batch in batches:
                    await wait_async(batch)
        except TimeoutError:
            pass
        finally:
            with self.monitor.lock:
                self.accumulator.flushing -= 1
        return sum(batch.count for batch in batches if not batch.is_done)

    def close_intake(self) -> None:
        """Take no more records; any thread."""
        with self.monitor.lock:
            if not self.accumulator.is_closed:
                self.accumulator.close()
                self.intake.close()
                wakers, self.room_wakers = self.room_wakers, []
            else:
                wakers = []
        for wake in wakers:
            wake()

    def give_up(self, error: OttlaError) -> None:
        """Fail whatever is not settled, and take no more records."""
        self.close_intake()
        with self.monitor.lock:
            settled = self.sender.abort(error)
        self._announce(settled)

    def forget_parent(self) -> None:
        """In a forked child: refuse every call; locks may be held for ever, so take a new one."""
        self.monitor.lock = _threads.new_lock()
        self.monitor.is_forked = True
        self.intake.routes.clear()
        for queue in self.accumulator.queues:
            queue.open = None

    def metrics(self) -> dict[str, float]:
        """Counters and gauges of this moment; see `Producer.metrics`."""
        now_ms = monotonic_ms()
        with self.monitor.lock:
            counters, transactions = self.sender.counters, self._transaction_counters
            return {
                "records_sent": self.accumulator.records_taken,
                "records_acknowledged": counters.records_acknowledged,
                "records_failed": counters.records_failed,
                "bytes_acknowledged": counters.bytes_acknowledged,
                "requests": counters.requests,
                "requests_in_flight": self.sender.requests_in_flight,
                "batches_sent": counters.attempts,
                "batches_retried": counters.retries,
                "epoch_bumps": counters.epoch_bumps,
                "transactions_begun": transactions.begun,
                "transactions_committed": transactions.committed,
                "transactions_aborted": transactions.aborted,
                "transactions_fenced": transactions.fenced,
                "buffer_total_bytes": self._config.buffer_memory,
                "buffer_available_bytes": self.accumulator.available_bytes,
                "waiting_callers": self.accumulator.waiting,
                "metadata_age_ms": self.metadata.age_ms(now_ms),
            }


def _results_in(response: Response, call: ProduceCall) -> Sequence[Result]:
    answer = _decoded(_decode_produce, response, call.leader.url)
    asked = [(batch.queue.topic, batch.queue.partition) for batch in call.batches]
    if [(result.topic, result.partition) for result in answer.results] != asked:
        raise BrokerUnreachableError(f"{call.leader.url}: the answer is not about what was sent")
    return answer.results


def _decoded(decode: Callable[[bytes], Answer], response: Response, url: str) -> Answer:
    try:
        return decode(response.body)
    except msgspec.MsgspecError as error:
        raise BrokerUnreachableError(
            f"{url}: not an answer of a broker: {error}", outcome=Outcome.UNKNOWN
        ) from error
