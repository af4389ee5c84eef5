"""What one asks a log without changing it: where it begins and ends, its batches, its transactions.

All methods are called on the event loop's thread. What is read belongs to the log as it was then:
`taken_away_count` tells whether anything of it has gone since.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from ottla_broker.storage.disk_full import DiskFullError, NoDescriptorError
from ottla_broker.storage.group_commit import GroupCommit
from ottla_broker.storage.log_aborts import LogAborts
from ottla_broker.storage.log_appender import LogAppender
from ottla_broker.storage.log_config import LogConfig
from ottla_broker.storage.log_damage import LogDamage
from ottla_broker.storage.log_files import LogFiles
from ottla_broker.storage.log_reader import LogReader
from ottla_broker.storage.log_state import LogState
from ottla_broker.storage.log_transactions import OpenTransaction
from ottla_broker.storage.policy.open_transactions import AbortedTransaction
from ottla_broker.storage.policy.producer_state import ProducerStates
from ottla_broker.storage.sqlite import Durability
from ottla_broker.storage.stored_batch import StoredBatch
from ottla_broker.storage.tail_cache import PartitionTail
from ottla_cluster.replication.leader_epochs import LeaderEpochs
from ottla_protocol.errors import OverloadedError, StorageError
from ottla_protocol.record_batch import BatchHeader


@contextmanager
def _descriptors_come_free() -> Iterator[None]:
    """A read that finds no file descriptor is not one of a broken disk: it may come again."""
    try:
        yield
    except NoDescriptorError as error:
        raise OverloadedError(
            "this broker has no free file descriptor to read these records with",
            retry_after_seconds=1,
        ) from error


class ReadableLog:
    """The log of one replica, for whoever looks at it.

    Args:
        files: the segments.
        commits: the queue for the disk, with the batches that are not durable yet.
        appender: has the state of the log's end.
        tail: the newest batches that are cached.
        damage: is told what a read comes upon.
    """

    def __init__(
        self,
        files: LogFiles,
        commits: GroupCommit,
        appender: LogAppender,
        tail: PartitionTail,
        damage: LogDamage,
    ) -> None:
        self.damage = damage
        """What was found since it was opened: `PartitionLog.cut_at_damage` takes it away, for a
        replica that can refetch."""
        self._files = files
        self._commits = commits
        self._appender = appender
        self._tail = tail
        self._reader = LogReader(files, tail, commits, lambda: self.next_offset)
        self._aborts = LogAborts(
            files, lambda: self._state, lambda error: self.damage.found(error, "read")
        )

    # --- what the log is ----------------------------------------------------------------------

    @property
    def config(self) -> LogConfig:
        """Its limits, as `reconfigure` last set them."""
        return self._appender.config

    @property
    def durability(self) -> Durability:
        """What every commit up to `log_end_offset` has kept to; `config` may ask for another yet.

        A change to `fsync` counts once all that was committed before is synced too.
        """
        return self._files.durability

    @property
    def _state(self) -> LogState:
        return self._appender.state

    @property
    def log_start_offset(self) -> int:
        """The first offset that is kept."""
        return self._files.log_start_offset

    @property
    def next_offset(self) -> int:
        """The offset that the next record gets; may be ahead of the disk."""
        return self._state.next_offset

    @property
    def log_end_offset(self) -> int:
        """The durable end: everything below is committed, and synced unless durability is os."""
        return self._commits.durable_end

    @property
    def leader_epochs(self) -> LeaderEpochs:
        """Which epoch wrote which offsets, up to `next_offset`."""
        return self._state.leader_epochs

    @property
    def last_batch_epoch(self) -> int:
        """Leader epoch of the last batch; -1 in an empty log.

        Where a truncation has left missing offsets behind the last batch (only a log that was
        fetched from a compacted one has any), it may be that of the missing ones after a restart.
        """
        return self._state.last_batch_epoch

    @property
    def size_bytes(self) -> int:
        """File bytes of sealed segments and batch bytes of the active one."""
        return self._files.size_bytes

    @property
    def pending_bytes(self) -> int:
        """Batch bytes that are queued for the disk."""
        return self._commits.pending_bytes

    @property
    def failure(self) -> StorageError | None:
        """Why the log takes no more writes; None while it does."""
        return self._commits.failure

    @property
    def held(self) -> DiskFullError | None:
        """Why commits are held, for want of room on the disk; None while they are not."""
        return self._commits.held

    # --- transactions -------------------------------------------------------------------------

    def last_stable_offset(self, high_watermark: int) -> int:
        """The end of what readers of committed records may see; see `OpenTransactions`.

        Args:
            high_watermark: as this replica knows it. What is below is not asked about again.
        """
        stable = self._state.transactions.last_stable_offset(high_watermark)
        # All below the log's start was decided, though this replica may have forgotten since.
        return max(stable, self.log_start_offset)

    @property
    def producers(self) -> ProducerStates:
        """What the log knows of producers at its end; another object after each truncation."""
        return self._state.producers

    def is_in_transaction(self, header: BatchHeader) -> bool:
        """See `ProducerStates.is_in_transaction`."""
        return self._state.producers.is_in_transaction(header)

    def open_transactions(self) -> tuple[OpenTransaction, ...]:
        """Those without a marker, the oldest first."""
        return tuple(
            OpenTransaction(producer_id, producer.epoch, first_offset, producer.last_timestamp)
            for producer_id, first_offset in self._state.transactions.open_since()
            if (producer := self._state.producers.get(producer_id)) is not None
        )

    @property
    def taken_away_count(self) -> int:
        """How often a truncation or a compaction took batches away, with what is told of them.

        While it stays the same, and the log's start does, what was read is still in the log.
        """
        return self._files.taken_away_count

    def aborted_in_memory(
        self, from_offset: int, end_offset: int
    ) -> tuple[AbortedTransaction, ...] | None:
        """As `aborted_transactions`; None where segments must be read."""
        return self._aborts.in_memory(from_offset, end_offset)

    async def aborted_transactions(
        self, from_offset: int, end_offset: int
    ) -> tuple[AbortedTransaction, ...]:
        """The aborted transactions that may have records in a half-open range of offsets.

        Those whose marker is in the log; so all of them, where the range ends at the last stable
        offset or below.

        Raises:
            OverloadedError: no file descriptor is free.
            StorageError: what is on disk is damaged or cannot be read.
        """
        found = self._aborts.in_memory(from_offset, end_offset)
        if found is not None:
            return found
        with self.damage.noted("read"), _descriptors_come_free():
            return await self._aborts.find(from_offset, end_offset)

    # --- reading ------------------------------------------------------------------------------

    def read_tail(
        self, offset: int, *, max_bytes: int, limit: int
    ) -> tuple[StoredBatch, ...] | None:
        """As `read`, from memory alone; None when `offset` is not in memory."""
        return self._reader.read_tail(offset, max_bytes=max_bytes, limit=limit)

    async def read(self, offset: int, *, max_bytes: int, limit: int) -> tuple[StoredBatch, ...]:
        """Whole batches from the one that holds `offset` on, or the next one above a gap.

        Args:
            offset: where to begin.
            max_bytes: most bytes in all; the first batch is returned even if it is larger.
            limit: exclusive upper bound: only batches whose last offset is below it.

        Returns:
            The batches in order; empty when there is none below `limit`. Fewer than `max_bytes`
            where a segment ends.

        Raises:
            OffsetOutOfRangeError: outside [log_start_offset, next_offset], which are its members.
            OverloadedError: no file descriptor is free.
            StorageError: what is on disk is damaged or cannot be read.
        """
        with self.damage.noted("read"), _descriptors_come_free():
            return await self._reader.read(offset, max_bytes=max_bytes, limit=limit)

    async def next_readable(self, offset: int) -> int:
        """The first offset at or above `offset` that a read can begin at: behind damage."""
        with _descriptors_come_free():
            return await self._reader.next_readable(offset)

    async def find_timestamp(
        self, timestamp: int, *, limit: int, offset: int | None = None
    ) -> StoredBatch | None:
        """The first batch whose header tells of a record at or after `timestamp`, in ms.

        Args:
            timestamp: what to look for; timestamps need not rise.
            limit: only a batch whose last offset is below it.
            offset: begin with the first batch that does not end below it; None for the log's
                start.

        Raises:
            OverloadedError: no file descriptor is free.
            StorageError: what is on disk is damaged or cannot be read.
        """
        with self.damage.noted("read"), _descriptors_come_free():
            return await self._reader.find_timestamp(timestamp, limit=limit, offset=offset)
