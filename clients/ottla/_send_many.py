"""`send_many`: records of one topic, put into their batches partition by partition.

One by one, half of a record's cost is finding its batch. Here a chunk of records goes into the open
batches of its partitions in one tight loop under one lock.
"""

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from itertools import repeat
from typing import Any, Final, Protocol

from ottla._batch import Batch, Headers
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

MANY_CHUNK_RECORDS: Final = 1_024
"""Records of one `send_many` that are taken under one lock: half a millisecond's work."""


class BatchSource(Protocol):
    """Where batches come from; `Intake` is one."""

    monitor: Monitor
    is_acknowledgement_wanted: bool

    @property
    def transaction_number(self) -> int:
        """See `Intake`."""
        ...

    def check_transaction(self, number: int) -> None:
        """See `Intake`."""
        ...

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
        self._transaction = intake.transaction_number
        self._taken = 0
        self._runs: list[Run] = []
        self._stuck_to = array("i")

    def advance(self) -> bool:
        """Take records until none is left or there is no room; True when none is left.

        Raises:
            ProducerClosedError: too late; earlier records may have been taken.
            OttlaError: the transaction is over; see `Intake.check_transaction`.
        """
        while self._taken < len(self._values):
            taken = self._taken
            try:
                self._take_chunk(taken, min(taken + MANY_CHUNK_RECORDS, len(self._values)))
            finally:
                if self._taken > taken:
                    self._intake.let_send()
            if self._taken == taken:
                return False
        return True

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

    def _take_chunk(self, start: int, stop: int) -> None:
        """Take these records, or the first of them, if there is no room for more."""
        intake, timestamp, headers = self._intake, self._timestamp, self._headers
        partitions = repeat(None) if self._partitions is None else self._partitions[start:stop]
        with intake.monitor.lock:
            intake.check_transaction(self._transaction)
            open_batches = OpenBatches(intake, self._topic, timestamp, headers)
            appends, counts = open_batches.appends, open_batches.counts
            try:
                for partition, key, value in zip(
                    partitions, self._keys[start:stop], self._values[start:stop], strict=False
                ):
                    # What runs for every record: one call of the codec, three look-ups.
                    number = counts[partition]
                    if appends[partition](number, timestamp, key, value, headers) is None:
                        if not open_batches.replace(partition, (key, value)):
                            break
                    else:
                        counts[partition] = number + 1
            finally:
                for run in open_batches.ended():
                    self._took(run)

    def _took(self, run: Run) -> None:
        """Note that these records of a batch are ours. Under the lock."""
        self._taken += run.records
        self._runs.append(run)
        if self._partitions is None:
            self._stuck_to.extend([run.batch.queue.partition] * run.records)
        if self._on_delivery is not None or self._intake.is_acknowledgement_wanted:
            for index in range(run.first, run.first + run.records):
                self._intake.call_back(run.batch, index, self._timestamp, self._on_delivery)


class OpenBatches:
    """The batches into which one chunk goes, while the lock is held.

    Keys are partitions; None is whatever partition records without a key stick to.

    Attributes:
        appends: the open batch's own `append`, which says None when the batch is full.
        counts: how many records it has.
    """

    def __init__(self, intake: BatchSource, topic: str, timestamp: int, headers: Headers) -> None:
        self._intake = intake
        self._topic = topic
        self._timestamp = timestamp
        self._headers = headers
        self._begun: dict[int | None, tuple[Batch, int]] = {}
        self._runs: list[Run] = []
        # A partition that was not met yet has no batch, so its first record asks for one.
        self.appends: defaultdict[int | None, Callable[..., object | None]]
        self.appends = defaultdict(lambda: _refuse)
        self.counts: defaultdict[int | None, int] = defaultdict(int)

    def replace(self, partition: int | None, record: tuple[bytes | None, bytes | None]) -> bool:
        """Put the record into the partition's next batch; False if there is no room.

        Raises:
            ProducerClosedError: too late.
        """
        self._end(partition)
        batch, number = self._intake.batch_for(
            self._topic, partition, record, self._timestamp, self._headers
        )
        if batch is None:
            return False
        self._begun[partition] = (batch, batch.count)
        self.appends[partition] = batch.append
        self.counts[partition] = batch.count + number
        return True

    def ended(self) -> list[Run]:
        """Count what went into each batch; the runs of all, those of one partition in order."""
        for partition in list(self._begun):
            self._end(partition)
        return self._runs

    def _end(self, partition: int | None) -> None:
        begun = self._begun.pop(partition, None)
        if begun is None:
            return
        batch, first = begun
        del self.appends[partition]
        batch.count = self.counts[partition]
        batch.max_timestamp = max(batch.max_timestamp, self._timestamp)
        self._runs.append(Run(batch, first, batch.count - first, self._timestamp))


def _refuse(*_record: object) -> None:
    """The `append` of a batch that is none."""


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
