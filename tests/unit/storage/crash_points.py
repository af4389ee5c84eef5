"""What a kill -9 leaves, at any operation on a file and at any SQL statement.

A log's directory is copied just before the n-th of them; the log goes on, unaware. Python tells
of operations on files through its audit hooks, so production code needs no seams, and what it does
next year is covered as well.
"""

import shutil
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

from ottla_broker.storage import sqlite

_FILE_EVENTS = frozenset(
    {"open", "os.remove", "os.rename", "os.chmod", "os.link", "os.mkdir", "os.rmdir", "os.truncate"}
)

_armed = []
_connections = []
_watches = []


class CrashPoint:
    """Copies `directory` to `target` before the n-th operation.

    Args:
        directory: the log's.
        target: where the copy goes.
        number: which operation, from 1 on.
    """

    def __init__(self, directory, target, number):
        self.directory = directory
        self.target = target
        self.left = number
        self.hit = None
        self._is_copying = False

    def operation(self, name):
        if self._is_copying or self.hit is not None:
            return
        self.left -= 1
        if self.left == 0:
            self._is_copying = True
            self.copy()
            self.hit = name
            self._is_copying = False

    def copy(self):
        self.target.mkdir()
        for path in sorted(self.directory.iterdir()):
            with suppress(FileNotFoundError):
                shutil.copy2(path, self.target / path.name)


def _audit(event, arguments):
    if _armed and event in _FILE_EVENTS:
        path = str(arguments[0])
        if str(_armed[0].directory) in path:
            _armed[0].operation(f"{event} {path.rpartition('/')[2]}")
    if _watches and event == "os.remove":
        for watch in _watches:
            watch(Path(arguments[0]))


sys.addaudithook(_audit)


def _statement(sql):
    if _armed:
        _armed[0].operation(sql[:60])


@contextmanager
def statements_counted():
    """SQL statements are crash points too, on connections that are opened in the block."""
    sound = sqlite._open

    def opened(uri):
        connection = sound(uri)
        _connections.append(connection)
        if _armed:
            connection.set_trace_callback(_statement)
        return connection

    sqlite._open = opened
    try:
        yield
    finally:
        sqlite._open = sound
        _connections.clear()


@contextmanager
def crash_at(point):
    """Copy at that point, if the block gets so far."""
    _armed.append(point)
    _trace(_statement)
    try:
        yield
    finally:
        _armed.remove(point)
        _trace(None)


@contextmanager
def removals_watched(watch):
    """Call `watch` with each path that is about to be removed."""
    _watches.append(watch)
    try:
        yield
    finally:
        _watches.remove(watch)


def _trace(callback):
    for connection in tuple(_connections):
        try:
            connection.set_trace_callback(callback)
        except sqlite.driver.ProgrammingError:
            # It was closed meanwhile.
            _connections.remove(connection)
