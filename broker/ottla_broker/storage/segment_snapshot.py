"""The snapshot that a segment's file begins with: the log's state as of its base offset.

With the rows behind it, it rebuilds all state of the log: epochs, producers, idempotent requests.
Everything that takes a connection runs on the connection's thread.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import msgspec

from ottla_broker.storage.policy.idempotency_window import StoredRequest
from ottla_broker.storage.policy.open_transactions import EndedTransaction
from ottla_broker.storage.policy.producer_state import Producer, ProducerBatch
from ottla_broker.storage.segment_meta import get_meta, set_meta
from ottla_broker.storage.stored_batch import DamagedSegmentError
from ottla_cluster.replication.leader_epochs import EpochStart, LeaderEpochs
from ottla_protocol.errors import StorageError

_PRODUCER_BATCHES = tuple[ProducerBatch, ...]
_ENDED_TRANSACTIONS = tuple[EndedTransaction, ...]

SNAPSHOT_CRC = "snapshot_crc"
"""Meta: checksum of the snapshot, which no batch's CRC covers."""

ENDED_TRANSACTIONS = "ended_transactions"
"""Meta: those of the snapshot, as MessagePack; absent where there are none, as is nearly always."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The log's state at a segment's base offset, taken when the segment is decided on."""

    leader_epochs: tuple[EpochStart, ...] = ()
    producers: tuple[tuple[int, Producer], ...] = ()
    requests: tuple[tuple[bytes, StoredRequest], ...] = ()
    ended: tuple[EndedTransaction, ...] = ()
    """Transactions whose markers are below the base offset, and perhaps not committed yet."""


def write_snapshot(connection: Any, snapshot: Snapshot) -> None:
    """Put it into a file that has none."""
    connection.executemany(
        "INSERT INTO leader_epochs VALUES (?, ?)",
        ((epoch.epoch, epoch.start_offset) for epoch in snapshot.leader_epochs),
    )
    encode: Callable[[Any], bytes] = msgspec.msgpack.encode
    connection.executemany(
        "INSERT INTO producer_snapshot VALUES (?, ?, ?, ?, ?, ?)",
        (
            (
                position,
                producer_id,
                producer.epoch,
                encode(producer.batches),
                producer.transaction_start,
                producer.last_timestamp,
            )
            for position, (producer_id, producer) in enumerate(snapshot.producers)
        ),
    )
    connection.executemany(
        "INSERT INTO idempotency_snapshot VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            (position, key_digest, *request)
            for position, (key_digest, request) in enumerate(snapshot.requests)
        ),
    )
    if snapshot.ended:
        set_meta(connection, ENDED_TRANSACTIONS, encode(snapshot.ended))
    set_meta(connection, SNAPSHOT_CRC, _snapshot_crc(snapshot))


def read_epochs(connection: Any) -> LeaderEpochs:
    """The leader epochs up to this segment's end.

    Raises:
        DamagedSegmentError: they do not rise, or are none.
    """
    rows = connection.execute(
        "SELECT epoch, start_offset FROM leader_epochs ORDER BY epoch"
    ).fetchall()
    if not all(isinstance(value, int) for row in rows for value in row):
        raise DamagedSegmentError("the leader epochs are no numbers")
    try:
        return LeaderEpochs.of(rows)
    except StorageError as error:
        raise DamagedSegmentError(error.detail) from error


def read_snapshot(connection: Any, path: Path) -> Snapshot:
    """The state as of the segment's base offset; `leader_epochs` are those of `read_epochs`.

    Raises:
        DamagedSegmentError: it is not what was written.
    """
    producers = connection.execute(
        "SELECT producer_id, epoch, last_batches, transaction_start, last_timestamp "
        "FROM producer_snapshot ORDER BY position"
    ).fetchall()
    requests = connection.execute(
        "SELECT key_digest, body_digest, base_offset, last_offset, timestamp, seen_ms "
        "FROM idempotency_snapshot ORDER BY position"
    ).fetchall()
    try:
        snapshot = Snapshot(
            leader_epochs=read_epochs(connection).entries,
            producers=tuple(
                (
                    producer_id,
                    Producer(
                        epoch,
                        msgspec.msgpack.decode(batches, type=_PRODUCER_BATCHES),
                        transaction_start,
                        last_timestamp,
                    ),
                )
                for producer_id, epoch, batches, transaction_start, last_timestamp in producers
            ),
            requests=tuple((key_digest, StoredRequest(*rest)) for key_digest, *rest in requests),
            ended=_ended_transactions(connection),
        )
        is_whole = _snapshot_crc(snapshot) == get_meta(connection, SNAPSHOT_CRC)
    except (msgspec.MsgspecError, TypeError, StorageError) as error:
        raise DamagedSegmentError(f"{path}: the snapshot is damaged: {error}", path=path) from error
    if not is_whole:
        raise DamagedSegmentError(
            f"{path}: the snapshot is damaged: its CRC-32C differs", path=path
        )
    return snapshot


def _snapshot_crc(snapshot: Snapshot) -> int:
    """CRC-32C over all but the epochs, which change later and are checked by batch."""
    parts: tuple[object, ...] = (snapshot.producers, snapshot.requests)
    if snapshot.ended:
        # Without them it is the checksum that it was before there were transactions.
        parts = (*parts, snapshot.ended)
    return int(google_crc32c.value(msgspec.msgpack.encode(parts)))


def _ended_transactions(connection: Any) -> tuple[EndedTransaction, ...]:
    found = get_meta(connection, ENDED_TRANSACTIONS)
    return () if found is None else msgspec.msgpack.decode(found, type=_ENDED_TRANSACTIONS)
