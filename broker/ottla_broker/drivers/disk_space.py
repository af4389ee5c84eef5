"""Whether the data directory's disk takes what is to be appended.

Free space is looked at every SAMPLE_INTERVAL_MS on a thread; in between, what was appended since
is taken off. So an append costs a comparison, and never goes to the disk to ask. The rules are in
`storage.policy.disk_space`.

A look also sees to the ballast: a part of the reserve that is kept from everybody else on the disk,
and given up once so little is free that metadata needs it.

Whoever writes much asks here first: leaders before an append, followers before they take what they
fetched, the cleaner before it copies a segment. What metadata needs is not asked for: that is what
the reserve is for.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import structlog

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.critical_task import CriticalTask
from ottla_broker.drivers.disk_threads import on_disk_thread
from ottla_broker.storage import sqlite
from ottla_broker.storage.disk_ballast import BALLAST_BYTES_MAX, DiskBallast
from ottla_broker.storage.policy import disk_space as policy
from ottla_broker.storage.policy.disk_space import BYTES_PER_PENDING_BYTE, DiskSpace
from ottla_broker.telemetry import METRICS
from ottla_protocol.errors import InsufficientStorageError, OttlaError, Outcome

SAMPLE_INTERVAL_MS = 500
"""How often free space is looked at. Others may fill the disk in between: the reserve is for that,
too."""

log = structlog.get_logger()


class DiskRoom:
    """The room of one data directory.

    Args:
        path: the data directory.
        reserve_bytes: what must stay free.
        pending_bytes: batch bytes that are queued for this disk.
        on_change: told when the disk becomes full, or has room again.
        on_failure: the disk does not even say how full it is; the process must stop.
        clock_ms: a clock that never jumps.
        look: asks the operating system for a file system's free space.
    """

    def __init__(
        self,
        path: Path,
        *,
        reserve_bytes: int,
        pending_bytes: Callable[[], int],
        on_change: Callable[[], None],
        on_failure: Callable[[OttlaError], None],
        clock_ms: Callable[[], int] = monotonic_ms,
        look: Callable[[Path], os.statvfs_result] = os.statvfs,
    ) -> None:
        self._path = path
        self._reserve_bytes = reserve_bytes
        self._pending_bytes = pending_bytes
        self._on_change = on_change
        self._on_failure = on_failure
        self._clock_ms = clock_ms
        self._look = look
        self._ballast = DiskBallast(
            path, min(reserve_bytes // policy.BALLAST_RESERVE_DIVISOR, BALLAST_BYTES_MAX)
        )
        self._space = DiskSpace()
        # As of the last look, without what was queued then.
        self._free_bytes = 0
        # What was appended since, as it may come to lie on the disk.
        self._taken_bytes = 0
        self._task: CriticalTask | None = None

    async def start(self) -> None:
        """Look once, then begin to look again and again.

        Raises:
            StorageError: the disk does not answer.
        """
        await self.sample()
        self._task = CriticalTask(self._run(), name="disk-space", on_failure=self._on_failure)

    async def stop(self) -> None:
        """Stop looking; the ballast is of no use to a stopped broker."""
        if self._task is not None:
            await self._task.stop()
            await asyncio.to_thread(self._ballast.release)

    @property
    def is_full(self) -> bool:
        """Whether appends are refused, save for what groups need."""
        return self._space.is_full

    @property
    def available_bytes(self) -> int:
        """Free, without what is queued; negative where that is too much already."""
        return self._free_bytes - self._taken_bytes

    def has_room(self, size_bytes: int, *, is_internal: bool = False) -> bool:
        """Whether `size_bytes` more of batches fit above the reserve.

        Args:
            size_bytes: what is to be written; it may come to lie on the disk twice.
            is_internal: whether it is the broker's own record of a group's state.
        """
        return policy.fits(
            self._space,
            self.available_bytes,
            size_bytes,
            reserve_bytes=self._reserve_bytes,
            is_internal=is_internal,
        )

    def has_room_to_replace(self, size_bytes: int) -> bool:
        """Whether `size_bytes` may be written once, for what goes after that.

        As for groups' records, half of the reserve may be used: this gives back more than it takes.
        """
        return policy.fits_to_replace(
            self.available_bytes, size_bytes, reserve_bytes=self._reserve_bytes
        )

    def take(self, size_bytes: int) -> None:
        """Count `size_bytes` of batches that are being queued for the disk."""
        self._taken_bytes += size_bytes * BYTES_PER_PENDING_BYTE

    def require(self, size_bytes: int, where: str, *, is_internal: bool) -> None:
        """That an append to `where` fits.

        Raises:
            InsufficientStorageError: it does not; nothing was appended.
        """
        if self.has_room(size_bytes, is_internal=is_internal):
            return
        self.found_full()
        raise InsufficientStorageError(
            f"the disk of the leader of {where} has {max(0, self.available_bytes)} bytes free, and "
            f"{self._reserve_bytes} are kept in reserve (OTTLA_DISK_RESERVE_BYTES)",
            outcome=Outcome.NOT_APPLIED,
            retry_after_seconds=policy.RESUME_AFTER_MS // 1000,
        )

    def found_full(self) -> None:
        """An append found no room, or a write failed for want of it."""
        if not self._space.is_full:
            # Those who ask a full disk again and again do not put its recovery off.
            self._become(policy.filled(self._space, now_ms=self._clock_ms()))

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(SAMPLE_INTERVAL_MS / 1000)
            await self.sample()

    async def sample(self) -> None:
        """Look at the disk now.

        Raises:
            StorageError: it does not answer.
        """
        before = self._taken_bytes
        # Asked before the disk is: what is written meanwhile counts twice, never not at all.
        pending_bytes = self._pending_bytes() * BYTES_PER_PENDING_BYTE
        free_bytes = await on_disk_thread(self._look_and_keep, self._space.is_full)
        self._free_bytes = free_bytes - pending_bytes
        self._taken_bytes -= before
        METRICS.disk_free_bytes.set(free_bytes)
        self._become(
            policy.observed(
                self._space,
                self.available_bytes,
                reserve_bytes=self._reserve_bytes,
                now_ms=self._clock_ms(),
            )
        )

    def _look_and_keep(self, is_full: bool) -> int:  # noqa: FBT001  runs on a thread
        """Free bytes, once the ballast has been taken, or given up where it is needed."""
        free_bytes = self._ask()
        if policy.needs_ballast(free_bytes, reserve_bytes=self._reserve_bytes):
            self._ballast.release()
            free_bytes = self._ask()
        elif not is_full and free_bytes >= policy.resume_bytes(self._reserve_bytes):
            self._ballast.keep()
        return free_bytes

    def _ask(self) -> int:
        try:
            found = self._look(self._path)
        except OSError as error:
            raise sqlite.storage_error(self._path, "asking for free space", error) from error
        return found.f_bavail * found.f_frsize

    def _become(self, space: DiskSpace) -> None:
        before, self._space = self._space, space
        if before.is_full == space.is_full:
            return
        METRICS.disk_full.set(space.is_full)
        if space.is_full:
            log.error(
                "disk_full",
                path=str(self._path),
                free_bytes=self._free_bytes,
                reserve_bytes=self._reserve_bytes,
                resume_bytes=policy.resume_bytes(self._reserve_bytes),
            )
        else:
            log.info("disk_has_room", path=str(self._path), free_bytes=self._free_bytes)
        self._on_change()
