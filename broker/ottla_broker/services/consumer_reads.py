"""Consumers' reads of one partition: at its leader, at a follower in sync, or of a copy as it is.

Each reaches up to the high watermark that the broker knows, or up to the last stable offset for
whoever reads committed records (KIP-98). For those, what was aborted and markers are left out here,
so that no client has to.
"""

from abc import abstractmethod
from collections.abc import Iterable, Sequence

from ottla_broker.drivers.partition import Partition
from ottla_broker.drivers.purgatory import Watchers
from ottla_broker.services.committed_batches import committed_batches, has_transactions
from ottla_broker.services.reading import PartitionRead
from ottla_broker.storage.policy.open_transactions import AbortedTransaction
from ottla_broker.storage.stored_batch import DamagedSegmentError, StoredBatch
from ottla_protocol.errors import (
    LogTruncatedError,
    OffsetNotAvailableError,
    ReplicaNotAvailableError,
    StorageError,
)
from ottla_protocol.models import Isolation

PASSED_BYTES_MAX = 16 << 20
READS_MAX = 64
"""What one look of a reader of committed records passes over, in bytes of aborted batches and in
reads of the log, before it answers how far it got."""


class ConsumerRead(PartitionRead):
    """A consumer's read: up to the high watermark, or up to the last stable offset (KIP-98).

    With `read_committed` what was aborted, and markers, are passed over. Then `next_offset` tells
    how far that is, whether anything is left to be shown or not.
    """

    def __init__(
        self,
        partition: Partition,
        offset: int,
        max_bytes: int,
        *,
        isolation: Isolation = "read_uncommitted",
    ) -> None:
        super().__init__(partition, offset, max_bytes)
        self.is_committed = isolation == "read_committed"
        self.next_offset = offset if self.is_committed else None
        """With `read_committed`: behind all that was looked at."""
        # `offset` moves on behind what is passed over, and is right in this leader epoch.
        self._asked_offset = offset
        self._offset_epoch: int | None = None

    @property
    def watchers(self) -> Watchers:
        """The high watermark, without which the last stable offset does not move, and the role."""
        return self.partition.watermark_watchers

    def limit(self) -> int:
        """The high watermark or the last stable offset, while this broker may serve the read."""
        self._require_service()
        partition = self.partition
        return partition.last_stable_offset if self.is_committed else partition.high_watermark

    @abstractmethod
    def _require_service(self) -> None:
        """That this broker may serve the read now.

        Raises:
            OttlaError: it may not (any more).
        """

    def look_away(self) -> None:
        """As every read; what was found before is not looked at."""
        super().look_away()
        self.has_more = False
        if self.is_committed:
            self.next_offset = self.offset

    def _find_in_memory(self, budget_bytes: int) -> Sequence[StoredBatch] | None:
        # What was aborted may have to be looked up on disk.
        return None if self.is_committed else super()._find_in_memory(budget_bytes)

    async def _find_stored(self, budget_bytes: int) -> Sequence[StoredBatch]:
        if not self.is_committed:
            return await super()._find_stored(budget_bytes)
        leader_epoch = self.partition.state.leader_epoch
        if self._offset_epoch != leader_epoch:
            # What was passed over may have been replaced by something else.
            self.offset, self._offset_epoch = self._asked_offset, leader_epoch
        return await self._find_committed(budget_bytes)

    async def _find_committed(self, budget_bytes: int) -> Sequence[StoredBatch]:
        passed_bytes = 0
        for _ in range(READS_MAX):
            self.look_away()
            before = self._what_is_there()
            batches = super()._find_in_memory(budget_bytes)
            if batches is None:
                batches = await super()._find_stored(budget_bytes)
            if not batches:
                return ()
            shown, end_offset = batches, batches[-1].last_offset + 1
            if has_transactions(batches):
                aborted = await self._aborted(batches[0].base_offset, end_offset)
                # As after every wait for the disk.
                self._require_service()
                if self._what_is_there() != before:
                    # The transactions may not be those of these batches: read once more.
                    self.has_more = True
                    continue
                shown = committed_batches(batches, aborted)
            self.next_offset = end_offset
            if shown:
                return shown
            self.offset = end_offset
            passed_bytes += sum(len(batch.data) for batch in batches)
            self.has_more = end_offset < self.last_limit
            if not self.has_more or passed_bytes >= PASSED_BYTES_MAX:
                break
        return ()

    async def _aborted(self, from_offset: int, end_offset: int) -> Iterable[AbortedTransaction]:
        try:
            return await self.partition.log.aborted_transactions(from_offset, end_offset)
        except DamagedSegmentError as error:
            if not self.partition.is_only_replica:
                raise
            # The records are there: to go on behind them would not help.
            raise StorageError(
                f"which records of {self.partition.name} from offset {from_offset} to {end_offset} "
                f"were aborted is not known any more, and there is no other replica: {error.detail}"
            ) from error

    def _what_is_there(self) -> tuple[int, int, int]:
        """What changes where records are taken away, with what is known of their transactions."""
        log = self.partition.log
        return self.partition.state.leader_epoch, log.log_start_offset, log.taken_away_count


class LeaderRead(ConsumerRead):
    """A consumer's read at the leader.

    `last_fetched_epoch` is the leader epoch in which the reader was told what is before `offset`;
    None where it does not say.
    """

    def __init__(
        self,
        partition: Partition,
        offset: int,
        max_bytes: int,
        last_fetched_epoch: int | None = None,
        *,
        isolation: Isolation = "read_uncommitted",
    ) -> None:
        super().__init__(partition, offset, max_bytes, isolation=isolation)
        self.leader_epoch = partition.state.leader_epoch
        """The epoch in which this read has looked last."""
        self._last_fetched_epoch = last_fetched_epoch

    async def look(self, budget_bytes: int) -> None:
        """As every read; the epoch is that of before, so that a reader is warned too early."""
        self.leader_epoch = self.partition.state.leader_epoch
        await super().look(budget_bytes)

    def _require_service(self) -> None:
        self.partition.leading()

    def _may_be_acknowledged(self) -> bool:
        # What is below the high watermark waits for a marker here, which may be above it.
        least = max(self.offset, self.partition.high_watermark)
        return self.partition.leading().may_be_acknowledged(least)

    def _check_range(self) -> None:
        last_fetched_epoch = self._last_fetched_epoch
        if last_fetched_epoch is not None and last_fetched_epoch < self.leader_epoch:
            self._check_history(last_fetched_epoch)
        super()._check_range()

    def _check_history(self, last_fetched_epoch: int) -> None:
        """That this log goes on from what the reader has read (KIP-320).

        Raises:
            LogTruncatedError: an unclean election has taken some of it away.
        """
        log = self.partition.log
        end_offset = log.leader_epochs.common_end_for(last_fetched_epoch, log.next_offset)
        # What was passed over since was read in this epoch.
        if end_offset < self._asked_offset:
            raise LogTruncatedError(
                f"an unclean election has taken away records of {self.partition.name} that were "
                f"read: offset {self._asked_offset} was reached in leader epoch "
                f"{last_fetched_epoch}, and of that the log has what is before offset {end_offset}",
                partition=self.partition.state.partition,
                divergent_offset=end_offset,
                log_start_offset=log.log_start_offset,
                log_end_offset=log.next_offset,
                high_watermark=self.partition.high_watermark,
            )


class LocalRead(ConsumerRead):
    """A read of this broker's own copy (`replica=local`), up to its own high watermark."""

    def _require_service(self) -> None:
        """One that lost its end would show less than it has shown before."""
        if self.partition.fitness.lost_tail and not self.partition.is_only_replica:
            raise ReplicaNotAvailableError(
                f"this broker's copy of {self.partition.name} lost records, and is being refilled"
            )

    def _check_range(self) -> None:
        # One that came back with nothing, after its disk was replaced, is behind all readers.
        if self.partition.leader is None:
            _check_has(self.partition, self.offset)
        super()._check_range()


class FollowerRead(ConsumerRead):
    """A consumer's read at a follower in sync, up to the high watermark that it knows (KIP-392)."""

    def _require_service(self) -> None:
        self.partition.require_in_sync()

    def _check_range(self) -> None:
        _check_has(self.partition, self.offset)
        super()._check_range()


def _check_has(partition: Partition, offset: int) -> None:
    """That this copy reaches up to `offset`: what a follower lacks at its end the leader may have.

    Raises:
        OffsetNotAvailableError: it does not; whoever reads need not begin anywhere else for that.
    """
    if offset > partition.log.next_offset:
        raise OffsetNotAvailableError(
            f"this follower has {partition.name} up to {partition.log.next_offset} only, "
            f"not offset {offset}"
        )
