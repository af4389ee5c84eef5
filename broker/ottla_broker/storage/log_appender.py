"""The end of one partition's log: what batches get offsets, and what they leave behind in memory.

Everything here is synchronous: checks, offsets and the state of producers are settled before
anything else can run on the event loop, so appends have one order without a lock. The disk follows
behind (`GroupCommit`). Whether the log may be written at all is for `PartitionLog` to ask.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from ottla_broker.storage.append_rules import (
    check_fetched,
    check_leader_epoch,
    check_produced,
    check_restored,
    check_timestamp,
)
from ottla_broker.storage.group_commit import GroupCommit, QueuedBatch, QueuedRoll
from ottla_broker.storage.log_config import AppendInfo, LogConfig, TimestampType
from ottla_broker.storage.log_state import LogState
from ottla_broker.storage.log_transactions import marker_of
from ottla_broker.storage.policy.idempotency_window import UNKNOWN_OFFSET
from ottla_broker.storage.policy.producer_state import Duplicate
from ottla_broker.storage.policy.rolling import SegmentFill, should_roll
from ottla_broker.storage.stored_batch import FetchedBatch, StoredBatch, row_of
from ottla_broker.storage.tail_cache import PartitionTail
from ottla_cluster.replication.leader_epochs import EpochStart
from ottla_protocol.control_records import EndMarker, encode_end_marker
from ottla_protocol.errors import Outcome, OverloadedError
from ottla_protocol.idempotency import Idempotency
from ottla_protocol.record_batch import BatchHeader, patch_batch, read_header, set_log_append_time


class LogAppender:
    """What appends consult and change.

    Args:
        name: topic and partition, for errors.
        config: limits; the log's owner replaces it.
        state: as of the log's end; a truncation replaces it.
        commits: the queue for the disk.
        tail: the cache of the newest batches.
        clock_ms: this broker's wall clock, for what segments tell of idempotent requests.
        monotonic_ms: a clock that never jumps, for the age of producers and requests.
    """

    def __init__(
        self,
        name: str,
        config: LogConfig,
        state: LogState,
        commits: GroupCommit,
        tail: PartitionTail,
        *,
        clock_ms: Callable[[], int],
        monotonic_ms: Callable[[], int],
    ) -> None:
        self.config = config
        self.state = state
        self._name = name
        self._commits = commits
        self._tail = tail
        self._clock_ms = clock_ms
        self._monotonic_ms = monotonic_ms

    def append_as_leader(
        self,
        batch: bytearray | memoryview,
        header: BatchHeader,
        *,
        leader_epoch: int,
        now_ms: int,
        idempotency: Idempotency | None,
    ) -> AppendInfo:
        """As `PartitionLog.append_as_leader`."""
        state = self.state
        check_produced(
            len(batch), leader_epoch, config=self.config, leader_epochs=state.leader_epochs
        )
        if idempotency is not None:
            stored = self._find_request(header, idempotency)
            if stored is not None:
                return stored
        verdict = state.producers.check(header, self._monotonic_ms())
        if isinstance(verdict, Duplicate):
            return AppendInfo(
                verdict.base_offset, verdict.last_offset, verdict.timestamp, duplicate=True
            )
        if self.config.timestamp_type == TimestampType.CREATE_TIME:
            check_timestamp(header, config=self.config, now_ms=now_ms)
        self._require_room(len(batch))
        self.assign_epoch(leader_epoch, state.next_offset)
        base_offset = state.next_offset
        last_offset = base_offset + header.last_offset - header.base_offset
        patch_batch(batch, base_offset=base_offset, leader_epoch=leader_epoch)
        if self.config.timestamp_type == TimestampType.LOG_APPEND_TIME:
            set_log_append_time(batch, now_ms)
            header = read_header(batch)
        stored_batch = StoredBatch(
            base_offset,
            last_offset,
            leader_epoch,
            batch,
            None if idempotency is None else idempotency.to_bytes(),
        )
        self._append(header, stored_batch, now_ms)
        return AppendInfo(base_offset, last_offset, header.max_timestamp)

    def append_as_follower(self, batches: Sequence[FetchedBatch]) -> None:
        """As `PartitionLog.append_as_follower`."""
        self._require_room(sum(len(batch.data) for batch in batches))
        now_ms = self._clock_ms()
        for fetched in batches:
            header, batch = check_fetched(fetched, self.state.next_offset, self.state.leader_epochs)
            marker = marker_of(header, batch.data) if header.is_control else None
            self.assign_epoch(header.leader_epoch, header.base_offset)
            self._append(header, batch, now_ms, marker)

    def append_marker(
        self,
        marker: EndMarker,
        *,
        producer_id: int,
        producer_epoch: int,
        leader_epoch: int,
        now_ms: int,
    ) -> AppendInfo:
        """As `PartitionLog.append_marker`."""
        state = self.state
        check_leader_epoch(leader_epoch, state.leader_epochs)
        if not state.producers.check_marker(producer_id, producer_epoch):
            # Where it is nobody remembers; all that is there is told instead.
            last_offset = state.next_offset - 1
            return AppendInfo(last_offset, last_offset, now_ms, duplicate=True)
        batch = encode_end_marker(
            marker, producer_id=producer_id, producer_epoch=producer_epoch, timestamp_ms=now_ms
        )
        self._require_room(len(batch))
        offset = state.next_offset
        self.assign_epoch(leader_epoch, offset)
        patch_batch(batch, base_offset=offset, leader_epoch=leader_epoch)
        stored = StoredBatch(offset, offset, leader_epoch, batch)
        self._append(read_header(batch), stored, now_ms, marker)
        return AppendInfo(offset, offset, now_ms)

    def append_restored(
        self, batches: Sequence[bytearray], *, leader_epoch: int
    ) -> AppendInfo | None:
        """As `PartitionLog.append_restored`."""
        check_leader_epoch(leader_epoch, self.state.leader_epochs)
        checked = check_restored(batches, self.state.next_offset)
        if not checked:
            return None
        self._require_room(sum(len(batch) for _, batch in checked))
        now_ms = self._clock_ms()
        self.assign_epoch(leader_epoch, self.state.next_offset)
        for header, batch in checked:
            patch_batch(batch, base_offset=header.base_offset, leader_epoch=leader_epoch)
            stored = StoredBatch(header.base_offset, header.last_offset, leader_epoch, batch)
            self._append(header, stored, now_ms)
        last, _ = checked[-1]
        return AppendInfo(checked[0][0].base_offset, last.last_offset, last.max_timestamp)

    def check_idempotency(self, key_digest: bytes, body_digest: bytes) -> AppendInfo | None:
        """As `PartitionLog.check_idempotency`."""
        stored = self.state.requests.find(key_digest, body_digest)
        if stored is None:
            return None
        return AppendInfo(stored.base_offset, stored.last_offset, stored.timestamp, duplicate=True)

    def find_duplicate(
        self, header: BatchHeader, idempotency: Idempotency | None
    ) -> AppendInfo | None:
        """As `PartitionLog.find_duplicate`."""
        if idempotency is not None:
            stored = self._find_request(header, idempotency)
            if stored is not None:
                return stored
        found = self.state.producers.find(header, self._monotonic_ms())
        if found is None:
            return None
        return AppendInfo(found.base_offset, found.last_offset, found.timestamp, duplicate=True)

    def _find_request(self, header: BatchHeader, idempotency: Idempotency) -> AppendInfo | None:
        """Where the records of this batch are, if they are stored.

        Lines of a stream may come again in other batches than at first. Those that end where the
        stored batch ends are its last ones; the offsets of others are not known any more.
        """
        stored = self.check_idempotency(idempotency.key_digest, idempotency.body_digest)
        if stored is None or stored.base_offset == UNKNOWN_OFFSET:
            return stored
        base_offset = stored.last_offset - header.record_count + 1
        if base_offset == stored.base_offset:
            return stored
        known = base_offset if base_offset > stored.base_offset else UNKNOWN_OFFSET
        return replace(stored, base_offset=known)

    def assign_epoch(self, leader_epoch: int, start_offset: int) -> None:
        """Record that `leader_epoch` begins at `start_offset`, unless it has begun already.

        Raises:
            CorruptMessageError: the log has a newer epoch.
        """
        before = self.state.leader_epochs
        self.state.leader_epochs = before.assign(leader_epoch, start_offset)
        if self.state.leader_epochs is not before:
            self._commits.enqueue(EpochStart(leader_epoch, start_offset))

    def roll(self) -> None:
        """Begin a segment with the next batch; the active one must not be empty."""
        assert self.state.fill.batches > 0, self._name
        self._commits.enqueue(QueuedRoll(self.state.next_offset, self.state.snapshot()))
        self.state.fill = SegmentFill()

    def _append(
        self,
        header: BatchHeader,
        batch: StoredBatch,
        now_ms: int,
        marker: EndMarker | None = None,
    ) -> None:
        """Queue one batch and bring the state up to it; `marker` is what a control batch holds."""
        state = self.state
        if should_roll(
            state.fill,
            len(batch.data),
            header.max_timestamp,
            segment_bytes=self.config.segment_bytes,
            segment_ms=self.config.segment_ms,
        ):
            self.roll()
        follows_gap = batch.base_offset != state.next_offset
        aborted = state.append(header, batch, now_ms, self._monotonic_ms(), marker)
        self._commits.enqueue(QueuedBatch(batch, row_of(header, batch), follows_gap, aborted))
        self._tail.append(batch)

    def _require_room(self, size_bytes: int) -> None:
        pending_bytes = self._commits.pending_bytes
        if pending_bytes > 0 and pending_bytes + size_bytes > self.config.pending_max_bytes:
            raise OverloadedError(
                f"{pending_bytes} bytes of {self._name} wait for the disk, at most "
                f"{self.config.pending_max_bytes} may",
                outcome=Outcome.NOT_APPLIED,
            )
