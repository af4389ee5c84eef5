"""What a leader appends: batches of producers, markers of transactions, what a backup has."""

from collections.abc import Sequence

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.partition_acks import Appended
from ottla_broker.drivers.partition_role import PartitionRole
from ottla_broker.storage.log_transactions import MARKER_BYTES_MAX
from ottla_cluster.controller import topic_names
from ottla_cluster.replication.leader import PartitionLeader
from ottla_protocol.control_records import EndMarker
from ottla_protocol.counted_nouns import counted
from ottla_protocol.errors import LeaderNotAvailableError, NotEnoughReplicasError
from ottla_protocol.idempotency import Idempotency
from ottla_protocol.record_batch import BatchHeader


class PartitionAppends(PartitionRole):
    """The appends of a replica that leads."""

    def append(
        self,
        batch: bytearray | memoryview,
        header: BatchHeader,
        *,
        acks_all: bool,
        now_ms: int,
        idempotency: Idempotency | None,
    ) -> Appended:
        """Append a validated batch as leader; safe only once `committed` or `durable` returns.

        Raises:
            RoutingError, UnavailableError: this broker cannot append it now; nothing was. Among
                them InsufficientStorageError: its disk has no room.
            ConflictError, InvalidRequestError: the producer's sequence or key refuses it.
        """
        leader = self.leading()
        if self._refuses_appends_until_ms > monotonic_ms():
            raise LeaderNotAvailableError(f"the leadership of {self.name} is being handed over")
        if acks_all and leader.is_under_min_isr:
            # A retry adds nothing to the log: if what it repeats is committed, it is told so.
            stored = self.log.find_duplicate(header, idempotency)
            if stored is not None:
                return Appended(stored, leader.leader_epoch)
            raise self._not_enough_replicas(leader)
        is_internal = topic_names.is_internal(self.state.topic)
        if not self._disk.has_room(len(batch), is_internal=is_internal):
            stored = self.log.find_duplicate(header, idempotency)
            if stored is not None:
                return Appended(stored, leader.leader_epoch)
            self._disk.require(len(batch), self.name, is_internal=is_internal)
        info = self.log.append_as_leader(
            batch,
            header,
            leader_epoch=leader.leader_epoch,
            now_ms=now_ms,
            idempotency=idempotency,
        )
        if not info.duplicate:
            self._activity.appended.add(self.key)
            self._disk.take(header.size_bytes)
            self.append_watchers.wake()
        return Appended(info, leader.leader_epoch)

    def append_marker(
        self, marker: EndMarker, *, producer_id: int, producer_epoch: int, now_ms: int
    ) -> Appended:
        """Append a marker as leader, unless it is there; it counts once `committed` returns.

        Args:
            marker: what was decided.
            producer_id: whose transaction ends.
            producer_epoch: the marker's, one more than that of the records.
            now_ms: the wall clock.

        Returns:
            What to wait for. A duplicate is already in the log, and perhaps not committed.

        Raises:
            RoutingError, UnavailableError: this broker cannot append it now; nothing was.
            InvalidProducerEpochError: the log is past that epoch: the marker comes late.
        """
        leader = self._appending_leader()
        # What waits for its marker keeps retention and compaction from making room.
        self._disk.require(MARKER_BYTES_MAX, self.name, is_internal=True)
        self._forget_committed_markers()
        info = self.log.append_marker(
            marker,
            producer_id=producer_id,
            producer_epoch=producer_epoch,
            leader_epoch=leader.leader_epoch,
            now_ms=now_ms,
        )
        if not info.duplicate:
            self._activity.appended.add(self.key)
            self._disk.take(MARKER_BYTES_MAX)
            self.append_watchers.wake()
        return Appended(info, leader.leader_epoch)

    def is_in_transaction(self, header: BatchHeader) -> bool:
        """Whether a transactional batch goes on with a transaction that is open in this log."""
        return self.log.is_in_transaction(header)

    def append_restored(self, batches: Sequence[bytearray]) -> Appended | None:
        """Append batches of a backup, as `PartitionLog.append_restored`; None where all are there.

        Raises:
            RoutingError, UnavailableError: this broker cannot append now; nothing was.
            InvalidRequestError, ConflictError: the batches are refused; nothing was appended.
        """
        leader = self._appending_leader()
        size_bytes = sum(map(len, batches))
        self._disk.require(size_bytes, self.name, is_internal=False)
        info = self.log.append_restored(batches, leader_epoch=leader.leader_epoch)
        if info is None:
            return None
        self._activity.appended.add(self.key)
        self._disk.take(size_bytes)
        self.append_watchers.wake()
        return Appended(info, leader.leader_epoch)

    def _appending_leader(self) -> PartitionLeader:
        """The leader machine, if it may append what the log cannot have yet."""
        leader = self.leading()
        if self._refuses_appends_until_ms > monotonic_ms():
            raise LeaderNotAvailableError(f"the leadership of {self.name} is being handed over")
        if leader.is_under_min_isr:
            raise self._not_enough_replicas(leader)
        return leader

    def _not_enough_replicas(self, leader: PartitionLeader) -> NotEnoughReplicasError:
        return NotEnoughReplicasError(
            f"{self.name} has {counted(len(leader.isr), 'replica')} in sync, fewer than "
            "min.insync.replicas",
            isr=list(leader.isr),
            retry_after_seconds=1,
        )
