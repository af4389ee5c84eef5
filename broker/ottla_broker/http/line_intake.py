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

LINES_WAITING_MAX = 10_000
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
        lines: those that wait; whoever takes some says so by `taken`.
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
        self.lines: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._begun_bytes = 0
        self._has_room = asyncio.Event()
        self.changed = asyncio.Event()
        """Set when lines have come or none will; whoever waits clears it."""
        self.is_over = False
        self.is_cut = False
        self.failure: OttlaError | None = None

    def taken(self, size_bytes: int) -> None:
        """Lines of that size were taken from `lines`; they stay held until `give_back`."""
        self._waiting_bytes -= size_bytes
        self._has_room.set()

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
        position = 0
        while position < len(lines):
            end, size_bytes = self._fitting(lines, position)
            if end == position:
                self._has_room.clear()
                self.changed.set()
                await self._has_room.wait()
                continue
            await self._held.grow_in_time(size_bytes)
            self.lines.extend(lines[position:end])
            self._waiting_bytes += size_bytes
            self.changed.set()
            position = end

    def _fitting(self, lines: list[bytes], start: int) -> tuple[int, int]:
        """Up to where lines may wait from `start` on, and their size; one always may wait alone."""
        end = start
        size_bytes = 0
        room_lines = LINES_WAITING_MAX - len(self.lines)
        room_bytes = BYTES_WAITING_MAX - self._waiting_bytes
        for line in lines[start : start + max(room_lines, 0)]:
            if size_bytes + len(line) > room_bytes and (self.lines or end > start):
                break
            size_bytes += len(line)
            end += 1
        return end, size_bytes

    async def _hold_begun_line(self) -> None:
        begun_bytes = self._splitter.begun_bytes
        if begun_bytes > self._begun_bytes:
            await self._held.grow_in_time(begun_bytes - self._begun_bytes)
        else:
            self._held.shrink(self._begun_bytes - begun_bytes)
        self._begun_bytes = begun_bytes
