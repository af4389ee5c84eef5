"""Waiting on the event loop for what another task brings about."""

import asyncio


async def until(condition, timeout_s=10):
    """Let others run until `condition()` holds."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  what is waited for announces nothing
            await asyncio.sleep(0.001)
