"""Changing where a log ends: what is from some offset on goes, written or not, or a gap comes.

A truncation waits until nothing is queued, and until nobody reads or takes away files; nothing may
be appended meanwhile.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from ottla_broker.storage import sqlite
from ottla_broker.storage.disk_full import DiskFullError
from ottla_broker.storage.group_commit import GroupCommit
from ottla_broker.storage.log_appender import LogAppender
from ottla_broker.storage.log_files import LogFiles
from ottla_broker.storage.log_state import LogState, StateLimits
from ottla_broker.storage.segment import required_base_offset
from ottla_broker.storage.tail_cache import PartitionTail
from ottla_protocol.errors import StorageError


class LogTruncator:
    """Shortens one log at its end.

    Args:
        files: the segments.
        commits: the queue for the disk; it fails when files cannot be taken away.
        appender: has the state that a truncation replaces.
        tail: the cached batches.
        limits: bounds of the state that is rebuilt, as of now.
        before_cut: awaited with the offset from which on batches are about to be dropped.
    """

    def __init__(
        self,
        files: LogFiles,
        commits: GroupCommit,
        appender: LogAppender,
        tail: PartitionTail,
        *,
        limits: Callable[[], StateLimits],
        before_cut: Callable[[int], Awaitable[None]],
    ) -> None:
        self.is_truncating = False
        """Whether nothing may be appended, because the log's end is being changed."""
        self._files = files
        self._commits = commits
        self._appender = appender
        self._tail = tail
        self._limits = limits
        self._before_cut = before_cut

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
            async with self._files.taking_away:
                await (settle or self._commits.drain)()
                if not is_due():
                    return False
                await self._before_cut(cut_from)
                async with self._files.lock.exclusive():
                    self._files.taken_away_count += 1
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
        async with self._files.taking_away, self._files.lock.exclusive():
            await self._files.close()
