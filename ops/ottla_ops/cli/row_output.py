"""Rows of an SQL statement as a table, as NDJSON or as CSV."""

import base64
import csv
import io
import itertools
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Any, Final

from ottla_ops.cli.output import Output

TABLE_ROWS_MEASURED: Final = 1_000
"""Rows by which a table's columns are measured; longer cells further down stick out."""

ROWS_PER_WRITE: Final = 500


class RowFormat(StrEnum):
    """How rows are printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def print_rows(
    output: Output, names: Sequence[str], rows: Iterator[tuple[Any, ...]], row_format: RowFormat
) -> int:
    """Print all rows; returns how many there were.

    Blobs are `{"b64": ...}` in JSON and SQLite's `X'...'` otherwise; NULL is null, and empty in
    tables and CSV.
    """
    match row_format:
        case RowFormat.JSON:
            return _print_json(output, names, rows)
        case RowFormat.CSV:
            return _print_csv(output, names, rows)
        case RowFormat.TABLE:
            return _print_table(output, names, rows)


def _print_json(output: Output, names: Sequence[str], rows: Iterator[tuple[Any, ...]]) -> int:
    import msgspec

    count = 0
    encode = msgspec.json.encode
    for some in _runs(rows):
        output.lines(encode(dict(zip(names, map(_json_cell, row), strict=True))) for row in some)
        count += len(some)
    return count


def _print_csv(output: Output, names: Sequence[str], rows: Iterator[tuple[Any, ...]]) -> int:
    count = 0
    output.text(_csv_text([names]).removesuffix("\n"))
    for some in _runs(rows):
        text = _csv_text([map(_text_cell, row) for row in some])
        output.text(text.removesuffix("\n"))
        output.flush()
        count += len(some)
    return count


def _csv_text(rows: Sequence[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _print_table(output: Output, names: Sequence[str], rows: Iterator[tuple[Any, ...]]) -> int:
    measured = [
        [_table_cell(cell) for cell in row] for row in itertools.islice(rows, TABLE_ROWS_MEASURED)
    ]
    output.table(names, measured)
    output.flush()
    widths = [max(map(len, column)) for column in zip(names, *measured, strict=True)]
    count = len(measured)
    for some in _runs(rows):
        for row in some:
            cells = (
                _table_cell(cell).ljust(width) for cell, width in zip(row, widths, strict=True)
            )
            output.text("  ".join(cells).rstrip())
        output.flush()
        count += len(some)
    return count


def _runs(rows: Iterator[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    while some := list(itertools.islice(rows, ROWS_PER_WRITE)):
        yield some


def _json_cell(cell: Any) -> Any:
    return {"b64": base64.b64encode(cell).decode()} if isinstance(cell, bytes) else cell


def _text_cell(cell: Any) -> str:
    if cell is None:
        return ""
    return f"X'{cell.hex()}'" if isinstance(cell, bytes) else str(cell)


def _table_cell(cell: Any) -> str:
    # A line end within a cell would break the row.
    return _text_cell(cell).replace("\r", "\\r").replace("\n", "\\n")
