"""From what a caller sends to bytes in an open batch; the part that runs once for every record.

Both producers share it: the synchronous one calls it on its users' threads, the asyncio one on the
loop. It never waits. Where the buffer is full it hands back the prepared record, so that the caller
waits in its own manner and tries again.

A record costs one lock, one call of the compiled codec and one small object; what can be done per
topic, per batch or per call is done there.
"""

from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import dataclass
from random import Random
from time import time
from typing import Any

from ottla._accumulator import Accumulator, PartitionQueue, record_size_bytes
from ottla._batch import Batch, Headers
from ottla._config import ProducerConfig
from ottla._errors import InvalidRecordError, ProducerClosedError
from ottla._futures import (
    AsyncRecordFuture,
    Monitor,
    RecordFuture,
)
from ottla._metadata import Metadata
from ottla._partitioner import (
    MAX_CACHED_KEY_BYTES,
    MAX_CACHED_KEYS,
    DefaultPartitioner,
    keyed_partition,
    resolve_partitioner,
)
from ottla._record import (
    NO_HEADERS,
    DeliveryCallback,
    HeadersOption,
    ProducerRecord,
    acknowledging,
    check_partition,
    check_timestamp,
    delivering,
    header_pairs,
)
from ottla._send_many import ManyDraft
from ottla._serializers import serialize_bytes
from ottla._transaction_state import TransactionState
from ottla_protocol.errors import (
    MessageTooLargeError,
    OttlaError,
    Outcome,
    UnknownTopicOrPartitionError,
)
from ottla_protocol.record_batch import HEADER_BYTES


class Route:
    """One topic's queues, and where its keys go.

    Attributes:
        queues: by partition.
        key_partitions: the partition of a key; only for the default partitioner.
    """

    __slots__ = ("key_partitions", "queues")

    def __init__(self, queues: list[PartitionQueue]) -> None:
        self.queues = queues
        self.key_partitions = KeyPartitions(len(queues))


class KeyPartitions(dict[bytes, int]):
    """A key's partition, remembered for short keys: a look-up instead of a hash in Python."""

    __slots__ = ("_partitions",)

    def __init__(self, partitions: int) -> None:
        super().__init__()
        self._partitions = partitions

    def __missing__(self, key: bytes) -> int:
        partition = keyed_partition(key, self._partitions)
        if len(key) <= MAX_CACHED_KEY_BYTES:
            if len(self) >= MAX_CACHED_KEYS:
                self.clear()
            self[key] = partition
        return partition


@dataclass(frozen=True, slots=True)
class PendingRecord:
    """A record that is ready and waits for room; `Intake.put_again` takes it."""

    topic: str
    partition: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    on_delivery: DeliveryCallback | None
    is_sticky: bool
    transaction: int
    """The number of the transaction that it was sent in; 0 without transactions."""


class Intake:
    """Takes records into the accumulator.

    Args:
        config: the producer's options.
        accumulator: where they go; used under the monitor's lock.
        metadata: what partitioners see.
        monitor: the lock.
        future_type: what `put` makes.
        wake: called when the sender has something to look at.
        random: for the default partitioner.
        now_ms: the clock that deadlines go by.
        give_way: called after each batch that was begun, so that the sender's thread gets a turn.
        transaction: says whether records may be taken; None takes them without a transaction.

    Attributes:
        routes: the topics that records can be taken for.
        refusal: what is raised once the accumulator is closed.
    """

    def __init__(
        self,
        config: ProducerConfig,
        accumulator: Accumulator,
        metadata: Metadata,
        monitor: Monitor,
        *,
        future_type: type[RecordFuture] | type[AsyncRecordFuture],
        wake: Callable[[], None],
        random: Random,
        now_ms: Callable[[], int],
        give_way: Callable[[], None],
        transaction: TransactionState | None = None,
    ) -> None:
        self._accumulator = accumulator
        self._metadata = metadata
        self.monitor = monitor
        self._lock = monitor.lock
        self._future_type = future_type
        self._wake = wake
        self._now_ms = now_ms
        self._give_way = give_way
        self._transaction = transaction
        self._serialize_key = config.key_serializer
        self._serialize_value = config.value_serializer
        self._keys_are_bytes = config.key_serializer is serialize_bytes
        self._values_are_bytes = config.value_serializer is serialize_bytes
        self._partitioner = resolve_partitioner(config.partitioner, random=random)
        self._is_default = type(self._partitioner) is DefaultPartitioner
        self._max_record_bytes = min(config.max_request_size, config.buffer_memory)
        self._on_send = [each.on_send for each in config.interceptors if hasattr(each, "on_send")]
        self._on_acknowledgement = [
            each.on_acknowledgement
            for each in config.interceptors
            if hasattr(each, "on_acknowledgement")
        ]
        self.has_interceptors = bool(self._on_send)
        self.is_acknowledgement_wanted = bool(self._on_acknowledgement)
        self.routes: dict[str, Route] = {}
        self.refusal: OttlaError = ProducerClosedError("the producer is closed")

    def intercepted(self, record: ProducerRecord) -> ProducerRecord:
        """The record after every interceptor; what they raise passes through."""
        for on_send in self._on_send:
            changed = on_send(record)
            if changed is not None:
                record = changed
        return record

    def close(self) -> None:
        """Tell the partitioner that there will be no more."""
        close = getattr(self._partitioner, "close", None)
        if close is not None:
            close()

    @property
    def transaction_number(self) -> int:
        """The number of the transaction that records are sent in now; 0 without transactions."""
        return 0 if self._transaction is None else self._transaction.number

    def check_transaction(self, number: int) -> None:
        """Refuse a record of another transaction than that of this moment. Under the lock.

        Batches are open only within a transaction, so it is asked when one is to be opened.

        Raises:
            OttlaError: see `TransactionState.check_taking`.
        """
        if self._transaction is not None:
            self._transaction.check_taking(number)

    def not_taken(self, error: OttlaError) -> None:
        """Have the open transaction, if there is one, know that a record of it was not taken."""
        if self._transaction is not None:
            with self._lock:
                self._transaction.not_taken(error)

    # --- one record ---------------------------------------------------------------------------

    def put(
        self,
        topic: str,
        value: Any,
        key: Any,
        partition: int | None,
        headers: HeadersOption,
        timestamp: int | None,
        on_delivery: DeliveryCallback | None,
    ) -> Any:
        """Take one record of a topic that has a route.

        Returns:
            Its future; or a PendingRecord if there is no room.

        Raises:
            SerializationError, InvalidRecordError: the record is none.
            MessageTooLargeError: it does not fit a request or the buffer.
            ProducerClosedError: too late.
        """
        route = self._route(topic)
        if key is None or (type(key) is bytes and self._keys_are_bytes):
            key_bytes = key
        else:
            key_bytes = self._serialize_key(topic, key)
        if value is None or (type(value) is bytes and self._values_are_bytes):
            value_bytes = value
        else:
            value_bytes = self._serialize_value(topic, value)
        is_sticky = False
        if partition is not None:
            check_partition(partition, topic, len(route.queues))
        elif not self._is_default:
            partition = self._partitioner.partition(
                topic, key, key_bytes, value, value_bytes, self._metadata.cluster
            )
        elif key_bytes is not None:
            partition = route.key_partitions[key_bytes]
        else:
            partition = self._sticky(topic)
            is_sticky = True
        if timestamp is None:
            timestamp = int(time() * 1000)
        else:
            check_timestamp(timestamp)
        pairs = NO_HEADERS if headers is None else header_pairs(headers)
        with self._lock:
            queues = route.queues
            queue = (
                queues[partition]
                if partition < len(queues)
                else self._queue(route, topic, partition)
            )
            batch = queue.open
            if (
                batch is None
                or batch.append(batch.count, timestamp, key_bytes, value_bytes, pairs) is None
            ):
                pending = PendingRecord(
                    topic,
                    partition,
                    timestamp,
                    key_bytes,
                    value_bytes,
                    pairs,
                    on_delivery,
                    is_sticky,
                    self.transaction_number,
                )
                batch = self._open(pending)
                if batch is None:
                    return pending
            index = batch.count
            batch.count = index + 1
            if timestamp > batch.max_timestamp:
                batch.max_timestamp = timestamp
            if on_delivery is not None or self.is_acknowledgement_wanted:
                self.call_back(batch, index, timestamp, on_delivery)
        if index == 0 or self._accumulator.wake_wanted:
            self.let_send()
        return self._future_type(batch, index, timestamp, self.monitor)

    def put_again(self, pending: PendingRecord) -> Any:
        """Try once more to take a record for which there was no room; None if there still is none.

        Its caller counts as waiting: `start_waiting` comes first, `stop_waiting` last.
        """
        with self.monitor.lock:
            batch = self._open(pending)
            if batch is None:
                return None
            index = batch.count
            batch.count = index + 1
            batch.max_timestamp = max(batch.max_timestamp, pending.timestamp)
            if pending.on_delivery is not None or self.is_acknowledgement_wanted:
                self.call_back(batch, index, pending.timestamp, pending.on_delivery)
        self.wake_if_wanted()
        return self._future_type(batch, index, pending.timestamp, self.monitor)

    def start_waiting(self) -> None:
        """The caller waits for room from now on, so no batch may linger."""
        with self.monitor.lock:
            self._accumulator.waiting += 1
        self._wake()

    def stop_waiting(self) -> None:
        """The caller waits for room no longer."""
        with self.monitor.lock:
            self._accumulator.waiting -= 1

    def let_send(self) -> None:
        """Wake the sender, if something happened that it does not know of, and give it a turn."""
        self.wake_if_wanted()
        self._give_way()

    def wake_if_wanted(self) -> None:
        """Wake the sender, if something happened that it does not know of."""
        accumulator = self._accumulator
        if accumulator.wake_wanted and not accumulator.wake_pending:
            # Read after the records were put in, so a poll that resets it sees them.
            accumulator.wake_pending = True
            self._wake()

    def _route(self, topic: str) -> Route:
        """The topic's route, which goes when the topic is deleted."""
        route = self.routes.get(topic)
        if route is not None:
            return route
        gone = self._metadata.gone(topic) or UnknownTopicOrPartitionError(
            f"the topic {topic!r} was deleted"
        )
        raise copy(gone).with_outcome(Outcome.NOT_APPLIED)

    def _queue(self, route: Route, topic: str, partition: int) -> PartitionQueue:
        """The partition's queue, also where the topic has grown since the route was looked up."""
        queues = route.queues
        if partition >= len(queues):
            queues = self._route(topic).queues
            check_partition(partition, topic, len(queues))
        return queues[partition]

    def _sticky(self, topic: str) -> int:
        partitioner = self._partitioner
        assert isinstance(partitioner, DefaultPartitioner), "not sticky"
        return partitioner.sticky_partition(topic, self._metadata.cluster)

    def _open(self, record: PendingRecord) -> Batch | None:
        """A batch that holds the record now, uncounted; None if there is no room. Under the lock.

        A record without a key whose batch is full or gone moves on to another partition.
        """
        self.monitor.check_process()
        if self._accumulator.is_closed:
            raise self.refusal
        self.check_transaction(record.transaction)
        partition = record.partition
        queues = self._route(record.topic).queues
        if record.is_sticky:
            partitioner = self._partitioner
            assert isinstance(partitioner, DefaultPartitioner), "not sticky"
            partition = partitioner.on_new_batch(
                record.topic, self._metadata.cluster, record.partition
            )
            if partition >= len(queues):
                partition = record.partition
        queue = self._queue(self._route(record.topic), record.topic, partition)
        batch = queue.open
        record_bytes = (record.timestamp, record.key, record.value, record.headers)
        if batch is not None and batch.append(batch.count, *record_bytes) is not None:
            return batch
        size_bytes = record_size_bytes(record.key, record.value, record.headers)
        batch = self._accumulator.open_batch(queue, size_bytes, self._now_ms())
        if batch is not None:
            batch.append(0, *record_bytes)
        return batch

    def call_back(
        self, batch: Batch, index: int, timestamp: int, on_delivery: DeliveryCallback | None
    ) -> None:
        """Have the interceptors and the caller's function called when the batch is settled."""
        for called in self._on_acknowledgement:
            batch.callbacks.append((index, timestamp, acknowledging(called)))
        if on_delivery is not None:
            batch.callbacks.append((index, timestamp, delivering(on_delivery)))

    # --- many records -------------------------------------------------------------------------

    def many(
        self,
        topic: str,
        values: Iterable[Any],
        keys: Iterable[Any] | None,
        partition: int | None,
        headers: HeadersOption,
        timestamp: int | None,
        on_delivery: DeliveryCallback | None,
    ) -> "ManyDraft":
        """Prepare records that differ in value and key only; nothing is taken yet.

        Raises:
            SerializationError, InvalidRecordError: one of them is none.
            MessageTooLargeError: one does not fit a request.
        """
        route = self._route(topic)
        if isinstance(values, (str, bytes, bytearray, memoryview)):
            raise InvalidRecordError(
                f"values must be many values, not one {type(values).__qualname__}"
            )
        values = list(values)
        value_bytes = _serialized(self._serialize_value, topic, values)
        key_list: list[Any] | None = None
        key_bytes: list[bytes | None] | None = None
        if keys is not None:
            key_list = list(keys)
            if len(key_list) != len(values):
                raise InvalidRecordError(
                    f"{len(values)} values and {len(key_list)} keys: there must be as many"
                )
            key_bytes = _serialized(self._serialize_key, topic, key_list)
        if timestamp is None:
            timestamp = int(time() * 1000)
        else:
            check_timestamp(timestamp)
        pairs = NO_HEADERS if headers is None else header_pairs(headers)
        self._check_sizes(key_bytes, value_bytes, pairs)
        partitions = self._partitions(
            topic, route, values, value_bytes, key_list, key_bytes, partition
        )
        return ManyDraft(
            self,
            topic,
            key_bytes if key_bytes is not None else [None] * len(values),
            value_bytes,
            partitions,
            pairs,
            timestamp,
            on_delivery,
        )

    def batch_for(
        self,
        topic: str,
        partition: int | None,
        record: tuple[bytes | None, bytes | None],
        timestamp: int,
        headers: Headers,
    ) -> tuple[Batch | None, int]:
        """A batch for a record of `send_many`, and whether (1 or 0) the record is in it already.

        None if there is no room. Under the lock; nothing is counted yet.
        """
        is_sticky = partition is None
        if partition is None:
            partition = self._sticky(topic)
        batch = self._queue(self._route(topic), topic, partition).open
        if batch is not None and (
            batch.append(batch.count, timestamp, *record, headers) is not None
        ):
            return batch, 1
        batch = self._open(
            PendingRecord(
                topic,
                partition,
                timestamp,
                *record,
                headers,
                None,
                is_sticky,
                self.transaction_number,
            )
        )
        return batch, 1 if batch is not None else 0

    def _check_sizes(
        self,
        keys: list[bytes | None] | None,
        values: list[bytes | None],
        headers: Headers,
    ) -> None:
        most = record_size_bytes(None, None, headers) + HEADER_BYTES
        most += _largest(values) + (0 if keys is None else _largest(keys))
        if most <= self._max_record_bytes:
            return
        for index, value in enumerate(values):
            size = record_size_bytes(keys[index] if keys else None, value, headers) + HEADER_BYTES
            if size > self._max_record_bytes:
                raise MessageTooLargeError(
                    f"record {index} takes {size} bytes, over max_request_size or buffer_memory "
                    f"({self._max_record_bytes})",
                    outcome=Outcome.NOT_APPLIED,
                    limit_bytes=self._max_record_bytes,
                )

    def _partitions(
        self,
        topic: str,
        route: Route,
        values: list[Any],
        value_bytes: list[bytes | None],
        keys: list[Any] | None,
        key_bytes: list[bytes | None] | None,
        partition: int | None,
    ) -> list[int] | None:
        """The partition of each record; None lets them stick to one after the other."""
        if partition is not None:
            check_partition(partition, topic, len(route.queues))
            return [partition] * len(values)
        if not self._is_default:
            cluster = self._metadata.cluster
            choose = self._partitioner.partition
            missing = [None] * len(values)
            return [
                choose(topic, key, key_part, value, value_part, cluster)
                for key, key_part, value, value_part in zip(
                    keys or missing, key_bytes or missing, values, value_bytes, strict=True
                )
            ]
        if key_bytes is None:
            return None
        if None in key_bytes:
            sticky = self._sticky(topic)
            return [sticky if key is None else route.key_partitions[key] for key in key_bytes]
        return list(map(route.key_partitions.__getitem__, key_bytes))  # type: ignore[arg-type]


def _serialized(
    serialize: Callable[[str, Any], bytes | None], topic: str, items: list[Any]
) -> list[bytes | None]:
    if serialize is serialize_bytes and {*map(type, items)} <= {bytes}:
        return items
    return [None if item is None else serialize(topic, item) for item in items]


def _largest(items: list[bytes | None]) -> int:
    try:
        return max(map(len, items), default=0)  # type: ignore[arg-type]
    except TypeError:  # There are Nones among them.
        return max((len(item) for item in items if item is not None), default=0)
