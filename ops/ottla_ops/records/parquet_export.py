"""Records into a Parquet file, by pyarrow (extra `parquet`), which is imported only here."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from ottla import ConsumerRecord
from ottla_ops.records.rendering import text_or_bytes
from ottla_protocol.errors import InvalidRequestError
from ottla_protocol.record_batch import NO_TIMESTAMP

ROWS_PER_GROUP: Final = 100_000
BYTES_PER_GROUP: Final = 64 << 20
"""A row group is written when either is reached: that much is held in memory."""


class MissingExtraError(InvalidRequestError):
    """The package that this needs is not installed."""

    code = "MISSING_EXTRA"
    title = "Package missing"


@contextmanager
def open_parquet(path: Path) -> Iterator["ParquetWriter"]:
    """A writer into a new Parquet file.

    Raises:
        MissingExtraError: pyarrow is not installed.
        OSError: the file cannot be written.
    """
    try:
        import pyarrow as arrow  # noqa: ICN001  names are no abbreviations here
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError(
            "Parquet needs pyarrow, which is not installed: pip install 'ottla[server,parquet]'"
        ) from error
    schema = _schema(arrow)
    with parquet.ParquetWriter(path, schema, compression="zstd") as file:
        yield ParquetWriter(arrow, file, schema)


def _schema(arrow: Any) -> Any:
    header = arrow.struct([("name", arrow.string()), ("value", arrow.binary())])
    return arrow.schema(
        [
            ("partition", arrow.int32()),
            ("offset", arrow.int64()),
            # Ottla's are ms since the epoch; records without one have null.
            ("timestamp", arrow.timestamp("ms", tz="UTC")),
            ("key", arrow.string()),
            ("key_bytes", arrow.binary()),
            ("value", arrow.string()),
            ("value_bytes", arrow.binary()),
            ("headers", arrow.list_(header)),
        ]
    )


class ParquetWriter:
    """Gathers records into row groups.

    Args:
        arrow: the module pyarrow.
        file: its writer.
        schema: of the file.
    """

    def __init__(self, arrow: Any, file: Any, schema: Any) -> None:
        self._arrow = arrow
        self._file = file
        self._schema = schema
        self._gathered: list[ConsumerRecord] = []
        self._gathered_bytes = 0

    def write(self, records: Sequence[ConsumerRecord]) -> None:
        """See `RecordWriter.write`."""
        self._gathered += records
        self._gathered_bytes += sum(
            len(record.key or b"") + len(record.value or b"") for record in records
        )
        if len(self._gathered) >= ROWS_PER_GROUP or self._gathered_bytes >= BYTES_PER_GROUP:
            self._write_group()

    def finish(self) -> None:
        """See `RecordWriter.finish`."""
        if self._gathered:
            self._write_group()

    def _write_group(self) -> None:
        records, self._gathered, self._gathered_bytes = self._gathered, [], 0
        keys = [text_or_bytes(record.key) for record in records]
        values = [text_or_bytes(record.value) for record in records]
        columns = (
            [record.partition for record in records],
            [record.offset for record in records],
            [None if record.timestamp == NO_TIMESTAMP else record.timestamp for record in records],
            _of_type(keys, str),
            _of_type(keys, bytes),
            _of_type(values, str),
            _of_type(values, bytes),
            [[{"name": name, "value": value} for name, value in each.headers] for each in records],
        )
        arrays = [
            self._arrow.array(column, type=field.type)
            for column, field in zip(columns, self._schema, strict=True)
        ]
        self._file.write_table(self._arrow.Table.from_arrays(arrays, schema=self._schema))


def _of_type(cells: Sequence[object], kind: type) -> list[object]:
    """The cells of one type, None in the others' places."""
    return [cell if isinstance(cell, kind) else None for cell in cells]
