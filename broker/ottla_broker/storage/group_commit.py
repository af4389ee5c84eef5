"""The queue between those who append and the one task that writes.

A commit costs one fsync, whatever is in it. So appends only queue; the writer takes everything
that has gathered while the last commit ran and commits it as one transaction: the slower the
disk, the larger the groups. Where others are slower still it waits a little for more (`gather`).
Durability is told to waiters by offset: `durable_end` is the first offset that is not yet committed
and only rises.

The writer task belongs to the log. No request can cancel it: a client that goes away ends only
its own wait. Any failure of a commit is final: what the disk holds is then unknown, so every wait
ends with StorageError, and the broker stops.

A full disk is the exception. SQLite has rolled the transaction back, so what the disk holds is
known, and the batches are held in memory and tried again. They are not dropped by themselves:
followers may have them already, and other batches at their offsets would be a second truth under
one leader epoch. Whoever waits for the disk is told at once (`DiskFullError`), and who gives up
this end of the log, as a follower may, drops what is held (`abandon`).
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from ottla_broker.storage.disk_full import DiskFullError
from ottla_broker.storage.policy.abort_index import IndexedAbort
from ottla_broker.storage.segment_snapshot import Snapshot
from ottla_broker.storage.sqlite import Durability
from ottla_broker.storage.stored_batch import Row, StoredBatch
from ottla_broker.storage.tail_cache import BatchRun
from ottla_cluster.replication.leader_epochs import EpochStart
from ottla_protocol.errors import StorageError


class QueuedBatch(NamedTuple):
    """A batch on its way to the disk; `follows_gap` when offsets before it are missing.

    `aborted` is what it ends, where it is a marker that aborts records.
    """

    batch: StoredBatch
    row: Row
    follows_gap: bool
    aborted: IndexedAbort | None = None


GATHER_BATCHES = 2
"""From how many batches in the last commit the next one waits for company."""

GATHER_BYTES = 256 << 10
"""What makes a commit worth its fsync without company."""


RETRY_FULL_DISK_MS = 250
"""How often a commit that found no room is tried again."""


@dataclass(frozen=True, slots=True)
class QueuedRoll:
    """Begin a segment at `base_offset`; the snapshot is the log's state right there."""

    base_offset: int
    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class QueuedDurability:
    """From here on commits promise this."""

    durability: Durability


Queued: TypeAlias = QueuedBatch | EpochStart | QueuedRoll | QueuedDurability


@dataclass(frozen=True, slots=True)
class Group:
    """What one transaction commits. `end_offset` follows its last batch, None without one."""

    rows: list[Row]
    epochs: list[EpochStart]
    has_gaps: bool
    size_bytes: int
    end_offset: int | None
    aborted: Sequence[IndexedAbort] = ()


OnCommit = Callable[[Group, float], None]
"""Told of a commit that is done: what it held, and how many seconds it took."""


class GroupCommit:
    """Queue, waiters and writer task of one partition.

    Args:
        durable_end: where the log ends on disk now.
        write: commits one group, begins one segment or changes the durability; raises StorageError.
        on_durable: called with the new durable end after every commit.
        on_failure: called once, with the first failure.
        on_held: called when a commit found no room and is held.
        group_bytes_max: most batch bytes in one transaction, save for a single larger batch.
    """

    def __init__(
        self,
        durable_end: int,
        *,
        write: Callable[[Group | QueuedRoll | QueuedDurability], Awaitable[None]],
        on_durable: Callable[[int], None],
        on_failure: Callable[[StorageError], None],
        on_held: Callable[[DiskFullError], None],
        group_bytes_max: int,
    ) -> None:
        self.durable_end = durable_end
        self.pending_bytes = 0
        """Bytes of batches that are queued or being written."""
        self.failure: StorageError | None = None
        self.held: DiskFullError | None = None
        """Why commits are held, None while the disk takes them."""
        self._write = write
        self._on_durable = on_durable
        self._on_failure = on_failure
        self._on_held = on_held
        # Set by who wants what is held dropped; done when it is.
        self._abandoning: asyncio.Future[None] | None = None
        self._retry_now = asyncio.Event()
        self._group_bytes_max = group_bytes_max
        self._gather_ms = 0
        self._last_group_batches = 0
        # Set while a commit waits for company.
        self._gathering: asyncio.Future[None] | None = None
        self._queue: deque[Queued] = deque()
        # Invariant: exactly the batches from durable_end on, those being written included.
        self._pending = BatchRun()
        self._waiters: list[tuple[int, int, asyncio.Future[None]]] = []
        self._waiter_sequence = 0
        # Items ever queued and ever written: what drain() counts by.
        self._queued = 0
        self._written = 0
        self._drainers: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._writer_ended)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is queued or being written."""
        return self._written == self._queued

    def gather(self, gather_ms: int) -> None:
        """Let a commit wait this long for company; with 0 it does not.

        For a log whose acknowledgements wait for other disks too, and longer.
        """
        self._gather_ms = gather_ms
        self._stop_gathering()

    def enqueue(self, item: Queued) -> None:
        """Queue something for the next commit.

        An epoch alone is no reason for one: until a batch follows it says nothing about the log, so
        it waits for that batch, or for `drain`. A broker that becomes the leader of thousands of
        partitions writes to none of them.
        """
        assert not self._closing, "append to a closed log"
        if isinstance(item, EpochStart):
            self._enqueue_epoch(item)
            return
        if isinstance(item, QueuedBatch):
            self._pending.append(item.batch)
            self.pending_bytes += len(item.batch.data)
            if self.pending_bytes >= GATHER_BYTES:
                self._stop_gathering()
        self._queue.append(item)
        self._queued += 1
        self._wake.set()

    def _enqueue_epoch(self, epoch: EpochStart) -> None:
        last = self._queue[-1] if self._queue else None
        if isinstance(last, EpochStart) and last.start_offset >= epoch.start_offset:
            # As LeaderEpochs.assign: an epoch replaces one that appended nothing.
            self._queue[-1] = epoch
            return
        self._queue.append(epoch)
        self._queued += 1

    def read_pending(
        self, offset: int, *, max_bytes: int, limit: int
    ) -> tuple[StoredBatch, ...] | None:
        """Batches not yet durable from `offset` on; None when the offset is on disk."""
        if offset < self.durable_end:
            return None
        return self._pending.read(offset, max_bytes=max_bytes, limit=limit)

    async def wait_durable(self, next_offset: int) -> None:
        """Wait until everything below `next_offset` is durable.

        Raises:
            DiskFullError: the disk has no room; what is queued is held, and may become durable.
            StorageError: the log has failed; what it holds beyond the durable end is unknown.
        """
        if next_offset <= self.durable_end:
            return
        self.raise_if_failed()
        self.raise_if_held()
        waiter = asyncio.get_running_loop().create_future()
        self._waiter_sequence += 1
        heapq.heappush(self._waiters, (next_offset, self._waiter_sequence, waiter))
        self._stop_gathering()
        await waiter

    async def drain(self) -> None:
        """Wait until everything queued so far, epochs and segments included, is written.

        Raises:
            DiskFullError: the disk has no room; what is queued is held.
            StorageError: the log has failed.
        """
        self.raise_if_failed()
        self.raise_if_held()
        if not self.is_idle:
            waiter = asyncio.get_running_loop().create_future()
            self._drainers.append((self._queued, waiter))
            self._wake.set()
            self._stop_gathering()
            await waiter

    def reset(self, durable_end: int) -> None:
        """The log was truncated, while idle, and ends at `durable_end` now."""
        assert self.is_idle
        self.durable_end = durable_end

    async def abandon(self) -> None:
        """Drop everything that is held or queued behind it; nothing may be queued meanwhile.

        Nothing of it was durable here, so this log has promised none of it. A commit that finds
        room after all while this is asked stays. Nothing is being written afterwards either way:
        where the disk takes commits again meanwhile, what is queued is written.

        Raises:
            StorageError: the log has failed.
        """
        self.raise_if_failed()
        while not self.is_idle:
            if self.held is None:
                # Held anew on the way: that is given up too.
                with suppress(DiskFullError):
                    await self.drain()
            else:
                await self._abandon_held()
            self.raise_if_failed()

    async def _abandon_held(self) -> None:
        if self._abandoning is None:
            self._abandoning = asyncio.get_running_loop().create_future()
            self._retry_now.set()
        await asyncio.shield(self._abandoning)

    async def close(self) -> None:
        """Commit what is queued, or drop it where there is no room, and end the writer.

        Epochs without a batch are dropped.
        """
        self._closing = True
        self._retry_now.set()
        self._wake.set()
        self._stop_gathering()
        await asyncio.wait((self._task,))

    def fail(self, failure: StorageError) -> None:
        """Mark the log as failed: every wait ends, and nothing is written any more."""
        if self.failure is not None:
            return
        self.failure = failure
        self.held = None
        self._fail_waiters(failure)
        if self._abandoning is not None and not self._abandoning.done():
            self._abandoning.set_result(None)
        self._on_failure(failure)

    def _fail_waiters(self, failure: StorageError) -> None:
        kind = DiskFullError if isinstance(failure, DiskFullError) else StorageError
        waiters = [waiter for _, _, waiter in self._waiters]
        waiters += [waiter for _, waiter in self._drainers]
        self._waiters.clear()
        self._drainers.clear()
        for waiter in waiters:
            if not waiter.done():
                error = kind(failure.detail)
                error.__cause__ = failure
                waiter.set_exception(error)

    def raise_if_failed(self) -> None:
        """Raise the failure of an earlier commit, if there was one."""
        if self.failure is not None:
            raise StorageError(self.failure.detail) from self.failure

    def raise_if_held(self) -> None:
        """Raise DiskFullError while a commit is held for want of room."""
        if self.held is not None:
            raise DiskFullError(self.held.detail) from self.held

    async def _run(self) -> None:
        await self._wake.wait()
        while True:
            while self._queue and not self._is_done:
                if self._more_will_come:
                    await self._gather()
                before = len(self._queue)
                item = self._take()
                taken = before - len(self._queue)
                if not await self._write_or_hold(item):
                    self._drop_all()
                    continue
                self._written += taken
                if isinstance(item, Group) and item.end_offset is not None:
                    self._last_group_batches = len(item.rows)
                    self._committed(len(item.rows), item.end_offset)
                while self._drainers and self._drainers[0][0] <= self._written:
                    _finish(self._drainers.popleft()[1])
                if self._abandoning is not None:
                    self._drop_all()
            if self._closing:
                return
            self._wake.clear()
            await self._wake.wait()

    async def _write_or_hold(self, item: Group | QueuedRoll | QueuedDurability) -> bool:
        """Write, trying again while the disk has no room; False when that was abandoned."""
        while True:
            try:
                await self._write(item)
            except DiskFullError as error:
                if self.held is None:
                    self.held = error
                    self._fail_waiters(error)
                    self._on_held(error)
                if not self._gives_up:
                    await self._wait_for_retry()
                if self._gives_up:
                    return False
            else:
                self.held = None
                return True

    @property
    def _gives_up(self) -> bool:
        """Whether what finds no room is dropped."""
        return self._closing or self._abandoning is not None

    async def _wait_for_retry(self) -> None:
        self._retry_now.clear()
        try:
            async with asyncio.timeout(RETRY_FULL_DISK_MS / 1000):
                await self._retry_now.wait()
        except TimeoutError:
            return

    def _drop_all(self) -> None:
        self._queue.clear()
        self._written = self._queued
        while len(self._pending) > 0:
            self.pending_bytes -= len(self._pending.pop_first().data)
        if self.held is not None:
            self._fail_waiters(self.held)
        self.held = None
        if self._abandoning is not None:
            self._abandoning.set_result(None)
            self._abandoning = None

    @property
    def _is_done(self) -> bool:
        """Whether the log is closed and all that is left are epochs without a batch."""
        return (
            self._closing
            and not self._drainers
            and all(isinstance(item, EpochStart) for item in self._queue)
        )

    @property
    def _more_will_come(self) -> bool:
        """Whether to wait for more before the next commit.

        Only while commits meet company anyway: a client that is alone never waits for others. And
        not for whoever waits for this very disk.
        """
        return (
            self._gather_ms > 0
            and self._last_group_batches >= GATHER_BATCHES
            and self.pending_bytes < GATHER_BYTES
            and not self._waiters
            and not self._drainers
            and not self._closing
        )

    async def _gather(self) -> None:
        loop = asyncio.get_running_loop()
        self._gathering = loop.create_future()
        timer = loop.call_later(self._gather_ms / 1000, self._stop_gathering)
        await self._gathering
        timer.cancel()
        self._gathering = None

    def _stop_gathering(self) -> None:
        if self._gathering is not None and not self._gathering.done():
            self._gathering.set_result(None)

    def _take(self) -> Group | QueuedRoll | QueuedDurability:
        """The next transaction: up to the byte limit, and never across the start of a segment."""
        first = self._queue[0]
        if isinstance(first, QueuedRoll | QueuedDurability):
            self._queue.popleft()
            return first
        rows: list[Row] = []
        epochs: list[EpochStart] = []
        has_gaps = False
        size_bytes = 0
        end_offset = None
        aborted: list[IndexedAbort] = []
        while self._queue:
            item = self._queue[0]
            if isinstance(item, QueuedRoll | QueuedDurability):
                break
            if isinstance(item, QueuedBatch):
                batch_bytes = len(item.batch.data)
                if rows and size_bytes + batch_bytes > self._group_bytes_max:
                    break
                size_bytes += batch_bytes
                rows.append(item.row)
                has_gaps = has_gaps or item.follows_gap
                end_offset = item.batch.last_offset + 1
                if item.aborted is not None:
                    aborted.append(item.aborted)
            else:
                epochs.append(item)
            self._queue.popleft()
        return Group(rows, epochs, has_gaps, size_bytes, end_offset, aborted)

    def _committed(self, batches: int, end_offset: int) -> None:
        for _ in range(batches):
            self.pending_bytes -= len(self._pending.pop_first().data)
        self.durable_end = end_offset
        while self._waiters and self._waiters[0][0] <= end_offset:
            _, _, waiter = heapq.heappop(self._waiters)
            _finish(waiter)
        self._on_durable(end_offset)

    def _writer_ended(self, task: "asyncio.Task[None]") -> None:
        if task.cancelled():
            error: BaseException | None = asyncio.CancelledError("the writer task was cancelled")
        else:
            error = task.exception()
        if error is None:
            return
        if not isinstance(error, StorageError):
            failure = StorageError(f"the writer failed: {type(error).__name__}: {error}")
            failure.__cause__ = error
            error = failure
        self.fail(error)


def _finish(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)
