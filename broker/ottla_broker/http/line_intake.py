"""Receives the lines of one stream, no faster than they are stored.

A task reads while the batch before is on its way to disks, until so many lines or bytes wait; then
it reads no more, the socket's buffers fill, and the client's next write waits. What waits counts
against the bound on the produce bodies of all requests, too, which a stream waits at.
"""

import asyncio
from collections import deque

import aiohttp
from aiohttp import web

from ottla_broker.http.content_inflating import ContentInflater
from ottla_broker.http.inflight import HeldBytes
from ottla_broker.http.record_lines import LineSplitter
from ottla_protocol.errors import OttlaError, RequestTimedOutError

LINES_WAITING_MAX = 5_000
BYTES_WAITING_MAX = 1 << 20
"""What one connection has in memory besides the batch that is being stored."""

STREAM_IDLE_TIMEOUT_MS = 300_000
"""How long nothing at all may come. A blank line is enough to go on."""


class LineIntake:
    """The lines that have come and are not taken yet.

    Args:
        content: the body.
        inflater: undoes its encoding.
        held: this request's share of the bound on produce bodies.

    Attributes:
        is_over: nothing more will come.
        is_cut: the connection ended before the body did.
        failure: why no more is read, if that is it.
    """

    def __init__(
        self, content: aiohttp.StreamReader, inflater: ContentInflater, held: HeldBytes
    ) -> None:
        self._content = content
        self._inflater = inflater
        self._held = held
        self._splitter = LineSplitter()
        self._lines: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._begun_bytes = 0
        self._has_room = asyncio.Event()
        self.changed = asyncio.Event()
        """Set when lines have come or none will; whoever waits clears it."""
        self.is_over = False
        self.is_cut = False
        self.failure: OttlaError | None = None

    @property
    def first(self) -> bytes | None:
        """The next line; None where none waits."""
        return self._lines[0] if self._lines else None

    def take(self) -> int:
        """Have the first line, whose size is told and stays held until `give_back`."""
        size_bytes = len(self._lines.popleft())
        self._waiting_bytes -= size_bytes
        self._has_room.set()
        return size_bytes

    def give_back(self, size_bytes: int) -> None:
        """Lines of that size are answered."""
        self._held.shrink(size_bytes)

    async def receive(self) -> None:
        """Read to the end; to be run as a task of its own."""
        try:
            while True:
                async with asyncio.timeout(STREAM_IDLE_TIMEOUT_MS / 1000):
                    data = await self._content.readany()
                if not data and self._content.at_eof():
                    break
                for piece in self._inflater.feed(data):
                    await self._put(self._splitter.feed(piece))
            self._inflater.finish()
            await self._put(self._splitter.finish())
        except OttlaError as error:
            self.failure = error
        except TimeoutError:
            self.failure = RequestTimedOutError(
                f"nothing came for {STREAM_IDLE_TIMEOUT_MS} ms; blank lines keep a stream open"
            )
        except (web.RequestPayloadError, aiohttp.ClientError, ConnectionError):
            self.is_cut = True
        finally:
            self.is_over = True
            self.changed.set()

    async def _put(self, lines: list[bytes]) -> None:
        """Have these lines wait, when there is room for them."""
        await self._hold_begun_line()
        for line in lines:
            while self._lines and (
                len(self._lines) >= LINES_WAITING_MAX
                or self._waiting_bytes + len(line) > BYTES_WAITING_MAX
            ):
                self._has_room.clear()
                self.changed.set()
                await self._has_room.wait()
            await self._held.grow_in_time(len(line))
            self._lines.append(line)
            self._waiting_bytes += len(line)
        if lines:
            self.changed.set()

    async def _hold_begun_line(self) -> None:
        begun_bytes = self._splitter.begun_bytes
        if begun_bytes > self._begun_bytes:
            await self._held.grow_in_time(begun_bytes - self._begun_bytes)
        else:
            self._held.shrink(self._begun_bytes - begun_bytes)
        self._begun_bytes = begun_bytes
