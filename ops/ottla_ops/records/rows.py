"""Records as rows of an SQL table: the same for queries and for exports."""

from collections.abc import Collection, Iterable, Sequence
from operator import attrgetter
from typing import Any, Final

import msgspec

from ottla import ConsumerRecord
from ottla_ops.records.rendering import header_document, text_or_bytes

TABLE_COLUMNS: Final = ("offset", "partition", "timestamp", "key", "value", "headers")
"""What a topic's table has. Key and value are text where they are UTF-8, else blobs; headers are
JSON."""


def create_table(connection: Any, topic: str) -> None:
    """Make the table of a topic, without rows, in an SQLite database."""
    columns = '"offset" INTEGER, "partition" INTEGER, "timestamp" INTEGER, key, value, headers TEXT'
    connection.execute(f"CREATE TABLE {quoted(topic)} ({columns})")


def insert(
    connection: Any,
    topic: str,
    records: Sequence[ConsumerRecord],
    columns: Collection[str] = TABLE_COLUMNS,
) -> None:
    """Add rows to a topic's table; columns that are not named stay empty."""
    # A row has to have something in it, and offsets cost least.
    names = [name for name in TABLE_COLUMNS if name in columns] or ["offset"]
    listed = ", ".join(map(quoted, names))
    marks = ", ".join("?" * len(names))
    connection.executemany(
        f"INSERT INTO {quoted(topic)} ({listed}) VALUES ({marks})",  # noqa: S608  quoted
        zip(*(_column(name, records) for name in names), strict=True),
    )


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _column(name: str, records: Sequence[ConsumerRecord]) -> Iterable[Any]:
    """One column of some rows."""
    match name:
        case "key":
            return [text_or_bytes(record.key) for record in records]
        case "value":
            return [text_or_bytes(record.value) for record in records]
        case "headers":
            return [header_text(record) for record in records]
        case _:
            return map(attrgetter(name), records)


def header_text(record: ConsumerRecord) -> str:
    """A record's headers as JSON text."""
    if not record.headers:
        return "{}"
    return msgspec.json.encode(header_document(record.headers)).decode()
