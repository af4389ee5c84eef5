"""`send_many`: records of one topic, put into their batches partition by partition.

One by one, half of a record's cost is finding its batch. Here a chunk of records is first spread
over its partitions, and then each batch is filled in one tight loop under one lock.
"""

from array import array
from collections.abc import Iterable, Sequence
from copy import copy
from itertools import islice
from typing import Any, Final, Protocol

from ottla._accumulator import Batch, Headers
from ottla._errors import InvalidRecordError
from ottla._futures import (
    AsyncManyFuture,
    AsyncRecordFuture,
    DeliveryReport,
    ManyFuture,
    Monitor,
    RecordFuture,
    Run,
)
from ottla._record import DeliveryCallback
from ottla_protocol.errors import OttlaError, Outcome

MANY_CHUNK_RECORDS: Final = 4_096
"""Records of one `send_many` that are spread over their partitions at a time."""


class BatchSource(Protocol):
    """Where batches come from; `Intake` is one."""

    monitor: Monitor
    is_acknowledgement_wanted: bool

    def batch_for(
        self,
        topic: str,
        partition: int | None,
        record: tuple[bytes | None, bytes | None],
        timestamp: int,
        headers: Headers,
    ) -> tuple[Batch | None, int]:
        """See `Intake`."""
        ...

    def call_back(
        self, batch: Batch, index: int, timestamp: int, on_delivery: DeliveryCallback | None
    ) -> None:
        """See `Intake`."""
        ...

    def let_send(self) -> None:
        """See `Intake`."""
        ...


class ManyDraft:
    """The records of one `send_many` on their way into batches.

    `advance` takes what there is room for; when it returns True, `future` has all of them.
    """

    def __init__(
        self,
        intake: BatchSource,
        topic: str,
        keys: list[bytes | None],
        values: list[bytes | None],
        partitions: list[int] | None,
        headers: Headers,
        timestamp: int,
        on_delivery: DeliveryCallback | None,
    ) -> None:
        self._intake = intake
        self._topic = topic
        self._keys = keys
        self._values = values
        self._partitions = partitions
        self._headers = headers
        self._timestamp = timestamp
        self._on_delivery = on_delivery
        self._spread_until = 0
        # What is spread and not taken yet: (partition, records, how many are taken).
        self._buckets: list[tuple[int | None, list[tuple[bytes | None, bytes | None]], int]] = []
        self._runs: list[Run] = []
        self._stuck_to = array("i")

    def advance(self) -> bool:
        """Take records until none is left or there is no room; True when none is left.

        Raises:
            ProducerClosedError: too late; earlier records may have been taken.
        """
        while True:
            while self._buckets:
                partition, records, taken = self._buckets.pop()
                taken = self._fill(partition, records, taken)
                if taken < len(records):
                    self._buckets.append((partition, records, taken))
                    return False
            if self._spread_until >= len(self._values):
                return True
            self._spread()

    def given_up(self, error: OttlaError) -> OttlaError:
        """The error that ends the call, true also where some of the records were taken."""
        taken = sum(run.records for run in self._runs)
        if not taken:
            return error
        told = copy(error)
        told.outcome = Outcome.UNKNOWN
        told.members = {**error.members, "records_taken": taken}
        told.add_note(f"{taken} of {len(self._values)} records were taken before, and are sent")
        return told

    def future(self, future_type: type[ManyFuture] | type[AsyncManyFuture]) -> Any:
        """The future of all the records."""
        partitions = self._stuck_to if self._partitions is None else array("i", self._partitions)
        report = DeliveryReport(self._topic, partitions, self._runs)
        return future_type(report, self._runs, self._intake.monitor)

    def _spread(self) -> None:
        """Sort the next chunk by partition, so that each batch is filled in one go."""
        start, stop = self._spread_until, self._spread_until + MANY_CHUNK_RECORDS
        self._spread_until = stop
        records = zip(self._keys[start:stop], self._values[start:stop], strict=True)
        if self._partitions is None:
            self._buckets.append((None, list(records), 0))
            return
        partitions = self._partitions[start:stop]
        buckets: dict[int, list[tuple[bytes | None, bytes | None]]] = {
            partition: [] for partition in {*partitions}
        }
        for partition, record in zip(partitions, records, strict=True):
            buckets[partition].append(record)
        self._buckets.extend((partition, bucket, 0) for partition, bucket in buckets.items())

    def _fill(
        self,
        partition: int | None,
        records: list[tuple[bytes | None, bytes | None]],
        taken: int,
    ) -> int:
        """Put records of one partition into its batches; returns how many are taken by now."""
        intake, timestamp, headers = self._intake, self._timestamp, self._headers
        while taken < len(records):
            with intake.monitor.lock:
                batch, number = intake.batch_for(
                    self._topic, partition, records[taken], timestamp, headers
                )
                if batch is None:
                    break
                first = batch.count
                append = batch.append
                for key, value in islice(records, taken + number, None):
                    if append(first + number, timestamp, key, value, headers) is None:
                        break
                    number += 1
                self._took(batch, first, number)
            taken += number
            intake.let_send()
        return taken

    def _took(self, batch: Batch, first: int, records: int) -> None:
        """Note that these records of a batch are ours. Under the lock."""
        batch.count = first + records
        batch.max_timestamp = max(batch.max_timestamp, self._timestamp)
        self._runs.append(Run(batch, first, records, self._timestamp))
        if self._partitions is None:
            self._stuck_to.extend([batch.queue.partition] * records)
        if self._on_delivery is not None or self._intake.is_acknowledgement_wanted:
            for index in range(first, first + records):
                self._intake.call_back(batch, index, self._timestamp, self._on_delivery)


def pairs_of(values: Iterable[Any], keys: Iterable[Any] | None) -> list[tuple[Any, Any]]:
    """Each value with its key, None without keys.

    Raises:
        InvalidRecordError: there are not as many keys as values.
    """
    value_list = list(values)
    key_list = [None] * len(value_list) if keys is None else list(keys)
    if len(key_list) != len(value_list):
        raise InvalidRecordError(
            f"{len(value_list)} values and {len(key_list)} keys: there must be as many"
        )
    return list(zip(value_list, key_list, strict=True))


def joined(
    topic: str,
    futures: Sequence[RecordFuture | AsyncRecordFuture],
    future_type: type[ManyFuture] | type[AsyncManyFuture],
    monitor: Monitor,
) -> Any:
    """One future of records that were sent one by one."""
    runs = [future.as_run() for future in futures]
    if any(run.batch.queue.topic != topic for run in runs):
        raise InvalidRecordError("an interceptor must not change the topic in send_many")
    partitions = array("i", (run.batch.queue.partition for run in runs))
    return future_type(DeliveryReport(topic, partitions, runs), runs, monitor)
