"""Threads for the files that a broker keeps up to date all the time: witness, checkpoint, clock.

They are these files' own. A write that hangs keeps its thread for as long as the disk hangs, which
nobody else must miss; and behind other work a write would look slow while the disk is not even
asked (`drivers.disk_watch`).
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

DISK_THREADS: Final = 4
"""One each for the witness, the checkpoint, the clock and free space."""

P = ParamSpec("P")
T = TypeVar("T")

_threads = ThreadPoolExecutor(DISK_THREADS, thread_name_prefix="disk")


async def on_disk_thread(function: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """Run `function` on one of these threads; a cancelled caller does not end it."""
    return await asyncio.get_running_loop().run_in_executor(
        _threads, lambda: function(*args, **options)
    )
