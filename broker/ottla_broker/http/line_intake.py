"""Receives the lines of one stream, no faster than they are stored.

A task reads while the batch before is on its way to disks, until so many lines or bytes wait; then
it reads no more, the socket's buffers fill, and the client's next write waits. What waits counts
against the bound on the produce bodies of all requests, too, which a stream waits at for a while:
streams that all hold a part of a line, and wait for one another's, would otherwise wait for ever.
"""

import asyncio
from collections import deque

import aiohttp
from aiohttp import web

from ottla_broker.http.content_inflating import ContentInflater
from ottla_broker.http.deadlines import RECEIVE_IDLE_S, body_deadline_s
from ottla_broker.http.inflight import HeldBytes
from ottla_broker.http.record_lines import LineSplitter
from ottla_protocol.errors import OttlaError, RequestTimedOutError

LINES_WAITING_MAX = 10_000
BYTES_WAITING_MAX = 1 << 20
"""What one connection has in memory besides the batch that is being stored."""

STREAM_IDLE_TIMEOUT_MS = 300_000
"""How long nothing at all may come. A blank line is enough to go on."""

SLOW_LINE_BYTES = 64 << 10
"""Of a line that has begun so much may be there as long as the stream. One of which there is more
has to come as any body has (`deadlines`), or a few clients could hold all that bodies may have."""

ROOM_WAIT_S = RECEIVE_IDLE_S
"""How long a stream waits at the bound on the bodies of all requests."""


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
        self._kept_bytes = 0
        self._line_waited_s = 0.0
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
                data = await self._read()
                if not data and self._content.at_eof():
                    break
                is_first = True
                for piece in self._inflater.feed(data):
                    if not is_first:
                        # Few bytes may inflate to many: others have a turn between the pieces.
                        await asyncio.sleep(0)
                    is_first = False
                    await self._put(self._splitter.feed(piece))
            self._inflater.finish()
            await self._put(self._splitter.finish())
        except OttlaError as error:
            self.failure = error
        except TimeoutError:
            self.failure = RequestTimedOutError(
                f"nothing came for {STREAM_IDLE_TIMEOUT_MS} ms, which blank lines prevent, or a "
                "long line came too slowly"
            )
        except (web.RequestPayloadError, aiohttp.ClientError, ConnectionError):
            self.is_cut = True
        finally:
            self.is_over = True
            self.changed.set()

    async def _put(self, lines: list[bytes]) -> None:
        """Have these lines wait, when there is room for them."""
        if lines or self._splitter.begun_bytes <= SLOW_LINE_BYTES:
            self._line_waited_s = 0.0
        await self._hold_kept()
        position = 0
        while position < len(lines):
            end, size_bytes = self._fitting(lines, position)
            if end == position:
                self._has_room.clear()
                self.changed.set()
                await self._has_room.wait()
                continue
            await self._grow(size_bytes)
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

    async def _read(self) -> bytes:
        """What has come; only while this waits is the client's time running."""
        clock = asyncio.get_running_loop().time
        asked_s = clock()
        deadline_s = asked_s + STREAM_IDLE_TIMEOUT_MS / 1000
        begun_bytes = self._splitter.begun_bytes
        if begun_bytes > SLOW_LINE_BYTES:
            began_s = asked_s - self._line_waited_s
            deadline_s = min(deadline_s, body_deadline_s(began_s, begun_bytes))
        async with asyncio.timeout_at(deadline_s):
            data = await self._content.readany()
        self._line_waited_s += clock() - asked_s
        return data

    async def _hold_kept(self) -> None:
        """Count the line that has begun, and what the inflater keeps."""
        kept_bytes = self._splitter.begun_bytes + self._inflater.kept_bytes
        if kept_bytes > self._kept_bytes:
            await self._grow(kept_bytes - self._kept_bytes)
        else:
            self._held.shrink(self._kept_bytes - kept_bytes)
        self._kept_bytes = kept_bytes

    async def _grow(self, size_bytes: int) -> None:
        """Hold that much more, as soon as there is room.

        Raises:
            OverloadedError: there was none for ROOM_WAIT_S, and no line of this stream is being
                stored, whose room would be given back.
        """
        while True:
            try:
                async with asyncio.timeout(ROOM_WAIT_S):
                    return await self._held.grow_in_time(size_bytes)
            except TimeoutError:
                if self._held.size_bytes <= self._kept_bytes:
                    return self._held.grow(size_bytes)
