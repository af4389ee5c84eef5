"""Which SQLite a broker would trust its records to, and whether it may.

See `sqlite.py` for the bug. One connection per file keeps the race from happening in a broker, but
not in another tool that opens its files while it runs, so an affected version is used only where
the operator says so.
"""

from dataclasses import dataclass

from ottla_broker.storage import sqlite

FIXED_VERSIONS = "3.51.3, and 3.50.7 and 3.44.6 of the older branches"


class AffectedSqliteError(Exception):
    """The SQLite in use can corrupt a file; the message is one line for a person."""


@dataclass(frozen=True, slots=True)
class SqliteInUse:
    """What brokers and tools of this Python use.

    Attributes:
        version: of the library.
        driver: the Python module that brings it: pysqlite3 or the standard library's sqlite3.
        is_affected: whether the version has the WAL-reset bug.
    """

    version: str
    driver: str
    is_affected: bool


def sqlite_in_use() -> SqliteInUse:
    """The SQLite of this process."""
    return SqliteInUse(
        version=sqlite.sqlite_version(),
        driver=str(sqlite.driver.__name__).partition(".")[0],
        is_affected=sqlite.has_wal_reset_bug(tuple(sqlite.driver.sqlite_version_info)),
    )


def refuse_affected(in_use: SqliteInUse, *, allowed: bool) -> None:
    """That a broker may keep records with this SQLite.

    Args:
        in_use: what it has.
        allowed: whether the operator accepts an affected version.

    Raises:
        AffectedSqliteError: it may not.
    """
    if in_use.is_affected and not allowed:
        raise AffectedSqliteError(
            f"SQLite {in_use.version} (of {in_use.driver}) can corrupt a file whose write-ahead "
            f"log two programs reset at once; fixed in {FIXED_VERSIONS}. Install pysqlite3, or set "
            "OTTLA_ALLOW_AFFECTED_SQLITE=true (--allow-affected-sqlite) and keep every other "
            "program away from a running broker's files"
        )
