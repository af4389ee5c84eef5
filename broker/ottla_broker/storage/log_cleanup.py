"""What goes from a log while nothing is wrong with it: by age or size, by a trim, by compaction.

The log's beginning is first an offset, below which nobody reads any more, and then files that go:
`enforce_retention` and `advance_log_start` move the one, `remove_expired` follows with the others.
What newer records of the same key replace goes from the sealed segments that stay (`compact`).

Appends, commits and reads go on meanwhile; a truncation waits, or is waited for.
"""

from collections.abc import Callable
from itertools import pairwise

from ottla_broker.storage import sqlite
from ottla_broker.storage.group_commit import GroupCommit
from ottla_broker.storage.log_appender import LogAppender
from ottla_broker.storage.log_compactor import CompactionLimits, CompactionResult, LogCompactor
from ottla_broker.storage.log_config import RemovedSegments
from ottla_broker.storage.log_damage import LogDamage
from ottla_broker.storage.log_files import LogFiles
from ottla_broker.storage.policy.retention import (
    RetentionLimits,
    SealedSegment,
    active_must_roll,
    may_go,
)
from ottla_protocol.errors import StorageError


class LogCleanup:
    """Takes away what one log need not keep.

    Args:
        files: its segments.
        commits: the queue for the disk; it fails when files cannot be taken away.
        appender: has the log's config, and the state of its end.
        compactor: compacts the log.
        damage: is told what is found on the way.
        require_writable: raises while the log is closed, being truncated, or has failed.
    """

    def __init__(
        self,
        files: LogFiles,
        commits: GroupCommit,
        appender: LogAppender,
        compactor: LogCompactor,
        damage: LogDamage,
        *,
        require_writable: Callable[[], None],
    ) -> None:
        self._files = files
        self._commits = commits
        self._appender = appender
        self._compactor = compactor
        self._damage = damage
        self._require_writable = require_writable

    # --- retention and trims ------------------------------------------------------------------

    async def enforce_retention(self, *, high_watermark: int, now_ms: int) -> None:
        """Move the log's start past what its configs let go: for the leader.

        Nothing at or above the last stable offset goes, and never the active segment; one that
        nobody appends to is sealed when it is due, so that it can go too.

        Args:
            high_watermark: everything below is committed.
            now_ms: the wall clock.

        Raises:
            UnavailableError: the log is closed or being truncated.
            StorageError: the log has failed, or a segment cannot be read.
        """
        self._require_writable()
        config = self._appender.config
        if config.retention == RetentionLimits():
            return
        with self._damage.noted("retention"):
            # A transaction that is not over goes as a whole or not at all.
            high_watermark = self._appender.state.transactions.last_stable_offset(high_watermark)
            if active_must_roll(
                self._appender.state.fill,
                config.retention,
                segment_ms=config.segment_ms,
                now_ms=now_ms,
            ):
                self._appender.roll()
                await self._commits.drain()
            # Held, so that no truncation comes between the decision and the move.
            async with self._files.taking_away:
                self._require_writable()
                async with self._files.lock.shared():
                    offset = await self._log_start_after_retention(
                        config.retention, high_watermark=high_watermark, now_ms=now_ms
                    )
                self._files.advance_log_start(offset)

    async def _log_start_after_retention(
        self, limits: RetentionLimits, *, high_watermark: int, now_ms: int
    ) -> int:
        """Where the log begins when everything is gone that `limits` let go.

        The files' lock is held shared.
        """
        log_bytes = self._files.size_bytes
        # Copied: the writer may add a segment meanwhile.
        known = self._files.segments
        for segment, following in pairwise(known):
            end_offset = following.base_offset
            if end_offset > self._files.log_start_offset:
                sealed = SealedSegment(
                    end_offset, segment.size_bytes, await self._files.newest_timestamp(segment)
                )
                if not may_go(
                    sealed,
                    limits,
                    log_bytes=log_bytes,
                    high_watermark=high_watermark,
                    now_ms=now_ms,
                ):
                    return max(segment.base_offset, self._files.log_start_offset)
            log_bytes -= segment.size_bytes
        return max(known[-1].base_offset, self._files.log_start_offset)

    def advance_log_start(self, offset: int) -> None:
        """Let nobody read below `offset` any more; it never moves back while the log is open.

        The files go with `remove_expired`, and after a restart what is left of them tells where
        the log begins.

        Args:
            offset: at most the durable end, and anywhere in a batch: what holds it stays. All
                below is committed.
        """
        assert offset <= self._commits.durable_end, (offset, self._commits.durable_end)
        self._files.advance_log_start(offset)

    def segments_below(self, offset: int) -> RemovedSegments:
        """The segments that would go with everything below `offset`."""
        return self._files.segments_below(offset, next_offset=self._appender.state.next_offset)

    @property
    def has_expired(self) -> bool:
        """Whether `remove_expired` has anything to do."""
        return self._files.has_expired or self._active_must_end

    async def remove_expired(self) -> RemovedSegments:
        """Remove the files of segments that lie wholly below the log's start.

        An active segment of which half lies below is sealed, to go with the others in its time.
        Whoever reads one of them is waited for, and not interrupted.

        Raises:
            UnavailableError: the log is closed or being truncated.
            StorageError: a file cannot be removed; the log has failed.
        """
        self._require_writable()
        if not self.has_expired:
            return RemovedSegments()
        async with self._files.taking_away:
            self._require_writable()
            if self._active_must_end:
                self._appender.roll()
                await self._commits.drain()
            async with self._files.lock.exclusive():
                self._files.forget_expired()
            try:
                return await self._files.remove_expired()
            except (OSError, StorageError) as error:
                failure = sqlite.storage_error(
                    self._files.directory, "removing expired segments", error
                )
                self._commits.fail(failure)
                raise failure from error

    @property
    def _active_must_end(self) -> bool:
        """Whether enough of the active segment has expired for it to end here.

        Retention has a leader's log begin with a segment. A trim does not, nor does a leader's
        start at a follower, whose segments may be cut elsewhere: what has expired of a segment that
        goes on stays until all of it has. With half of it gone it ends, so that this is never much;
        not with each little step of the start, or a log that is trimmed all the time would be one
        of tiny segments.
        """
        base_offset = self._files.active.base_offset
        expired = self._files.log_start_offset - base_offset
        total = self._appender.state.next_offset - base_offset
        return self._appender.state.fill.batches > 0 and expired > 0 and 2 * expired >= total

    # --- compaction ---------------------------------------------------------------------------

    async def compact(
        self, *, high_watermark: int, now_ms: int, limits: CompactionLimits
    ) -> CompactionResult | None:
        """Leave out of the sealed segments what newer records of the same key replace, if due.

        Nothing at or above the last stable offset is touched. Reads and appends go on meanwhile.
        What is due, and what stays, is told by `policy.compaction` and the config's `compaction`.

        Args:
            high_watermark: everything below is committed.
            now_ms: the wall clock.
            limits: what it may take.

        Returns:
            What was done; None when nothing was due, or the log was truncated meanwhile.

        Raises:
            DamagedSegmentError: a segment is not what was written; the log stays as it is.
            UnavailableError: the log is closed, or being truncated.
            StorageError: files could not be read or written, or the log has failed.
        """
        with self._damage.noted("compaction"):
            return await self._compactor.compact(
                high_watermark=high_watermark, now_ms=now_ms, limits=limits
            )

    async def compacted_at_most_to(self) -> int:
        """An offset below which all records are that may have replaced older ones of their key.

        0 for a log that was never compacted. To truncate below it may lose the newest record of a
        key for good, where an older one is gone already.
        """
        return await self._compactor.compacted_at_most_to()
