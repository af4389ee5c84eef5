"""The pool of open segment files of a broker.

An open segment is a thread, up to three descriptors and a page cache, so their number is bounded
(`OPEN_SEGMENTS_MAX`): the one used longest ago is closed to make room, active segments of idle
partitions included, and is opened again when it is next used. Rules that make this safe:

- at most one connection per file, ever: a file that is being closed is opened again only after
  the close has ended;
- a handle in use is never closed; who wants it closed waits;
- nobody holds one handle while asking for another, so waiting for room always ends.

Opening and closing run in tasks of the pool: a request that is cancelled ends only its own wait.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from ottla_broker.storage.sqlite import DriverError, SegmentConnection, storage_error
from ottla_protocol.errors import StorageError

OPEN_SEGMENTS_MAX = 256
"""Default limit of one broker."""


class Openable(Protocol):
    """What the pool needs of a segment."""

    @property
    def path(self) -> Path:
        """Identifies the file."""

    async def open(self) -> SegmentConnection:
        """Open its connection as its state asks: active or sealed."""


@dataclass(eq=False, slots=True)
class _Handle:
    """Invariant: `users > 0` or `opening` unfinished means that it must not be closed."""

    path: Path
    opening: "asyncio.Task[SegmentConnection]"
    users: int = 0
    closing: "asyncio.Task[None] | None" = None
    idle: asyncio.Event = field(default_factory=asyncio.Event)


class HandlePool:
    """Opens, shares, closes and bounds segment connections.

    Args:
        limit: most files open at once.
    """

    def __init__(self, limit: int = OPEN_SEGMENTS_MAX) -> None:
        assert limit > 0, limit
        self._limit = limit
        # Invariant: in order of last use; holds every file that is open, opening or closing.
        self._handles: OrderedDict[Path, _Handle] = OrderedDict()
        self._waiting_for_room: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        return len(self._handles)

    @asynccontextmanager
    async def use(self, segment: Openable) -> AsyncIterator[SegmentConnection]:
        """Lend the segment's connection; it stays open for as long as the block runs.

        Raises:
            StorageError: the file cannot be opened.
        """
        handle = await self._acquire(segment)
        try:
            yield await asyncio.shield(handle.opening)
        finally:
            self._release(handle)

    async def close(self, path: Path) -> None:
        """Close one file if it is open, after everyone who uses it has ended.

        Raises:
            StorageError: the last checkpoint failed.
        """
        handle = self._handles.get(path)
        if handle is not None:
            await asyncio.shield(self._start_closing(handle))

    async def close_all(self) -> None:
        """Close every file; the pool is empty and usable afterwards."""
        for path in tuple(self._handles):
            await self.close(path)

    async def _acquire(self, segment: Openable) -> _Handle:
        while True:
            handle = self._handles.get(segment.path)
            if handle is not None:
                if handle.closing is not None:
                    await asyncio.wait((handle.closing,))
                    continue
                self._handles.move_to_end(segment.path)
            elif len(self._handles) < self._limit:
                handle = _Handle(segment.path, asyncio.create_task(segment.open()))
                self._handles[segment.path] = handle
                handle.opening.add_done_callback(partial(self._opened, handle))
            else:
                await self._make_room()
                continue
            handle.users += 1
            handle.idle.clear()
            return handle

    async def _make_room(self) -> None:
        for handle in self._handles.values():
            if handle.closing is not None:
                await asyncio.wait((handle.closing,))
                return
            if handle.users == 0:
                await asyncio.shield(self._start_closing(handle))
                return
        room = asyncio.get_running_loop().create_future()
        self._waiting_for_room.append(room)
        try:
            await room
        except asyncio.CancelledError:
            if room.done() and not room.cancelled():
                self._announce_room()
            raise

    def _announce_room(self) -> None:
        while self._waiting_for_room:
            room = self._waiting_for_room.popleft()
            if not room.done():
                room.set_result(None)
                return

    def _release(self, handle: _Handle) -> None:
        handle.users -= 1
        if handle.users == 0:
            handle.idle.set()
            self._announce_room()

    def _opened(self, handle: _Handle, opening: "asyncio.Task[SegmentConnection]") -> None:
        # A file that did not open is no handle: whoever asks next tries again.
        if opening.cancelled() or opening.exception() is not None:
            self._remove(handle)

    def _start_closing(self, handle: _Handle) -> "asyncio.Task[None]":
        if handle.closing is None:
            handle.closing = asyncio.create_task(self._close(handle))
        return handle.closing

    async def _close(self, handle: _Handle) -> None:
        # Whoever wants it from now on waits for the end of this, so users only become fewer.
        if handle.users > 0:
            await handle.idle.wait()
        try:
            connection = await handle.opening
        except StorageError:
            # Whoever opened it was told; nothing is open.
            self._remove(handle)
            return
        try:
            await connection.close()
        except (DriverError, OSError) as error:
            raise storage_error(handle.path, "close", error) from error
        finally:
            self._remove(handle)

    def _remove(self, handle: _Handle) -> None:
        if self._handles.get(handle.path) is handle:
            del self._handles[handle.path]
            self._announce_room()
