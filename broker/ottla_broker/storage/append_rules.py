"""What a log asks of a batch before it takes it, from a producer or from a leader."""

from collections.abc import Sequence

from ottla_broker.storage.log_config import LogConfig
from ottla_broker.storage.stored_batch import FetchedBatch, StoredBatch
from ottla_cluster.replication.leader_epochs import LeaderEpochs
from ottla_protocol.errors import (
    CorruptMessageError,
    FencedLeaderEpochError,
    InvalidRequestError,
    InvalidTimestampError,
    MessageTooLargeError,
    Outcome,
    RestoreConflictError,
)
from ottla_protocol.idempotency import IDEMPOTENCY_BYTES
from ottla_protocol.record_batch import (
    NO_PRODUCER_EPOCH,
    NO_PRODUCER_ID,
    NO_SEQUENCE,
    BatchHeader,
    read_header,
    set_producer,
    validate_batch,
)


def check_produced(
    size_bytes: int, leader_epoch: int, *, config: LogConfig, leader_epochs: LeaderEpochs
) -> None:
    """Check what a leader is about to append.

    Raises:
        MessageTooLargeError: larger than `max_batch_bytes`.
        FencedLeaderEpochError: the log has a newer epoch.
    """
    if size_bytes > config.max_batch_bytes:
        raise MessageTooLargeError(
            f"the record batch has {size_bytes} bytes, at most "
            f"{config.max_batch_bytes} are allowed",
            outcome=Outcome.NOT_APPLIED,
        )
    check_leader_epoch(leader_epoch, leader_epochs)


def check_leader_epoch(leader_epoch: int, leader_epochs: LeaderEpochs) -> None:
    """Check that the log has no newer epoch than the one to append in.

    Raises:
        FencedLeaderEpochError: it has.
    """
    if leader_epoch < leader_epochs.latest_epoch:
        raise FencedLeaderEpochError(
            f"leader epoch {leader_epoch} is older than the log's {leader_epochs.latest_epoch}",
            outcome=Outcome.NOT_APPLIED,
        )


def check_timestamp(header: BatchHeader, *, config: LogConfig, now_ms: int) -> None:
    """Check the largest timestamp that a producer gave: data from the future would never age.

    Raises:
        InvalidTimestampError: more than `timestamp_after_max_ms` ahead of this broker's clock.
    """
    ahead_ms = header.max_timestamp - now_ms
    if ahead_ms > config.timestamp_after_max_ms:
        raise InvalidTimestampError(
            f"the timestamp {header.max_timestamp} is {ahead_ms} ms ahead of this broker's clock, "
            f"at most {config.timestamp_after_max_ms} are allowed (message.timestamp.after.max.ms)",
            outcome=Outcome.NOT_APPLIED,
            timestamp=header.max_timestamp,
            broker_time=now_ms,
        )


def check_restored(
    batches: Sequence[bytearray], next_offset: int
) -> list[tuple[BatchHeader, bytearray]]:
    """Check batches of a backup, and take their producers out of those that are new.

    What an id meant in the cluster of the backup, it does not mean here: a producer that is given
    the same one would be taken for the former, and its records for duplicates.

    Returns:
        The batches that the log does not have yet, with their headers.

    Raises:
        CorruptMessageError: a batch fails its checks.
        InvalidRequestError: it is a marker, or part of a transaction.
        RestoreConflictError: it overlaps with the log, or with the batch before.
    """
    found: list[tuple[BatchHeader, bytearray]] = []
    for batch in batches:
        header = validate_batch(batch, on_append=False)
        if header.is_control or header.is_transactional:
            raise InvalidRequestError(f"the batch at {header.base_offset} is of a transaction")
        if header.next_offset <= next_offset and not found:
            continue
        if header.base_offset < next_offset:
            raise RestoreConflictError(
                f"the batch at {header.base_offset} overlaps with what ends at {next_offset}"
            )
        if header.has_producer:
            set_producer(
                batch,
                producer_id=NO_PRODUCER_ID,
                producer_epoch=NO_PRODUCER_EPOCH,
                base_sequence=NO_SEQUENCE,
            )
            header = read_header(batch)
        found.append((header, batch))
        next_offset = header.next_offset
    return found


def check_fetched(
    fetched: FetchedBatch, next_offset: int, leader_epochs: LeaderEpochs
) -> tuple[BatchHeader, StoredBatch]:
    """Check one batch that a follower fetched; returns its header and what is to be stored.

    Raises:
        CorruptMessageError: it fails its checks, begins below `next_offset` or has an older epoch
            than the record before.
    """
    header = validate_batch(fetched.data, on_append=False)
    if fetched.idempotency is not None and len(fetched.idempotency) != IDEMPOTENCY_BYTES:
        raise CorruptMessageError(
            f"fetched batch at {header.base_offset} has {len(fetched.idempotency)} bytes "
            f"of idempotency, not {IDEMPOTENCY_BYTES}"
        )
    if header.base_offset < next_offset:
        raise CorruptMessageError(
            f"fetched batch begins at {header.base_offset}, below the log's end {next_offset}"
        )
    # Not the latest epoch: this log may have been a leader's that appended nothing in it.
    epoch_before = leader_epochs.epoch_at(next_offset - 1)
    if header.leader_epoch < max(epoch_before, 0):
        raise CorruptMessageError(
            f"fetched batch at {header.base_offset} has leader epoch "
            f"{header.leader_epoch}, the record before it has {epoch_before}"
        )
    batch = StoredBatch(
        header.base_offset,
        header.last_offset,
        header.leader_epoch,
        fetched.data,
        fetched.idempotency,
    )
    return header, batch
