"""Compacts the logs of compacted topics on this broker, whether they are led here or followed.

Each replica compacts its own copy. What stays is the same everywhere in the end, though not at
every moment, and not in the same batches. One log is compacted at a time, at a bounded pace, so
that the disk and the processor stay with those who write and read.

A log that cannot be compacted, because a segment is damaged or the disk is full, is left alone for
RETRY_INTERVAL_MS, and no other log for that. What is left of a segment is written before that goes,
so the disk is asked for that much room first.
"""

import asyncio
from collections.abc import Callable

import structlog

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.critical_task import CriticalTask
from ottla_broker.drivers.partition import Partition
from ottla_broker.drivers.replica_manager import ReplicaManager
from ottla_broker.storage.disk_full import DiskFullError
from ottla_broker.storage.log_compactor import CompactionLimits, CompactionResult
from ottla_broker.storage.stored_batch import DamagedSegmentError
from ottla_broker.telemetry import METRICS
from ottla_protocol.errors import OttlaError, StorageError, UnavailableError

RETRY_INTERVAL_MS = 10 * 60 * 1000
"""How long a log that could not be compacted is left alone."""

log = structlog.get_logger()


class LogCompactionTask:
    """One task that looks at every log of this broker.

    Args:
        replicas: the hosted replicas.
        interval_ms: how often they are looked at.
        limits: what one compaction may take.
        on_failure: a log failed; the process must stop.
        trusted_ms: the time by which tombstones are old, see `TrustedTime`.
        steady_ms: the monotonic clock.
    """

    def __init__(
        self,
        *,
        replicas: ReplicaManager,
        interval_ms: int,
        limits: CompactionLimits,
        on_failure: Callable[[OttlaError], None],
        trusted_ms: Callable[[], int],
        steady_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        self._replicas = replicas
        self._interval_ms = interval_ms
        self._limits = limits
        self._on_failure = on_failure
        self._trusted_ms = trusted_ms
        self._steady_ms = steady_ms
        # Logs that could not be compacted, and when to try again, on the monotonic clock.
        self._not_before_ms: dict[tuple[str, int], int] = {}
        self._task: CriticalTask | None = None

    def start(self) -> None:
        """Begin to look."""
        self._task = CriticalTask(self._run(), name="log-compaction", on_failure=self._on_failure)

    async def stop(self) -> None:
        """End; a compaction that is under way leaves what it has put in place."""
        if self._task is not None:
            await self._task.stop()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval_ms / 1000)
            await self.compact_all()

    async def compact_all(self) -> None:
        """Compact every log that is due, one after the other.

        Raises:
            StorageError: a log failed.
        """
        hosted = tuple(self._replicas.partitions.values())
        known = {partition.key for partition in hosted}
        self._not_before_ms = {
            key: at_ms for key, at_ms in self._not_before_ms.items() if key in known
        }
        for partition in hosted:
            if partition.log.config.compaction is None:
                continue
            if self._steady_ms() < self._not_before_ms.get(partition.key, 0):
                continue
            await self._compact(partition)

    async def _compact(self, partition: Partition) -> None:
        """Compact one log to its end, in as many steps as the table of keys makes it."""
        is_complete = False
        while not is_complete:
            started_ms = self._steady_ms()
            now_ms = self._trusted_ms()
            try:
                result = await partition.compact(now_ms, self._limits)
            except UnavailableError:
                return
            except StorageError as error:
                if partition.log.failure is not None:
                    raise
                self._failed(partition, error)
                return
            if result is None:
                return
            self._done(partition, result, self._steady_ms() - started_ms)
            is_complete = result.is_complete

    def _failed(self, partition: Partition, error: StorageError) -> None:
        reason = "storage"
        if isinstance(error, DamagedSegmentError):
            reason = "damage"
        elif isinstance(error, DiskFullError):
            reason = "room"
        METRICS.compaction_errors.labels(reason).inc()
        log.error(
            "compaction_failed", partition=partition.name, reason=reason, detail=error.detail,
            retry_after_ms=RETRY_INTERVAL_MS,
        )  # fmt: skip
        self._not_before_ms[partition.key] = self._steady_ms() + RETRY_INTERVAL_MS

    def _done(self, partition: Partition, result: CompactionResult, after_ms: int) -> None:
        counts = result.counts
        METRICS.compactions.inc()
        METRICS.compaction_seconds.inc(after_ms / 1000)
        METRICS.compaction_read_bytes.inc(counts.bytes_read)
        METRICS.compaction_bytes_before.inc(result.size_bytes_before)
        METRICS.compaction_bytes_after.inc(result.size_bytes_after)
        METRICS.compacted_records.labels("superseded").inc(counts.superseded)
        METRICS.compacted_records.labels("tombstone").inc(counts.tombstones_removed)
        METRICS.compacted_records.labels("no_key").inc(counts.without_key)
        METRICS.compacted_records.labels("aborted").inc(counts.aborted)
        log.info(
            "log_compacted", partition=partition.name, cleaned_to=result.cleaned_to,
            segments_before=result.segments_before, segments_after=result.segments_after,
            size_bytes_before=result.size_bytes_before, size_bytes_after=result.size_bytes_after,
            superseded=counts.superseded, tombstones_removed=counts.tombstones_removed,
            without_key=counts.without_key, undecodable_batches=counts.undecodable_batches,
            aborted=counts.aborted, markers_removed=counts.markers_removed,
            after_ms=after_ms,
        )  # fmt: skip
