"""Taking away what a log holds: old segments at its beginning, or all from some offset on.

Only here do files go. One task does it at a time, readers are waited for, and commits go on while
old segments are removed; a truncation waits until nothing is queued.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

from ottla_broker.storage import sqlite
from ottla_broker.storage.disk_full import DiskFullError
from ottla_broker.storage.group_commit import GroupCommit
from ottla_broker.storage.log_appender import LogAppender
from ottla_broker.storage.log_config import RemovedSegments
from ottla_broker.storage.log_files import LogFiles
from ottla_broker.storage.log_state import LogState, StateLimits
from ottla_broker.storage.policy.retention import RetentionLimits, active_must_roll
from ottla_broker.storage.segment import Segment, required_base_offset
from ottla_broker.storage.segment_compaction import CompactedFile
from ottla_broker.storage.tail_cache import PartitionTail
from ottla_protocol.errors import StorageError


async def _nobody_is_told(_offset: int) -> None:
    pass


class LogTrimmer:
    """Shortens one log.

    Args:
        files: the segments.
        commits: the queue for the disk; it fails when files cannot be taken away.
        appender: has the state that a truncation replaces.
        tail: the cached batches.
        limits: bounds of the state that is rebuilt, as of now.
        require_writable: raises while the log is closed, being truncated, or has failed.
    """

    def __init__(
        self,
        files: LogFiles,
        commits: GroupCommit,
        appender: LogAppender,
        tail: PartitionTail,
        *,
        limits: Callable[[], StateLimits],
        require_writable: Callable[[], None],
    ) -> None:
        self.is_truncating = False
        """Whether nothing may be appended, because the log's end is being changed."""
        self.taken_away_count = 0
        """As `PartitionLog.taken_away_count`."""
        self.before_cut: Callable[[int], Awaitable[None]] = _nobody_is_told
        """Awaited with the offset from which on batches are about to be dropped."""
        self._files = files
        self._commits = commits
        self._appender = appender
        self._tail = tail
        self._limits = limits
        self._require_writable = require_writable
        self._taking_away = asyncio.Lock()

    async def enforce_retention(self, *, high_watermark: int, now_ms: int) -> None:
        """As `PartitionLog.enforce_retention`."""
        config = self._appender.config
        if config.retention == RetentionLimits():
            return
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
        async with self._taking_away:
            self._require_writable()
            async with self._files.lock.shared():
                offset = await self._files.log_start_after_retention(
                    config.retention, high_watermark=high_watermark, now_ms=now_ms
                )
            self._files.advance_log_start(offset)

    @property
    def has_expired(self) -> bool:
        """As `PartitionLog.has_expired`."""
        return self._files.has_expired or self._active_must_end

    async def remove_expired(self) -> RemovedSegments:
        """As `PartitionLog.remove_expired`."""
        if not self.has_expired:
            return RemovedSegments()
        async with self._taking_away:
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

    async def replace_segments(
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
            async with self._taking_away:
                self._require_writable()
                async with self._files.lock.exclusive():
                    if not is_current() or not self._files.has_all(replaced):
                        return False
                    self.taken_away_count += 1
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

    async def truncate_to(self, offset: int) -> None:
        """As `PartitionLog.truncate_to`, for an offset within the log."""
        await self._change(
            partial(self._files.truncate_to, offset), self._tail.truncate_to, cut_from=offset
        )

    async def reset_to(self, offset: int) -> None:
        """As `PartitionLog.reset_to`."""
        await self._change(partial(self._files.reset_to, offset), self._tail.reset, cut_from=0)

    async def cut_damaged(self, path: Path) -> bool:
        """As `PartitionLog.cut_at_damage`; False where the segment is none of the log's (any more).

        Retention may take it away while this waits for its turn.
        """
        return await self._change(
            partial(self._files.cut_damaged, path),
            self._tail.truncate_to,
            cut_from=required_base_offset(path),
            is_due=partial(self._files.holds, path),
        )

    async def skip_to(self, offset: int) -> None:
        """As `PartitionLog.skip_to`, for an offset above the log's end."""
        await self._change(partial(self._skip_to, offset), self._tail.reset, cut_from=offset)

    async def _skip_to(self, offset: int, limits: StateLimits) -> LogState:  # noqa: ARG002  as every change
        state = self._appender.state
        await self._files.begin_segment(offset, state.snapshot(), after_gap=True)
        return state.at_new_segment(offset)

    async def abandon_held(self) -> None:
        """As `PartitionLog.abandon_held`."""
        await self._change(
            self._files.reload,
            self._tail.truncate_to,
            cut_from=self._commits.durable_end,
            settle=self._commits.abandon,
        )

    async def _change(
        self,
        change: Callable[[StateLimits], Awaitable[LogState]],
        forget: Callable[[int], None],
        *,
        cut_from: int,
        settle: Callable[[], Awaitable[None]] | None = None,
        is_due: Callable[[], bool] = lambda: True,
    ) -> bool:
        """Run `change` when nothing is queued and nobody reads; its failure is the log's.

        A change that finds no room fails nothing: it can be asked for again.

        `settle` empties the queue; without it what is queued is written first. Nothing is changed,
        and the answer is False, when `is_due` says so once no other task takes files away.
        """
        self.is_truncating = True
        try:
            async with self._taking_away:
                await (settle or self._commits.drain)()
                if not is_due():
                    return False
                await self.before_cut(cut_from)
                async with self._files.lock.exclusive():
                    self.taken_away_count += 1
                    # The files are about to be replaced under whatever is written.
                    assert self._commits.is_idle, "a commit runs beside a truncation"
                    active = self._files.active
                    try:
                        self._now_ends_with(await change(self._limits()), forget)
                    except DiskFullError:
                        if self._files.active is not active:
                            # Some of it is done. What is left is whole, and ends there.
                            state = await self._files.reload(self._limits())
                            self._now_ends_with(state, forget)
                        raise
                    except OSError as error:
                        raise sqlite.storage_error(
                            self._files.directory, "truncate", error
                        ) from error
                    return True
        except DiskFullError:
            raise
        except StorageError as error:
            self._commits.fail(error)
            raise
        finally:
            self.is_truncating = False

    def _now_ends_with(self, state: LogState, forget: Callable[[int], None]) -> None:
        self._appender.state = state
        self._commits.reset(state.next_offset)
        forget(state.next_offset)

    async def close_files(self) -> None:
        """Close every file when nobody reads or takes away any more."""
        async with self._taking_away, self._files.lock.exclusive():
            await self._files.close()
