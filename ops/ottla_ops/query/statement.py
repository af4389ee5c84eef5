"""What a statement reads: SQLite itself is asked, against empty tables.

Every name that SQLite does not know as a table may be a topic; it gets a table of its own without
rows, until the statement can be prepared. While that is done, SQLite's authorizer is told of every
column that is read, and refuses whatever is not reading.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from ottla_broker.storage import sqlite
from ottla_ops.query.conditions import bounds_of
from ottla_ops.query.sql_tokens import Token, TokenKind, tokenize
from ottla_ops.records.rows import TABLE_COLUMNS, create_table
from ottla_ops.records.selection import Selection
from ottla_protocol.errors import InvalidRequestError, UnknownTopicOrPartitionError

TOPICS_MAX: Final = 8
"""Topics of one statement."""

SQL_BYTES_MAX: Final = 1 << 20

CONSTANT_MAX: Final = 1 << 62
"""Bounds beyond this are no bounds; neighbours of what is below it are still 64-bit integers."""

ONLY_READING: Final = "only reading is possible: one SELECT statement"

# VACUUM INTO writes a file, and the authorizer does not hear of it when that is prepared.
_READING: Final = ("select", "with", "values")

_NO_SUCH_TABLE: Final = re.compile(r"no such table: (.+)", re.DOTALL)
_NO_SUCH_COLUMN: Final = re.compile(r"no such column: (?:\w+\.)?(\w+)")

# https://sqlite.org/c3ref/c_alter_table.html: what a statement that only reads may do.
_READ: Final = 20
_ALLOWED: Final = frozenset({_READ, 21, 31, 33})  # and SELECT, FUNCTION, RECURSIVE
_OK: Final = 0
_DENY: Final = 1


class InvalidStatementError(InvalidRequestError):
    """SQLite does not take the statement, or it does something else than read."""

    code = "INVALID_STATEMENT"
    title = "Invalid SQL statement"


@dataclass(slots=True)
class TableUse:
    """One topic that a statement reads.

    Attributes:
        topic: its name.
        columns: those that the statement reads; others need not be filled.
        selection: records outside it cannot change the result.
    """

    topic: str
    columns: set[str] = field(default_factory=set)
    selection: Selection = field(default_factory=Selection)


def prepare(connection: Any, sql: str, has_topic: Callable[[str], bool]) -> list[TableUse]:
    """Make an empty table in `connection` for each topic of a statement, and tell what it reads.

    Args:
        connection: a database of our own, empty.
        sql: one statement.
        has_topic: whether there is a topic of that name.

    Raises:
        InvalidStatementError: see there.
        UnknownTopicOrPartitionError: it names a table that is no topic.
    """
    if len(sql.encode()) > SQL_BYTES_MAX:
        raise InvalidStatementError(f"the statement has more than {SQL_BYTES_MAX} bytes")
    tokens = tokenize(sql)
    if not tokens:
        raise InvalidStatementError("the statement is empty")
    if not tokens[0].is_word(*_READING):
        raise InvalidStatementError(ONLY_READING)
    uses: dict[str, TableUse] = {}
    while True:
        missing = _explain(connection, sql, uses)
        if missing is None:
            break
        topic = _topic_of(missing, tokens)
        _require_topic(topic, tokens, uses, has_topic)
        create_table(connection, topic)
        uses[topic.lower()] = TableUse(topic)
    if len(uses) == 1:
        [use] = uses.values()
        use.selection = bounds_of(tokens, use.topic, lambda text: _evaluate(connection, text))
    return list(uses.values())


def _explain(connection: Any, sql: str, uses: dict[str, TableUse]) -> str | None:
    """Prepare the statement, noting the columns that it reads; the first table that is missing."""

    def authorize(action: int, table: str | None, column: str | None, *_: object) -> int:
        if action == _READ and table is not None and column and table.lower() in uses:
            uses[table.lower()].columns.add(column.lower())
        return _OK if action in _ALLOWED else _DENY

    connection.set_authorizer(authorize)
    try:
        # A second statement behind the first is refused by the driver.
        connection.execute(f"EXPLAIN {sql}").fetchall()
    except (sqlite.DriverError, sqlite.driver.Warning, ValueError) as error:
        found = _NO_SUCH_TABLE.fullmatch(str(error))
        if found is not None:
            return found.group(1)
        raise InvalidStatementError(_explanation(error)) from error
    finally:
        connection.set_authorizer(None)
    return None


def _explanation(error: Exception) -> str:
    text = str(error)
    if "not authorized" in text or "prohibited" in text:
        return ONLY_READING
    if "Incorrect number of bindings" in text:
        return "the statement has parameters, and there are no values for them"
    if (found := _NO_SUCH_COLUMN.fullmatch(text)) is not None:
        # Mostly somebody who asks for a field of the value as if it were a column.
        return (
            f"{text}; a topic's columns are {', '.join(TABLE_COLUMNS)}, "
            f"and a field of a JSON value is value ->> '$.{found.group(1)}'"
        )
    return text


def _topic_of(missing: str, tokens: list[Token]) -> str:
    """The topic that SQLite means; `main.` in front of it is the schema unless it was quoted."""
    names = {token.name for token in tokens if token.kind in (TokenKind.WORD, TokenKind.QUOTED)}
    return missing if missing in names else missing.removeprefix("main.")


def _require_topic(
    topic: str, tokens: list[Token], uses: dict[str, TableUse], has_topic: Callable[[str], bool]
) -> None:
    """Check that a table's name is a topic's, and no other topic's in SQLite's eyes."""
    if topic.lower() in uses:
        raise InvalidStatementError(f"{topic} is in no schema but main")
    if len(uses) == TOPICS_MAX:
        raise InvalidStatementError(f"the statement reads more than {TOPICS_MAX} topics")
    if topic.lower().startswith("sqlite_"):
        raise InvalidStatementError(f"{topic}: names that begin with sqlite_ are SQLite's own")
    if not has_topic(topic):
        raise UnknownTopicOrPartitionError(f"there is no topic {topic}")
    spellings = {
        token.name
        for token in tokens
        if token.kind in (TokenKind.WORD, TokenKind.QUOTED) and token.name.lower() == topic.lower()
    }
    others = sorted(name for name in spellings - {topic} if has_topic(name))
    if others:
        raise InvalidStatementError(
            f"{topic} and {others[0]} are two topics, and one name to SQLite, which does not tell "
            f"upper from lower case"
        )


def _evaluate(connection: Any, text: str) -> int | None:
    """The value of a constant expression, where it is an integer."""
    try:
        [(value,)] = connection.execute(f"SELECT ({text})").fetchall()
    except (sqlite.DriverError, ValueError):
        return None
    return value if isinstance(value, int) and abs(value) <= CONSTANT_MAX else None
