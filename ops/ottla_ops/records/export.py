"""Records into files that other programs open: NDJSON, CSV, SQLite and Parquet.

A file appears under its name when it is whole; until then it has another one, and a failure leaves
nothing behind. What each format has of a record:

- NDJSON: what a read over HTTP gives, with topic and partition;
- CSV: partition, offset, timestamp, key, key_b64, value, value_b64, headers. The `_b64` columns
  have what is no UTF-8; null and the empty text look alike;
- SQLite: a table of the topic's name with a row per record, as in `ottla query`;
- Parquet: as CSV, but `key_bytes` and `value_bytes`, a timestamp type, and a list of headers.
"""

import base64
import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any, Final, Protocol, cast

from ottla import ConsumerRecord
from ottla_broker.storage import sqlite
from ottla_ops.records.export_formats import ExportFormat
from ottla_ops.records.rendering import text_or_bytes
from ottla_ops.records.rows import create_table, header_text, insert, quoted
from ottla_protocol.errors import ConflictError, InvalidRequestError
from ottla_protocol.json_records import render_lines

PARTIAL_SUFFIX: Final = ".partial"

CSV_COLUMNS: Final = (
    "partition",
    "offset",
    "timestamp",
    "key",
    "key_b64",
    "value",
    "value_b64",
    "headers",
)


class ExportExistsError(ConflictError):
    """There is a file of that name."""

    code = "EXPORT_EXISTS"
    status = 409
    title = "Export exists"


class RecordWriter(Protocol):
    """Takes records of one topic, in runs of one partition each."""

    def write(self, records: Sequence[ConsumerRecord]) -> None:
        """Add records."""

    def finish(self) -> None:
        """Write what is still to be written; nothing is added after that."""


@contextmanager
def open_export(
    path: Path, export_format: ExportFormat, topic: str, *, overwrite: bool
) -> Iterator[RecordWriter]:
    """A writer into a new file, which gets its name when the block ends without an error.

    Raises:
        ExportExistsError: it is there already, and not to be replaced.
        MissingExtraError: Parquet without pyarrow.
        StorageError: SQLite cannot write it.
        OSError: it cannot be written.
    """
    if path.exists() and not overwrite:
        raise ExportExistsError(f"{path}: there is such a file")
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    partial.unlink(missing_ok=True)
    try:
        with _writer(partial, export_format, topic) as writer:
            yield writer
            writer.finish()
        partial.replace(path)
    except sqlite.DriverError as error:
        raise sqlite.storage_error(path, "export", error) from error
    finally:
        partial.unlink(missing_ok=True)


def stream_writer(stream: IO[bytes], export_format: ExportFormat, topic: str) -> RecordWriter:
    """A writer of one of the formats that go into a pipe.

    Raises:
        InvalidRequestError: the format needs a file.
    """
    match export_format:
        case ExportFormat.NDJSON:
            return NdjsonWriter(stream, topic)
        case ExportFormat.CSV:
            return CsvWriter(stream)
        case _:
            raise InvalidRequestError(f"{export_format} needs a file to be written to")


@contextmanager
def _writer(path: Path, export_format: ExportFormat, topic: str) -> Iterator[RecordWriter]:
    match export_format:
        case ExportFormat.NDJSON | ExportFormat.CSV:
            with path.open("xb") as stream:
                yield stream_writer(stream, export_format, topic)
        case ExportFormat.SQLITE:
            with closing(sqlite.driver.connect(path, isolation_level=None)) as connection:
                yield SqliteWriter(connection, topic)
        case ExportFormat.PARQUET:
            from ottla_ops.records.parquet_export import open_parquet

            with open_parquet(path) as writer:
                yield writer


class NdjsonWriter:
    """One JSON object a line.

    Args:
        stream: takes the lines.
        topic: told in each.
    """

    def __init__(self, stream: IO[bytes], topic: str) -> None:
        self._stream = stream
        self._topic = topic

    def write(self, records: Sequence[ConsumerRecord]) -> None:
        """See `RecordWriter.write`."""
        # A consumer's record has all that the renderer looks at.
        self._stream.write(
            render_lines(
                cast("Any", records),
                "auto",
                topic=self._topic,
                partition=records[0].partition,
            )
        )

    def finish(self) -> None:
        """See `RecordWriter.finish`."""
        self._stream.flush()


class CsvWriter:
    """Comma-separated, with a line of names."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._write_rows([CSV_COLUMNS])

    def write(self, records: Sequence[ConsumerRecord]) -> None:
        """See `RecordWriter.write`."""
        self._write_rows(
            [
                (
                    record.partition,
                    record.offset,
                    record.timestamp,
                    *_text_and_base64(record.key),
                    *_text_and_base64(record.value),
                    header_text(record),
                )
                for record in records
            ]
        )

    def finish(self) -> None:
        """See `RecordWriter.finish`."""
        self._stream.flush()

    def _write_rows(self, rows: Sequence[Sequence[object]]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(rows)
        self._stream.write(text.getvalue().encode())


class SqliteWriter:
    """A row per record, in a table of the topic's name, found by partition and offset.

    Args:
        connection: a new database, in autocommit.
        topic: names the table.
    """

    def __init__(self, connection: Any, topic: str) -> None:
        self._connection = connection
        self._topic = topic
        # The file is thrown away when anything fails, so it needs no journal.
        for setting in ("journal_mode=OFF", "synchronous=OFF"):
            connection.execute(f"PRAGMA {setting}").fetchall()
        connection.execute("BEGIN")
        create_table(connection, topic)

    def write(self, records: Sequence[ConsumerRecord]) -> None:
        """See `RecordWriter.write`."""
        insert(self._connection, self._topic, records)

    def finish(self) -> None:
        """See `RecordWriter.finish`."""
        index = quoted(f"{self._topic} by offset")
        self._connection.execute(
            f'CREATE UNIQUE INDEX {index} ON {quoted(self._topic)} ("partition", "offset")'
        )
        self._connection.execute("COMMIT")


def _text_and_base64(data: bytes | None) -> tuple[str | None, str | None]:
    """Text, or else base64 where it is none."""
    found = text_or_bytes(data)
    if isinstance(found, bytes):
        return None, base64.b64encode(found).decode()
    return found, None
