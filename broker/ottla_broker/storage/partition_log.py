"""One partition's log: batches in offset order over a run of segments, the last one active.

Theory. The log is a sequence that only grows at its end, save for truncation after a change of
leader. Three offsets describe it, always log_start_offset <= log_end_offset <= next_offset:

    log_start_offset   first offset that is kept
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
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

from ottla_broker.storage import recovery, sqlite
from ottla_broker.storage.append_rules import check_fetched, check_produced
from ottla_broker.storage.group_commit import (
    Group,
    GroupCommit,
    QueuedBatch,
    QueuedDurability,
    QueuedRoll,
)
from ottla_broker.storage.handles import HandlePool
from ottla_broker.storage.log_config import AppendInfo, LogConfig, RemovedSegments
from ottla_broker.storage.log_files import LogFiles
from ottla_broker.storage.log_reader import LogReader
from ottla_broker.storage.log_state import LogState, StateLimits
from ottla_broker.storage.policy.producer_state import Duplicate
from ottla_broker.storage.policy.retention import active_must_roll
from ottla_broker.storage.policy.rolling import SegmentFill, should_roll
from ottla_broker.storage.recovery import RecoveredLog, RecoveryReport
from ottla_broker.storage.replica_directory import prepare_replica_directory
from ottla_broker.storage.segment import SegmentIdentity
from ottla_broker.storage.stored_batch import FetchedBatch, StoredBatch, row_of
from ottla_broker.storage.tail_cache import TailCache
from ottla_cluster.replication.leader_epochs import EpochStart, LeaderEpochs
from ottla_protocol.errors import Outcome, OverloadedError, StorageError, UnavailableError
from ottla_protocol.idempotency import Idempotency
from ottla_protocol.record_batch import BatchHeader, patch_batch

__all__ = ["AppendInfo", "LogConfig", "PartitionLog", "RecoveryReport", "StoredBatch"]


def _wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


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
        on_durable: Callable[[int], None],
        on_failure: Callable[[StorageError], None],
        clock_ms: Callable[[], int],
        monotonic_ms: Callable[[], int],
    ) -> None:
        self.directory = directory
        self.identity = identity
        self.config = config
        self.recovery: RecoveryReport = recovered.report
        """What opening found; with `damaged_from` set the replica must refetch and not lead."""
        self._clock_ms = clock_ms
        self._monotonic_ms = monotonic_ms
        self._state = recovered.state
        self._tail = tail_cache.partition()
        self._tail.reset(recovered.state.next_offset)
        self._durability = sqlite.Durability(config.durability)
        self._files = LogFiles(directory, identity, self._durability, recovered.segments, handles)
        self._truncating = False
        # Held by whoever takes files away: one at a time.
        self._taking_away = asyncio.Lock()
        self._closed = False
        self._commits = GroupCommit(
            recovered.state.next_offset,
            write=self._write,
            on_durable=on_durable,
            on_failure=on_failure,
            group_bytes_max=config.group_commit_max_bytes,
        )
        self._reader = LogReader(
            self._files, self._tail, self._commits, lambda: self._state.next_offset
        )

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
        on_durable: Callable[[int], None],
        on_failure: Callable[[StorageError], None],
        clock_ms: Callable[[], int] = _wall_clock_ms,
        monotonic_ms: Callable[[], int] = _monotonic_ms,
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
            on_durable: called on the event loop with `log_end_offset` after every commit.
            on_failure: called once when a write fails; the broker must then stop.
            clock_ms: this broker's clock, for the age of idempotent requests only.
            monotonic_ms: a clock that never jumps, for the age of producers only.

        Raises:
            StorageError: the files cannot be used.
        """
        identity = SegmentIdentity(topic, topic_id, partition)
        limits = _state_limits(config, clock_ms(), monotonic_ms())

        def recover() -> RecoveredLog:
            prepare_replica_directory(directory, topic, topic_id, partition)
            durability = sqlite.Durability(config.durability)
            return recovery.recover(directory, identity, durability, limits)

        recovered = await asyncio.to_thread(recover)
        return cls(
            directory,
            identity,
            config,
            recovered,
            handles=handles,
            tail_cache=tail_cache,
            on_durable=on_durable,
            on_failure=on_failure,
            clock_ms=clock_ms,
            monotonic_ms=monotonic_ms,
        )

    # --- what the log is ----------------------------------------------------------------------

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

    def reconfigure(self, config: LogConfig) -> None:
        """Take other limits and another durability from the next append on.

        A changed durability closes and opens the active file once what is queued has been written.
        The bounds of producers and of idempotent requests are those that the log was opened with.
        """
        self.config = config
        self._apply_durability()

    def _apply_durability(self) -> None:
        wanted = sqlite.Durability(self.config.durability)
        # A truncation works on the files meanwhile: it calls this at its end.
        if wanted is self._durability or self._truncating or self._closed:
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

        The batch is patched in place and belongs to the log afterwards. A retry appends nothing
        and answers the first append's offsets, which may not be durable or committed yet either.

        Raises:
            MessageTooLargeError: larger than `max_batch_bytes`.
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
        check_produced(
            len(batch), leader_epoch, config=self.config, leader_epochs=self.leader_epochs
        )
        if idempotency is not None:
            stored = self.check_idempotency(idempotency.key_digest, idempotency.body_digest)
            if stored is not None:
                return stored
        verdict = self._state.producers.check(header, self._monotonic_ms())
        if isinstance(verdict, Duplicate):
            return AppendInfo(
                verdict.base_offset, verdict.last_offset, verdict.timestamp, duplicate=True
            )
        self._require_room(len(batch))
        self._assign_epoch_at(leader_epoch, self._state.next_offset)
        base_offset = self._state.next_offset
        last_offset = base_offset + header.last_offset - header.base_offset
        patch_batch(batch, base_offset=base_offset, leader_epoch=leader_epoch)
        stored_batch = StoredBatch(
            base_offset,
            last_offset,
            leader_epoch,
            batch,
            None if idempotency is None else idempotency.to_bytes(),
        )
        self._append(header, stored_batch, now_ms)
        return AppendInfo(base_offset, last_offset, header.max_timestamp)

    def check_idempotency(self, key_digest: bytes, body_digest: bytes) -> AppendInfo | None:
        """Where the request with this key went, None if it is new.

        Raises:
            IdempotencyKeyReusedError: the key was used with another body.
        """
        stored = self._state.requests.find(key_digest, body_digest)
        if stored is None:
            return None
        return AppendInfo(stored.base_offset, stored.last_offset, stored.timestamp, duplicate=True)

    def find_duplicate(
        self, header: BatchHeader, idempotency: Idempotency | None
    ) -> AppendInfo | None:
        """Where a batch is that a producer or an HTTP client has sent before, None if it is new.

        Raises:
            IdempotencyKeyReusedError: the key was used with another body.
        """
        if idempotency is not None:
            stored = self.check_idempotency(idempotency.key_digest, idempotency.body_digest)
            if stored is not None:
                return stored
        found = self._state.producers.find(header, self._monotonic_ms())
        if found is None:
            return None
        return AppendInfo(found.base_offset, found.last_offset, found.timestamp, duplicate=True)

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
        self._require_room(sum(len(batch.data) for batch in batches))
        now_ms = self._clock_ms()
        for fetched in batches:
            header, batch = check_fetched(fetched, self._state.next_offset, self.leader_epochs)
            self._assign_epoch_at(header.leader_epoch, header.base_offset)
            self._append(header, batch, now_ms)

    def assign_epoch(self, leader_epoch: int) -> None:
        """Record that `leader_epoch` begins at `next_offset`; durable with the next commit.

        Raises:
            CorruptMessageError: the log has a newer epoch.
        """
        self._require_writable()
        self._assign_epoch_at(leader_epoch, self._state.next_offset)

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
            StorageError: the log has failed; whether the batch is on disk is unknown.
        """
        await self._commits.wait_durable(next_offset)

    def _append(self, header: BatchHeader, batch: StoredBatch, now_ms: int) -> None:
        """Queue one batch and bring the state up to it."""
        state = self._state
        size_bytes = len(batch.data)
        if should_roll(
            state.fill,
            size_bytes,
            header.max_timestamp,
            segment_bytes=self.config.segment_bytes,
            segment_ms=self.config.segment_ms,
        ):
            self._roll()
        follows_gap = batch.base_offset != state.next_offset
        self._commits.enqueue(QueuedBatch(batch, row_of(header, batch), follows_gap))
        self._tail.append(batch)
        state.append(header, batch, now_ms, self._monotonic_ms())

    def _roll(self) -> None:
        """Begin a segment with the next batch."""
        self._commits.enqueue(QueuedRoll(self._state.next_offset, self._state.snapshot()))
        self._state.fill = SegmentFill()

    def _assign_epoch_at(self, leader_epoch: int, start_offset: int) -> None:
        before = self._state.leader_epochs
        self._state.leader_epochs = before.assign(leader_epoch, start_offset)
        if self._state.leader_epochs is not before:
            self._commits.enqueue(EpochStart(leader_epoch, start_offset))

    def _require_writable(self) -> None:
        if self._closed or self._truncating:
            raise UnavailableError(
                f"the log of {self.identity.topic}-{self.identity.partition} is "
                f"{'closed' if self._closed else 'being truncated'}",
                outcome=Outcome.NOT_APPLIED,
            )
        self._commits.raise_if_failed()

    def _require_room(self, size_bytes: int) -> None:
        pending_bytes = self._commits.pending_bytes
        if pending_bytes > 0 and pending_bytes + size_bytes > self.config.pending_max_bytes:
            raise OverloadedError(
                f"{pending_bytes} bytes of {self.identity.topic}-{self.identity.partition} wait "
                f"for the disk, at most {self.config.pending_max_bytes} may",
                outcome=Outcome.NOT_APPLIED,
            )

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
            StorageError: what is on disk is damaged or cannot be read.
        """
        return await self._reader.read(offset, max_bytes=max_bytes, limit=limit)

    async def find_timestamp(
        self, timestamp: int, *, limit: int, offset: int | None = None
    ) -> StoredBatch | None:
        """The first batch whose header tells of a record at or after `timestamp`, in ms.

        Args:
            timestamp: what to look for; timestamps need not rise.
            limit: only a batch whose last offset is below it.
            offset: begin with the first batch that does not begin below it; None for the log's
                start.

        Raises:
            StorageError: what is on disk is damaged or cannot be read.
        """
        return await self._reader.find_timestamp(timestamp, limit=limit, offset=offset)

    async def _write(self, item: Group | QueuedRoll | QueuedDurability) -> None:
        """Called by the writer task alone: the next transaction, or the next segment."""
        if isinstance(item, QueuedRoll):
            await self._files.begin_segment(item.base_offset, item.snapshot)
        elif isinstance(item, QueuedDurability):
            await self._files.change_durability(item.durability)
        else:
            await self._files.commit(item)

    # --- the beginning ------------------------------------------------------------------------

    async def enforce_retention(self, *, high_watermark: int, now_ms: int) -> None:
        """Move the log's start past what its configs let go: for the leader.

        Nothing at or above `high_watermark` goes, and never the active segment; one that nobody
        appends to is sealed when it is due, so that it can go too.

        Args:
            high_watermark: everything below is committed.
            now_ms: the wall clock.

        Raises:
            UnavailableError: the log is closed or being truncated.
            StorageError: the log has failed, or a segment cannot be read.
        """
        self._require_writable()
        config = self.config
        if active_must_roll(
            self._state.fill, config.retention, segment_ms=config.segment_ms, now_ms=now_ms
        ):
            self._roll()
            await self._commits.drain()
        async with self._taking_away:
            self._require_writable()
            async with self._files.lock.shared():
                offset = await self._files.log_start_after_retention(
                    config.retention, high_watermark=high_watermark, now_ms=now_ms
                )
            self.advance_log_start(offset)

    def advance_log_start(self, offset: int) -> None:
        """Let nobody read below `offset` any more; it never moves back while the log is open.

        The files go with `remove_expired`, and after a restart what is left of them tells where
        the log begins.

        Args:
            offset: where a batch begins, or the log's end; all below is committed.
        """
        assert offset <= self.log_end_offset, (offset, self.log_end_offset)
        self._files.advance_log_start(offset)

    async def remove_expired(self) -> RemovedSegments:
        """Remove the files of segments that lie wholly below the log's start.

        When everything lies below it, the active segment is sealed first, to go with the others.
        Whoever reads one of them is waited for, and not interrupted.

        Raises:
            UnavailableError: the log is closed or being truncated.
            StorageError: a file cannot be removed; the log has failed.
        """
        self._require_writable()
        all_expired = self.log_start_offset == self.next_offset and self._state.fill.batches > 0
        if not self._files.has_expired and not all_expired:
            return RemovedSegments()
        async with self._taking_away:
            self._require_writable()
            if self.log_start_offset == self.next_offset and self._state.fill.batches > 0:
                self._roll()
                await self._commits.drain()
            async with self._files.lock.exclusive():
                expired = self._files.forget_expired()
            try:
                await self._files.remove_files(expired)
            except OSError as error:
                failure = sqlite.storage_error(self.directory, "remove expired segments", error)
                self._commits.fail(failure)
                raise failure from error
        return RemovedSegments(len(expired), sum(segment.size_bytes for segment in expired))

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
        await self._change_files(partial(self._files.truncate_to, offset), self._tail.truncate_to)

    async def reset_to(self, offset: int) -> None:
        """Drop everything and begin again, empty, at `offset`: for a replica that is out of range.

        Raises:
            StorageError: the files failed; so has the log.
        """
        await self._change_files(partial(self._files.reset_to, offset), self._tail.reset)

    async def _change_files(
        self,
        change: Callable[[StateLimits], Awaitable[LogState]],
        forget: Callable[[int], None],
    ) -> None:
        """Run `change` when nothing is queued and nobody reads; its failure is the log's."""
        self._require_writable()
        self._truncating = True
        try:
            async with self._taking_away:
                await self._commits.drain()
                async with self._files.lock.exclusive():
                    try:
                        state = await change(self._limits())
                    except OSError as error:
                        raise sqlite.storage_error(self.directory, "truncate", error) from error
                    self._state = state
                    self._commits.reset(state.next_offset)
                    forget(state.next_offset)
        except StorageError as error:
            self._commits.fail(error)
            raise
        finally:
            self._truncating = False
        self._apply_durability()

    def _limits(self) -> StateLimits:
        return _state_limits(self.config, self._clock_ms(), self._monotonic_ms())

    async def close(self) -> None:
        """Commit what is queued, checkpoint, and mark the end as verified for the next start.

        Raises:
            StorageError: the log has failed, now or before; its files are closed all the same.
        """
        if self._closed:
            return
        self._closed = True
        try:
            await self._commits.close()
            self._commits.raise_if_failed()
            await self._files.mark_verified(self.log_end_offset)
        finally:
            await self._close_files()

    async def delete(self) -> None:
        """Remove the log with its directory, newest segment first.

        Raises:
            StorageError: the files cannot be removed.
        """
        self._closed = True
        await self._commits.close()
        await self._close_files()
        try:
            await self._files.remove()
        except OSError as error:
            raise sqlite.storage_error(self.directory, "delete", error) from error

    async def _close_files(self) -> None:
        self._tail.reset(self._state.next_offset)
        async with self._taking_away, self._files.lock.exclusive():
            await self._files.close()


def _state_limits(config: LogConfig, now_ms: int, monotonic_ms: int) -> StateLimits:
    return StateLimits(
        producers_max=config.producers_max,
        producer_id_expiration_ms=config.producer_id_expiration_ms,
        idempotency_entries_max=config.idempotency_entries_max,
        idempotency_window_ms=config.idempotency_window_ms,
        now_ms=now_ms,
        monotonic_ms=monotonic_ms,
    )
