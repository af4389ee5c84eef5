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
from collections.abc import Callable, Sequence
from pathlib import Path

from ottla_broker.storage import recovery, sqlite
from ottla_broker.storage.counted_writes import Writing, uncounted
from ottla_broker.storage.group_commit import (
    Group,
    GroupCommit,
    QueuedDurability,
    QueuedRoll,
)
from ottla_broker.storage.handles import HandlePool
from ottla_broker.storage.log_appender import LogAppender
from ottla_broker.storage.log_cleanup import LogCleanup
from ottla_broker.storage.log_compactor import LogCompactor
from ottla_broker.storage.log_config import AppendInfo, LogConfig
from ottla_broker.storage.log_damage import LogDamage
from ottla_broker.storage.log_files import LogFiles
from ottla_broker.storage.log_inspection import LogInspector
from ottla_broker.storage.log_listeners import LogListeners
from ottla_broker.storage.log_state import StateLimits
from ottla_broker.storage.log_truncation import LogTruncator
from ottla_broker.storage.readable_log import ReadableLog
from ottla_broker.storage.recovery import RecoveredLog, RecoveryReport
from ottla_broker.storage.replica_directory import prepare_replica_directory
from ottla_broker.storage.segment import SegmentIdentity
from ottla_broker.storage.stored_batch import FetchedBatch, StoredBatch
from ottla_broker.storage.tail_cache import TailCache
from ottla_protocol.control_records import EndMarker
from ottla_protocol.errors import Outcome, UnavailableError
from ottla_protocol.idempotency import Idempotency
from ottla_protocol.record_batch import BatchHeader

__all__ = ["AppendInfo", "LogConfig", "PartitionLog", "RecoveryReport", "StoredBatch"]


def _wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class PartitionLog(ReadableLog):
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
        durability = sqlite.Durability(config.durability)
        files = LogFiles(directory, identity, durability, recovered.segments, handles)
        tail = tail_cache.partition()
        tail.reset(recovered.state.next_offset)
        commits = GroupCommit(
            recovered.state.next_offset,
            write=self._write,
            on_durable=listeners.on_durable,
            on_failure=listeners.on_failure,
            on_held=listeners.on_held,
            group_bytes_max=config.group_commit_max_bytes,
        )
        appender = LogAppender(
            f"{identity.topic}-{identity.partition}",
            config,
            recovered.state,
            commits,
            tail,
            clock_ms=clock_ms,
            monotonic_ms=monotonic_ms,
        )
        super().__init__(files, commits, appender, tail, LogDamage(listeners.on_damage))
        self.directory = directory
        self.identity = identity
        self.recovery: RecoveryReport = recovered.report
        """What opening found; with `damaged_from` set the replica must refetch and not lead."""
        self._durability = durability
        self._closed = False
        self._writing = writing
        self._on_commit = listeners.on_commit
        self._compactor = LogCompactor(
            identity,
            files,
            commits,
            appender,
            tail,
            self._aborts,
            require_writable=self._require_writable,
        )
        self._truncator = LogTruncator(
            files,
            commits,
            appender,
            tail,
            limits=lambda: StateLimits.of(self.config, clock_ms(), monotonic_ms()),
            before_cut=self._compactor.forget_from,
        )
        self.cleanup = LogCleanup(
            files,
            commits,
            appender,
            self._compactor,
            self.damage,
            require_writable=self._require_writable,
        )
        """Takes away what the log need not keep: retention, trims and compaction."""
        self.inspector = LogInspector(
            identity, files, commits, self.damage, require_open=self._require_open
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
            clock_ms: this broker's wall clock, for what segments tell of idempotent requests.
            monotonic_ms: a clock that never jumps, for the age of producers and requests.
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

    # --- writing ------------------------------------------------------------------------------

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
