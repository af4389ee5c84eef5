"""The table of aborted transactions in a segment's file, as it stands.

What it has to hold, by the segment's batches, is in `segment_transactions`. Everything that takes a
connection runs on the connection's thread.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import google_crc32c
import msgspec

from ottla_broker.storage.policy.abort_index import AbortIndex, IndexedAbort
from ottla_broker.storage.segment_meta import get_meta, set_meta

ABORTED_CRC = "aborted_crc"
"""Meta of a sealed segment that has any: checksum of `aborted_transactions`."""


class SegmentAborts(NamedTuple):
    """What is known of the transactions in a sealed segment, so that few need be read.

    `aborted_count` is how many were aborted by markers in it; `aborted` has them once they were
    read. `open_from` is where the oldest transaction begins that was open at its base.
    """

    aborted_count: int
    open_from: int | None
    aborted: AbortIndex | None = None

    def reaches_back_below(self, offset: int) -> bool:
        """Whether it, or one behind it, may have the marker of records below `offset`."""
        return self.open_from is not None and self.open_from < offset


def insert_aborted(connection: Any, aborted: Iterable[IndexedAbort]) -> None:
    """Add rows to `aborted_transactions`."""
    connection.executemany("INSERT INTO aborted_transactions VALUES (?, ?, ?, ?)", aborted)


def aborted_rows(connection: Any) -> list[IndexedAbort]:
    """All of `aborted_transactions`, in the order of their markers."""
    rows = connection.execute(
        "SELECT last_offset, producer_id, first_offset, last_stable_offset "
        "FROM aborted_transactions ORDER BY last_offset"
    )
    return [IndexedAbort(*row) for row in rows]


def read_aborts(connection: Any) -> SegmentAborts:
    """What a look-up must know of a sealed segment before it reads its aborted transactions."""
    [(count,)] = connection.execute("SELECT count(*) FROM aborted_transactions").fetchall()
    [(open_from,)] = connection.execute(
        "SELECT min(transaction_start) FROM producer_snapshot"
    ).fetchall()
    # Where rows are hidden by damage the checksum is left, and whoever reads them is told so.
    return SegmentAborts(count or int(get_meta(connection, ABORTED_CRC) is not None), open_from)


def aborted_crc(rows: Sequence[IndexedAbort]) -> int:
    """CRC-32C over `aborted_transactions`, which no batch's CRC covers."""
    return int(google_crc32c.value(msgspec.msgpack.encode([tuple(row) for row in rows])))


def sum_up_aborted(connection: Any) -> None:
    """Set the checksum of a segment that is being sealed."""
    rows = aborted_rows(connection)
    if rows:
        set_meta(connection, ABORTED_CRC, aborted_crc(rows))
    else:
        connection.execute("DELETE FROM meta WHERE name = ?", (ABORTED_CRC,))
