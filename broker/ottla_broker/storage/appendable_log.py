"""What adds to a log's end: batches of clients, leaders and backups, markers, epochs.

What is appended has its offsets at once (`LogAppender`), and is durable later (`GroupCommit`):
whoever needs that waits for an offset. All methods are called on the event loop's thread.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from ottla_broker.storage.log_config import AppendInfo
from ottla_broker.storage.readable_log import ReadableLog
from ottla_broker.storage.stored_batch import FetchedBatch
from ottla_protocol.control_records import EndMarker
from ottla_protocol.idempotency import Idempotency
from ottla_protocol.record_batch import BatchHeader


class AppendableLog(ReadableLog, ABC):
    """The log of one replica, for whoever leads, follows or restores it."""

    @abstractmethod
    def _require_writable(self) -> None:
        """That the log may be appended to now.

        Raises:
            UnavailableError: it is closed or being truncated.
            StorageError: it has failed.
        """

    def append_as_leader(
        self,
        batch: bytearray | memoryview,
        header: BatchHeader,
        *,
        leader_epoch: int,
        now_ms: int,
        idempotency: Idempotency | None = None,
    ) -> AppendInfo:
        """Give a validated batch its offsets and queue it for the disk.

        The batch is patched in place and belongs to the log afterwards; `now_ms`, the wall clock,
        is its timestamp where the topic wants that of the append. A retry appends nothing
        and answers the first append's offsets, which may not be durable or committed yet either.

        Raises:
            MessageTooLargeError: larger than `max_batch_bytes`.
            InvalidTimestampError: further ahead of `now_ms` than the topic allows.
            OverloadedError: `pending_max_bytes` are queued.
            FencedLeaderEpochError: the log has a newer epoch.
            InvalidProducerEpochError, OutOfOrderSequenceNumberError, DuplicateSequenceNumberError:
                see `ProducerStates.check`.
            IdempotencyKeyReusedError: the key was used with another body.
            UnavailableError: the log is closed or being truncated.
            StorageError: the log has failed.
        """
        assert len(batch) == header.size_bytes, (len(batch), header.size_bytes)
        self._require_writable()
        return self._appender.append_as_leader(
            batch, header, leader_epoch=leader_epoch, now_ms=now_ms, idempotency=idempotency
        )

    def check_idempotency(self, key_digest: bytes, body_digest: bytes) -> AppendInfo | None:
        """Where the request with this key went, None if it is new.

        Raises:
            IdempotencyKeyReusedError: the key was used with another body.
        """
        return self._appender.check_idempotency(key_digest, body_digest)

    def find_duplicate(
        self, header: BatchHeader, idempotency: Idempotency | None
    ) -> AppendInfo | None:
        """Where a batch is that a producer or an HTTP client has sent before, None if it is new.

        Raises:
            IdempotencyKeyReusedError: the key was used with another body.
        """
        return self._appender.find_duplicate(header, idempotency)

    def append_as_follower(self, batches: Sequence[FetchedBatch]) -> None:
        """Queue what the leader sent, offsets and epochs as they are.

        Offsets may be skipped, because the leader may have compacted them away. The batches
        before a bad one stay appended.

        Raises:
            CorruptMessageError: a batch fails its checks, begins below `next_offset` or has an
                older epoch than the log.
            OverloadedError: `pending_max_bytes` are queued.
            StorageError: the log has failed.
        """
        self._require_writable()
        self._appender.append_as_follower(batches)

    def append_restored(
        self, batches: Sequence[bytearray], *, leader_epoch: int
    ) -> AppendInfo | None:
        """Queue batches of a backup at the offsets that they have; for a leader.

        Offsets may be skipped, as by `append_as_follower`. Batches that the log has already are
        left out. The batches are patched in place and belong to the log afterwards; their producers
        are forgotten (decision 35).

        Returns:
            The range of what was queued; None where nothing was new.

        Raises:
            CorruptMessageError: a batch fails its checks; nothing was appended.
            InvalidRequestError: a batch is of a transaction; nothing was appended.
            RestoreConflictError: batches overlap; nothing was appended.
            FencedLeaderEpochError: the log has a newer epoch.
            OverloadedError: `pending_max_bytes` are queued.
            StorageError: the log has failed.
        """
        self._require_writable()
        return self._appender.append_restored(batches, leader_epoch=leader_epoch)

    def append_marker(
        self,
        marker: EndMarker,
        *,
        producer_id: int,
        producer_epoch: int,
        leader_epoch: int,
        now_ms: int,
    ) -> AppendInfo:
        """Queue the marker that ends a producer's transaction here, unless the log has it.

        `producer_epoch` is the marker's, one more than that of the records; `now_ms` is the wall
        clock.

        Returns:
            Where it is. A duplicate is somewhere below the `next_offset` that is told.

        Raises:
            InvalidProducerEpochError: the log is past that epoch.
            FencedLeaderEpochError: the log has a newer epoch.
            OverloadedError: `pending_max_bytes` are queued.
            UnavailableError: the log is closed or being truncated.
            StorageError: the log has failed.
        """
        self._require_writable()
        return self._appender.append_marker(
            marker,
            producer_id=producer_id,
            producer_epoch=producer_epoch,
            leader_epoch=leader_epoch,
            now_ms=now_ms,
        )

    def assign_epoch(self, leader_epoch: int) -> None:
        """Record that `leader_epoch` begins at `next_offset`; durable with the next commit.

        Raises:
            CorruptMessageError: the log has a newer epoch.
        """
        self._require_writable()
        self._appender.assign_epoch(leader_epoch, self.next_offset)

    async def begin_epoch(self, leader_epoch: int) -> None:
        """`assign_epoch`, then wait until the record of it is durable.

        Raises:
            CorruptMessageError: the log has a newer epoch.
            StorageError: the log has failed.
        """
        self.assign_epoch(leader_epoch)
        await self._commits.drain()

    def gather_commits(self, gather_ms: int) -> None:
        """See `GroupCommit.gather`."""
        self._commits.gather(gather_ms)

    async def wait_durable(self, next_offset: int) -> None:
        """Wait until `log_end_offset` is at least `next_offset`.

        Raises:
            DiskFullError: the disk has no room; the batch is held, and may become durable yet.
            StorageError: the log has failed; whether the batch is on disk is unknown.
        """
        await self._commits.wait_durable(next_offset)
