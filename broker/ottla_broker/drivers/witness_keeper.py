"""Keeps the witness of the logs' ends and starts (`storage.end_witness`) close behind them.

A sync beside each commit would halve the rate of small commits, so one task writes all ends that
have moved, in one sync for the whole broker, at most WITNESS_INTERVAL_MS late. The end of a log
that does not sync its own commits (`durability=os`) is written with the system's boot id, where it
has one. None is written while a replica is known to lack something: until it has been refilled, the
witness tells what it should have.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from ottla_broker.drivers.critical_task import CriticalTask
from ottla_broker.drivers.disk_threads import on_disk_thread
from ottla_broker.drivers.partition_role import PartitionRole
from ottla_broker.storage.counted_writes import Writing, uncounted
from ottla_broker.storage.disk_full import DiskFullError
from ottla_broker.storage.end_witness import (
    UNKNOWN_START,
    EndWitness,
    ReplicaKey,
    WitnessedEnd,
)
from ottla_broker.storage.sqlite import Durability
from ottla_broker.telemetry import METRICS
from ottla_protocol.errors import OttlaError

WITNESS_INTERVAL_MS = 100
"""How far the witness may lag behind the logs: a loss that only took what was appended in this
time before the broker's end is not noticed."""


class WitnessKeeper:
    """Writes the witness down.

    Args:
        witness: the file; this owns it from `start` on.
        partition: finds a hosted replica; None when it is gone.
        writing: entered for as long as the file is being written.
        on_failure: it cannot be written; the process must stop.
    """

    def __init__(
        self,
        witness: EndWitness,
        *,
        partition: Callable[[ReplicaKey], PartitionRole | None],
        on_failure: Callable[[OttlaError], None],
        writing: Writing = uncounted,
    ) -> None:
        self._witness = witness
        self._partition = partition
        self._writing = writing
        self._on_failure = on_failure
        self._moved: set[ReplicaKey] = set()
        # Their end is told by what was written before, and moves when they have been truncated.
        self._truncating: set[ReplicaKey] = set()
        self._flushing = asyncio.Lock()
        self._task: CriticalTask | None = None

    def start(self) -> None:
        """Begin to write."""
        self._task = CriticalTask(self._run(), name="end-witness", on_failure=self._on_failure)

    async def stop(self) -> None:
        """Write what has moved, and close the file; every log is at rest."""
        if self._task is not None:
            await self._task.stop()
        # Without room for it the file is late, which it always may be.
        with suppress(DiskFullError):
            await self.flush()
        async with self._flushing:
            self._witness.close()

    def moved(self, key: ReplicaKey) -> None:
        """A replica's log is durable up to another end than before."""
        self._moved.add(key)

    @asynccontextmanager
    async def truncating(
        self, partition: PartitionRole, end_offset: int | None
    ) -> AsyncIterator[None]:
        """Write down that a log is about to end at `end_offset`; it is truncated within.

        None where it begins anew, elsewhere: then nothing is known until it has begun. Until this
        is over the log may still say that it ends where it did, which nobody is to write.

        Raises:
            StorageError: it cannot be written.
        """
        self._truncating.add(partition.key)
        self._moved.discard(partition.key)
        try:
            known = self._witness.ends.get(partition.key)
            if known is not None and self._is_told(partition):
                if end_offset is None:
                    self._witness.forget(partition.key)
                elif known.end_offset > end_offset:
                    self._witness.record(partition.key, self._end_of(partition, end_offset))
                await self._write()
            yield
        finally:
            self._truncating.discard(partition.key)
            self._moved.add(partition.key)

    async def mark_short(self, key: ReplicaKey, end_offset: int) -> None:
        """Write down that a replica lacks some of what it had below `end_offset`.

        Before its log is cut, or when it was opened; it holds until the replica is whole again.
        If it is hosted already, its fitness tells of the loss, so that nothing else is written.

        Raises:
            StorageError: it cannot be written.
        """
        hosted = self._partition(key)
        assert hosted is None or hosted.fitness.lost_tail, key
        # An end that it had before must not be written over this.
        self._moved.discard(key)
        known = self._witness.ends.get(key)
        start_offset = UNKNOWN_START
        if known is not None:
            end_offset = max(end_offset, known.end_offset)
            start_offset = known.start_offset
        short = WitnessedEnd(-1, end_offset, is_short=True, start_offset=start_offset)
        self._witness.record(key, short)
        await self._write()

    async def before_removal(self, partition: PartitionRole) -> None:
        """Write down where a log begins, before the files below that are removed.

        Raises:
            StorageError: it cannot be written.
        """
        if partition.fitness.lost_tail:
            self._record_start(partition)
        self._moved.add(partition.key)
        # Without room it is written later, and the files go all the same: they make room. Should
        # the broker end before, the log is refilled without need.
        with suppress(DiskFullError):
            await self.flush()

    async def forget(self, key: ReplicaKey) -> None:
        """Give up the slot of a replica that is removed, before its log is.

        Raises:
            StorageError: it cannot be written.
        """
        self._moved.discard(key)
        self._witness.forget(key)
        # Without room it stays to be written. Removing the log makes room, and what is told of a
        # replica that is not wanted any more is forgotten at the next start.
        with suppress(DiskFullError):
            await self._write()

    async def flush(self) -> None:
        """Write every end that has moved.

        Raises:
            StorageError: they cannot be written.
        """
        moved, self._moved = self._moved, set()
        for key in moved:
            partition = self._partition(key)
            if partition is None or partition.fitness.lost_tail:
                continue
            if key in self._truncating:
                self._record_start(partition)
            elif not self._outlasts_anything(partition):
                # It promises less, so after a loss of power it may well be shorter.
                self._witness.forget(key)
            elif self._is_told(partition):
                end = self._end_of(partition, partition.log.log_end_offset)
                self._witness.record(key, end)
        await self._write()

    def _record_start(self, partition: PartitionRole) -> None:
        """Record where a log begins, beside the end that is known."""
        known = self._witness.ends.get(partition.key)
        if known is not None:
            start_offset = partition.log.log_start_offset
            self._witness.record(partition.key, replace(known, start_offset=start_offset))

    def _end_of(self, partition: PartitionRole, end_offset: int) -> WitnessedEnd:
        syncs_commits = partition.log.durability is Durability.FSYNC
        return WitnessedEnd(
            partition.log.leader_epochs.epoch_at(end_offset - 1),
            end_offset,
            boot_id=None if syncs_commits else self._witness.boot_id,
            start_offset=partition.log.log_start_offset,
        )

    def _outlasts_anything(self, partition: PartitionRole) -> bool:
        """Whether the replica's end says something to a later process."""
        syncs_commits = partition.log.durability is Durability.FSYNC
        return syncs_commits or self._witness.boot_id is not None

    def _is_told(self, partition: PartitionRole) -> bool:
        return (
            self._outlasts_anything(partition)
            and not partition.fitness.lost_tail
            and partition.log.failure is None
        )

    async def _write(self) -> None:
        async with self._flushing:
            if self._witness.is_dirty:
                with self._writing():
                    written = await on_disk_thread(self._witness.flush)
                METRICS.witnessed_ends.inc(written)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(WITNESS_INTERVAL_MS / 1000)
            # Late while there is no room, but never early: what moved stays to be written.
            with suppress(DiskFullError):
                await self.flush()
