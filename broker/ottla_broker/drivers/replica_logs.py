"""The replicas' logs in the data directory: opened, retired, and their high watermarks kept.

A directory whose topic id is not wanted any more, or lies where a namesake's should, is moved aside
before anything reads it, then removed.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from operator import itemgetter
from typing import Final, TypeVar

import structlog

from ottla_broker.drivers.disk_threads import on_disk_thread
from ottla_broker.storage.counted_writes import Writing, uncounted
from ottla_broker.storage.disk_full import DiskFullError
from ottla_broker.storage.end_witness import EndWitness, WitnessedEnd
from ottla_broker.storage.group_commit import Group
from ottla_broker.storage.handles import HandlePool
from ottla_broker.storage.log_config import LogConfig
from ottla_broker.storage.log_directory import LogDirectory, ReplicaDirectory, high_watermark_key
from ottla_broker.storage.log_listeners import LogListeners
from ottla_broker.storage.partition_log import PartitionLog
from ottla_broker.storage.policy.compaction import CompactionConfig
from ottla_broker.storage.policy.retention import NEVER
from ottla_broker.storage.policy.tail_loss import TailLoss, find_tail_loss
from ottla_broker.storage.sqlite import Durability
from ottla_broker.storage.stored_batch import RECORD_COUNT, DamagedSegmentError
from ottla_broker.storage.tail_cache import TailCache
from ottla_broker.telemetry import METRICS
from ottla_cluster.controller.image import Partition, Topic
from ottla_cluster.controller.topic_configs import (
    COMPACT,
    DELETE,
    DELETE_RETENTION_MS,
    DURABILITY,
    MAX_COMPACTION_LAG_MS,
    MAX_MESSAGE_BYTES,
    MESSAGE_TIMESTAMP_AFTER_MAX_MS,
    MESSAGE_TIMESTAMP_TYPE,
    MIN_CLEANABLE_DIRTY_RATIO,
    MIN_COMPACTION_LAG_MS,
    RETENTION_BYTES,
    RETENTION_MS,
    SEGMENT_BYTES,
    SEGMENT_MS,
    ConfigValue,
    cleanup_policies,
    effective_configs,
    fraction_config,
    integer_config,
    obeyed_configs,
)
from ottla_protocol.errors import StorageError

log = structlog.get_logger()

T = TypeVar("T")

RETRY_WITHOUT_ROOM_MS: Final = 1_000
"""How often a log that the disk has no room to open is tried again."""

_RECORDS_OF: Final = itemgetter(RECORD_COUNT)

ReplicaKey = tuple[str, int]
"""Topic id and partition."""


def report_damage(partition: str, error: DamagedSegmentError, found_by: str) -> None:
    """Name damage that was found in an open log, in the log of the process and in a metric."""
    METRICS.damage.labels(found_by).inc()
    log.error(
        "segment_damaged",
        partition=partition,
        file=None if error.path is None else error.path.name,
        offset=error.members.get("offset"),
        found_by=found_by,
        detail=error.detail,
    )


def measure_commit(group: Group, seconds: float) -> None:
    """Tell the metrics of a group commit; one of an epoch alone is not like the others."""
    if group.rows:
        METRICS.commit_seconds.observe(seconds)
        METRICS.commit_bytes.observe(group.size_bytes)
        METRICS.commit_batches.observe(len(group.rows))
        METRICS.commit_records.observe(sum(map(_RECORDS_OF, group.rows)))


class ReplicaLogs:
    """Opens and removes logs; all blocking work runs on threads.

    Args:
        directory: the broker's data directory.
        handles: the broker's pool of open files.
        tail_cache: the broker's cache of newest batches.
        defaults: limits that no topic config sets.
        witness: tells where the logs ended.
        writing: entered for as long as something is being written.
        on_failure: a log failed; the process must stop.
    """

    def __init__(
        self,
        *,
        directory: LogDirectory,
        handles: HandlePool,
        tail_cache: TailCache,
        defaults: LogConfig,
        witness: EndWitness,
        on_failure: Callable[[StorageError], None],
        writing: Writing = uncounted,
    ) -> None:
        self._directory = directory
        self._handles = handles
        self._tail_cache = tail_cache
        self._witness = witness
        self._writing = writing
        self._on_failure = on_failure
        self._defaults = defaults
        self._high_watermarks: dict[str, int] = {}
        self._on_disk: dict[str, int] = {}
        # Held while they are written: what is forgotten meanwhile must not come back. A partition
        # that was moved away may return, and would find its former high watermark above an empty
        # log.
        self._writing_high_watermarks = asyncio.Lock()

    async def prepare(self, wanted: Collection[ReplicaKey]) -> None:
        """Read the checkpoint, and remove whatever on disk is not wanted (any more).

        Raises:
            StorageError: the directory cannot be read or changed.
        """
        self._high_watermarks = await asyncio.to_thread(self._directory.read_high_watermarks)
        self._on_disk = dict(self._high_watermarks)
        if self._witness.damaged_slots:
            log.error("witness_damaged", slots=self._witness.damaged_slots)
        for key in [key for key in self._witness.ends if key not in wanted]:
            self._witness.forget(key)
        await asyncio.to_thread(self._directory.remove_all_retired)
        for replica in await asyncio.to_thread(self._directory.replicas):
            if (replica.topic_id, replica.partition) not in wanted:
                await self._remove(replica)

    async def open(
        self,
        topic: Topic,
        state: Partition,
        *,
        on_durable: Callable[[int], None],
        on_held: Callable[[DiskFullError], None],
        on_damage: Callable[[], object] = lambda: None,
        at_once: asyncio.Semaphore | None = None,
    ) -> PartitionLog:
        """Open the replica's log, or begin one; the callbacks are those of `LogListeners`.

        `on_damage` is told that some was found, after it was named. `at_once` bounds the logs that
        are being opened; one that waits for room is none of them.

        What recovery has to write may find no room: then it is tried again until it does, and
        `on_held` is told each time. The broker is not ready until then.

        Raises:
            StorageError: its files cannot be used.
        """

        def damaged(error: DamagedSegmentError, found_by: str) -> None:
            report_damage(f"{topic.name}-{state.partition}", error, found_by)
            on_damage()

        async def open_now() -> PartitionLog:
            async with at_once or contextlib.nullcontext():
                return await PartitionLog.open(
                    self._directory.replica_path(topic.name, state.partition),
                    topic=topic.name,
                    topic_id=topic.topic_id,
                    partition=state.partition,
                    config=self.config_of(topic),
                    handles=self._handles,
                    tail_cache=self._tail_cache,
                    listeners=LogListeners(
                        on_durable=on_durable,
                        on_failure=self._on_failure,
                        on_damage=damaged,
                        on_held=on_held,
                        on_commit=measure_commit,
                    ),
                    writing=self._writing,
                    first_offset=state.first_offset,
                )

        opened = await self.when_there_is_room(f"{topic.name}-{state.partition}", on_held, open_now)
        if opened.recovery.damaged_from is not None:
            METRICS.damage.labels("recovery").inc()
            log.error(
                "log_damaged",
                partition=f"{topic.name}-{state.partition}",
                damaged_from=opened.recovery.damaged_from,
                recovered_to=opened.log_end_offset,
                reason=opened.recovery.reason,
            )
        return opened

    async def when_there_is_room(
        self,
        partition: str,
        on_held: Callable[[DiskFullError], None],
        action: Callable[[], Awaitable[T]],
    ) -> T:
        """Do what a replica cannot be used without, trying again while the disk has no room.

        Args:
            partition: for the log line.
            on_held: told each time that there is none.
            action: leaves all as it was, or may go on, when it raises DiskFullError.
        """
        is_said = False
        while True:
            try:
                return await action()
            except DiskFullError as error:
                full = error
            on_held(full)
            if not is_said:
                is_said = True
                log.error("log_waits_for_room", partition=partition, detail=full.detail)
            await asyncio.sleep(RETRY_WITHOUT_ROOM_MS / 1000)

    def tail_loss(self, opened: PartitionLog) -> TailLoss | None:
        """What a log that was just opened is known to have lost at its end; None for nothing."""
        identity = opened.identity
        key = identity.topic_id, identity.partition
        witnessed = self._witness.ends.get(key)
        syncs_commits = opened.config.durability == Durability.FSYNC
        loss = find_tail_loss(
            log_end_offset=opened.log_end_offset,
            leader_epochs=opened.leader_epochs,
            damage=self._damage(opened),
            witnessed=(
                None if witnessed is None else (witnessed.leader_epoch, witnessed.end_offset)
            ),
            outlasts_witness=self._outlasts(witnessed, syncs_commits=syncs_commits),
            is_short=witnessed is not None and witnessed.is_short,
            high_watermark=self.high_watermark(key),
            syncs_commits=syncs_commits,
        )
        if loss is not None:
            METRICS.lost_tails.inc()
            log.error(
                "log_lost_its_end",
                partition=f"{identity.topic}-{identity.partition}",
                log_end_offset=loss.log_end_offset,
                expected_end_offset=loss.expected_end_offset,
                reason=loss.reason,
            )
        return loss

    def lost_start(self, opened: PartitionLog) -> int | None:
        """Where a log began whose first files are missing; None where none are known to be."""
        identity = opened.identity
        witnessed = self._witness.ends.get((identity.topic_id, identity.partition))
        if witnessed is None or opened.log_start_offset <= witnessed.start_offset:
            return None
        return witnessed.start_offset

    def _damage(self, opened: PartitionLog) -> str | None:
        lost_start = self.lost_start(opened)
        if lost_start is None:
            return opened.recovery.reason or None
        missing = f"files from offset {lost_start} to {opened.log_start_offset} are missing"
        return "; ".join(filter(None, (opened.recovery.reason, missing)))

    def _outlasts(self, witnessed: WitnessedEnd | None, *, syncs_commits: bool) -> bool:
        if witnessed is None or witnessed.boot_id is None:
            return syncs_commits
        return witnessed.boot_id == self._witness.boot_id

    def config_of(self, topic: Topic) -> LogConfig:
        """The limits of a topic's logs: the broker's own, and what the topic's configs say."""
        configs = obeyed_configs(topic.name, topic.configs)
        # What is being restored may be older than all that retention keeps, and is not whole yet.
        policies = cleanup_policies(configs) if topic.restore_id is None else frozenset()
        deletes = DELETE in policies
        return replace(
            self._defaults,
            segment_bytes=integer_config(configs, SEGMENT_BYTES),
            segment_ms=integer_config(topic.configs, SEGMENT_MS),
            retention_ms=integer_config(configs, RETENTION_MS) if deletes else NEVER,
            retention_bytes=integer_config(configs, RETENTION_BYTES) if deletes else NEVER,
            compaction=_compaction_of(configs) if COMPACT in policies else None,
            timestamp_type=str(effective_configs(topic.configs)[MESSAGE_TIMESTAMP_TYPE]),
            timestamp_after_max_ms=integer_config(topic.configs, MESSAGE_TIMESTAMP_AFTER_MAX_MS),
            max_batch_bytes=integer_config(topic.configs, MAX_MESSAGE_BYTES),
            durability=str(effective_configs(topic.configs)[DURABILITY]),
        )

    async def delete(self, closed: PartitionLog) -> None:
        """Remove a closed log: moved aside at once, so that a namesake may come.

        Raises:
            StorageError: it cannot be removed.
        """
        identity = closed.identity
        await self._remove(
            ReplicaDirectory(
                identity.topic, identity.topic_id, identity.partition, closed.directory
            )
        )
        async with self._writing_high_watermarks:
            key = high_watermark_key(identity.topic_id, identity.partition)
            self._high_watermarks.pop(key, None)

    async def _remove(self, replica: ReplicaDirectory) -> None:
        retired = await asyncio.to_thread(self._directory.retire, replica)
        await asyncio.to_thread(self._directory.remove_retired, retired)
        log.info(
            "replica_removed",
            partition=f"{replica.topic}-{replica.partition}",
            topic_id=replica.topic_id,
        )

    def high_watermark(self, key: ReplicaKey) -> int:
        """As last written down; 0 when it never was."""
        return self._high_watermarks.get(high_watermark_key(*key), 0)

    async def write_high_watermarks(self, high_watermarks: Mapping[ReplicaKey, int]) -> None:
        """Write down the high watermarks of all hosted replicas.

        Raises:
            StorageError: they cannot be written.
        """
        async with self._writing_high_watermarks:
            # Merged: those whose logs are still being opened keep what was written down before.
            by_key = self._high_watermarks | {
                high_watermark_key(*key): value for key, value in high_watermarks.items()
            }
            if by_key != self._on_disk:
                with self._writing():
                    await on_disk_thread(self._directory.write_high_watermarks, by_key)
                self._high_watermarks, self._on_disk = by_key, dict(by_key)


def _compaction_of(configs: Mapping[str, ConfigValue]) -> CompactionConfig:
    return CompactionConfig(
        min_dirty_ratio=fraction_config(configs, MIN_CLEANABLE_DIRTY_RATIO),
        min_lag_ms=integer_config(configs, MIN_COMPACTION_LAG_MS),
        max_lag_ms=integer_config(configs, MAX_COMPACTION_LAG_MS),
        delete_retention_ms=integer_config(configs, DELETE_RETENTION_MS),
    )
