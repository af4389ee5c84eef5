"""Notices a disk that hangs: writes that neither end nor fail (`storage.policy.disk_progress`).

Whoever waits for a write of the data directory does so within `writing`. A hung write keeps its
thread in the kernel, where not even a signal ends it; the event loop goes on, and this looks at the
writes LOOK_INTERVAL_MS after LOOK_INTERVAL_MS. What follows from a hang is the broker's to decide:
see `BrokerLifecycle`.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.critical_task import CriticalTask
from ottla_broker.storage.policy.disk_progress import DiskProgress
from ottla_broker.telemetry import METRICS
from ottla_protocol.errors import OttlaError

LOOK_INTERVAL_MS = 100

log = structlog.get_logger()


class DiskWatch:
    """The writes of one data directory.

    Args:
        hang_timeout_ms: how long a write may be under way while nothing else ends.
        on_change: told when the disk begins to hang, and when it works again.
        on_failure: the watch itself failed; the process must stop.
        clock_ms: a clock that never jumps.
    """

    def __init__(
        self,
        *,
        hang_timeout_ms: int,
        on_change: Callable[[bool], None],
        on_failure: Callable[[OttlaError], None],
        clock_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        self._progress = DiskProgress(hang_timeout_ms)
        self._hang_timeout_ms = hang_timeout_ms
        self._on_change = on_change
        self._on_failure = on_failure
        self._clock_ms = clock_ms
        self._task: CriticalTask | None = None

    def start(self) -> None:
        """Begin to look."""
        self._task = CriticalTask(self._run(), name="disk-watch", on_failure=self._on_failure)

    async def stop(self) -> None:
        """Look no more; the last verdict stays."""
        if self._task is not None:
            await self._task.stop()

    @property
    def is_hung(self) -> bool:
        """Whether the disk hangs."""
        return self._progress.is_hung

    @property
    def oldest_write_ms(self) -> int:
        """How long the oldest write has been under way."""
        return self._progress.oldest_ms(self._clock_ms())

    @contextmanager
    def writing(self, *, is_long: bool = False) -> Iterator[None]:
        """Count what the block waits for as one write.

        Args:
            is_long: it may well take several time-outs on a sound disk.
        """
        token = self._progress.began(self._clock_ms(), is_long=is_long)
        try:
            yield
        finally:
            self._progress.ended(token, self._clock_ms())

    async def _run(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(LOOK_INTERVAL_MS / 1000)

    def look(self) -> None:
        """Conclude from what is under way now."""
        before = self._progress.is_hung
        now_ms = self._clock_ms()
        is_hung = self._progress.observe(now_ms)
        oldest_ms = self._progress.oldest_ms(now_ms)
        METRICS.disk_oldest_write_seconds.set(oldest_ms / 1000)
        if is_hung == before:
            return
        METRICS.disk_hung.set(is_hung)
        if is_hung:
            METRICS.disk_hangs.inc()
            log.error("disk_hangs", write_under_way_ms=oldest_ms, timeout_ms=self._hang_timeout_ms)
        else:
            log.info("disk_works_again")
        self._on_change(is_hung)
