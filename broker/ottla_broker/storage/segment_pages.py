"""SQLite's own check of a segment's pages, which no batch's CRC covers.

Pages hold more than rows: cell pointers, lists of free room, pages of tables that are empty. A bit
that flips there changes no batch, and shows when the next row is written into that page.
"""

from typing import Any, Final

FINDINGS_MAX: Final = 100
"""Findings of one segment after which the rest of it is left alone."""

_SMALL_TABLES: Final = (
    "meta",
    "leader_epochs",
    "producer_snapshot",
    "idempotency_snapshot",
    "aborted_transactions",
)
"""All tables of a segment but the batches: few pages, however large the segment."""


def page_findings(connection: Any) -> list[str]:
    """What SQLite finds wrong with a file: it reads the whole of it."""
    return _findings(connection, f"PRAGMA integrity_check({FINDINGS_MAX})")


def small_page_findings(connection: Any) -> list[str]:
    """What SQLite finds wrong with the pages of all tables but the batches."""
    return [
        finding
        for table in _SMALL_TABLES
        for finding in _findings(connection, f"PRAGMA integrity_check({table})")
    ]


def _findings(connection: Any, pragma: str) -> list[str]:
    lines = [" ".join(str(line).split()) for (line,) in connection.execute(pragma).fetchall()]
    return [line for line in lines if line != "ok"]
