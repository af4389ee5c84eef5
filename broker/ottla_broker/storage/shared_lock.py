"""Many readers of a log's files, or one task that changes which files there are.

Appending, rolling and sealing keep every file that a reader may have chosen; only truncation and
deletion take files away, and they wait for the readers and hold off new ones.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class SharedLock:
    """A reader-writer lock for one event loop; a waiting writer goes before new readers."""

    def __init__(self) -> None:
        self._writers = asyncio.Lock()
        self._readers = 0
        self._no_readers = asyncio.Event()
        self._no_readers.set()

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Hold off whoever wants the lock exclusively."""
        async with self._writers:
            self._readers += 1
            self._no_readers.clear()
        try:
            yield
        finally:
            self._readers -= 1
            if self._readers == 0:
                self._no_readers.set()

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Wait for every reader and hold off new ones."""
        async with self._writers:
            await self._no_readers.wait()
            yield
