"""When a disk counts as full, and when it has room again.

Segments, write-ahead logs, the Raft log and checkpoints share one disk. Appends stop while a
reserve is still free, so that what must be written all the same (votes, metadata, group commits
that were taken already, sealing) finds room, and SQLite never has to fail first.

A disk at its limit would be full and not full in turns, and leaderships would move with it. So it
counts as full until `resume_bytes`, which is more than the reserve, have been free for
`RESUME_AFTER_MS`. A disk that is full again soon after that has to have room for twice as long the
next time, and so on: a quota or a lack of inodes does not show in the free space.
"""

from dataclasses import dataclass, replace

RESUME_AFTER_MS = 2_000
"""How long there must have been room before appends begin again."""

RESUME_AFTER_MAX_MS = 64_000
"""How long at most, where a disk fills up again and again."""

RELAPSE_FACTOR = 10
"""Full again within so many times what it had to wait is soon."""

RESUME_RESERVES = 1.5
"""Appends begin again with this many reserves free."""

INTERNAL_RESERVE_DIVISOR = 2
"""Committed offsets and memberships may take the reserve down to a half: they are small, and
without them nobody can read what is there. So may compaction, which gives back more than that."""

BALLAST_RESERVE_DIVISOR = 4
"""Which part of the reserve is kept from all others on the disk, too."""

BYTES_PER_PENDING_BYTE = 2
"""What a batch takes of a disk at most: once in the write-ahead log, once in the segment."""


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """What is known of a disk.

    Attributes:
        is_full: whether appends are refused.
        room_since_ms: since when enough to begin again has been free; None while there is not.
        resume_after_ms: how long there must be room this time, or had to be the last time.
        resumed_ms: when appends began again the last time; None where they never stopped.
    """

    is_full: bool = False
    room_since_ms: int | None = None
    resume_after_ms: int = RESUME_AFTER_MS
    resumed_ms: int | None = None


def resume_bytes(reserve_bytes: int) -> int:
    """How much must be free before appends begin again."""
    return int(reserve_bytes * RESUME_RESERVES)


def observed(
    space: DiskSpace, available_bytes: int, *, reserve_bytes: int, now_ms: int
) -> DiskSpace:
    """What is known after a look at the disk.

    Args:
        space: what was known before.
        available_bytes: free, without what is queued for the disk; may be negative.
        reserve_bytes: what must stay free.
        now_ms: the monotonic clock.
    """
    if not space.is_full:
        return filled(space, now_ms=now_ms) if available_bytes < reserve_bytes else space
    if available_bytes < resume_bytes(reserve_bytes):
        return replace(space, room_since_ms=None)
    if space.room_since_ms is None:
        return replace(space, room_since_ms=now_ms)
    if now_ms - space.room_since_ms >= space.resume_after_ms:
        return DiskSpace(resume_after_ms=space.resume_after_ms, resumed_ms=now_ms)
    return space


def needs_ballast(free_bytes: int, *, reserve_bytes: int) -> bool:
    """Whether so little is free that what was kept from all others is needed now."""
    return free_bytes < reserve_bytes // BALLAST_RESERVE_DIVISOR


def filled(space: DiskSpace, *, now_ms: int) -> DiskSpace:
    """What is known after too little was free, an append found no room, or SQLite itself none.

    Args:
        space: what was known before; not full.
        now_ms: the monotonic clock.
    """
    assert not space.is_full, space
    resume_after_ms = RESUME_AFTER_MS
    if (
        space.resumed_ms is not None
        and now_ms - space.resumed_ms < space.resume_after_ms * RELAPSE_FACTOR
    ):
        resume_after_ms = min(2 * space.resume_after_ms, RESUME_AFTER_MAX_MS)
    return DiskSpace(is_full=True, resume_after_ms=resume_after_ms)


def fits(
    space: DiskSpace,
    available_bytes: int,
    size_bytes: int,
    *,
    reserve_bytes: int,
    is_internal: bool,
) -> bool:
    """Whether a batch may be appended.

    Args:
        space: what is known.
        available_bytes: free, without what is queued for the disk.
        size_bytes: of the batch.
        reserve_bytes: what must stay free.
        is_internal: whether it is the broker's own record of a group's state.
    """
    left_bytes = available_bytes - size_bytes * BYTES_PER_PENDING_BYTE
    if is_internal:
        return left_bytes >= reserve_bytes // INTERNAL_RESERVE_DIVISOR
    return not space.is_full and left_bytes >= reserve_bytes


def fits_to_replace(available_bytes: int, size_bytes: int, *, reserve_bytes: int) -> bool:
    """Whether a file of `size_bytes` may be written that takes the place of larger ones.

    Args:
        available_bytes: free, without what is queued for the disk.
        size_bytes: of the file; it is written once, without a write-ahead log.
        reserve_bytes: what must stay free.
    """
    return available_bytes - size_bytes >= reserve_bytes // INTERNAL_RESERVE_DIVISOR
