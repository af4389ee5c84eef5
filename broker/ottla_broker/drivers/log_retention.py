"""Keeps every log on this broker as long and as large as its topic says, and not longer.

The leader decides. Once in `interval_ms` each log that is led here gives up what its topic's
configs let go, and its start moves. Followers learn the new start from their next fetch and give up
the same: all replicas begin at one offset, a broker with a wrong clock or a different cut of its
segments deletes nothing by itself, and what an unelected leader has not let go stays everywhere.

Files go afterwards, a log at a time, on leaders and followers alike.
"""

import asyncio
from collections.abc import Callable

import structlog

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.critical_task import CriticalTask
from ottla_broker.drivers.partition import Partition
from ottla_broker.drivers.replica_manager import ReplicaManager
from ottla_broker.storage.disk_full import DiskFullError
from ottla_broker.telemetry import METRICS
from ottla_protocol.errors import OttlaError, RoutingError, StorageError, UnavailableError

REMOVE_INTERVAL_MS = 1_000
"""How soon files go once a log's start has moved past them."""

log = structlog.get_logger()


class LogRetention:
    """One task that looks at every log of this broker.

    Args:
        replicas: the hosted replicas, with their roles.
        interval_ms: how often the logs that are led here are held against their limits.
        on_failure: a log failed; the process must stop.
        trusted_ms: the time by which records are old, see `TrustedTime`.
        steady_ms: the monotonic clock.
    """

    def __init__(
        self,
        *,
        replicas: ReplicaManager,
        interval_ms: int,
        on_failure: Callable[[OttlaError], None],
        trusted_ms: Callable[[], int],
        steady_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        self._replicas = replicas
        self._interval_ms = interval_ms
        self._on_failure = on_failure
        self._trusted_ms = trusted_ms
        self._steady_ms = steady_ms
        self._task: CriticalTask | None = None

    def start(self) -> None:
        """Begin to look."""
        self._task = CriticalTask(self._run(), name="log-retention", on_failure=self._on_failure)

    async def stop(self) -> None:
        """End; a file that is being removed may be gone or stay."""
        if self._task is not None:
            await self._task.stop()

    async def _run(self) -> None:
        due_ms = self._steady_ms() + self._interval_ms
        while True:
            await asyncio.sleep(min(REMOVE_INTERVAL_MS, self._interval_ms) / 1000)
            if self._steady_ms() >= due_ms:
                await self.enforce()
                due_ms = self._steady_ms() + self._interval_ms
            await self.remove_expired()

    async def enforce(self) -> None:
        """Move the starts of the logs that are led here.

        A segment that cannot be read keeps its log as long as it is, and no other.

        Raises:
            StorageError: a log failed.
        """
        now_ms = self._trusted_ms()
        for hosted in tuple(self._replicas.leaders()):
            before = hosted.log.log_start_offset
            try:
                await hosted.enforce_retention(now_ms)
            except (RoutingError, UnavailableError):
                # Not led here any more, or its files are being changed: whoever leads will look.
                continue
            except StorageError as error:
                if hosted.log.failure is not None:
                    raise
                METRICS.retention_errors.inc()
                log.warning("retention_failed", partition=hosted.name, detail=error.detail)
                continue
            if hosted.log.log_start_offset > before:
                log.info(
                    "log_start_moved",
                    partition=hosted.name,
                    before=before,
                    after=hosted.log.log_start_offset,
                )

    async def remove_expired(self) -> None:
        """Remove the files below the starts of the logs whose starts have moved.

        Raises:
            StorageError: a log failed.
        """
        moved = self._replicas.activity.log_start_moved
        for key in tuple(moved):
            hosted = self._replicas.partitions.get(key)
            # Before its turn: the start may move on meanwhile.
            moved.discard(key)
            if hosted is None:
                continue
            try:
                await self._remove_expired(hosted)
            except (UnavailableError, DiskFullError):
                # Without room even sealing the active segment has to wait.
                moved.add(key)
                continue
            if hosted.log.cleanup.has_expired:
                moved.add(key)

    async def _remove_expired(self, hosted: Partition) -> None:
        removed = await self._replicas.remove_expired(hosted)
        if removed.count:
            METRICS.removed_segments.inc(removed.count)
            METRICS.removed_bytes.inc(removed.size_bytes)
            log.info(
                "segments_removed",
                partition=hosted.name,
                segments=removed.count,
                size_bytes=removed.size_bytes,
                log_start_offset=hosted.log.log_start_offset,
            )
