"""Room on a disk that nobody else can take: a file of nothing, given up when it is needed.

Free space is anybody's, and whoever fills the disk fills the reserve too. What a broker must write
even then is small: votes, metadata, a few pages of a log. Blocking.
"""

import os
from pathlib import Path

from ottla_broker.storage import sqlite
from ottla_broker.storage.disk_full import is_disk_full

BALLAST_FILE = ".ballast"

BALLAST_BYTES_MAX = 16 << 20
"""Two write-ahead logs of metadata at their longest."""


class DiskBallast:
    """The file, in one data directory.

    Args:
        directory: the data directory.
        size_bytes: how much to keep.
    """

    def __init__(self, directory: Path, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._path = directory / BALLAST_FILE
        self._is_kept = False

    def keep(self) -> None:
        """Take the room, if it is not taken yet and there is as much.

        Raises:
            StorageError: the disk failed.
        """
        if self._is_kept:
            return
        try:
            descriptor = os.open(self._path, os.O_CREAT | os.O_WRONLY, sqlite.FILE_MODE)
            try:
                os.posix_fallocate(descriptor, 0, self.size_bytes)
            finally:
                os.close(descriptor)
        except OSError as error:
            if not is_disk_full(error):
                raise sqlite.storage_error(self._path, "allocate", error) from error
            self.release()
        else:
            self._is_kept = True

    def release(self) -> None:
        """Give the room up.

        Raises:
            StorageError: the disk failed.
        """
        self._is_kept = False
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise sqlite.storage_error(self._path, "remove", error) from error
