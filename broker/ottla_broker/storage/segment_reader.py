"""Reading batches back from a segment, and believing nothing that comes from the disk.

Each batch's CRC is checked, its columns are compared with its header, and batches must follow one
another: a flipped bit in an interior page hides rows without touching a batch. Only a segment that
says so (`has_gaps`: written by compaction, or fetched from a leader that compacts) may skip
offsets.

Everything here runs on the connection's thread.
"""

from pathlib import Path
from typing import Any

from ottla_broker.storage import sqlite
from ottla_broker.storage.segment import has_time_index
from ottla_broker.storage.segment_meta import HAS_GAPS, get_meta
from ottla_broker.storage.stored_batch import (
    COLUMNS,
    DamagedSegmentError,
    Row,
    StoredBatch,
    damaged,
    verified_batch,
)

_BLOB_BYTES = 32 * 1024
"""From this average size on, batches are read one by one through SQLite's blob interface, which
copies each once; below it, one SELECT for all of them costs less."""

SCANNED_BATCHES = 2_048
"""How many batches one step of a look-up by timestamp looks at: whoever commits to the same file
waits for no more than that."""

_COLUMNS_WITHOUT_DATA = ", ".join(COLUMNS[:-1])
_SIZE = COLUMNS.index("size")
_BASE_OFFSET = COLUMNS.index("base_offset")
_LAST_OFFSET = COLUMNS.index("last_offset")


def read_batches(
    connection: Any,
    path: Path,
    offset: int,
    *,
    max_bytes: int,
    limit: int,
    end_offset: int,
) -> tuple[StoredBatch, ...]:
    """Whole batches from the one that holds `offset` on, or the next one above a gap.

    Args:
        connection: the driver connection.
        path: the file, for errors.
        offset: where to begin.
        max_bytes: most bytes in all, but at least one batch.
        limit: only batches whose last offset is below it.
        end_offset: where the segment ends: what it holds below must be there.

    Raises:
        DamagedSegmentError: naming file and offset.
    """
    rows = _choose_rows(connection, path, offset, max_bytes, limit, end_offset)
    if len(rows) <= 1:
        return _verified(connection, path, rows)
    try:
        return _verified(connection, path, rows)
    except (sqlite.DriverError, DamagedSegmentError) as error:
        if isinstance(error, sqlite.DriverError) and not sqlite.is_damage(error):
            raise
        # What comes before the damage is good: whoever reads on meets it at its own offset.
        return _good_batches(connection, path, rows)


def find_timestamp(
    connection: Any, timestamp: int, offset: int, *, sealed: bool
) -> tuple[int | None, int | None]:
    """One step of a look-up among the batches that end at or above `offset`.

    The index of a sealed segment tells at once where the first batch of a time is. It knows nothing
    of those that come after: where the look-up begins behind that batch, as in an active segment,
    a step looks at SCANNED_BATCHES batches.

    Returns:
        The base offset of the first of them whose latest record is at or after `timestamp`, in ms,
        if there is one; and where the next step begins, None at the segment's end.
    """
    holding = connection.execute(
        "SELECT base_offset FROM (SELECT base_offset, last_offset FROM batches "
        "WHERE base_offset <= ? ORDER BY base_offset DESC LIMIT 1) WHERE last_offset >= ?",
        (offset, offset),
    ).fetchall()
    if holding:
        offset = holding[0][0]
    if sealed and has_time_index(connection):
        first = connection.execute(
            "SELECT base_offset FROM time_index WHERE max_timestamp >= ? "
            "ORDER BY max_timestamp LIMIT 1",
            (timestamp,),
        ).fetchall()
        if not first or first[0][0] >= offset:
            return first[0][0] if first else None, None
    [(found, last, count)] = connection.execute(
        "SELECT min(base_offset) FILTER (WHERE max_timestamp >= ?), max(base_offset), count(*) "
        "FROM (SELECT base_offset, max_timestamp FROM batches WHERE base_offset >= ? "
        "ORDER BY base_offset LIMIT ?)",
        (timestamp, offset, SCANNED_BATCHES),
    ).fetchall()
    return found, last + 1 if count == SCANNED_BATCHES else None


def next_base_offset(connection: Any, offset: int) -> int | None:
    """The base offset of the first batch above `offset`, which is not read."""
    [(found,)] = connection.execute(
        "SELECT min(base_offset) FROM batches WHERE base_offset > ?", (offset,)
    ).fetchall()
    return None if found is None else int(found)


def _choose_rows(
    connection: Any, path: Path, offset: int, max_bytes: int, limit: int, end_offset: int
) -> list[Row]:
    """The rows to return, without their blobs, after checking that they follow one another.

    They end before the first that does not; the caller's next read begins with it.
    """
    before = connection.execute(
        "SELECT base_offset, last_offset FROM batches WHERE base_offset <= ? "
        "ORDER BY base_offset DESC LIMIT 1",
        (offset,),
    ).fetchall()
    start = before[0][0] if before and _last_offset(path, before[0]) >= offset else offset
    cursor = connection.execute(
        f"SELECT {_COLUMNS_WITHOUT_DATA} FROM batches "  # noqa: S608 # constant names
        "WHERE base_offset >= ? ORDER BY base_offset",
        (start,),
    )
    chosen: list[Row] = []
    size_bytes = 0
    expected = start
    try:
        for row in cursor:
            if row[_BASE_OFFSET] != expected:
                _require_gaps(connection, path, expected)
            last_offset = _last_offset(path, row)
            size_bytes += row[_SIZE]
            if last_offset >= limit or (chosen and size_bytes > max_bytes):
                if row[_BASE_OFFSET] < limit <= last_offset and not chosen:
                    # The limit is within the batch: rare, so believe it of no column alone.
                    # Whoever reads on would take the rest of the segment for empty.
                    _verified(connection, path, [row])
                break
            chosen.append(row)
            expected = last_offset + 1
        else:
            if expected < end_offset:
                _require_gaps(connection, path, expected)
    except DamagedSegmentError:
        if not chosen:
            raise
    finally:
        cursor.close()
    return chosen


def _last_offset(path: Path, row: Row) -> int:
    """The column, which may hold anything; the size is looked at too."""
    last_offset = row[_LAST_OFFSET]
    if not isinstance(last_offset, int) or last_offset < row[_BASE_OFFSET]:
        raise damaged(path, row[_BASE_OFFSET], "its last offset is none")
    if len(row) > _SIZE and not isinstance(row[_SIZE], int):
        raise damaged(path, row[_BASE_OFFSET], "its size is none")
    return last_offset


def _require_gaps(connection: Any, path: Path, offset: int) -> None:
    if not get_meta(connection, HAS_GAPS):
        raise damaged(path, offset, "the batch is missing")


def _verified(connection: Any, path: Path, rows: list[Row]) -> tuple[StoredBatch, ...]:
    return tuple(verified_batch(path, row)[0] for row in _with_data(connection, path, rows))


def _good_batches(connection: Any, path: Path, rows: list[Row]) -> tuple[StoredBatch, ...]:
    """The batches up to the first that is damaged; its damage is raised if it is the first."""
    good: list[StoredBatch] = []
    for row in rows:
        try:
            good.extend(_verified(connection, path, [row]))
        except (sqlite.DriverError, DamagedSegmentError) as error:
            is_damage = isinstance(error, DamagedSegmentError) or sqlite.is_damage(error)
            if not good or not is_damage:
                raise
            break
    return tuple(good)


def _with_data(connection: Any, path: Path, rows: list[Row]) -> list[Row]:
    if not rows:
        return []
    if sum(row[_SIZE] for row in rows) >= _BLOB_BYTES * len(rows):
        return [
            (*row, sqlite.read_blob(connection, "batches", "data", row[_BASE_OFFSET]))
            for row in rows
        ]
    blobs = connection.execute(
        "SELECT data FROM batches WHERE base_offset BETWEEN ? AND ? ORDER BY base_offset",
        (rows[0][_BASE_OFFSET], rows[-1][_BASE_OFFSET]),
    ).fetchall()
    if len(blobs) != len(rows):
        raise damaged(path, rows[0][_BASE_OFFSET], "rows appear and disappear")
    return [(*row, blob) for row, (blob,) in zip(rows, blobs, strict=True)]
