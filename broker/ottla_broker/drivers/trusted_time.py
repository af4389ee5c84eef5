"""The time by which this broker lets records go, and which it remembers when it is started again.

Whoever deletes by age reads it here. It is written down every few seconds, for a clock that was set
ahead while the broker was down is known by nothing else. See `storage.policy.trusted_clock`.
"""

import asyncio
from collections.abc import Callable

import structlog

from ottla_broker.drivers.clock import monotonic_ms, wall_clock_ms
from ottla_broker.drivers.critical_task import CriticalTask
from ottla_broker.drivers.disk_threads import on_disk_thread
from ottla_broker.storage.disk_full import DiskFullError, NoDescriptorError
from ottla_broker.storage.log_directory import LogDirectory
from ottla_broker.storage.policy.trusted_clock import CLOCK_JUMP_MS, TrustedClock
from ottla_protocol.errors import OttlaError, StorageError

WRITE_INTERVAL_MS = 10_000
"""Well below what counts as a jump: a broker that is started again at once has not met one."""

log = structlog.get_logger()


class TrustedTime:
    """One for all of a broker.

    Args:
        directory: where it is written down.
        on_failure: it could not be written; the process must stop.
        wall_ms: the wall clock.
        steady_ms: the monotonic clock.
    """

    def __init__(
        self,
        *,
        directory: LogDirectory,
        on_failure: Callable[[OttlaError], None],
        wall_ms: Callable[[], int] = wall_clock_ms,
        steady_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        self._directory = directory
        self._on_failure = on_failure
        self._wall_ms = wall_ms
        self._steady_ms = steady_ms
        try:
            known = directory.read_clock()
        except StorageError as error:
            # Worth less than a broker that runs.
            log.warning("clock_file_unreadable", detail=error.detail)
            known = None
        self._clock = TrustedClock(wall_ms(), steady_ms(), known)
        # At the last reading.
        self._ahead_ms = 0
        # Held while it is written: a thread goes on with that, whatever is cancelled, and two would
        # take each other's temporary file away.
        self._writing = asyncio.Lock()
        self._task: CriticalTask | None = None

    def read(self) -> int:
        """The time that may be relied on, in ms since the epoch."""
        wall_ms = self._wall_ms()
        trusted_ms = self._clock.read(wall_ms, self._steady_ms())
        ahead_ms = max(0, wall_ms - trusted_ms)
        if ahead_ms > self._ahead_ms + CLOCK_JUMP_MS:
            log.warning("wall_clock_jumped_ahead", ahead_ms=ahead_ms)
        self._ahead_ms = ahead_ms
        return trusted_ms

    def start(self) -> None:
        """Begin to write it down."""
        self._task = CriticalTask(self._run(), name="trusted-time", on_failure=self._on_failure)

    async def stop(self) -> None:
        """Write it down for the last time, when a write under way has ended."""
        if self._task is None:
            return
        async with self._writing:
            self._task.cancel()
        await self._task.stop()
        await self.write()

    async def write(self) -> None:
        """Write it down.

        Raises:
            StorageError: the file cannot be written.
        """
        async with self._writing:
            known = self._clock.known(self._wall_ms(), self._steady_ms())
            try:
                await on_disk_thread(self._directory.write_clock, known)
            except (DiskFullError, NoDescriptorError):
                # An older one is on the disk, and costs an hour at most.
                log.debug("clock_not_written")

    async def _run(self) -> None:
        while True:
            await self.write()
            await asyncio.sleep(WRITE_INTERVAL_MS / 1000)
