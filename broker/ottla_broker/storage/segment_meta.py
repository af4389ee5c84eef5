"""Named values in a segment's file, and transactions on it.

Everything here runs on the connection's thread.
"""

from typing import Any

VERIFIED_END = "verified_end"
"""Meta: everything below this offset was verified, or written and checkpointed by a clean close."""

BATCH_COUNT = "batch_count"
"""Meta: how many batches compaction has left in a sealed segment; none may be missing there either,
though offsets are."""

HAS_GAPS = "has_gaps"
"""Meta: batches of this segment, or the next segment, may begin above the previous batch's end."""


def get_meta(connection: Any, name: str) -> Any:
    """A value of `meta`; None when it was never set."""
    rows = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchall()
    return rows[0][0] if rows else None


def set_meta(connection: Any, name: str, value: Any) -> None:
    """Set a value of `meta`."""
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))


class Transaction:
    """BEGIN IMMEDIATE, then COMMIT or, if the block or the COMMIT raised, ROLLBACK."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._connection.execute("COMMIT")
        finally:
            # SQLite itself has rolled back after a full disk or an IO error.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
