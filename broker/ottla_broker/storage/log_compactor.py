"""Compacting one log while it is written and read.

The work is done on a thread (`segment_compaction`), on files that nobody changes, without a lock:
readers, commits, retention and truncation go on. Only the moment in which a new file takes the
place of old ones is the log's: whoever reads is waited for, so a read sees the segments before it
or after it. What the log has lost meanwhile, by retention or a truncation, ends the
compaction; a crash leaves old segments or new ones.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from ottla_broker.storage import sqlite
from ottla_broker.storage.compaction_pace import CompactionPace, CompactionStoppedError
from ottla_broker.storage.compaction_progress import (
    lower_progress,
    read_progress,
    write_progress,
)
from ottla_broker.storage.disk_full import DiskFullError
from ottla_broker.storage.group_commit import GroupCommit
from ottla_broker.storage.log_aborts import LogAborts
from ottla_broker.storage.log_appender import LogAppender
from ottla_broker.storage.log_files import LogFiles
from ottla_broker.storage.log_state import LogState
from ottla_broker.storage.policy.compaction import (
    NO_MAX_LAG_MS,
    CompactableSegment,
    CompactionConfig,
    CompactionPlan,
    CompactionProgress,
    active_must_roll,
    group_segments,
    plan_compaction,
)
from ottla_broker.storage.segment import Segment, SegmentIdentity
from ottla_broker.storage.segment_compaction import (
    CompactedFile,
    CompactionCounts,
    CompactionSource,
    LogCompaction,
)
from ottla_broker.storage.tail_cache import PartitionTail
from ottla_protocol.errors import StorageError, UnavailableError

MAP_BYTES = 32 << 20
"""Default size of the table of keys: a million of them."""

SALT_BYTES = 16

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CompactionLimits:
    """What a compaction may take.

    Attributes:
        map_bytes: memory for the table of keys; see `KeyOffsets`.
        max_bytes_per_s: batch bytes that are read and written a second, None for no bound.
        has_room: whether the disk takes so many bytes more before others go for them; asked only
            when there is something to compact.
    """

    map_bytes: int = MAP_BYTES
    max_bytes_per_s: int | None = None
    has_room: Callable[[int], bool] = lambda _: True


@dataclass(frozen=True, slots=True)
class CompactionResult:
    """What one compaction has done.

    Attributes:
        cleaned_to: the first offset that was not looked at yet.
        is_complete: False when the table of keys was full: another compaction goes on from here.
        segments_before, segments_after: how many files there were, and are.
        size_bytes_before, size_bytes_after: their bytes.
        counts: what was found in them.
    """

    cleaned_to: int
    is_complete: bool
    segments_before: int
    segments_after: int
    size_bytes_before: int
    size_bytes_after: int
    counts: CompactionCounts


class LogCompactor:
    """Compacts one log, once at a time.

    Args:
        identity: whose log it is.
        files: its segments.
        commits: the queue for the disk.
        appender: has the log's config, and the state of its end.
        tail: the cached batches.
        aborts: its aborted transactions.
        require_writable: raises while the log is closed, being truncated, or has failed.
    """

    def __init__(
        self,
        identity: SegmentIdentity,
        files: LogFiles,
        commits: GroupCommit,
        appender: LogAppender,
        tail: PartitionTail,
        aborts: LogAborts,
        *,
        require_writable: Callable[[], None],
    ) -> None:
        self._identity = identity
        self._files = files
        self._commits = commits
        self._appender = appender
        self._tail = tail
        self._aborts = aborts
        self._require_writable = require_writable
        self._running = asyncio.Lock()
        self._pace: CompactionPace | None = None
        # As written down; None before it was read. Changed under the lock.
        self._progress: CompactionProgress | None = None
        self._writing_progress = asyncio.Lock()
        # Counts truncations: what was read before one is not the log any more.
        self._truncations = 0

    async def compact(
        self, *, high_watermark: int, now_ms: int, limits: CompactionLimits
    ) -> CompactionResult | None:
        """As `LogCleanup.compact`."""
        async with self._running:
            self._require_writable()
            config = self._appender.config.compaction
            if config is None:
                return None
            if active_must_roll(self._appender.state.fill, config, now_ms=now_ms):
                self._appender.roll()
                await self._commits.drain()
            truncations = self._truncations
            sealed, plan = await self._plan(config, high_watermark, now_ms)
            if plan is None:
                return None
            self._require_room([segment for segment, _ in sealed], limits)
            self._pace = CompactionPace(limits.max_bytes_per_s)
            # A truncation, or the end of the log, may have come while its files were looked at.
            self._require_writable()
            try:
                compaction = LogCompaction(
                    self._identity,
                    [source for _, source in sealed],
                    plan,
                    remembered=remembered_batches(self._appender.state),
                    producers=producer_epochs(self._appender.state),
                    aborted_behind=await self._aborts.find(plan.end_offset, plan.end_offset),
                    map_bytes=limits.map_bytes,
                    delete_retention_ms=config.delete_retention_ms,
                    now_ms=now_ms,
                    pace=self._pace,
                    salt=os.urandom(SALT_BYTES),
                )
                return await self._carry_out(compaction, dict(_reversed(sealed)), plan, truncations)
            except (sqlite.DriverError, OSError, StorageError) as error:
                if self._truncations != truncations or self._has_lost(sealed[0][0]):
                    # The log has changed under the reading.
                    return None
                raise sqlite.storage_error(self._files.directory, "compaction", error) from error
            except CompactionStoppedError as error:
                raise UnavailableError("the log was closed before it was compacted") from error
            finally:
                self._pace = None

    def _require_room(self, sealed: Sequence[Segment], limits: CompactionLimits) -> None:
        """At most one file is written at a time, of at most what is there."""
        sizes = [segment.size_bytes for segment in sealed]
        # A segment from before `segment.bytes` was made smaller is still rewritten as a whole.
        needed_bytes = min(max(self._appender.config.segment_bytes, *sizes), sum(sizes))
        if not limits.has_room(needed_bytes):
            raise DiskFullError(f"the disk has no room for {needed_bytes} bytes more")

    def _has_lost(self, first: Segment) -> bool:
        """Whether retention has removed the log's beginning meanwhile."""
        return all(segment is not first for segment in self._files.segments)

    async def _plan(
        self, config: CompactionConfig, high_watermark: int, now_ms: int
    ) -> tuple[list[tuple[Segment, CompactionSource]], CompactionPlan | None]:
        progress = await self._known_progress()
        stable = self._appender.state.transactions.last_stable_offset(high_watermark)
        async with self._files.lock.shared():
            sealed = [
                (segment, CompactionSource(segment.path, segment.base_offset, end_offset))
                for segment, end_offset in self._files.sealed_segments()
                # What has expired is about to go, and must not be joined with what stays.
                if end_offset > self._files.log_start_offset
            ]
            # Files are opened only for what the topic's configs ask about.
            facts = [
                CompactableSegment(
                    source.base_offset,
                    source.end_offset,
                    segment.size_bytes,
                    await self._files.first_timestamp(segment)
                    if config.max_lag_ms != NO_MAX_LAG_MS
                    else -1,
                    await self._files.newest_timestamp(segment) if config.min_lag_ms else 0,
                )
                for segment, source in sealed
            ]
        plan = plan_compaction(
            facts,
            progress,
            config,
            last_stable_offset=min(stable, self._commits.durable_end),
            now_ms=now_ms,
        )
        if plan is not None:
            sealed = [pair for pair in sealed if pair[1].end_offset <= plan.end_offset]
        return sealed, plan

    async def _carry_out(
        self,
        compaction: LogCompaction,
        segments: dict[CompactionSource, Segment],
        plan: CompactionPlan,
        truncations: int,
    ) -> CompactionResult | None:
        """Rewrite group after group, oldest first; None when the log has changed meanwhile."""
        found = await self._on_thread(compaction.begin)
        first_end = found[0][0].end_offset

        def is_current() -> bool:
            has_expired = self._files.log_start_offset >= first_end
            return self._truncations == truncations and not has_expired

        before = [segments[source] for source, _ in found]
        size_bytes_before = sum(segment.size_bytes for segment in before)
        size_bytes_after = segments_after = 0
        groups = group_segments(
            [content for _, content in found],
            segment_bytes=self._appender.config.segment_bytes,
        )
        for start, end in groups:
            group = [source for source, _ in found[start:end]]
            replaced = [segments[source] for source in group]
            compacted = await self._on_thread(partial(compaction.rewrite, group))
            segments_after += 1 if compacted is not None else len(group)
            size_bytes_after += (
                sum(segment.size_bytes for segment in replaced)
                if compacted is None
                else compacted.size_bytes
            )
            if compacted is not None and not await _uninterrupted(
                self._replace(replaced, compacted, group[-1].end_offset, is_current=is_current)
            ):
                return None
        if not await self._write_progress(compaction.progress, is_current):
            return None
        return CompactionResult(
            compaction.progress.cleaned_to,
            compaction.progress.cleaned_to == plan.end_offset,
            len(before),
            segments_after,
            size_bytes_before,
            size_bytes_after,
            compaction.counts,
        )

    async def _replace(
        self,
        replaced: Sequence[Segment],
        compacted: CompactedFile,
        end_offset: int,
        *,
        is_current: Callable[[], bool],
    ) -> bool:
        """Put a compacted file in the place of sealed neighbours that end at `end_offset`.

        Returns:
            False when the log has lost one of them, or is not `is_current` any more; the file is
            removed then.

        Raises:
            UnavailableError: the log is closed or being truncated.
            StorageError: the files failed; so has the log.
        """
        try:
            async with self._files.taking_away:
                self._require_writable()
                async with self._files.lock.exclusive():
                    if not is_current() or not self._files.has_all(replaced):
                        return False
                    self._files.taken_away_count += 1
                    try:
                        await self._files.replace(replaced, compacted, end_offset)
                    except (OSError, StorageError) as error:
                        failure = sqlite.storage_error(
                            self._files.directory, "putting compacted segments in place", error
                        )
                        self._commits.fail(failure)
                        raise failure from error
                    # What is cached would show again what has been compacted away.
                    self._tail.drop_below(end_offset)
                    return True
        finally:
            await asyncio.to_thread(compacted.path.unlink, missing_ok=True)

    async def _on_thread(self, function: Callable[[], T]) -> T:
        """Run a part of the compaction; whoever is cancelled waits until it has ended."""
        work = asyncio.ensure_future(asyncio.to_thread(function))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            assert self._pace is not None
            self._pace.stop()
            await asyncio.wait((work,))
            if not work.cancelled():
                work.exception()
            raise

    # --- progress -----------------------------------------------------------------------------

    async def _known_progress(self) -> CompactionProgress:
        async with self._writing_progress:
            return await self._read_progress()

    async def _read_progress(self) -> CompactionProgress:
        """What is written down.

        Raises:
            StorageError: the file cannot be read; `NoDescriptorError` where that passes.
        """
        if self._progress is None:
            directory = self._files.directory
            try:
                self._progress = await asyncio.to_thread(read_progress, directory)
            except OSError as error:
                raise sqlite.storage_error(directory, "compaction", error) from error
        return self._progress

    async def _write_progress(
        self, progress: CompactionProgress, is_current: Callable[[], bool]
    ) -> bool:
        async with self._writing_progress:
            if not is_current():
                return False
            await asyncio.to_thread(write_progress, self._files.directory, progress)
            self._progress = progress
            return True

    async def compacted_at_most_to(self) -> int:
        """As `LogCleanup.compacted_at_most_to`.

        Sealed segments are all that a compaction reads. What is written down as compacted may be
        less: segments are replaced before that.
        """
        progress = await self._known_progress()
        if self._appender.config.compaction is None and progress.cleaned_to == 0:
            return 0
        return self._files.active.base_offset

    async def forget_from(self, offset: int) -> None:
        """The log is about to be cut at `offset`: what comes there next was never compacted.

        Raises:
            StorageError: that cannot be written down.
        """
        self._truncations += 1
        try:
            async with self._writing_progress:
                progress = await self._read_progress()
                if progress.cleaned_to > offset:
                    self._progress = progress._replace(cleaned_to=offset)
                    await asyncio.to_thread(lower_progress, self._files.directory, self._progress)
        except OSError as error:
            raise sqlite.storage_error(self._files.directory, "truncate", error) from error

    async def stop(self) -> None:
        """End a compaction that is under way; none begins after the log was closed."""
        if self._pace is not None:
            self._pace.stop()
        async with self._running:
            pass


def remembered_batches(state: LogState) -> frozenset[int]:
    """Base offsets of the batches that a log needs for what their headers and rows say."""
    return frozenset(
        (
            *(epoch.start_offset for epoch in state.leader_epochs.entries),
            *(
                batch.base_offset
                for _, producer in state.producers.entries()
                for batch in producer.batches
            ),
            *(request.base_offset for _, request in state.requests.entries()),
        )
    )


def producer_epochs(state: LogState) -> dict[int, int]:
    """The epoch of each producer that a log remembers: its last marker may be all that tells it."""
    return {producer_id: producer.epoch for producer_id, producer in state.producers.entries()}


def _reversed(
    pairs: Sequence[tuple[Segment, CompactionSource]],
) -> Sequence[tuple[CompactionSource, Segment]]:
    return [(source, segment) for segment, source in pairs]


async def _uninterrupted(work: Awaitable[T]) -> T:
    """Await something to its end, also where the caller is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,))
        if not task.cancelled():
            task.exception()
        raise
