"""What `send` gives back: the fate of records, as seen through the batches that carry them.

A future is a batch, an index and a timestamp, and nothing more: making one is a tenth of what an
event or an asyncio future would cost. Waiting is what is paid for: only who really waits makes
something to be woken by.
"""

import asyncio
import threading
import time
from array import array
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from copy import copy
from typing import Any, NamedTuple

import msgspec

from ottla import _threads
from ottla._batch import NO_OFFSET, Batch
from ottla._errors import ClientError, ForkedProcessError
from ottla._timeouts import seconds_in


class RecordMetadata(NamedTuple):
    """Where a record is.

    Attributes:
        topic, partition: its place.
        offset: its position; -1 where that is not known (acks=0).
        timestamp: ms since the epoch, the record's own or the leader's.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int


class WaitTimedOutError(ClientError, TimeoutError):
    """The result was not there within the `timeout` of the call; the records go on being sent."""

    code = "WAIT_TIMED_OUT"
    title = "Wait timed out"
    retriable = True


class Monitor:
    """What the threads of one producer share.

    Attributes:
        lock: held around every use of accumulator and sender.
        is_forked: this process is a child of the one that made the producer.
        sender_thread_id: the thread that settles batches, and so must not wait for one.
    """

    __slots__ = ("__weakref__", "is_forked", "lock", "sender_thread_id")

    def __init__(self) -> None:
        self.lock = _threads.new_lock()
        self.is_forked = False
        self.sender_thread_id: int | None = None

    def check_thread(self) -> None:
        """Refuse to wait on the thread that would have to end the wait.

        Raises:
            WaitTimedOutError: this is that thread.
        """
        if self.sender_thread_id == _threads.thread_id():
            raise WaitTimedOutError(
                "a callback must not wait: it runs on the thread that would end the wait"
            )

    def check_process(self) -> None:
        """Raise in a child process.

        Raises:
            ForkedProcessError: this is one.
        """
        if self.is_forked:
            raise ForkedProcessError("this producer was made in the parent process, before a fork")

    def wait(self, batch: Batch, deadline_s: float | None, waited: str) -> None:
        """Block this thread until the batch is done.

        Args:
            batch: what to wait for.
            deadline_s: by `time.monotonic`; None waits for ever, which delivery_timeout_ms bounds.
            waited: what is waited for, for the error.

        Raises:
            WaitTimedOutError: the time was over first.
        """
        if batch.is_done:
            return
        self.check_process()
        self.check_thread()
        event = threading.Event()
        with self.lock:
            if batch.is_done:
                return
            batch.wakers.append(event.set)
        timeout_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
        if not _threads.wait(event, timeout_s):
            with self.lock:
                if not batch.is_done:
                    batch.wakers.remove(event.set)
            raise WaitTimedOutError(f"{waited} was not there in time")


def deadline_after(timeout_s: float | None) -> float | None:
    """The moment by `time.monotonic` that is `timeout_s` away.

    Raises:
        InvalidRequestError: it is no number of seconds.
    """
    seconds = seconds_in(timeout_s)
    return None if seconds is None else time.monotonic() + seconds


def metadata_of(batch: Batch, index: int, timestamp: int) -> RecordMetadata:
    """Where a record of an acknowledged batch is."""
    base_offset = batch.base_offset
    queue = batch.queue
    return RecordMetadata(
        queue.topic,
        queue.partition,
        base_offset if base_offset == NO_OFFSET else base_offset + index,
        timestamp if batch.timestamp == NO_OFFSET else batch.timestamp,
    )


class _Record(msgspec.Struct, gc=False, eq=False):
    """One record on its way."""

    _batch: Any
    _index: int
    _timestamp: int
    _monitor: Any

    def done(self) -> bool:
        """Whether the record is acknowledged or given up."""
        return bool(self._batch.is_done)

    def as_run(self) -> "Run":
        """The record as a run of one."""
        return Run(self._batch, self._index, 1, self._timestamp)

    def _outcome(self) -> RecordMetadata:
        batch = self._batch
        if batch.error is not None:
            # A copy, because raising adds to an error's traceback, and the batch has one for all.
            raise copy(batch.error) from batch.error.__cause__
        return metadata_of(batch, self._index, self._timestamp)

    def _call_when_done(self, callback: Callable[[], object]) -> None:
        batch = self._batch
        with self._monitor.lock:
            if not batch.is_done:
                batch.callbacks.append((self._index, self._timestamp, lambda *_: callback()))
                return
        callback()


class RecordFuture(_Record, gc=False, eq=False):
    """A record's result, as `Producer.send` returns it."""

    def get(self, timeout: float | None = None) -> RecordMetadata:
        """Wait for the acknowledgement.

        Args:
            timeout: seconds; None waits until the record is acknowledged or given up, which takes
                `delivery_timeout_ms` at most.

        Raises:
            WaitTimedOutError: neither happened within `timeout`.
            OttlaError: why the record was given up.
        """
        self._wait(timeout)
        return self._outcome()

    result = get

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait as `get` does; returns the error instead of raising it, None after success."""
        self._wait(timeout)
        error: BaseException | None = self._batch.error
        return error

    def add_done_callback(self, callback: Callable[["RecordFuture"], object]) -> None:
        """Have `callback(future)` called when it is done, on the producer's thread; or now."""
        self._call_when_done(lambda: callback(self))

    def _wait(self, timeout: float | None) -> None:
        deadline_s = deadline_after(timeout)
        if not self._batch.is_done:
            self._monitor.wait(self._batch, deadline_s, "the acknowledgement")


class AsyncRecordFuture(_Record, gc=False, eq=False):
    """A record's result, as `await aio.Producer.send` returns it: await it for the metadata."""

    def __await__(self) -> Generator[Any, None, RecordMetadata]:
        if not self._batch.is_done:
            yield from wait_async(self._batch).__await__()
        return self._outcome()

    def result(self) -> RecordMetadata:
        """The metadata of a record that is done.

        Raises:
            asyncio.InvalidStateError: it is not.
            OttlaError: why the record was given up.
        """
        self._check_done()
        return self._outcome()

    def exception(self) -> BaseException | None:
        """The error of a record that is done, None after success.

        Raises:
            asyncio.InvalidStateError: it is not done.
        """
        self._check_done()
        error: BaseException | None = self._batch.error
        return error

    def add_done_callback(self, callback: Callable[["AsyncRecordFuture"], object]) -> None:
        """Have `callback(future)` called when it is done, on the event loop; or now."""
        self._call_when_done(lambda: callback(self))

    def _check_done(self) -> None:
        if not self._batch.is_done:
            raise asyncio.InvalidStateError("the record is neither acknowledged nor given up yet")


async def wait_async(batch: Batch) -> None:
    """Wait on this loop until the batch is done; only for batches that this same loop settles."""
    if batch.is_done:
        return
    waiter = asyncio.get_running_loop().create_future()

    def wake() -> None:
        if not waiter.done():
            waiter.set_result(None)

    batch.wakers.append(wake)
    try:
        await waiter
    finally:
        if not batch.is_done:
            batch.wakers.remove(wake)


class DeliveryReport(Sequence[RecordMetadata]):
    """Where the records of one `send_many` are, in their order; compact, and made when looked at.

    Attributes:
        topic: where they went.
        partitions: the partition of each record.
    """

    __slots__ = ("_runs", "partitions", "topic")

    def __init__(self, topic: str, partitions: "array[int]", runs: Iterable["Run"]) -> None:
        self.topic = topic
        self.partitions = partitions
        self._runs: dict[int, list[Run]] = {}
        for run in runs:
            self._runs.setdefault(run.batch.queue.partition, []).append(run)

    def __len__(self) -> int:
        return len(self.partitions)

    def __iter__(self) -> Iterator[RecordMetadata]:
        places = {
            partition: (
                metadata_of(run.batch, run.first + number, run.timestamp)
                for run in runs
                for number in range(run.records)
            )
            for partition, runs in self._runs.items()
        }
        for partition in self.partitions:
            yield next(places[partition])

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return list(self)[index]
        partition = self.partitions[index]
        position = index if index >= 0 else len(self) + index
        number = self.partitions[:position].count(partition)
        for run in self._runs[partition]:
            if number < run.records:
                return metadata_of(run.batch, run.first + number, run.timestamp)
            number -= run.records
        raise AssertionError("every record is in a run")

    @property
    def offsets(self) -> "array[int]":
        """The offset of each record, in their order."""
        return array("q", (metadata.offset for metadata in self))


class Run(NamedTuple):
    """Records of one `send_many` side by side in one batch."""

    batch: Batch
    first: int
    records: int
    timestamp: int


class _Many:
    """The records of one `send_many` on their way."""

    __slots__ = ("_monitor", "_report", "_runs")

    def __init__(self, report: DeliveryReport, runs: list[Run], monitor: Monitor) -> None:
        self._report = report
        self._runs = runs
        self._monitor = monitor

    def __len__(self) -> int:
        return len(self._report)

    def done(self) -> bool:
        """Whether every record is acknowledged or given up."""
        return all(run.batch.is_done for run in self._runs)

    def _first_error(self) -> Exception | None:
        return next((run.batch.error for run in self._runs if run.batch.error is not None), None)

    def _outcome(self) -> DeliveryReport:
        error = self._first_error()
        if error is not None:
            raise error
        return self._report

    def _outcomes(self) -> list[RecordMetadata | Exception]:
        errors = {
            id(run.batch): run.batch.error for run in self._runs if run.batch.error is not None
        }
        if not errors:
            return list(self._report)
        return self._report_with_errors()

    def _report_with_errors(self) -> list[RecordMetadata | Exception]:
        places: dict[int, list[RecordMetadata | Exception]] = {}
        for run in reversed(self._runs):
            batch = run.batch
            places.setdefault(batch.queue.partition, []).extend(
                batch.error
                if batch.error is not None
                else metadata_of(batch, run.first + number, run.timestamp)
                for number in reversed(range(run.records))
            )
        return [places[partition].pop() for partition in self._report.partitions]


class ManyFuture(_Many):
    """The results of one `Producer.send_many`."""

    __slots__ = ()

    def get(self, timeout: float | None = None) -> DeliveryReport:
        """Wait for every acknowledgement.

        Raises:
            WaitTimedOutError: some were not there within `timeout` seconds.
            OttlaError: why the first record that was given up was; `outcomes` tells of each.
        """
        self._wait(timeout)
        return self._outcome()

    result = get

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait as `get` does; returns the first error instead of raising it."""
        self._wait(timeout)
        return self._first_error()

    def outcomes(self, timeout: float | None = None) -> list[RecordMetadata | Exception]:
        """Wait as `get` does; the metadata or the error of each record, in their order."""
        self._wait(timeout)
        return self._outcomes()

    def _wait(self, timeout: float | None) -> None:
        deadline_s = deadline_after(timeout)
        for run in self._runs:
            self._monitor.wait(run.batch, deadline_s, "an acknowledgement")


class AsyncManyFuture(_Many):
    """The results of one `aio.Producer.send_many`: await it for the report."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, DeliveryReport]:
        yield from self._wait().__await__()
        return self._outcome()

    async def outcomes(self) -> list[RecordMetadata | Exception]:
        """Wait for all; the metadata or the error of each record, in their order."""
        await self._wait()
        return self._outcomes()

    async def _wait(self) -> None:
        for run in self._runs:
            await wait_async(run.batch)
