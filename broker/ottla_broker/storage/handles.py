"""The pool of open segment files of a broker.

An open segment is a thread, up to three descriptors and a page cache, so their number is bounded:
the one used longest ago is closed to make room, active segments of idle partitions included, and is
opened again when it is next used. Rules that make this safe:

- at most one connection per file, ever: a file that is being closed is opened again only after
  the close has ended;
- a handle in use is never closed; who wants it closed waits;
- nobody holds one handle while asking for another, so waiting for room always ends.

And rules that keep it cheap with many more partitions than places: whoever finds no place waits in
one queue, first come first served, and wakes when a place is his and not before; and so many files
are closed at a time as are waited for, up to `EVICTIONS_MAX`, because a close waits for the disk.

Opening and closing run in tasks of the pool: a request that is cancelled ends only its own wait.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from ottla_broker.storage.disk_full import DiskFullError
from ottla_broker.storage.sqlite import DriverError, SegmentConnection, storage_error
from ottla_protocol.errors import StorageError

OPEN_SEGMENTS_MAX = 256
"""Most open segments of one broker, unless it is told otherwise; each has a thread."""

DESCRIPTORS_PER_SEGMENT = 3
"""The file, its write-ahead log or journal, and the other of the two while they change over."""

EVICTIONS_MAX = 16
"""Files that are closed at a time to make room."""


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

    segment: Openable
    place: asyncio.Future[None]
    """Done once it has one of the pool's places."""
    opening: "asyncio.Task[SegmentConnection]" = field(init=False)
    users: int = 0
    closing: "asyncio.Task[None] | None" = None
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def path(self) -> Path:
        return self.segment.path

    async def open(self) -> SegmentConnection:
        await self.place
        return await self.segment.open()


class HandlePool:
    """Opens, shares, closes and bounds segment connections.

    Args:
        limit: most files open at once.
        on_failure: told when a file that nobody uses could not be closed in order.
    """

    def __init__(
        self,
        limit: int = OPEN_SEGMENTS_MAX,
        *,
        on_failure: Callable[[StorageError], None] | None = None,
    ) -> None:
        assert limit > 0, limit
        self._on_failure = on_failure
        self.limit = limit
        """Most files open at once."""
        # Holds every file that is open, opening, closing, or waits for a place.
        self._handles: dict[Path, _Handle] = {}
        # Those of them that are open, unused and not closing, in order of last use.
        self._idle: OrderedDict[Path, _Handle] = OrderedDict()
        # Invariant: no place is free while a handle waits for one.
        self._free_places = limit
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._evictions = 0
        self.opened_count = 0
        """Files opened so far; against the number of uses it tells how often room is too small."""

    def __len__(self) -> int:
        return self.limit - self._free_places

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
            if handle is None:
                handle = self._open(segment)
            elif handle.closing is not None:
                await asyncio.wait((handle.closing,))
                continue
            handle.users += 1
            handle.idle.clear()
            self._idle.pop(segment.path, None)
            return handle

    def _open(self, segment: Openable) -> _Handle:
        handle = _Handle(segment, asyncio.get_running_loop().create_future())
        self._handles[segment.path] = handle
        if self._free_places > 0:
            self._free_places -= 1
            handle.place.set_result(None)
        else:
            self._waiting.append(handle.place)
        handle.opening = asyncio.create_task(handle.open())
        handle.opening.add_done_callback(partial(self._opened, handle))
        self.opened_count += 1
        self._evict()
        return handle

    def _opened(self, handle: _Handle, opening: "asyncio.Task[SegmentConnection]") -> None:
        if opening.cancelled() or opening.exception() is not None:
            # A file that did not open is no handle: whoever asks next tries again.
            self._remove(handle)
        else:
            self._rest(handle)

    def _release(self, handle: _Handle) -> None:
        handle.users -= 1
        if handle.users == 0:
            handle.idle.set()
            self._rest(handle)

    def _rest(self, handle: _Handle) -> None:
        """Take note that nobody uses it, if so."""
        if handle.users > 0 or handle.closing is not None:
            return
        if not handle.place.done():
            # Whoever wanted it has gone before there was room for it.
            handle.place.cancel()
            del self._handles[handle.path]
        elif handle.opening.done() and self._handles.get(handle.path) is handle:
            self._idle[handle.path] = handle
            self._evict()

    # --- places -------------------------------------------------------------------------------

    def _give_place(self) -> None:
        """A place came free: it goes to whoever waits longest."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self._free_places += 1

    def _evict(self) -> None:
        """Close what was used longest ago, as many files as are waited for."""
        while self._idle and self._evictions < min(len(self._waiting), EVICTIONS_MAX):
            _, handle = self._idle.popitem(last=False)
            self._evictions += 1
            self._start_closing(handle).add_done_callback(self._evicted)

    def _evicted(self, closing: "asyncio.Task[None]") -> None:
        self._evictions -= 1
        error = None if closing.cancelled() else closing.exception()
        self._evict()
        if self._on_failure is None or not isinstance(error, StorageError):
            return
        # A full disk is for the next to find who writes; nothing that was promised is lost by it.
        if not isinstance(error, DiskFullError):
            self._on_failure(error)

    # --- closing ------------------------------------------------------------------------------

    def _start_closing(self, handle: _Handle) -> "asyncio.Task[None]":
        if handle.closing is None:
            self._idle.pop(handle.path, None)
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
            self._idle.pop(handle.path, None)
            self._give_place()
