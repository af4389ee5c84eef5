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

What one asks of a log without changing it is in `readable_log`, what adds to its end in
`appendable_log`. Here are its opening, its writer, the changes of where it ends, and its own end.
All methods are called on the event loop's thread.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from ottla_broker.storage import recovery, sqlite
from ottla_broker.storage.appendable_log import AppendableLog
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
from ottla_broker.storage.recovery import RecoveredLog, RecoveryReport
from ottla_broker.storage.replica_directory import prepare_replica_directory
from ottla_broker.storage.segment import SegmentIdentity
from ottla_broker.storage.stored_batch import StoredBatch
from ottla_broker.storage.tail_cache import TailCache
from ottla_protocol.errors import Outcome, UnavailableError

__all__ = ["AppendInfo", "LogConfig", "PartitionLog", "RecoveryReport", "StoredBatch"]


def _wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class PartitionLog(AppendableLog):
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
