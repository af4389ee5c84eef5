"""A disk that fails when a commit is synced: what it has got of the commit is unknown then."""

from contextlib import contextmanager
from unittest.mock import patch

from ottla_broker.storage import segment as segments
from ottla_broker.storage import sqlite

FAILED_FSYNC = 10 | 4 << 8
"""SQLite's code of it, SQLITE_IOERR_FSYNC."""


@contextmanager
def commits_failing(*, is_written):
    """Every commit ends with a failed fsync; what it held may be in the file all the same."""
    sound = segments.insert

    def insert(*arguments, **options):
        if is_written:
            sound(*arguments, **options)
        error = sqlite.driver.OperationalError("disk I/O error")
        error.sqlite_errorcode = FAILED_FSYNC
        raise error

    with patch.object(segments, "insert", insert):
        yield
