"""Work that takes the processor for long: parsing, encoding, decoding and inflating large requests.

On the event loop it would stop Raft and heartbeats for as long as it takes. On threads it still
competes with the loop for the interpreter's lock, and the loop, which lets go of the lock at every
call to the system, waits behind every thread that wants it. So there are few of these threads, and
what is large waits for what is large.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

HEAVY_WORKERS: Final = 2
"""Threads for heavy work, of a whole process. More would finish no sooner, for they share one lock;
what lets go of it (compression) is why there are two."""

P = ParamSpec("P")
T = TypeVar("T")

_workers = ThreadPoolExecutor(HEAVY_WORKERS, thread_name_prefix="heavy-work")


async def on_worker(function: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """Run `function` on one of these threads; a cancelled caller does not end it."""
    return await asyncio.get_running_loop().run_in_executor(
        _workers, lambda: function(*args, **options)
    )
