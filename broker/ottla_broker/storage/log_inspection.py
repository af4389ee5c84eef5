"""Looking into the segments of a log that is open: what they hold, and whether it is sound.

All of it happens in steps that are small enough for whoever commits to or reads from the same file,
through the log's own connections. Between two steps nothing is held: the log may roll, be truncated
and lose its beginning, and the next step looks at what is there then.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from ottla_broker.storage import segment as segments
from ottla_broker.storage.group_commit import GroupCommit
from ottla_broker.storage.log_damage import LogDamage
from ottla_broker.storage.log_files import LogFiles
from ottla_broker.storage.segment import Segment, SegmentIdentity
from ottla_broker.storage.segment_aborts import read_aborts
from ottla_broker.storage.segment_verification import (
    SegmentVerification,
    check_batches,
    check_description,
    check_end,
    check_small_pages,
    damage_of,
)
from ottla_broker.storage.sqlite import sidecars
from ottla_broker.storage.stored_batch import DamagedSegmentError

COUNTED_BATCHES: Final = 2_048
"""How many batches one step counts."""

VERIFIED_BYTES: Final = 4 << 20
"""About how many bytes of batches one step verifies, at least one batch."""


@dataclass(slots=True)
class SegmentContent:
    """One segment of an open log.

    Attributes:
        path: the file.
        sealed: whether it will never be written again.
        base_offset: the offset in its name.
        end_offset: where the next segment, or what is not durable yet, begins.
        size_bytes: of the file and what SQLite keeps beside it.
        batches, records: how many there are.
        first_timestamp, last_timestamp: lowest and highest of its batches' latest timestamps, ms;
            None where there are no batches.
        leader_epoch: of the last batch, None where there is none.
        aborted_transactions: how many were aborted by markers in it.
        unreadable: why it could not be counted, where it is damaged.
    """

    path: Path
    sealed: bool
    base_offset: int
    end_offset: int
    size_bytes: int = 0
    batches: int = 0
    records: int = 0
    first_timestamp: int | None = None
    last_timestamp: int | None = None
    leader_epoch: int | None = None
    aborted_transactions: int = 0
    unreadable: str | None = None


@dataclass(slots=True)
class VerifiedStep:
    """What one step found.

    Attributes:
        segment: the segment, with what this step read of it.
        from_offset: where it began.
        segment_end: where the next segment, or what is not durable yet, begins.
        next_offset: where the next step begins; None when the log was verified to its end.
        read_bytes: of batches.
    """

    segment: SegmentVerification
    from_offset: int
    segment_end: int
    next_offset: int | None
    read_bytes: int = 0


class LogInspector:
    """Looks into one log.

    Args:
        identity: whose it is.
        files: its segments.
        commits: knows what is durable.
        damage: is told what a verification finds.
        require_open: raises once the log is closed.
    """

    def __init__(
        self,
        identity: SegmentIdentity,
        files: LogFiles,
        commits: GroupCommit,
        damage: LogDamage,
        *,
        require_open: Callable[[], None],
    ) -> None:
        self._identity = identity
        self._files = files
        self._commits = commits
        self._damage = damage
        self._require_open = require_open

    def base_offsets(self) -> tuple[int, ...]:
        """Where the segments begin, oldest first."""
        return tuple(segment.base_offset for segment in self._files.segments)

    def put_aside(self) -> list[tuple[Path, int, int]]:
        """Files that a recovery replaced by their good batches and kept. Blocking.

        Returns:
            Each with its base offset and its size in bytes.
        """
        found = []
        for path in sorted(self._files.directory.glob(f"*{segments.DAMAGED_SUFFIX}")):
            name = path.name.removesuffix(segments.DAMAGED_SUFFIX)
            found.append((path, int(name) if name.isdecimal() else 0, _size_bytes(path)))
        return found

    async def describe(self, base_offset: int) -> SegmentContent | None:
        """The segment that begins at `base_offset`; None when it is not there any more.

        Raises:
            UnavailableError: the log is closed.
            StorageError: a file cannot be read, though it is not damaged.
        """
        content: SegmentContent | None = None
        start: int | None = base_offset
        while start is not None:
            async with self._files.lock.shared():
                self._require_open()
                segment, end_offset = self._at(base_offset)
                if segment is None or segment.base_offset != base_offset:
                    return None
                if content is None:
                    content = SegmentContent(segment.path, segment.sealed, base_offset, end_offset)
                try:
                    start = await self._files.run(
                        segment, "count batches", partial(_count, content, start)
                    )
                except Exception as error:
                    damage = damage_of(error)
                    if damage is None:
                        raise
                    content.unreadable = str(damage)
                    start = None
                content.sealed, content.end_offset = segment.sealed, end_offset
                content.size_bytes = await asyncio.to_thread(_size_bytes, segment.path)
        return content

    async def verify(self, offset: int, *, found_by: str = "verify") -> VerifiedStep:
        """Verify the batches from the one that holds `offset` on, VERIFIED_BYTES of one segment.

        Where `offset` is a segment's first, its description is checked too; where the step reaches
        the segment's end, that nothing is missing there. The log's owner is told of damage.

        Raises:
            UnavailableError: the log is closed.
            StorageError: a file cannot be read, though it is not damaged.
        """
        async with self._files.lock.shared():
            self._require_open()
            offset = max(offset, self._files.log_start_offset)
            segment, end_offset = self._at(offset)
            assert segment is not None, (offset, self._files.log_start_offset)
            if end_offset <= offset and segment is self._files.active:
                # Whoever asks behind the end, or an empty log: its description is all there is.
                end_offset = offset
            result = SegmentVerification(
                segment.path, segment.sealed, segment.base_offset, max(offset, segment.base_offset)
            )
            try:
                step = await self._files.run(
                    segment, f"verify at offset {offset}", partial(self._check, result, end_offset)
                )
            except Exception as error:
                damage = damage_of(error)
                if damage is None:
                    raise
                result.find_unreadable(damage)
                step = VerifiedStep(result, offset, end_offset, end_offset)
            for found in result.findings:
                told = DamagedSegmentError(found.reason, path=found.path, offset=found.offset)
                self._damage.found(told, found_by)
            if step.next_offset == end_offset and segment is self._files.active:
                step.next_offset = None
            return step

    def _at(self, offset: int) -> tuple[Segment | None, int]:
        """The segment that holds `offset`, and where it ends."""
        known = self._files.segments
        found, end_offset = None, self._commits.durable_end
        for segment in reversed(known):
            if segment.base_offset <= offset:
                found = segment
                break
            end_offset = segment.base_offset
        return found, end_offset

    def _check(self, result: SegmentVerification, end_offset: int, connection: Any) -> VerifiedStep:
        """One step, on the connection's thread."""
        start = result.end_offset
        if start == result.base_offset:
            check_description(connection, self._identity, result)
            if not result.sealed:
                # All pages of a sealed segment can be checked at once, over another connection.
                check_small_pages(connection, result)
        if not result.is_complete:
            return VerifiedStep(result, start, end_offset, end_offset)
        read_bytes, has_more = check_batches(connection, result, max_bytes=VERIFIED_BYTES)
        if has_more and result.end_offset < end_offset:
            return VerifiedStep(result, start, end_offset, result.end_offset, read_bytes)
        if result.is_complete:
            check_end(connection, result)
            if result.end_offset < end_offset and not result.has_gaps:
                result.find(
                    result.end_offset,
                    f"offsets {result.end_offset} to {end_offset - 1} are missing",
                )
        return VerifiedStep(result, start, end_offset, end_offset, read_bytes)


def _count(content: SegmentContent, start: int, connection: Any) -> int | None:
    """Count the batches from `start` on; where to go on, None at the segment's end."""
    # Cast, because a damaged row may have anything there.
    [(batches, records, first, last, newest)] = connection.execute(
        "SELECT count(*), sum(CAST(record_count AS INTEGER)), "
        "min(CAST(max_timestamp AS INTEGER)), max(CAST(max_timestamp AS INTEGER)), "
        "max(base_offset) FROM (SELECT base_offset, record_count, max_timestamp FROM batches "
        "WHERE base_offset >= ? ORDER BY base_offset LIMIT ?)",
        (start, COUNTED_BATCHES),
    ).fetchall()
    if start == content.base_offset:
        content.aborted_transactions = read_aborts(connection).aborted_count
    if not batches:
        return None
    content.batches += batches
    content.records += records
    if content.first_timestamp is None or first < content.first_timestamp:
        content.first_timestamp = first
    if content.last_timestamp is None or last > content.last_timestamp:
        content.last_timestamp = last
    [(content.leader_epoch,)] = connection.execute(
        "SELECT CAST(leader_epoch AS INTEGER) FROM batches WHERE base_offset = ?", (newest,)
    ).fetchall()
    return int(newest) + 1 if batches == COUNTED_BATCHES else None


def _size_bytes(path: Path) -> int:
    """Of the file and its sidecars; a file that has gone is 0 bytes."""
    size_bytes = 0
    for each in (path, *sidecars(path)):
        try:
            size_bytes += each.stat().st_size
        except FileNotFoundError:
            continue
    return size_bytes
