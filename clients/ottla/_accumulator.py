"""Records that wait to be sent: one queue per partition, batches that grow, and their memory.

Pure: no clock, no locks, no IO. Whoever shares an `Accumulator` between threads holds one lock
around every call and around `Batch.append`.

Memory is counted per batch: opening one reserves what it may grow to, closing it gives back what it
did not use, and the rest is held until the batch is settled. So `buffer_memory` bounds what waits,
and appending to an open batch counts nothing.
"""

from collections import Counter, deque
from typing import Final

from ottla._batch import Batch, Headers
from ottla_protocol.errors import MessageTooLargeError, Outcome
from ottla_protocol.record_batch import (
    HEADER_BYTES,
    NO_PRODUCER_EPOCH,
    NO_PRODUCER_ID,
)

RECORD_OVERHEAD_BYTES: Final = 36
"""More than lengths, deltas and attributes of one record can take."""

GROWTH_STEP: Final = 4
"""How many times larger the next batch may be when one has filled up, and smaller when it has not
nearly."""

MAX_GROWTH: Final = 64
"""How many times `batch_size` a batch may have that cannot be sent yet."""

GROWN_SHARE: Final = 4
"""Such a batch takes at most this part of its partition's share of the buffer, which is divided
among the partitions that have batches: one grows, one is under way, and others wait."""

HEADER_OVERHEAD_BYTES: Final = 10
"""More than the two lengths of one record header can take."""


class PartitionQueue:
    """One partition's batches, oldest first, and the numbers that they get.

    Invariants: batches with a number stand before those without; while `in_flight`, the batches
    that are out are in no queue, and nothing else of this partition is sent.

    Attributes:
        topic, partition: where the records go.
        open: the batch that still grows, if any.
        closed: batches that wait to be sent, or to be sent again.
        in_flight: whether a request with batches of this partition is out.
        sent_epoch: the leader epoch of this partition that the last request went by.
        retry_at_ms: nothing is sent before.
        failures: attempts that failed since the last success.
        producer_id, producer_epoch, next_sequence: what the next batch is numbered with.
        is_established: the leader has accepted a batch under this producer id and epoch, so that
            it can tell a gap; before that it would take any sequence for the first.
        max_batch_bytes: the largest batch that the topic takes, as last heard of; 0 if unheard of.
        growth: how many times `batch_size` the next batch may have if it has to wait.
    """

    __slots__ = (
        "_orders",
        "closed",
        "failures",
        "growth",
        "in_flight",
        "is_established",
        "max_batch_bytes",
        "next_sequence",
        "open",
        "partition",
        "producer_epoch",
        "producer_id",
        "retry_at_ms",
        "sent_epoch",
        "topic",
    )

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.open: Batch | None = None
        self.closed: deque[Batch] = deque()
        self.in_flight = False
        self.sent_epoch = -1
        self.retry_at_ms = 0
        self.failures = 0
        self.producer_id = NO_PRODUCER_ID
        self.producer_epoch = NO_PRODUCER_EPOCH
        self.next_sequence = 0
        self.is_established = False
        self.max_batch_bytes = 0
        self.growth = 1
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
        is_transactional: every batch is part of a transaction, and says so.

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
        is_transactional: bool = False,
    ) -> None:
        self._limit_bytes = min(batch_size, buffer_memory, max_request_size)
        self._buffer_memory = buffer_memory
        self._max_request_size = max_request_size
        self._linger_ms = linger_ms
        self._delivery_timeout_ms = delivery_timeout_ms
        self._is_transactional = is_transactional
        self._queues: dict[tuple[str, int], PartitionQueue] = {}
        self.available_bytes = buffer_memory
        self.active: dict[PartitionQueue, None] = {}
        self.unsettled: dict[Batch, None] = {}
        # Invariant: how many of `unsettled` each queue has; only queues that have some.
        self._busy: Counter[PartitionQueue] = Counter()
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
            queue.growth = min(queue.growth * GROWTH_STEP, MAX_GROWTH)
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
            is_transactional=self._is_transactional,
        )
        queue.open = batch
        self.unsettled[batch] = None
        self._busy[queue] += 1
        if not queue.in_flight:
            self.active[queue] = None
            self.wake_wanted = True
        return batch

    def _limit_of_next(self, queue: PartitionQueue) -> int:
        """How large the queue's next batch may grow.

        While others of its partition are under way or wait, one more small batch would not be sent
        any sooner than a large one, and each batch costs every broker that it passes.
        """
        limit_bytes = self._limit_bytes
        if queue.max_batch_bytes:
            limit_bytes = min(limit_bytes, queue.max_batch_bytes)
        if not queue.in_flight and not queue.closed:
            return limit_bytes
        grown_bytes = min(
            self._limit_bytes * queue.growth,
            self._max_request_size,
            queue.max_batch_bytes,
            self._buffer_memory // (GROWN_SHARE * max(1, len(self._busy))),
            self.available_bytes,
        )
        return max(grown_bytes, limit_bytes)

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
        if batch.size_bytes * GROWTH_STEP < self._limit_bytes * queue.growth:
            queue.growth = max(1, queue.growth // GROWTH_STEP)
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
        if queue.open.current_size_bytes >= self._limit_bytes:
            return queue.retry_at_ms
        return max(queue.retry_at_ms, queue.open.opened_ms + self._linger_ms)

    def is_open_ready(self, batch: Batch, now_ms: int) -> bool:
        """Whether the open batch need not wait for more records."""
        return bool(
            self.flushing
            or self.waiting
            or self.is_closed
            or now_ms >= batch.opened_ms + self._linger_ms
            or batch.current_size_bytes >= self._limit_bytes
        )

    def settled(self, batch: Batch) -> None:
        """Give back what a batch held that is done now."""
        assert batch.is_done, "not settled"
        self.available_bytes += batch.reserved_bytes
        batch.reserved_bytes = 0
        del self.unsettled[batch]
        self._busy[batch.queue] -= 1
        if not self._busy[batch.queue]:
            del self._busy[batch.queue]

    def close_all_open(self) -> None:
        """Close every open batch, so that the next record of each partition opens another one."""
        for queue in self._queues.values():
            if queue.open is not None:
                self.close_open(queue)

    def close(self) -> None:
        """Close every open batch and take no further record."""
        self.close_all_open()
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
