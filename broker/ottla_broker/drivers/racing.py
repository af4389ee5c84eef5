"""Waits for an answer only for as long as it can still matter.

A process that stands still keeps its connections: whoever asked it waits for the whole time-out,
although the cluster has long replaced it. So calls race against the news that make them pointless.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")


async def unless(
    work: Coroutine[Any, Any, ResultT], interruption: Coroutine[Any, Any, Any], error: Exception
) -> ResultT:
    """The result of `work`.

    Raises:
        Exception: `error`, when `interruption` ended first; `work` is cancelled.
    """
    working = asyncio.create_task(work)
    interrupting = asyncio.create_task(interruption)
    try:
        await asyncio.wait({working, interrupting}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return await working
        raise error
    finally:
        working.cancel()
        interrupting.cancel()
        # Gathered, not awaited: a cancellation of the caller itself must not be swallowed.
        await asyncio.gather(working, interrupting, return_exceptions=True)
