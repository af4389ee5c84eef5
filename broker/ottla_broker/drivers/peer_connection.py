"""One kept-alive HTTP/1.1 connection to a peer, for one exchange at a time.

Replication is an endless series of small exchanges between the same few processes, and what a
general client does for each of them (cookies, redirects, proxies, pools of everything) costs more
than the replication itself. This connection does what peers need and no more: POST a body of known
length, read an answer of known length. The parsing is httptools'.

Nothing is ever sent twice: whether to try again is for those to decide who know what was asked. And
nothing is sent once an exchange was given up: a connection that is closed is reset
(`ottla_broker.reset_on_close`).
"""

import asyncio
from dataclasses import dataclass
from typing import cast

import httptools

from ottla_broker.drivers.clock import monotonic_ms, within
from ottla_broker.reset_on_close import RESET_ON_CLOSE

MAX_ANSWER_BYTES = 128 << 20
"""A peer's answer longer than this ends the connection."""

MAX_HEAD_BYTES = 16 << 10

_HEAD_END = b"\r\n\r\n"
_NO_ANSWER = (ConnectionError, httptools.HttpParserError, httptools.HttpParserUpgrade)

# Shared by all connections: what is read into it is taken out before anything else can run.
_scratch = memoryview(bytearray(64 << 10))


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer; the body is this exchange's own memory."""

    status: int
    content_type: str
    body: bytearray


@dataclass(slots=True)
class _Head:
    """The head of an answer, filled in by httptools."""

    status: int = 0
    content_type: str = ""
    content_length: int = 0
    keep_alive: bool = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header line; httptools calls it."""
        lowered = name.lower()
        if lowered == b"content-type":
            self.content_type = value.decode("latin-1").partition(";")[0].strip().lower()
        elif lowered == b"content-length" and value.isdigit():
            self.content_length = int(value)
        elif lowered == b"transfer-encoding":
            raise ConnectionResetError("an answer of unknown length")


class PeerConnection(asyncio.BufferedProtocol):
    """A connection; made by `loop.create_connection`.

    Once `is_reusable` is False it can only be closed.

    Args:
        answer_bytes_max: an answer whose body is longer ends the connection, before any memory is
            taken for it.
    """

    def __init__(self, answer_bytes_max: int = MAX_ANSWER_BYTES) -> None:
        self._answer_bytes_max = answer_bytes_max
        self._transport: asyncio.Transport | None = None
        # Set while an exchange waits for its answer.
        self._waiting: asyncio.Future[Answer] | None = None
        self._keep_alive = True
        # The bytes of an incomplete head; empty from the head's end on.
        self._received = bytearray()
        # Invariant: both set from the head's end on; the body's first `_filled` bytes have come.
        self._head: _Head | None = None
        self._body = bytearray()
        self._filled = 0

    async def exchange(self, head: bytes, body: bytes | bytearray, *, deadline_ms: int) -> Answer:
        """Send a request and wait for its answer.

        Raises:
            ConnectionError: the connection broke; the request may have been carried out.
            TimeoutError: `deadline_ms`, of the monotonic clock, passed first; likewise.
        """
        assert self._waiting is None, "one exchange at a time"
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the connection is closed")
        self._waiting = asyncio.get_running_loop().create_future()
        try:
            self._transport.writelines((head, body))
            return await within(deadline_ms - monotonic_ms(), self._waiting)
        except BaseException:
            # The answer may still come, and must not be taken for the next one's.
            self._keep_alive = False
            raise
        finally:
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

    # --- asyncio.BufferedProtocol -------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.BaseProtocol."""
        # A cast, because uvloop's transports are no subclass of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        # At once, since a process that is killed closes nothing itself.
        self._transport.get_extra_info("socket").setsockopt(*RESET_ON_CLOSE)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  asyncio's signature
        """Part of asyncio.BufferedProtocol."""
        if self._head is None:
            return _scratch
        return memoryview(self._body)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """Part of asyncio.BufferedProtocol."""
        if self._waiting is None:
            # Nobody asked: whatever this is, no later answer could be trusted.
            self.close()
            return
        if self._head is not None:
            self._filled += nbytes
        else:
            self._received += _scratch[:nbytes]
            try:
                self._take_head()
            except _NO_ANSWER as error:
                self._fail(ConnectionResetError(f"not an HTTP answer: {error}"))
                return
        if self._head is not None and self._filled == self._head.content_length:
            self._finish(self._head)

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio.BaseProtocol."""
        self._fail(ConnectionResetError(f"the connection was closed: {exc or 'by the peer'}"))

    def _take_head(self) -> None:
        """Parse the head, once it is whole, and take memory for the body.

        Raises:
            ConnectionError, HttpParserError: this is no answer of a peer.
        """
        end = self._received.find(_HEAD_END) + len(_HEAD_END)
        if end < len(_HEAD_END):
            if len(self._received) > MAX_HEAD_BYTES or not self._received.startswith(
                b"HTTP/1.1 "[: len(self._received)]
            ):
                raise ConnectionResetError("its head does not end, or is none")
            return
        head = _Head()
        parser = httptools.HttpResponseParser(head)
        parser.feed_data(self._received[:end])
        head.status = parser.get_status_code()
        head.keep_alive = parser.should_keep_alive()
        self._filled = len(self._received) - end
        if not self._filled <= head.content_length <= self._answer_bytes_max:
            raise ConnectionResetError(f"a body of {head.content_length} bytes is announced")
        self._body = bytearray(head.content_length)
        self._body[: self._filled] = memoryview(self._received)[end:]
        self._received = bytearray()
        self._head = head

    def _finish(self, head: _Head) -> None:
        body, self._body, self._head = self._body, bytearray(), None
        self._keep_alive = self._keep_alive and head.keep_alive
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(Answer(head.status, head.content_type, body))

    def _fail(self, error: ConnectionError) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)
        self.close()
