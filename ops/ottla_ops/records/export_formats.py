"""The formats that records can be exported to, and the file names that ask for them.

Apart from the writers, because the command tree is built of this and must not load those.
"""

from enum import StrEnum
from pathlib import Path
from typing import Final


class ExportFormat(StrEnum):
    """Formats of exports."""

    NDJSON = "ndjson"
    CSV = "csv"
    SQLITE = "sqlite"
    PARQUET = "parquet"


FORMATS_BY_SUFFIX: Final = {
    ".ndjson": ExportFormat.NDJSON,
    ".jsonl": ExportFormat.NDJSON,
    ".csv": ExportFormat.CSV,
    ".sqlite": ExportFormat.SQLITE,
    ".db": ExportFormat.SQLITE,
    ".parquet": ExportFormat.PARQUET,
}


def format_of(path: Path) -> ExportFormat | None:
    """The format that a file's name asks for; None if its ending says nothing."""
    return FORMATS_BY_SUFFIX.get(path.suffix.lower())
