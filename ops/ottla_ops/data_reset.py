"""Deletes the data directories of a local cluster, and nothing that is none."""

from __future__ import annotations

import fcntl
import shutil
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from ottla_broker.storage.log_directory import LOCK_FILE
from ottla_ops.cli.failures import CommandError, ExitCode

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DIRECTORY_PATTERNS: Final = ("broker-*", "controller-*")


def broker_directories(data: Path) -> list[Path]:
    """The directories of brokers and controllers below `data`, by name; perhaps none."""
    found = (path for pattern in DIRECTORY_PATTERNS for path in data.glob(pattern))
    return sorted(path for path in found if path.is_dir())


def delete_data(directories: Sequence[Path]) -> None:
    """Delete directories, all or, when one of their brokers runs, none.

    Raises:
        CommandError: (conflict) a broker holds its lock.
    """
    with ExitStack() as locks:
        # Held until everything is gone, so that no broker starts on half of its files.
        for directory in directories:
            _lock(directory, locks)
        for directory in directories:
            shutil.rmtree(directory)


def _lock(directory: Path, locks: ExitStack) -> None:
    try:
        lock = locks.enter_context((directory / LOCK_FILE).open("rb"))
    except FileNotFoundError:
        # No broker ever got far enough to lock it.
        return
    try:
        # A broker holds this lock for as long as it runs.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CommandError(
            f"a broker is running on {directory}",
            code="BROKER_RUNNING",
            exit_code=ExitCode.CONFLICT,
            hint="stop the cluster first",
        ) from None
