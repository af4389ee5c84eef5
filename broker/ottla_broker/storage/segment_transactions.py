"""The aborted transactions in a segment's file: written, read back, and held against its rows.

No batch's CRC covers the table, but it is a function of the snapshot and the rows: whoever copies
rows into a new file writes it from them, and whoever opens the log compares. A sealed segment has a
checksum of it besides, for there nobody reads the rows for it.

Everything here runs on the connection's thread.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ottla_broker.storage.log_transactions import MARKER_DATA, LogTransactions, marker_of
from ottla_broker.storage.policy.abort_index import AbortIndex, IndexedAbort
from ottla_broker.storage.segment_aborts import (
    ABORTED_CRC,
    SegmentAborts,
    aborted_crc,
    aborted_rows,
    insert_aborted,
)
from ottla_broker.storage.segment_meta import get_meta
from ottla_broker.storage.segment_snapshot import Snapshot, read_snapshot
from ottla_broker.storage.stored_batch import DamagedSegmentError
from ottla_protocol.control_records import EndMarker
from ottla_protocol.errors import CorruptMessageError
from ottla_protocol.record_batch import CONTROL_BIT, TRANSACTIONAL_BIT, validate_batch


def stored_marker(attributes: int, data: object) -> EndMarker | None:
    """The marker in a row; None for rows that are none.

    Args:
        attributes: the column.
        data: what MARKER_DATA selects.

    Raises:
        CorruptMessageError: it is a control batch that does not decode.
    """
    if not attributes & CONTROL_BIT:
        return None
    if not isinstance(data, bytes):
        raise CorruptMessageError("a control batch is no blob")
    return marker_of(validate_batch(data, on_append=False), data)


def index_aborted(connection: Any, snapshot: Snapshot) -> None:
    """Fill the table of a new file from the snapshot that it begins with and from its rows."""
    insert_aborted(connection, replayed(connection, snapshot))


def replayed(connection: Any, snapshot: Snapshot) -> AbortIndex:
    """What the table has to hold. It takes a look at every row.

    Raises:
        CorruptMessageError: a control batch does not decode.
    """
    return replayed_transactions(connection, snapshot).aborted


def replayed_transactions(connection: Any, snapshot: Snapshot) -> LogTransactions:
    """The log's transactions as of the end of a segment, those aborted in it among them.

    Raises:
        CorruptMessageError: a control batch does not decode.
    """
    transactions = LogTransactions(snapshot)
    rows = connection.execute(
        f"SELECT producer_id, base_offset, attributes, {MARKER_DATA} FROM batches "  # noqa: S608  constant names
        "WHERE producer_id >= 0 AND attributes & ? ORDER BY base_offset",
        (TRANSACTIONAL_BIT,),
    )
    for producer_id, base_offset, attributes, data in rows:
        marker = stored_marker(attributes, data)
        transactions.append(producer_id, base_offset, attributes, marker)
    return transactions


def require_indexed(connection: Any, path: Path, aborted: AbortIndex) -> None:
    """Check that the table holds what was replayed.

    Raises:
        DamagedSegmentError: it does not.
    """
    if aborted_rows(connection) != list(aborted):
        raise DamagedSegmentError(
            f"{path}: the aborted transactions are not those of its batches", path=path
        )


def read_index(connection: Any, path: Path) -> AbortIndex:
    """The aborted transactions of a sealed segment.

    Raises:
        DamagedSegmentError: they are not what was written.
    """
    rows = aborted_rows(connection)
    index = AbortIndex()
    try:
        is_whole = _are_those_sealed(connection, rows)
        for row in rows:
            index.append(row)
    except (TypeError, OverflowError) as error:
        raise DamagedSegmentError(
            f"{path}: the aborted transactions are damaged: {error}", path=path
        ) from error
    if not is_whole:
        raise DamagedSegmentError(
            f"{path}: the aborted transactions are damaged: their CRC-32C differs", path=path
        )
    return index


def rebuilt_aborts(connection: Any, path: Path) -> SegmentAborts:
    """What the table of a sealed segment would have that is damaged, made anew from the batches.

    The checksum tells whether it is what was sealed: so nothing is lost with the table, and nothing
    is made of batches, or of a snapshot, that are damaged themselves. Nothing is written.

    Raises:
        DamagedSegmentError: it is not.
    """
    snapshot = read_snapshot(connection, path)
    try:
        aborted = replayed(connection, snapshot)
    except CorruptMessageError as error:
        raise _not_to_be_had(path, str(error)) from error
    if not _are_those_sealed(connection, list(aborted)):
        raise _not_to_be_had(path, "their CRC-32C differs")
    starts = (producer.transaction_start for _, producer in snapshot.producers)
    open_from = min((start for start in starts if start is not None), default=None)
    return SegmentAborts(len(aborted), open_from, aborted)


def _are_those_sealed(connection: Any, rows: Sequence[IndexedAbort]) -> bool:
    wanted = get_meta(connection, ABORTED_CRC)
    return aborted_crc(rows) == wanted if rows else wanted is None


def _not_to_be_had(path: Path, reason: str) -> DamagedSegmentError:
    return DamagedSegmentError(
        f"{path}: the aborted transactions are damaged, and cannot be made anew from the batches: "
        f"{reason}",
        path=path,
    )
