"""`python -m ottla_broker`: one broker process.

Exit codes: 0 stopped in order, 1 failed (the supervisor starts it again), 2 cannot start with these
settings, this data directory or this SQLite, 74 a disk failed (the supervisor starts it again, but
takes its time).
"""

import asyncio
import faulthandler
import gc
import resource
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from ottla_broker.settings import Settings, SettingsError, exit_with_usage, load_settings

GC_THRESHOLD = 20_000
"""Allocations between two looks of the cyclic collector at the youngest objects."""

SWITCH_INTERVAL_S = 0.0005
"""How long the event loop may keep the interpreter from a storage thread that has just committed.

Python's own 5 ms is longer than a commit, and every acknowledgement waits for several in a row.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the settings, take the data directory, serve."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        settings = load_settings(arguments)
    except SettingsError as error:
        return exit_with_usage(error)
    return _serve(settings)


def _raise_file_limit() -> int:
    """Take all the file descriptors that the process may have; returns how many.

    Connections need them, and a broker that cannot open a segment stops. The usual soft limit of
    1,024 is for programs that still use select().
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


def _serve(settings: Settings) -> int:
    # Imported late, so that --help and a wrong setting answer at once.
    from ottla_broker.app import EXIT_STORAGE, Broker
    from ottla_broker.descriptor_budget import TooFewDescriptorsError, divide_descriptors
    from ottla_broker.storage.disk_full import is_disk_failure
    from ottla_broker.storage.log_directory import LogDirectory
    from ottla_broker.storage.sqlite_version import (
        AffectedSqliteError,
        refuse_affected,
        sqlite_in_use,
    )
    from ottla_broker.telemetry import configure_logging
    from ottla_protocol.errors import StorageError

    def refuse(error: StorageError) -> int:
        exit_code = exit_with_usage(error)
        # What is wrong with a directory stays wrong; a disk may be mended, or emptied.
        return EXIT_STORAGE if is_disk_failure(error.__cause__) else exit_code

    configure_logging(settings.log_format, settings.log_level, broker=settings.node_id)
    try:
        refuse_affected(sqlite_in_use(), allowed=settings.allow_affected_sqlite)
        budget = divide_descriptors(
            _raise_file_limit(),
            peers=settings.expected_peers,
            open_segments=settings.max_open_segments,
            connections=settings.max_connections,
        )
        directory = LogDirectory(settings.data_directory)
        directory.claim(settings.node_id, settings.cluster_id)
    except (AffectedSqliteError, TooFewDescriptorsError) as error:
        return exit_with_usage(error)
    except StorageError as error:
        return refuse(error)

    # Sealed segments are mapped. Where the disk cannot read a page of one, or somebody cuts a file
    # short that is open, the kernel ends the process by SIGBUS: this says so, and where.
    faulthandler.enable()
    # What start-up made lives as long as the process: the collector need not look at it again, and
    # the many short-lived objects of a request die by their reference counts.
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 20)
    sys.setswitchinterval(SWITCH_INTERVAL_S)

    async def serve() -> int:
        return await Broker(settings, directory, budget).run()

    try:
        import uvloop
    except ImportError:
        run: Callable[[Coroutine[Any, Any, int]], int] = asyncio.run
    else:
        run = uvloop.run
    try:
        return run(serve())
    except SettingsError as error:
        return exit_with_usage(error)
    except StorageError as error:
        # From making the broker: its own files, before anything runs.
        return refuse(error)


if __name__ == "__main__":
    sys.exit(main())
