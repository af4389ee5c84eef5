"""What appends consult, and how it is rebuilt from a segment.

Producers, idempotent requests, leader epochs and the end offset are a function of the log. They
are kept as of `next_offset`, ahead of the disk, and after a restart or a truncation they come from
the active segment: the snapshot as of its base offset, then the columns of its rows.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from ottla_broker.storage import segment as segments
from ottla_broker.storage.log_config import LogConfig
from ottla_broker.storage.log_transactions import MARKER_DATA, LogTransactions
from ottla_broker.storage.policy.abort_index import IndexedAbort
from ottla_broker.storage.policy.idempotency_window import IdempotencyWindow, StoredRequest
from ottla_broker.storage.policy.producer_state import ProducerAppend, ProducerStates
from ottla_broker.storage.policy.rolling import SegmentFill
from ottla_broker.storage.segment_snapshot import Snapshot, read_snapshot
from ottla_broker.storage.segment_transactions import require_indexed, stored_marker
from ottla_broker.storage.stored_batch import StoredBatch
from ottla_cluster.replication.leader_epochs import NO_EPOCH, LeaderEpochs
from ottla_protocol.control_records import EndMarker
from ottla_protocol.idempotency import Idempotency
from ottla_protocol.record_batch import (
    CONTROL_BIT,
    NO_PRODUCER_ID,
    TRANSACTIONAL_BIT,
    BatchHeader,
)


@dataclass(frozen=True, slots=True)
class StateLimits:
    """Bounds of the state that is rebuilt, and the clocks for the times in it.

    `now_ms` is the wall clock, which segments tell of requests; `monotonic_ms` never jumps, and
    ages are counted by it.
    """

    producers_max: int
    producer_id_expiration_ms: int
    idempotency_entries_max: int
    idempotency_window_ms: int
    now_ms: int
    monotonic_ms: int

    @classmethod
    def of(cls, config: LogConfig, now_ms: int, monotonic_ms: int) -> Self:
        """The bounds that a log's config sets, at this moment."""
        return cls(
            producers_max=config.producers_max,
            producer_id_expiration_ms=config.producer_id_expiration_ms,
            idempotency_entries_max=config.idempotency_entries_max,
            idempotency_window_ms=config.idempotency_window_ms,
            now_ms=now_ms,
            monotonic_ms=monotonic_ms,
        )


@dataclass(slots=True)
class LogState:
    """Everything that the active segment tells of the log, at its end."""

    next_offset: int
    last_batch_epoch: int
    fill: SegmentFill
    leader_epochs: LeaderEpochs
    producers: ProducerStates
    requests: IdempotencyWindow
    transactions: LogTransactions

    def append(
        self,
        header: BatchHeader,
        batch: StoredBatch,
        now_ms: int,
        monotonic_ms: int,
        marker: EndMarker | None = None,
    ) -> IndexedAbort | None:
        """Take in a batch that was appended at the end; its epoch must be assigned already.

        The two times are as in StateLimits; `marker` is what a control batch holds.

        Returns:
            The row to write beside a marker that aborts records.
        """
        aborted = None
        self.fill = self.fill.with_batch(header.size_bytes, header.max_timestamp)
        self.next_offset = batch.last_offset + 1
        self.last_batch_epoch = batch.leader_epoch
        if header.has_producer:
            is_transactional = header.attributes & TRANSACTIONAL_BIT != 0
            self.producers.append(
                ProducerAppend(
                    header.producer_id,
                    header.producer_epoch,
                    header.base_sequence,
                    batch.base_offset,
                    batch.last_offset,
                    header.max_timestamp,
                    is_transactional and not header.is_control,
                    marker is not None,
                ),
                monotonic_ms,
            )
            if is_transactional:
                aborted = self.transactions.append(
                    header.producer_id, batch.base_offset, header.attributes, marker
                )
        if batch.idempotency is not None:
            _remember(
                self.requests,
                batch.idempotency,
                batch.base_offset,
                batch.last_offset,
                header.max_timestamp,
                now_ms,
                monotonic_ms,
            )
        return aborted

    def snapshot(self) -> Snapshot:
        """A copy that later appends do not change: what a segment at `next_offset` begins with."""
        return Snapshot(
            self.leader_epochs.entries,
            self.producers.entries(),
            self.requests.entries(),
            self.transactions.ended(),
        )

    def at_new_segment(self, base_offset: int) -> "LogState":
        """The same state when an empty segment has been begun at `base_offset`."""
        return replace(self, next_offset=base_offset, fill=SegmentFill())


def empty_state(base_offset: int, limits: StateLimits) -> LogState:
    """The state of a log that begins at `base_offset` and never held a record."""
    producers, requests = _empty_memory(limits)
    return LogState(
        next_offset=base_offset,
        last_batch_epoch=NO_EPOCH,
        fill=SegmentFill(),
        leader_epochs=LeaderEpochs.empty(),
        producers=producers,
        requests=requests,
        transactions=LogTransactions(Snapshot()),
    )


def load_state(connection: Any, path: Path, limits: StateLimits) -> LogState:
    """Rebuild the log's state from an active segment's snapshot and the columns of its rows.

    Raises:
        StorageError: the columns are not those of a log.
    """
    base_offset = segments.required_base_offset(path)
    snapshot = read_snapshot(connection, path)
    producers, requests, transactions = _replay_rows(connection, snapshot, limits)
    require_indexed(connection, path, transactions.aborted)
    ((batches, size_bytes, newest_timestamp),) = connection.execute(
        "SELECT count(*), coalesce(sum(size), 0), coalesce(max(max_timestamp), -1) FROM batches"
    ).fetchall()
    first = connection.execute(
        "SELECT max_timestamp FROM batches ORDER BY base_offset LIMIT 1"
    ).fetchall()
    last = connection.execute(
        "SELECT leader_epoch FROM batches ORDER BY base_offset DESC LIMIT 1"
    ).fetchall()
    next_offset = segments.end_offset_of(connection, base_offset)
    leader_epochs = LeaderEpochs(snapshot.leader_epochs)
    return LogState(
        next_offset=next_offset,
        last_batch_epoch=last[0][0] if last else leader_epochs.epoch_at(next_offset - 1),
        fill=SegmentFill(size_bytes, batches, first[0][0] if first else -1, newest_timestamp),
        leader_epochs=leader_epochs,
        producers=producers,
        requests=requests,
        transactions=transactions,
    )


def _empty_memory(limits: StateLimits) -> tuple[ProducerStates, IdempotencyWindow]:
    producers = ProducerStates(
        producers_max=limits.producers_max, expiration_ms=limits.producer_id_expiration_ms
    )
    requests = IdempotencyWindow(
        entries_max=limits.idempotency_entries_max, window_ms=limits.idempotency_window_ms
    )
    return producers, requests


def _replay_rows(
    connection: Any, snapshot: Snapshot, limits: StateLimits
) -> tuple[ProducerStates, IdempotencyWindow, LogTransactions]:
    """What is remembered after the segment's rows; the others need not be read."""
    producers, requests = _empty_memory(limits)
    transactions = LogTransactions(snapshot)
    producers.load(snapshot.producers, limits.monotonic_ms)
    requests.load(snapshot.requests, limits.monotonic_ms)
    rows = connection.execute(
        "SELECT base_offset, last_offset, max_timestamp, producer_id, producer_epoch, "  # noqa: S608  constant names
        f"base_sequence, attributes, idempotency, {MARKER_DATA} FROM batches "
        "WHERE producer_id >= 0 OR idempotency IS NOT NULL ORDER BY base_offset"
    )
    for base, last, timestamp, producer_id, epoch, sequence, attributes, idempotency, data in rows:
        if producer_id != NO_PRODUCER_ID:
            is_transactional = attributes & TRANSACTIONAL_BIT != 0
            marker = stored_marker(attributes, data)
            producers.append(
                ProducerAppend(
                    producer_id,
                    epoch,
                    sequence,
                    base,
                    last,
                    timestamp,
                    is_transactional and not attributes & CONTROL_BIT,
                    marker is not None,
                ),
                limits.monotonic_ms,
            )
            if is_transactional:
                transactions.append(producer_id, base, attributes, marker)
        if idempotency is not None:
            _remember(
                requests, idempotency, base, last, timestamp, limits.now_ms, limits.monotonic_ms
            )
    return producers, requests, transactions


def _remember(
    requests: IdempotencyWindow,
    idempotency: bytes,
    base_offset: int,
    last_offset: int,
    timestamp: int,
    seen_ms: int,
    monotonic_ms: int,
) -> None:
    request = Idempotency.from_bytes(idempotency)
    requests.remember(
        request.key_digest,
        StoredRequest(request.body_digest, base_offset, last_offset, timestamp, seen_ms),
        monotonic_ms,
    )
