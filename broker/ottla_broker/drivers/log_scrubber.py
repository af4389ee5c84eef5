"""Reads every log on this broker now and then, so that damage which nobody reads is found.

Disks lose bits in silence, and a replica whose damage is not known counts as a copy until the day
on which it is needed. So each pass verifies all batches of all replicas, leaders and followers
alike, oldest first and at a fixed rate; whatever is found is healed as if a reader had found it.
The reads take the way of `LogInspector.verify`: through the log's own connections, in steps that
are small enough for whoever commits to the same file.

What the operating system has cached is read from there: a bit that changed on the disk since shows
only once the page has left the cache, which pages that nobody uses do.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.critical_task import CriticalTask
from ottla_broker.drivers.partition import Partition
from ottla_broker.drivers.replica_manager import ReplicaManager
from ottla_broker.storage.disk_full import DiskFullError, is_disk_failure
from ottla_broker.storage.segment_verification import Finding, check_sealed_pages
from ottla_broker.storage.stored_batch import DamagedSegmentError
from ottla_broker.telemetry import METRICS
from ottla_protocol.errors import OttlaError, StorageError, UnavailableError

FIRST_PASS_AFTER_MS = 60_000
"""How long after the start the first pass begins, at the latest."""

STEP_COST_BYTES = 64 << 10
"""What a step counts for at least, so that many small logs are not verified in a rush."""

log = structlog.get_logger()


class LogScrubber:
    """One task that verifies log after log.

    Args:
        replicas: the hosted replicas.
        interval_ms: from the beginning of one pass to that of the next; a pass that takes longer
            is followed by the next at once.
        bytes_per_second: of record batches; 0 for no scrubbing.
        on_failure: a defect ended the loop; the process must stop.
    """

    def __init__(
        self,
        *,
        replicas: ReplicaManager,
        interval_ms: int,
        bytes_per_second: int,
        on_failure: Callable[[OttlaError], None],
    ) -> None:
        self._replicas = replicas
        self._interval_ms = interval_ms
        self._bytes_per_second = bytes_per_second
        self._on_failure = on_failure
        self._task: CriticalTask | None = None

    def start(self) -> None:
        """Begin the first pass, after a while."""
        if self._bytes_per_second > 0:
            self._task = CriticalTask(self._run(), name="log-scrubber", on_failure=self._on_failure)

    async def stop(self) -> None:
        """End where it is."""
        if self._task is not None:
            await self._task.stop()

    async def _run(self) -> None:
        await asyncio.sleep(min(self._interval_ms, FIRST_PASS_AFTER_MS) / 1000)
        while True:
            begun_ms = monotonic_ms()
            await self.scrub()
            await asyncio.sleep(max(0, begun_ms + self._interval_ms - monotonic_ms()) / 1000)

    async def scrub(self) -> None:
        """One pass over every log that is hosted now."""
        keys = list(self._replicas.partitions)
        for index, key in enumerate(keys):
            METRICS.scrub_progress.set(index / len(keys))
            hosted = self._replicas.partitions.get(key)
            if hosted is None:
                continue
            try:
                await self._scrub(hosted)
            except UnavailableError:
                # Closed meanwhile.
                continue
            except StorageError as error:
                if hosted.log.failure is not None or _has_disk_failed(error):
                    raise
                log.warning("scrub_failed", partition=hosted.name, detail=error.detail)
        METRICS.scrub_progress.set(1)
        METRICS.scrub_passes.inc()

    async def _scrub(self, hosted: Partition) -> None:
        offset: int | None = hosted.log.log_start_offset
        while offset is not None:
            begun_ms = monotonic_ms()
            step = await hosted.log.inspector.verify(offset, found_by="scrub")
            METRICS.scrubbed_bytes.inc(step.read_bytes)
            cost_bytes = max(step.read_bytes, STEP_COST_BYTES)
            offset = step.next_offset
            if step.segment.sealed and offset == step.segment_end and not step.segment.findings:
                cost_bytes += await self._check_pages(hosted, step.segment.path)
            if step.segment.findings and not hosted.is_only_replica:
                # The rest is cut off and fetched again, or another replica leads first.
                return
            pause_ms = cost_bytes * 1000 // self._bytes_per_second
            await asyncio.sleep(max(0, begun_ms + pause_ms - monotonic_ms()) / 1000)

    async def _check_pages(self, hosted: Partition, path: Path) -> int:
        """Have SQLite check a sealed file's pages, as a whole; returns its size.

        What no batch lies in, such as a page's list of free room, is looked at by nobody else.
        """
        findings, size_bytes = await asyncio.to_thread(_checked, path)
        for finding in findings:
            told = DamagedSegmentError(finding.reason, path=path, offset=finding.offset)
            hosted.log.damage.found(told, "scrub")
        return size_bytes


def _has_disk_failed(error: StorageError) -> bool:
    """Whether the disk does not read: what is on it is unknown then, so the broker stops."""
    return not isinstance(error, DiskFullError) and is_disk_failure(error.__cause__)


def _checked(path: Path) -> tuple[list[Finding], int]:
    """What is wrong with a file's pages, and its size in bytes; blocking."""
    findings = check_sealed_pages(path)
    return findings, path.stat().st_size if path.exists() else 0
