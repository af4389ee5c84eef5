"""Records that wait to be sent: one queue per partition, batches that grow, and their memory.

Pure: no clock, no locks, no IO. Whoever shares an `Accumulator` between threads holds one lock
around every call and around `Batch.append`.

A record's bytes go straight into its partition's open batch. A batch is closed when it is full or
when it is taken to be sent, and from then on nobody but the sender touches it. What becomes of a
record is told by its batch: a future is a batch and an index, so that a record costs no lock, no
event and no dictionary of its own.

Memory is counted per batch: opening one reserves what it may grow to, closing it gives back what it
did not use, and the rest is held until the batch is settled. So `buffer_memory` bounds what waits,
and appending to an open batch counts nothing.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from ottla_protocol.errors import MessageTooLargeError, OttlaError, Outcome
from ottla_protocol.record_batch import (
    HEADER_BYTES,
    NO_PRODUCER_EPOCH,
    NO_PRODUCER_ID,
    NO_SEQUENCE,
    Compression,
    set_producer,
)
from ottla_protocol.record_codec import BatchBuilder

RECORD_OVERHEAD_BYTES: Final = 36
"""More than lengths, deltas and attributes of one record can take."""

BACKLOG_BATCHES: Final = 5
"""From how many waiting batches of a partition on the next ones grow larger: as many as one request
may carry, because brokers remember so many of a producer."""

BACKLOG_GROWTH: Final = 16
"""How many times `batch_size` they may have; and the share of the free buffer that one may take."""

HEADER_OVERHEAD_BYTES: Final = 10
"""More than the two lengths of one record header can take."""

NO_OFFSET: Final = -1

Headers = list[tuple[str, bytes | None]]
"""A record's headers as the codec takes them."""

Callback = Callable[[Any, int, int], None]
"""Called with (batch, index, the record's own timestamp) once the batch is settled."""


class Batch:
    """One record batch from its first record to its outcome.

    Attributes:
        queue: its partition's queue.
        append: the builder's; see `record_codec.BatchBuilder`.
        count: records so far.
        max_timestamp: the largest timestamp of its records, ms.
        opened_ms, deadline_ms: when the first record came, and when delivery has failed.
        reserved_bytes: what it holds of the buffer.
        size_bytes: its size uncompressed, once it is closed.
        order: rises from batch to batch of one queue.
        base_sequence, producer_id, producer_epoch: its number, while it has one.
        attempts: requests that carried it and were answered or failed.
        maybe_applied: an attempt ended without telling whether the batch was appended.
        uncertain_leaders: the brokers to which such attempts went.
        last_error: why the last attempt failed.
        is_done: settled; then either `error` is set, or `base_offset` and `timestamp` are.
        callbacks: what to call then, with index and timestamp of the record.
        wakers: called without arguments then, before the callbacks.
    """

    __slots__ = (
        "_builder",
        "_encoded",
        "_encoded_number",
        "append",
        "attempts",
        "base_offset",
        "base_sequence",
        "callbacks",
        "count",
        "deadline_ms",
        "error",
        "is_done",
        "last_error",
        "max_timestamp",
        "maybe_applied",
        "opened_ms",
        "order",
        "producer_epoch",
        "producer_id",
        "queue",
        "reserved_bytes",
        "size_bytes",
        "timestamp",
        "uncertain_leaders",
        "wakers",
    )

    def __init__(
        self,
        queue: "PartitionQueue",
        *,
        limit_bytes: int,
        reserved_bytes: int,
        opened_ms: int,
        deadline_ms: int,
        order: int,
    ) -> None:
        self.queue = queue
        builder = BatchBuilder(limit_bytes)
        self._builder: BatchBuilder | None = builder
        self._encoded: bytearray | None = None
        self._encoded_number: tuple[int, int, int] | None = None
        self.append = builder.append
        self.count = 0
        self.max_timestamp = 0
        self.opened_ms = opened_ms
        self.deadline_ms = deadline_ms
        self.reserved_bytes = reserved_bytes
        self.size_bytes = 0
        self.order = order
        self.base_sequence = NO_SEQUENCE
        self.producer_id = NO_PRODUCER_ID
        self.producer_epoch = NO_PRODUCER_EPOCH
        self.attempts = 0
        self.maybe_applied = False
        self.uncertain_leaders: frozenset[int] = frozenset()
        self.last_error: OttlaError | None = None
        self.is_done = False
        self.base_offset = NO_OFFSET
        self.timestamp = NO_OFFSET
        self.error: Exception | None = None
        self.callbacks: list[tuple[int, int, Callback]] = []
        self.wakers: list[Callable[[], object]] = []

    @property
    def is_numbered(self) -> bool:
        """Whether it has a sequence already, so that it may have been sent."""
        return self.base_sequence != NO_SEQUENCE

    @property
    def current_size_bytes(self) -> int:
        """Its size so far, uncompressed."""
        return self.size_bytes or (self._builder.size_bytes if self._builder is not None else 0)

    @property
    def outcome(self) -> Outcome:
        """What is certain about a batch that was not acknowledged."""
        return Outcome.UNKNOWN if self.maybe_applied else Outcome.NOT_APPLIED

    def number(self, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
        """Give the batch its sequence; the bytes follow when they are next asked for."""
        self.producer_id = producer_id
        self.producer_epoch = producer_epoch
        self.base_sequence = base_sequence

    def forget_number(self) -> None:
        """Take the sequence back, which only a batch that was certainly not appended may lose."""
        self.number(NO_PRODUCER_ID, NO_PRODUCER_EPOCH, NO_SEQUENCE)

    def close(self) -> None:
        """Take no more records."""
        assert self._builder is not None, "closed twice"
        self.size_bytes = self._builder.size_bytes

    def encode(self, compression: Compression) -> bytearray:
        """The batch's bytes under its present number; built once, then only numbered again.

        Takes time (compression): call it without the lock.
        """
        number = (self.producer_id, self.producer_epoch, self.base_sequence)
        if self._builder is not None:
            self._encoded = self._builder.build(
                compression=compression,
                producer_id=self.producer_id,
                producer_epoch=self.producer_epoch,
                base_sequence=self.base_sequence,
            )
            self._builder = None
            del self.append  # It holds the builder, and with it the bytes.
        assert self._encoded is not None, "settled"
        if self._encoded_number not in (None, number):
            set_producer(
                self._encoded,
                producer_id=self.producer_id,
                producer_epoch=self.producer_epoch,
                base_sequence=self.base_sequence,
            )
        self._encoded_number = number
        return self._encoded

    def complete(self, base_offset: int, timestamp: int) -> None:
        """Acknowledged: the first record is at `base_offset`, NO_OFFSET if that is not known.

        Args:
            base_offset: the first record's offset.
            timestamp: the leader's, if it is not the largest of the batch's own.
        """
        self.base_offset = base_offset
        self.timestamp = NO_OFFSET if timestamp == self.max_timestamp else timestamp
        self._settle()

    def fail(self, error: Exception) -> None:
        """Given up for this reason."""
        self.error = error
        self._settle()

    def _settle(self) -> None:
        assert not self.is_done, "settled twice"
        self.is_done = True
        self._encoded = None
        if self._builder is not None:
            self._builder = None
            del self.append

    def announce(self) -> list[BaseException]:
        """Wake whoever waits and call what was asked for; without the lock, once, when done.

        Returns:
            What the callbacks raised.
        """
        wakers, self.wakers = self.wakers, []
        for wake in wakers:
            wake()
        callbacks, self.callbacks = self.callbacks, []
        raised: list[BaseException] = []
        for index, timestamp, callback in callbacks:
            try:
                callback(self, index, timestamp)
            except BaseException as error:  # noqa: BLE001 - told to the driver
                # A user's code: not even its sys.exit() may keep others from their results.
                raised.append(error)
        return raised


class PartitionQueue:
    """One partition's batches, oldest first, and the numbers that they get.

    Invariants: batches with a number stand before those without; while `in_flight`, the batches
    that are out are in no queue, and nothing else of this partition is sent.

    Attributes:
        topic, partition: where the records go.
        open: the batch that still grows, if any.
        closed: batches that wait to be sent, or to be sent again.
        in_flight: whether a request with batches of this partition is out.
        retry_at_ms: nothing is sent before.
        failures: attempts that failed since the last success.
        producer_id, producer_epoch, next_sequence: what the next batch is numbered with.
        is_established: the leader has accepted a batch under this producer id and epoch, so that
            it can tell a gap; before that it would take any sequence for the first.
        max_batch_bytes: the largest batch that the topic takes, as last heard of; 0 if unheard of.
    """

    __slots__ = (
        "_orders",
        "closed",
        "failures",
        "in_flight",
        "is_established",
        "max_batch_bytes",
        "next_sequence",
        "open",
        "partition",
        "producer_epoch",
        "producer_id",
        "retry_at_ms",
        "topic",
    )

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.open: Batch | None = None
        self.closed: deque[Batch] = deque()
        self.in_flight = False
        self.retry_at_ms = 0
        self.failures = 0
        self.producer_id = NO_PRODUCER_ID
        self.producer_epoch = NO_PRODUCER_EPOCH
        self.next_sequence = 0
        self.is_established = False
        self.max_batch_bytes = 0
        self._orders = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits here."""
        return self.open is None and not self.closed

    @property
    def oldest(self) -> Batch | None:
        """The batch that has waited longest."""
        return self.closed[0] if self.closed else self.open

    def next_order(self) -> int:
        """A number for the next batch opened."""
        self._orders += 1
        return self._orders


class Accumulator:
    """All queues of one producer.

    Args:
        batch_size: bytes at which a batch is full, unless many of its partition wait already.
        buffer_memory: bytes of all batches that are not settled.
        max_request_size: bytes of the largest batch.
        linger_ms: how long an open batch waits for more records.
        delivery_timeout_ms: from a batch's first record to its failure.

    Attributes:
        available_bytes: what is left of `buffer_memory`.
        active: queues that hold batches and have none in flight, in the order of their turn.
        unsettled: every batch that is not done, oldest first.
        waiting: callers that wait for memory; while there are any, no batch lingers.
        flushing: callers that wait for everything to be sent; likewise.
        is_closed: no batch is opened any more.
        wake_wanted: the sender has something to look at that it does not know of yet.
        wake_pending: it was told so. `polled` resets both.
    """

    def __init__(
        self,
        *,
        batch_size: int,
        buffer_memory: int,
        max_request_size: int,
        linger_ms: int,
        delivery_timeout_ms: int,
    ) -> None:
        self._limit_bytes = min(batch_size, buffer_memory, max_request_size)
        self._buffer_memory = buffer_memory
        self._max_request_size = max_request_size
        self._linger_ms = linger_ms
        self._delivery_timeout_ms = delivery_timeout_ms
        self._queues: dict[tuple[str, int], PartitionQueue] = {}
        self.available_bytes = buffer_memory
        self.active: dict[PartitionQueue, None] = {}
        self.unsettled: dict[Batch, None] = {}
        self.waiting = 0
        self.flushing = 0
        self.is_closed = False
        self.wake_wanted = False
        self.wake_pending = False
        self._records_closed = 0

    @property
    def records_taken(self) -> int:
        """Records so far."""
        growing = [queue.open.count for queue in self._queues.values() if queue.open is not None]
        return self._records_closed + sum(growing)

    def polled(self) -> None:
        """The sender looks at everything now."""
        self.wake_wanted = False
        self.wake_pending = False

    @property
    def queues(self) -> list[PartitionQueue]:
        """Every queue there is."""
        return list(self._queues.values())

    def queue(self, topic: str, partition: int) -> PartitionQueue:
        """The partition's queue, made when it is first asked for."""
        key = (topic, partition)
        found = self._queues.get(key)
        if found is None:
            found = self._queues[key] = PartitionQueue(topic, partition)
        return found

    def open_batch(self, queue: PartitionQueue, record_bytes: int, now_ms: int) -> Batch | None:
        """Close the queue's open batch, if any, and open the next.

        Args:
            queue: where the record goes.
            record_bytes: its size by `record_size_bytes`.
            now_ms: the time.

        Returns:
            The batch, which takes this record whatever its own limit; None if memory is short.

        Raises:
            MessageTooLargeError: the record does not fit a request or the buffer.
        """
        assert not self.is_closed, "closed"
        if queue.open is not None:
            self.close_open(queue)
        batch_bytes = record_bytes + HEADER_BYTES
        self._check_size(batch_bytes)
        limit_bytes = self._limit_of_next(queue)
        reserved_bytes = max(limit_bytes, batch_bytes)
        if reserved_bytes > self.available_bytes:
            self.wake_wanted = True
            return None
        self.available_bytes -= reserved_bytes
        batch = Batch(
            queue,
            limit_bytes=limit_bytes,
            reserved_bytes=reserved_bytes,
            opened_ms=now_ms,
            deadline_ms=now_ms + self._delivery_timeout_ms,
            order=queue.next_order(),
        )
        queue.open = batch
        self.unsettled[batch] = None
        if not queue.in_flight:
            self.active[queue] = None
            self.wake_wanted = True
        return batch

    def _limit_of_next(self, queue: PartitionQueue) -> int:
        """How large the queue's next batch may grow.

        Where a whole request's worth of batches waits already, one more small batch would not be
        sent any sooner than a large one, and each batch costs every broker that it passes.
        """
        limit_bytes = self._limit_bytes
        if queue.max_batch_bytes:
            limit_bytes = min(limit_bytes, queue.max_batch_bytes)
        if len(queue.closed) < BACKLOG_BATCHES:
            return limit_bytes
        grown_bytes = min(
            self._limit_bytes * BACKLOG_GROWTH, self._max_request_size, queue.max_batch_bytes
        )
        has_room = grown_bytes <= self.available_bytes // BACKLOG_GROWTH
        return max(grown_bytes, limit_bytes) if has_room else limit_bytes

    def _check_size(self, batch_bytes: int) -> None:
        for name, limit in (
            ("max_request_size", self._max_request_size),
            ("buffer_memory", self._buffer_memory),
        ):
            if batch_bytes > limit:
                raise MessageTooLargeError(
                    f"a record that takes {batch_bytes} bytes is over {name} ({limit})",
                    outcome=Outcome.NOT_APPLIED,
                    limit_bytes=limit,
                )

    def close_open(self, queue: PartitionQueue) -> None:
        """Close the queue's open batch, which then waits behind the others."""
        batch = queue.open
        assert batch is not None, "no open batch"
        batch.close()
        self._records_closed += batch.count
        surplus = max(0, batch.reserved_bytes - batch.size_bytes)
        batch.reserved_bytes -= surplus
        self.available_bytes += surplus
        queue.open = None
        queue.closed.append(batch)
        if not queue.in_flight:
            self.wake_wanted = True

    def ready_at_ms(self, queue: PartitionQueue) -> int:
        """When something of this queue may be sent, which is not empty; 0 is at once."""
        if queue.closed or self._linger_ms == 0 or self.flushing or self.waiting or self.is_closed:
            return queue.retry_at_ms
        assert queue.open is not None, "empty"
        return max(queue.retry_at_ms, queue.open.opened_ms + self._linger_ms)

    def is_open_ready(self, batch: Batch, now_ms: int) -> bool:
        """Whether the open batch need not wait for more records."""
        return bool(
            self.flushing
            or self.waiting
            or self.is_closed
            or now_ms >= batch.opened_ms + self._linger_ms
        )

    def settled(self, batch: Batch) -> None:
        """Give back what a batch held that is done now."""
        assert batch.is_done, "not settled"
        self.available_bytes += batch.reserved_bytes
        batch.reserved_bytes = 0
        del self.unsettled[batch]

    def close(self) -> None:
        """Close every open batch and take no further record."""
        for queue in self._queues.values():
            if queue.open is not None:
                self.close_open(queue)
        self.is_closed = True
        self.wake_wanted = True


def record_size_bytes(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    """At least what one record takes in a batch."""
    size = RECORD_OVERHEAD_BYTES
    if key is not None:
        size += len(key)
    if value is not None:
        size += len(value)
    for name, content in headers:
        size += HEADER_OVERHEAD_BYTES + len(name.encode())
        if content is not None:
            size += len(content)
    return size
