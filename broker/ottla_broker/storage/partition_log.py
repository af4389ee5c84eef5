"""One partition's log: batches in offset order over a run of segments, the last one active.

Theory. The log is a sequence that only grows at its end, save for truncation after a change of
leader. Three offsets describe it, always log_start_offset <= log_end_offset <= next_offset:

    log_start_offset   first offset that is kept, anywhere in a batch
    log_end_offset     end of what is durable: everything below is committed and synced
    next_offset        end of what is assigned: batches between the two are in memory, queued

Appending is synchronous: checks, offsets and producer state are settled on the event loop before
anything else can run, so appends have one order without a lock. The disk follows behind in group
commits; whoever needs durability waits for an offset. The state that appends consult (producers,
idempotent requests, epochs) belongs to `next_offset`; what a new segment begins with is therefore
captured when the roll is decided, not when the writer gets there.

All methods are called on the event loop's thread.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ottla_broker.storage import recovery, sqlite
from ottla_broker.storage.counted_writes import Writing, uncounted
from ottla_broker.storage.disk_full import DiskFullError, NoDescriptorError
from ottla_broker.storage.group_commit import (
    Group,
    GroupCommit,
    QueuedDurability,
    QueuedRoll,
)
from ottla_broker.storage.handles import HandlePool
from ottla_broker.storage.log_aborts import LogAborts
from ottla_broker.storage.log_appender import LogAppender
from ottla_broker.storage.log_cleanup import LogCleanup
from ottla_broker.storage.log_compactor import LogCompactor
from ottla_broker.storage.log_config import AppendInfo, LogConfig
from ottla_broker.storage.log_damage import LogDamage
from ottla_broker.storage.log_files import LogFiles
from ottla_broker.storage.log_inspection import LogInspector
from ottla_broker.storage.log_listeners import LogListeners
from ottla_broker.storage.log_reader import LogReader
from ottla_broker.storage.log_state import LogState, StateLimits
from ottla_broker.storage.log_transactions import OpenTransaction
from ottla_broker.storage.log_truncation import LogTruncator
from ottla_broker.storage.policy.open_transactions import AbortedTransaction
from ottla_broker.storage.policy.producer_state import ProducerStates
from ottla_broker.storage.recovery import RecoveredLog, RecoveryReport
from ottla_broker.storage.replica_directory import prepare_replica_directory
from ottla_broker.storage.segment import SegmentIdentity
from ottla_broker.storage.stored_batch import FetchedBatch, StoredBatch
from ottla_broker.storage.tail_cache import TailCache
from ottla_cluster.replication.leader_epochs import LeaderEpochs
from ottla_protocol.control_records import EndMarker
from ottla_protocol.errors import Outcome, OverloadedError, StorageError, UnavailableError
from ottla_protocol.idempotency import Idempotency
from ottla_protocol.record_batch import BatchHeader

__all__ = ["AppendInfo", "LogConfig", "PartitionLog", "RecoveryReport", "StoredBatch"]


def _wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


@contextmanager
def _descriptors_come_free() -> Iterator[None]:
    """A read that finds no file descriptor is not one of a broken disk: it may come again."""
    try:
        yield
    except NoDescriptorError as error:
        raise OverloadedError(
            "this broker has no free file descriptor to read these records with",
            retry_after_seconds=1,
        ) from error


class PartitionLog:
    """The log of one replica; make one with `PartitionLog.open`."""

    def __init__(
        self,
        directory: Path,
        identity: SegmentIdentity,
        config: LogConfig,
        recovered: RecoveredLog,
        *,
        handles: HandlePool,
        tail_cache: TailCache,
        listeners: LogListeners,
        writing: Writing,
        clock_ms: Callable[[], int],
        monotonic_ms: Callable[[], int],
    ) -> None:
        self.directory = directory
        self.identity = identity
        self.recovery: RecoveryReport = recovered.report
        """What opening found; with `damaged_from` set the replica must refetch and not lead."""
        self.damage = LogDamage(listeners.on_damage)
        """What was found since: `cut_at_damage` takes it away, for a replica that can refetch."""
        self._tail = tail_cache.partition()
        self._tail.reset(recovered.state.next_offset)
        self._durability = sqlite.Durability(config.durability)
        self._files = LogFiles(directory, identity, self._durability, recovered.segments, handles)
        self._closed = False
        self._writing = writing
        self._on_commit = listeners.on_commit
        self._commits = GroupCommit(
            recovered.state.next_offset,
            write=self._write,
            on_durable=listeners.on_durable,
            on_failure=listeners.on_failure,
            on_held=listeners.on_held,
            group_bytes_max=config.group_commit_max_bytes,
        )
        self._appender = LogAppender(
            f"{identity.topic}-{identity.partition}",
            config,
            recovered.state,
            self._commits,
            self._tail,
            clock_ms=clock_ms,
            monotonic_ms=monotonic_ms,
        )
        self._aborts = LogAborts(
            self._files, lambda: self._state, lambda error: self.damage.found(error, "read")
        )
        self._compactor = LogCompactor(
            identity,
            self._files,
            self._commits,
            self._appender,
            self._tail,
            self._aborts,
            require_writable=self._require_writable,
        )
        self._truncator = LogTruncator(
            self._files,
            self._commits,
            self._appender,
            self._tail,
            limits=lambda: StateLimits.of(self.config, clock_ms(), monotonic_ms()),
            before_cut=self._compactor.forget_from,
        )
        self.cleanup = LogCleanup(
            self._files,
            self._commits,
            self._appender,
            self._compactor,
            self.damage,
            require_writable=self._require_writable,
        )
        """Takes away what the log need not keep: retention, trims and compaction."""
        self._reader = LogReader(self._files, self._tail, self._commits, lambda: self.next_offset)
        self.inspector = LogInspector(
            identity, self._files, self._commits, self.damage, require_open=self._require_open
        )
        """Looks into the segments, for operators."""

    @classmethod
    async def open(
        cls,
        directory: Path,
        *,
        topic: str,
        topic_id: str,
        partition: int,
        config: LogConfig,
        handles: HandlePool,
        tail_cache: TailCache,
        listeners: LogListeners,
        writing: Writing = uncounted,
        clock_ms: Callable[[], int] = _wall_clock_ms,
        monotonic_ms: Callable[[], int] = _monotonic_ms,
        first_offset: int = 0,
    ) -> "PartitionLog":
        """Open the log in `directory`, or begin one, and recover what a crash left.

        Args:
            directory: `<data>/<topic>-<partition>`; made if it is absent.
            topic: its name, kept in every segment.
            topic_id: another id in the directory is an error: see `LogDirectory`.
            partition: its number.
            config: limits.
            handles: the broker's pool of open files.
            tail_cache: the broker's cache of newest batches.
            listeners: whom it tells what.
            writing: entered for as long as something is being written; see `counted_writes`.
            clock_ms: this broker's clock, for the age of idempotent requests only.
            monotonic_ms: a clock that never jumps, for the age of producers only.
            first_offset: where a log begins that is begun now.

        Raises:
            StorageError: the files cannot be used.
        """
        identity = SegmentIdentity(topic, topic_id, partition)
        limits = StateLimits.of(config, clock_ms(), monotonic_ms())

        def recover() -> RecoveredLog:
            prepare_replica_directory(directory, topic, topic_id, partition)
            durability = sqlite.Durability(config.durability)
            return recovery.recover(
                directory, identity, durability, limits, first_offset=first_offset
            )

        recovered = await asyncio.to_thread(recover)
        return cls(
            directory,
            identity,
            config,
            recovered,
            handles=handles,
            tail_cache=tail_cache,
            listeners=listeners,
            writing=writing,
            clock_ms=clock_ms,
            monotonic_ms=monotonic_ms,
        )

    # --- what the log is ----------------------------------------------------------------------

    @property
    def config(self) -> LogConfig:
        """Its limits, as `reconfigure` last set them."""
        return self._appender.config

    @property
    def durability(self) -> sqlite.Durability:
        """What every commit up to `log_end_offset` has kept to; `config` may ask for another yet.

        A change to `fsync` counts once all that was committed before is synced too.
        """
        return self._files.durability

    @property
    def _state(self) -> LogState:
        return self._appender.state

    @property
    def log_start_offset(self) -> int:
        """The first offset that is kept."""
        return self._files.log_start_offset

    @property
    def next_offset(self) -> int:
        """The offset that the next record gets; may be ahead of the disk."""
        return self._state.next_offset

    @property
    def log_end_offset(self) -> int:
        """The durable end: everything below is committed, and synced unless durability is os."""
        return self._commits.durable_end

    @property
    def leader_epochs(self) -> LeaderEpochs:
        """Which epoch wrote which offsets, up to `next_offset`."""
        return self._state.leader_epochs

    @property
    def last_batch_epoch(self) -> int:
        """Leader epoch of the last batch; -1 in an empty log.

        Where a truncation has left missing offsets behind the last batch (only a log that was
        fetched from a compacted one has any), it may be that of the missing ones after a restart.
        """
        return self._state.last_batch_epoch

    @property
    def size_bytes(self) -> int:
        """File bytes of sealed segments and batch bytes of the active one."""
        return self._files.size_bytes

    @property
    def pending_bytes(self) -> int:
        """Batch bytes that are queued for the disk."""
        return self._commits.pending_bytes

    @property
    def failure(self) -> StorageError | None:
        """Why the log takes no more writes; None while it does."""
        return self._commits.failure

    @property
    def held(self) -> DiskFullError | None:
        """Why commits are held, for want of room on the disk; None while they are not."""
        return self._commits.held

    def reconfigure(self, config: LogConfig) -> None:
        """Take other limits and another durability from the next append on.

        A changed durability closes and opens the active file once what is queued has been written.
        The bounds of producers and of idempotent requests are those that the log was opened with.
        """
        self._appender.config = config
        self._apply_durability()

    def _apply_durability(self) -> None:
        wanted = sqlite.Durability(self.config.durability)
        # A truncation works on the files meanwhile: it calls this at its end.
        if wanted is self._durability or self._truncator.is_truncating or self._closed:
            return
        self._durability = wanted
        self._commits.enqueue(QueuedDurability(wanted))

    # --- appending ----------------------------------------------------------------------------

    def append_as_leader(
        self,
        batch: bytearray | memoryview,
        header: BatchHeader,
        *,
        leader_epoch: int,
        now_ms: int,
        idempotency: Idempotency | None = None,
    ) -> AppendInfo:
        """Give a validated batch its offsets and queue it for the disk.

        The batch is patched in place and belongs to the log afterwards; `now_ms`, the wall clock,
        is its timestamp where the topic wants that of the append. A retry appends nothing
        and answers the first append's offsets, which may not be durable or committed yet either.

        Raises:
            MessageTooLargeError: larger than `max_batch_bytes`.
            InvalidTimestampError: further ahead of `now_ms` than the topic allows.
            OverloadedError: `pending_max_bytes` are queued.
            FencedLeaderEpochError: the log has a newer epoch.
            InvalidProducerEpochError, OutOfOrderSequenceNumberError, DuplicateSequenceNumberError:
                see `ProducerStates.check`.
            IdempotencyKeyReusedError: the key was used with another body.
            UnavailableError: the log is closed or being truncated.
            StorageError: the log has failed.
        """
        assert len(batch) == header.size_bytes, (len(batch), header.size_bytes)
        self._require_writable()
        return self._appender.append_as_leader(
            batch, header, leader_epoch=leader_epoch, now_ms=now_ms, idempotency=idempotency
        )

    def check_idempotency(self, key_digest: bytes, body_digest: bytes) -> AppendInfo | None:
        """Where the request with this key went, None if it is new.

        Raises:
            IdempotencyKeyReusedError: the key was used with another body.
        """
        return self._appender.check_idempotency(key_digest, body_digest)

    def find_duplicate(
        self, header: BatchHeader, idempotency: Idempotency | None
    ) -> AppendInfo | None:
        """Where a batch is that a producer or an HTTP client has sent before, None if it is new.

        Raises:
            IdempotencyKeyReusedError: the key was used with another body.
        """
        return self._appender.find_duplicate(header, idempotency)

    def append_as_follower(self, batches: Sequence[FetchedBatch]) -> None:
        """Queue what the leader sent, offsets and epochs as they are.

        Offsets may be skipped, because the leader may have compacted them away. The batches
        before a bad one stay appended.

        Raises:
            CorruptMessageError: a batch fails its checks, begins below `next_offset` or has an
                older epoch than the log.
            OverloadedError: `pending_max_bytes` are queued.
            StorageError: the log has failed.
        """
        self._require_writable()
        self._appender.append_as_follower(batches)

    def append_restored(
        self, batches: Sequence[bytearray], *, leader_epoch: int
    ) -> AppendInfo | None:
        """Queue batches of a backup at the offsets that they have; for a leader.

        Offsets may be skipped, as by `append_as_follower`. Batches that the log has already are
        left out. The batches are patched in place and belong to the log afterwards; their producers
        are forgotten (decision 35).

        Returns:
            The range of what was queued; None where nothing was new.

        Raises:
            CorruptMessageError: a batch fails its checks; nothing was appended.
            InvalidRequestError: a batch is of a transaction; nothing was appended.
            RestoreConflictError: batches overlap; nothing was appended.
            FencedLeaderEpochError: the log has a newer epoch.
            OverloadedError: `pending_max_bytes` are queued.
            StorageError: the log has failed.
        """
        self._require_writable()
        return self._appender.append_restored(batches, leader_epoch=leader_epoch)

    def append_marker(
        self,
        marker: EndMarker,
        *,
        producer_id: int,
        producer_epoch: int,
        leader_epoch: int,
        now_ms: int,
    ) -> AppendInfo:
        """Queue the marker that ends a producer's transaction here, unless the log has it.

        `producer_epoch` is the marker's, one more than that of the records; `now_ms` is the wall
        clock.

        Returns:
            Where it is. A duplicate is somewhere below the `next_offset` that is told.

        Raises:
            InvalidProducerEpochError: the log is past that epoch.
            FencedLeaderEpochError: the log has a newer epoch.
            OverloadedError: `pending_max_bytes` are queued.
            UnavailableError: the log is closed or being truncated.
            StorageError: the log has failed.
        """
        self._require_writable()
        return self._appender.append_marker(
            marker,
            producer_id=producer_id,
            producer_epoch=producer_epoch,
            leader_epoch=leader_epoch,
            now_ms=now_ms,
        )

    def assign_epoch(self, leader_epoch: int) -> None:
        """Record that `leader_epoch` begins at `next_offset`; durable with the next commit.

        Raises:
            CorruptMessageError: the log has a newer epoch.
        """
        self._require_writable()
        self._appender.assign_epoch(leader_epoch, self.next_offset)

    async def begin_epoch(self, leader_epoch: int) -> None:
        """`assign_epoch`, then wait until the record of it is durable.

        Raises:
            CorruptMessageError: the log has a newer epoch.
            StorageError: the log has failed.
        """
        self.assign_epoch(leader_epoch)
        await self._commits.drain()

    def gather_commits(self, gather_ms: int) -> None:
        """See `GroupCommit.gather`."""
        self._commits.gather(gather_ms)

    async def wait_durable(self, next_offset: int) -> None:
        """Wait until `log_end_offset` is at least `next_offset`.

        Raises:
            DiskFullError: the disk has no room; the batch is held, and may become durable yet.
            StorageError: the log has failed; whether the batch is on disk is unknown.
        """
        await self._commits.wait_durable(next_offset)

    async def abandon_held(self) -> None:
        """Give up what the disk had no room for: the log ends where it is durable again.

        For whoever does not lead (any more): at the leader, followers may have these batches, and
        others must not come in their place under one epoch. No-op while nothing is held.

        Raises:
            StorageError: the files failed; so has the log.
        """
        if self._commits.held is None or self._closed:
            return
        await self._truncator.abandon_held()
        self._durability = self._files.durability
        self._apply_durability()

    def _require_writable(self) -> None:
        self._require_open()
        if self._truncator.is_truncating:
            raise self._unavailable("being truncated")
        self._commits.raise_if_failed()

    def _require_open(self) -> None:
        if self._closed:
            raise self._unavailable("closed")

    def _unavailable(self, why: str) -> UnavailableError:
        return UnavailableError(
            f"the log of {self.identity.topic}-{self.identity.partition} is {why}",
            outcome=Outcome.NOT_APPLIED,
        )

    # --- transactions -------------------------------------------------------------------------

    def last_stable_offset(self, high_watermark: int) -> int:
        """The end of what readers of committed records may see; see `OpenTransactions`.

        Args:
            high_watermark: as this replica knows it. What is below is not asked about again.
        """
        stable = self._state.transactions.last_stable_offset(high_watermark)
        # All below the log's start was decided, though this replica may have forgotten since.
        return max(stable, self.log_start_offset)

    @property
    def producers(self) -> ProducerStates:
        """What the log knows of producers at its end; another object after each truncation."""
        return self._state.producers

    def is_in_transaction(self, header: BatchHeader) -> bool:
        """See `ProducerStates.is_in_transaction`."""
        return self._state.producers.is_in_transaction(header)

    def open_transactions(self) -> tuple[OpenTransaction, ...]:
        """Those without a marker, the oldest first."""
        return tuple(
            OpenTransaction(producer_id, producer.epoch, first_offset, producer.last_timestamp)
            for producer_id, first_offset in self._state.transactions.open_since()
            if (producer := self._state.producers.get(producer_id)) is not None
        )

    @property
    def taken_away_count(self) -> int:
        """How often a truncation or a compaction took batches away, with what is told of them.

        While it stays the same, and the log's start does, what was read is still in the log.
        """
        return self._files.taken_away_count

    def aborted_in_memory(
        self, from_offset: int, end_offset: int
    ) -> tuple[AbortedTransaction, ...] | None:
        """As `aborted_transactions`; None where segments must be read."""
        return self._aborts.in_memory(from_offset, end_offset)

    async def aborted_transactions(
        self, from_offset: int, end_offset: int
    ) -> tuple[AbortedTransaction, ...]:
        """The aborted transactions that may have records in a half-open range of offsets.

        Those whose marker is in the log; so all of them, where the range ends at the last stable
        offset or below.

        Raises:
            OverloadedError: no file descriptor is free.
            StorageError: what is on disk is damaged or cannot be read.
        """
        found = self._aborts.in_memory(from_offset, end_offset)
        if found is not None:
            return found
        with self.damage.noted("read"), _descriptors_come_free():
            return await self._aborts.find(from_offset, end_offset)

    # --- reading ------------------------------------------------------------------------------

    def read_tail(
        self, offset: int, *, max_bytes: int, limit: int
    ) -> tuple[StoredBatch, ...] | None:
        """As `read`, from memory alone; None when `offset` is not in memory."""
        return self._reader.read_tail(offset, max_bytes=max_bytes, limit=limit)

    async def read(self, offset: int, *, max_bytes: int, limit: int) -> tuple[StoredBatch, ...]:
        """Whole batches from the one that holds `offset` on, or the next one above a gap.

        Args:
            offset: where to begin.
            max_bytes: most bytes in all; the first batch is returned even if it is larger.
            limit: exclusive upper bound: only batches whose last offset is below it.

        Returns:
            The batches in order; empty when there is none below `limit`. Fewer than `max_bytes`
            where a segment ends.

        Raises:
            OffsetOutOfRangeError: outside [log_start_offset, next_offset], which are its members.
            OverloadedError: no file descriptor is free.
            StorageError: what is on disk is damaged or cannot be read.
        """
        with self.damage.noted("read"), _descriptors_come_free():
            return await self._reader.read(offset, max_bytes=max_bytes, limit=limit)

    async def next_readable(self, offset: int) -> int:
        """The first offset at or above `offset` that a read can begin at: behind damage."""
        with _descriptors_come_free():
            return await self._reader.next_readable(offset)

    async def find_timestamp(
        self, timestamp: int, *, limit: int, offset: int | None = None
    ) -> StoredBatch | None:
        """The first batch whose header tells of a record at or after `timestamp`, in ms.

        Args:
            timestamp: what to look for; timestamps need not rise.
            limit: only a batch whose last offset is below it.
            offset: begin with the first batch that does not end below it; None for the log's
                start.

        Raises:
            OverloadedError: no file descriptor is free.
            StorageError: what is on disk is damaged or cannot be read.
        """
        with self.damage.noted("read"), _descriptors_come_free():
            return await self._reader.find_timestamp(timestamp, limit=limit, offset=offset)

    async def _write(self, item: Group | QueuedRoll | QueuedDurability) -> None:
        """Called by the writer task alone: the next transaction, or the next segment."""
        with self._writing(is_long=not isinstance(item, Group)):
            if isinstance(item, QueuedRoll):
                await self._files.begin_segment(item.base_offset, item.snapshot)
                self._state.transactions.aborted.forget_below(item.base_offset)
            elif isinstance(item, QueuedDurability):
                await self._files.change_durability(item.durability)
            else:
                began_s = time.perf_counter()
                await self._files.commit(item)
                self._on_commit(item, time.perf_counter() - began_s)

    # --- truncation and the end ---------------------------------------------------------------

    async def truncate_to(self, offset: int) -> None:
        """Drop every batch that reaches `offset`, and every epoch that begins there or later.

        Waits for queued batches first. Newest files go first, so a crash on the way leaves a
        shorter log that is whole. Below `log_start_offset` it is `reset_to`.

        Raises:
            StorageError: the files failed; so has the log.
        """
        if offset < self.log_start_offset:
            await self.reset_to(offset)
            return
        if offset > self._state.next_offset:
            return
        self._require_writable()
        await self._truncator.truncate_to(offset)
        await self._begin_at_start()
        self._apply_durability()

    async def _begin_at_start(self) -> None:
        """Begin anew where the log starts, if it ends below: a batch went that the start was in."""
        if self.next_offset < self.log_start_offset:
            await self.reset_to(self.log_start_offset)

    async def reset_to(self, offset: int) -> None:
        """Drop everything and begin again, empty, at `offset`: for a replica that is out of range.

        Raises:
            StorageError: the files failed; so has the log.
        """
        self._require_writable()
        await self._truncator.reset_to(offset)
        self.damage.forget_all()
        self._apply_durability()

    async def cut_at_damage(self) -> None:
        """End the log before the first damage that is known, so that it can be fetched again.

        Of the oldest damaged segment the batches before its first damage stay; the file is kept
        aside (`segment_rebuild`). Without damage nothing happens.

        Raises:
            UnavailableError: the log is closed or being truncated.
            StorageError: the files failed; so has the log.
        """
        self._require_writable()
        path = self.damage.first
        while path is not None and not await self._truncator.cut_damaged(path):
            # Retention has taken it away; what is damaged behind it is still there.
            self.damage.forget_segment(path)
            path = self.damage.first
        if path is None:
            return
        self.damage.forget_from(path)
        await self._begin_at_start()
        self._apply_durability()

    async def skip_to(self, offset: int) -> None:
        """Go on at `offset`: what is between is lost, and no offset of it is given twice.

        For the only replica of a partition, which nobody can refill.

        Raises:
            UnavailableError: the log is closed or being truncated.
            StorageError: the files failed; so has the log.
        """
        self._require_writable()
        if offset > self.next_offset:
            await self._truncator.skip_to(offset)
            self._apply_durability()

    async def close(self) -> None:
        """Commit what is queued, checkpoint, and mark the end as verified for the next start.

        Raises:
            StorageError: the log has failed, now or before; its files are closed all the same.
        """
        if self._closed:
            return
        self._closed = True
        await self._compactor.stop()
        try:
            await self._commits.close()
            self._commits.raise_if_failed()
        finally:
            await self._close_files()

    async def delete(self) -> None:
        """Remove the log with its directory, newest segment first.

        Raises:
            StorageError: the files cannot be removed.
        """
        self._closed = True
        await self._compactor.stop()
        await self._commits.close()
        await self._close_files()
        try:
            await self._files.remove()
        except OSError as error:
            raise sqlite.storage_error(self.directory, "delete", error) from error

    async def _close_files(self) -> None:
        self._tail.reset(self._state.next_offset)
        await self._truncator.close_files()
