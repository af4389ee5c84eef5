"""The segment files of one partition: what is written to them, read from them and cut off.

`PartitionLog` and its parts decide; this module does it, one connection at a time, on the handles'
threads. Writing, rolling and truncating are called by one task at a time (the writer, or the log
while the writer is idle). Readers come at any time; they are held off only while files are taken
away.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ottla_broker.storage import segment as segments
from ottla_broker.storage import sqlite
from ottla_broker.storage.disk_full import DiskFullError
from ottla_broker.storage.group_commit import Group
from ottla_broker.storage.handles import HandlePool
from ottla_broker.storage.log_config import RemovedSegments
from ottla_broker.storage.log_segments import LogSegments
from ottla_broker.storage.log_state import LogState, StateLimits, empty_state, load_state
from ottla_broker.storage.policy.journaling import JournalChoice
from ottla_broker.storage.replica_directory import remove_directory
from ottla_broker.storage.segment import Segment, SegmentIdentity
from ottla_broker.storage.segment_compaction import CompactedFile
from ottla_broker.storage.segment_reader import find_timestamp, next_base_offset, read_batches
from ottla_broker.storage.segment_rebuild import (
    copy_good_rows,
    mark_for_rebuild,
    publish_good_rows,
    read_state,
)
from ottla_broker.storage.segment_replacement import replace_segments
from ottla_broker.storage.segment_snapshot import Snapshot
from ottla_broker.storage.shared_lock import SharedLock
from ottla_broker.storage.sqlite import Durability, SegmentConnection
from ottla_broker.storage.stored_batch import DamagedSegmentError, StoredBatch

T = TypeVar("T")


class LogFiles(LogSegments):
    """The segments of one log, and what is in them.

    Args:
        directory: where they are.
        identity: whose they are.
        durability: what a commit promises.
        recovered: the segments that recovery found; never empty.
        handles: the broker's pool of open files.
    """

    def __init__(
        self,
        directory: Path,
        identity: SegmentIdentity,
        durability: Durability,
        recovered: list[Segment],
        handles: HandlePool,
    ) -> None:
        super().__init__(recovered)
        self.directory = directory
        self.lock = SharedLock()
        """Held shared by readers, and exclusively while files are taken away."""
        self.taking_away = asyncio.Lock()
        """Held by whoever takes files away, one at a time, from the decision on; taken before
        `lock`."""
        self.taken_away_count = 0
        """As `PartitionLog.taken_away_count`; rises before the first file goes."""
        self._identity = identity
        self._durability = durability
        self._handles = handles
        self._journal = JournalChoice()

    @property
    def durability(self) -> Durability:
        """What a commit promises now."""
        return self._durability

    async def run(self, segment: Segment, action: str, function: Callable[[Any], T]) -> T:
        """Run `function(driver connection)` on one segment; the lock is held shared.

        Raises:
            StorageError: the file cannot be opened, or `function` failed.
        """
        async with self._handles.use(segment) as connection:
            return await connection.run(action, function)

    # --- writing ------------------------------------------------------------------------------

    async def commit(self, group: Group) -> None:
        """Write one group as one transaction; it is durable when this returns."""
        active = await self._writable_active()
        bulk = self._durability is Durability.FSYNC and self._journal.next_is_bulk(group.size_bytes)
        async with self._handles.use(active) as connection:

            def commit(raw: Any) -> None:
                if bulk != connection.is_bulk:
                    sqlite.set_bulk(raw, active.path, bulk=bulk)
                    connection.is_bulk = bulk
                try:
                    segments.insert(
                        raw,
                        group.rows,
                        group.epochs,
                        has_gaps=group.has_gaps,
                        aborted=group.aborted,
                    )
                except sqlite.DriverError as error:
                    if sqlite.is_damage(error):
                        # The log fails, and with it the process: the next one must not try again.
                        mark_for_rebuild(active.path)
                    raise

            await connection.run("commit", commit)
            if group.end_offset is not None:
                _mark_at_close(connection, group.end_offset)
        active.size_bytes += group.size_bytes

    async def begin_segment(
        self, base_offset: int, snapshot: Snapshot, *, after_gap: bool = False
    ) -> None:
        """Seal the active segment and make the next one. A crash in between leaves the first.

        One that found no room may be called again.
        """
        sealing = self.active
        assert base_offset > sealing.base_offset, (base_offset, sealing.path)
        if after_gap or not sealing.sealed:
            await self._writable_active()
            async with self._handles.use(sealing) as connection:
                connection.before_close = None
                sealing.size_bytes = await connection.run(
                    "seal", partial(segments.seal, path=sealing.path, has_gaps=after_gap)
                )
                # Whoever opens the file next, after this connection is closed, opens it read-only.
                sealing.sealed = True
        await self._handles.close(sealing.path)
        self._segments.append(await self._create_segment(base_offset, snapshot))

    async def change_durability(self, durability: Durability) -> None:
        """Let later commits promise this. The active file is closed, and opened when next used.

        The close checkpoints and syncs what commits under `os` have left to the operating system.
        """
        if durability is Durability.OS:
            # Nobody may take the next commit for one that was synced.
            self._durability = durability
        for segment in self._segments:
            segment.durability = durability
        await self._handles.close(self.active.path)
        self._durability = durability

    async def _create_segment(self, base_offset: int, snapshot: Snapshot) -> Segment:
        segment = self._new_segment(base_offset, snapshot)
        async with self._handles.use(segment):
            segment.to_create = None
        return segment

    def _new_segment(self, base_offset: int, snapshot: Snapshot) -> Segment:
        return Segment(
            segments.segment_path(self.directory, base_offset),
            base_offset,
            self._identity,
            self._durability,
            sealed=False,
            to_create=snapshot,
        )

    # --- reading, with the lock held shared ---------------------------------------------------

    async def read(
        self, offset: int, *, max_bytes: int, limit: int, durable_end: int
    ) -> tuple[tuple[StoredBatch, ...], int]:
        """Batches from the segment that holds `offset`, and where that segment ends.

        No batches means that there are none from `offset` to the segment's end below `limit`.
        """
        segment, end_offset = self.at(offset, durable_end=durable_end)
        batches = await self._read_segment(
            segment, offset, max_bytes=max_bytes, limit=limit, end_offset=end_offset
        )
        return batches, end_offset

    async def next_base_offset(self, offset: int) -> int | None:
        """Where the next batch above `offset` begins in its segment; None where none is readable.

        It is not checked.
        """
        segment = self._segments[self._index_of(offset)]
        try:
            return await self.run(segment, "skip damage", partial(next_base_offset, offset=offset))
        except DamagedSegmentError:
            return None

    async def find_timestamp(
        self, timestamp: int, offset: int, *, limit: int
    ) -> StoredBatch | None:
        """The first batch from `offset` on whose latest record is at or after `timestamp`.

        None where there is no such batch that ends below `limit`.
        """
        for segment in self.from_offset(offset):
            if segment.sealed and await self.newest_timestamp(segment) < timestamp:
                continue
            start: int | None = offset
            while start is not None:
                async with self._handles.use(segment) as connection:
                    found, start = await connection.run(
                        "find timestamp",
                        partial(
                            find_timestamp,
                            timestamp=timestamp,
                            offset=start,
                            sealed=segment.sealed,
                        ),
                    )
                if found is not None:
                    batches = await self._read_segment(
                        segment, found, max_bytes=0, limit=limit, end_offset=found
                    )
                    return batches[0] if batches else None
        return None

    async def _read_segment(
        self, segment: Segment, offset: int, *, max_bytes: int, limit: int, end_offset: int
    ) -> tuple[StoredBatch, ...]:
        def read(connection: Any) -> tuple[StoredBatch, ...]:
            return read_batches(
                connection,
                segment.path,
                offset,
                max_bytes=max_bytes,
                limit=limit,
                end_offset=end_offset,
            )

        async with self._handles.use(segment) as connection:
            return await connection.run(f"read at offset {offset}", read)

    async def newest_timestamp(self, segment: Segment) -> int:
        """The largest timestamp of a sealed segment, in ms; the lock is held shared."""
        if segment.newest_timestamp is None:
            async with self._handles.use(segment) as connection:
                segment.newest_timestamp = await connection.run(
                    "find the newest timestamp",
                    partial(segments.newest_timestamp, path=segment.path),
                )
        return segment.newest_timestamp

    async def first_timestamp(self, segment: Segment) -> int:
        """The timestamp of a sealed segment's first batch, in ms; -1 without one.

        The lock is held shared.
        """
        if segment.first_timestamp is None:
            async with self._handles.use(segment) as connection:
                segment.first_timestamp = await connection.run(
                    "find the first timestamp", segments.first_timestamp
                )
        return segment.first_timestamp

    # --- taking away and replacing, by one task at a time --------------------------------------

    async def remove_expired(self) -> RemovedSegments:
        """Remove the files that were given up, oldest first; what a cancellation left, too.

        The files' names are what tells the log's beginning after a restart: a crash on the way
        leaves a longer log that is whole.
        """
        count = size_bytes = 0
        while self._expired:
            oldest = self._expired[0]
            await self._remove(oldest)
            del self._expired[0]
            count += 1
            size_bytes += oldest.size_bytes
        return RemovedSegments(count, size_bytes)

    async def replace(
        self, replaced: Sequence[Segment], compacted: CompactedFile, end_offset: int
    ) -> None:
        """Put a compacted file in the place of neighbours; the lock is held exclusively."""
        for segment in replaced:
            await self._handles.close(segment.path)
        await asyncio.to_thread(
            replace_segments, compacted.path, [segment.path for segment in replaced], end_offset
        )
        first = replaced[0]
        # The writer may have begun a segment at the other end meanwhile.
        start = self._segments.index(first)
        self._segments[start : start + len(replaced)] = [
            Segment(
                first.path,
                first.base_offset,
                self._identity,
                self._durability,
                sealed=True,
                size_bytes=compacted.size_bytes,
            )
        ]

    # --- taking away, with the lock held exclusively ------------------------------------------

    async def truncate_to(self, offset: int, limits: StateLimits) -> LogState:
        """Drop every batch that reaches `offset`; returns the state of what is left.

        Newest files go first, so that a crash on the way leaves a shorter log that is whole.
        """
        while self.active.base_offset > offset:
            await self._remove(self._segments.pop())
        if self.active.to_create is not None:
            return empty_state(self.active.base_offset, limits)
        active = await self._writable_active()

        def truncate(connection: Any) -> tuple[int, LogState]:
            end_offset = segments.delete_from(connection, offset)
            return end_offset, load_state(connection, active.path, limits)

        async with self._handles.use(active) as connection:
            end_offset, state = await connection.run("truncate", truncate)
            _mark_at_close(connection, end_offset)
        active.size_bytes = state.fill.bytes_used
        if end_offset > state.next_offset:
            # The batches before are gone by compaction: the end must not fall back over offsets
            # that were used, and a segment's name is what remembers it.
            await self.begin_segment(end_offset, state.snapshot(), after_gap=True)
            state = state.at_new_segment(end_offset)
        return state

    async def cut_damaged(self, path: Path, limits: StateLimits) -> LogState:
        """Keep of the segment at `path` the batches before its first damage, and nothing after it.

        The segment is active afterwards. It is copied before anything goes, so that a copy that
        finds no room leaves all as it is; then newest files go first, as in `truncate_to`.
        """
        kept = 1 + [segment.path for segment in self._segments].index(path)
        cut = self._segments[kept - 1]
        previous = self._segments[kept - 2].path if kept > 1 else None
        with suppress(DamagedSegmentError):
            await self._handles.close(path)

        def copy() -> Path:
            return copy_good_rows(path, self._identity, self._durability, previous, limits)

        def publish(copied: Path) -> LogState:
            publish_good_rows(copied, path)
            return read_state(path, limits)

        try:
            copied = await asyncio.to_thread(copy)
            while len(self._segments) > kept:
                await self._remove(self._segments.pop())
            state = await asyncio.to_thread(publish, copied)
        except (sqlite.DriverError, OSError) as error:
            raise sqlite.storage_error(path, "cut at the damage", error) from error
        cut.sealed = False
        cut.newest_timestamp = cut.first_timestamp = None
        cut.aborts = None
        cut.size_bytes = state.fill.bytes_used
        return state

    async def reload(self, limits: StateLimits) -> LogState:
        """The state of what is on disk, where the log's end was given up in memory.

        Nothing is written, for there may be no room for it.
        """
        active = self.active
        if active.to_create is not None:
            return empty_state(active.base_offset, limits)
        action = "read the state again"
        load = partial(load_state, path=active.path, limits=limits)
        try:
            async with self._handles.use(active) as connection:
                state = await connection.run(action, load)
        except DiskFullError:
            # A file that is not in WAL mode (yet) has no log: all of it is there to be read.
            try:
                state = await asyncio.to_thread(read_state, active.path, limits)
            except (sqlite.DriverError, OSError) as error:
                raise sqlite.storage_error(active.path, action, error) from error
        active.size_bytes = state.fill.bytes_used
        return state

    async def _writable_active(self) -> Segment:
        """The newest segment: made if it was not yet, and made active again if it was sealed.

        Raises:
            DiskFullError: there is no room for that; it can be read as before.
        """
        active = self.active
        if active.to_create is not None:
            async with self._handles.use(active):
                active.to_create = None
        elif active.sealed:
            await asyncio.to_thread(segments.unseal, active.path)
            # From here on whoever opens the file opens it for writing.
            active.sealed = False
            await self._handles.close(active.path)
            try:
                async with self._handles.use(active):
                    active.newest_timestamp = active.first_timestamp = None
                    active.aborts = None
            except DiskFullError:
                active.sealed = True
                await asyncio.to_thread(segments.seal_again, active.path)
                raise
        return active

    async def reset_to(self, offset: int, limits: StateLimits) -> LogState:
        """Drop everything and begin an empty segment at `offset`; returns the empty state."""
        while self._segments:
            await self._remove(self._segments.pop())
        await self.remove_expired()
        # The log is empty from here on. Its file is made when it is first written, if not now.
        self._segments.append(self._new_segment(offset, Snapshot()))
        self._log_start_offset = offset
        with suppress(DiskFullError):
            await self._writable_active()
        # A trim that was heard of meanwhile has moved it within the log that went.
        self._log_start_offset = offset
        return empty_state(offset, limits)

    async def close(self) -> None:
        """Close every file, with a checkpoint of the active one."""
        for segment in (*self._expired, *self._segments):
            await self._handles.close(segment.path)

    async def remove(self) -> None:
        """Remove the closed files with their directory, newest segment first."""
        await asyncio.to_thread(remove_directory, self.directory)

    async def _remove(self, segment: Segment) -> None:
        await self._handles.close(segment.path)
        await asyncio.to_thread(segments.remove_file, segment.path)


def _mark_at_close(connection: SegmentConnection, end_offset: int) -> None:
    """Have whatever closes the file note that all below `end_offset` was written in order.

    Idle partitions are closed to make room for others: after a crash their batches need not be read
    again, and a broker that stops in order has nothing to do for them.
    """
    connection.before_close = partial(segments.mark_before_close, end_offset=end_offset)
