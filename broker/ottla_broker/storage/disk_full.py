"""A disk without room: the one failure of storage that passes by itself.

SQLite rolls a transaction back that finds no room, whole: nothing of it is in the file, and the
same transaction can be tried again (https://www.sqlite.org/rescode.html#full). A failed fsync is
another matter: what is on the disk is unknown then, and the broker stops.
"""

import errno

from ottla_protocol.errors import StorageError

_SQLITE_FULL = 13
_SQLITE_IOERR = 10
_SQLITE_IOERR_SHORT_READ = 522
_SQLITE_IOERR_NOMEM = 3_082
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NO_FAILURES = (_SQLITE_IOERR_SHORT_READ, _SQLITE_IOERR_NOMEM)
_FAILED = (*_NO_ROOM, errno.EIO)


class DiskFullError(StorageError):
    """A write found no room; nothing of it is stored, and it may be tried again."""

    title = "Disk full"


class NoDescriptorError(StorageError):
    """A file could not be opened, for want of a free file descriptor; nothing is wrong with it."""

    title = "No file descriptor"


def is_out_of_descriptors(error: BaseException) -> bool:
    """Whether an error of the operating system says that no file descriptor is free."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error of SQLite or of the operating system says that there is no room."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None:
        return bool(code & 0xFF == _SQLITE_FULL)
    return isinstance(error, OSError) and error.errno in _NO_ROOM


def is_disk_failure(error: BaseException | None) -> bool:
    """Whether an error of SQLite or of the system is the disk's own: it fails, or has no room.

    A file that is shorter than it says is damage, and no failure.
    """
    if error is None:
        return False
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return isinstance(error, OSError) and error.errno in _FAILED
    failed = code & 0xFF == _SQLITE_IOERR and code not in _NO_FAILURES
    return failed or is_disk_full(error)
