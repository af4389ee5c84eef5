"""Fills the tables of a statement's topics, and runs it.

SQLite can have tables whose rows a program makes up as they are asked for, but not from Python. So
the records that a statement can need are copied into a temporary database, which SQLite keeps in
memory up to CACHE_KIB and in a file that nobody else sees beyond. Columns that the statement does
not read are left empty.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from ottla import ConsumerRecord
from ottla_broker.storage import sqlite
from ottla_ops.query.statement import InvalidStatementError, TableUse
from ottla_ops.records.record_source import TopicRead
from ottla_ops.records.rows import insert
from ottla_protocol.errors import InvalidRequestError, OttlaError

CACHE_KIB: Final = 128 * 1024
RECORD_OVERHEAD_BYTES: Final = 32
"""What a row takes beside its key, value and headers, about."""

STEPS_BETWEEN_SIGNALS: Final = 100_000
"""Instructions of SQLite's machine after which Ctrl-C is looked for."""


class QueryTooLargeError(InvalidRequestError):
    """The records that a statement needs take more than the caller allows."""

    code = "QUERY_TOO_LARGE"
    title = "Query too large"


class StatementFailedError(OttlaError):
    """The statement failed while it ran, for example on a value that is not what it expects."""

    code = "STATEMENT_FAILED"
    title = "SQL statement failed"


@contextmanager
def temporary_database() -> Iterator[Any]:
    """An empty database that goes away with the connection."""
    connection = sqlite.driver.connect("", isolation_level=None)
    try:
        # Nobody wants it back after a crash.
        for setting in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{CACHE_KIB}"):
            connection.execute(f"PRAGMA {setting}").fetchall()
        connection.set_progress_handler(lambda: 0, STEPS_BETWEEN_SIGNALS)
        yield connection
    finally:
        connection.close()


class TableFiller:
    """Copies records into tables, within one budget for all tables of a statement.

    Args:
        connection: the database.
        max_bytes: what all rows may take.
        on_records: told how many records more have been copied.
    """

    def __init__(
        self, connection: Any, *, max_bytes: int, on_records: Callable[[int], object]
    ) -> None:
        self._connection = connection
        self._max_bytes = max_bytes
        self._on_records = on_records
        self.size_bytes = 0

    def fill(self, use: TableUse, read: TopicRead) -> None:
        """Copy what is read of a topic into its table.

        Raises:
            QueryTooLargeError: the budget is spent.
            OttlaError: reading failed.
        """
        connection = self._connection
        connection.execute("BEGIN")
        for records in read.records:
            self._count(use, records)
            insert(connection, use.topic, records, use.columns)
            self._on_records(len(records))
        connection.execute("COMMIT")

    def _count(self, use: TableUse, records: Sequence[ConsumerRecord]) -> None:
        size_bytes = RECORD_OVERHEAD_BYTES * len(records)
        if "value" in use.columns:
            size_bytes += sum(len(record.value) for record in records if record.value is not None)
        if "key" in use.columns:
            size_bytes += sum(len(record.key) for record in records if record.key is not None)
        if "headers" in use.columns:
            size_bytes += sum(
                len(name) + len(value or b"")
                for record in records
                for name, value in record.headers
            )
        self.size_bytes += size_bytes
        if self.size_bytes > self._max_bytes:
            raise QueryTooLargeError(
                f"the statement needs more than {self._max_bytes:,} bytes of records"
            )


def run(connection: Any, sql: str) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
    """Run the statement; the columns' names, and the rows as SQLite finds them.

    Raises:
        StatementFailedError: now, or while rows are taken.
        KeyboardInterrupt: Ctrl-C.
    """
    connection.execute("PRAGMA query_only=1").fetchall()
    with _failures_told():
        cursor = connection.execute(sql)
    if cursor.description is None:
        raise InvalidStatementError("the statement has no result")
    return [column[0] for column in cursor.description], _rows(cursor)


def _rows(cursor: Any) -> Iterator[tuple[Any, ...]]:
    while True:
        with _failures_told():
            row = cursor.fetchone()
        if row is None:
            return
        yield row


@contextmanager
def _failures_told() -> Iterator[None]:
    try:
        yield
    except sqlite.DriverError as error:
        # What Ctrl-C raises in the progress handler reaches us as SQLite's own word for it.
        if str(error) == "interrupted":
            raise KeyboardInterrupt from None
        raise StatementFailedError(str(error)) from error
