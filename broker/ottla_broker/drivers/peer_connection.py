"""One kept-alive HTTP/1.1 connection to a peer, for one exchange at a time.

Replication is an endless series of small exchanges between the same few processes, and what a
general client does for each of them (cookies, redirects, proxies, pools of everything) costs more
than the replication itself. This connection does what peers need and no more: POST a body of known
length, read an answer of known length. The parsing is httptools'.

Nothing is ever sent twice: whether to try again is for those to decide who know what was asked.
"""

import asyncio
from dataclasses import dataclass
from typing import cast

import httptools

MAX_ANSWER_BYTES = 128 << 20
"""An answer longer than this ends the connection."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer; the body is this exchange's own memory."""

    status: int
    content_type: str
    body: bytearray


class PeerConnection(asyncio.Protocol):
    """A connection; made by `loop.create_connection`.

    Once `is_reusable` is False it can only be closed.
    """

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        # Set while an exchange waits for its answer.
        self._waiting: asyncio.Future[Answer] | None = None
        self._keep_alive = True
        self._content_type = ""
        self._declared_bytes = 0
        self._received_bytes = 0
        self._body = bytearray()

    async def exchange(self, head: bytes, body: bytes | bytearray) -> Answer:
        """Send a request and wait for its answer.

        Raises:
            ConnectionError: the connection broke; the request may have been carried out.
        """
        assert self._waiting is None, "one exchange at a time"
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the connection is closed")
        self._waiting = asyncio.get_running_loop().create_future()
        try:
            self._transport.writelines((head, body))
            return await self._waiting
        finally:
            if not self._waiting.done() or self._waiting.cancelled():
                # The answer may still come, and must not be taken for the next one's.
                self._keep_alive = False
            self._waiting = None

    @property
    def is_reusable(self) -> bool:
        """Whether another exchange may follow."""
        return (
            self._keep_alive
            and self._waiting is None
            and self._transport is not None
            and not self._transport.is_closing()
        )

    def close(self) -> None:
        """Close at once."""
        self._keep_alive = False
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio.Protocol -------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        # A cast, because uvloop's transports are no subclass of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol."""
        if self._waiting is None:
            # Nobody asked: whatever this is, no later answer could be trusted.
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionResetError(f"not an HTTP answer: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio.Protocol."""
        self._fail(ConnectionResetError(f"the connection was closed: {exc or 'by the peer'}"))

    def _fail(self, error: ConnectionError) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)
        self.close()

    # --- httptools callbacks ----------------------------------------------------------------

    def on_message_begin(self) -> None:
        """An answer begins."""
        self._content_type = ""
        self._declared_bytes = 0
        self._received_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header line."""
        lowered = name.lower()
        if lowered == b"content-type":
            self._content_type = value.decode("latin-1").partition(";")[0].strip().lower()
        elif lowered == b"content-length" and value.isdigit():
            self._declared_bytes = int(value)

    def on_headers_complete(self) -> None:
        """The body follows: take memory for the whole of it, since growing would copy it often."""
        if self._declared_bytes > MAX_ANSWER_BYTES:
            self._fail(ConnectionResetError(f"an answer over {MAX_ANSWER_BYTES} bytes"))
            self._declared_bytes = 0
        self._body = bytearray(self._declared_bytes)

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        end = self._received_bytes + len(body)
        self._body[self._received_bytes : end] = body
        self._received_bytes = end
        if end > MAX_ANSWER_BYTES:
            self._fail(ConnectionResetError(f"an answer over {MAX_ANSWER_BYTES} bytes"))

    def on_message_complete(self) -> None:
        """The answer is whole."""
        self._keep_alive = self._keep_alive and self._parser.should_keep_alive()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(
                Answer(self._parser.get_status_code(), self._content_type, self._body)
            )
