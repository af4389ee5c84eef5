"""A minimal HTTP/1.1 client connection, because the load generator shares cores with the brokers.

One keep-alive connection with one request in flight, over an asyncio Protocol: a request is bytes
that were made beforehand, an answer is a status and a body. That costs a third of what aiohttp's
client does. It speaks to Ottla's brokers only: answers without a Content-Length are refused.
"""

import asyncio
from typing import NamedTuple, cast
from urllib.parse import urlsplit

HEAD_BYTES_MAX = 64 << 10
BODY_BYTES_MAX = 256 << 20
CONNECT_TIMEOUT_S = 2.0

_HEAD_END = b"\r\n\r\n"
_LENGTH_FIELD = b"\r\ncontent-length:"


class Answer(NamedTuple):
    """A whole answer."""

    status: int
    body: bytes


class BrokenAnswerError(ConnectionError):
    """The connection ended before the answer did, or the answer is not one that we understand."""


class _Exchange(asyncio.Protocol):
    """The protocol of one connection: collects one answer at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._head = bytearray()
        self._status = 0
        self._chunks: list[bytes] = []
        self._missing_bytes = -1  # Of the body; -1 while the head is incomplete.

    @property
    def is_open(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self.transport = cast(asyncio.Transport, transport)

    def send(self, request: bytes, body: bytes) -> asyncio.Future[Answer]:
        assert self.transport is not None
        assert self._answer is None, "one request at a time"
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        if body:
            self.transport.write(body)
        return self._answer

    def data_received(self, data: bytes) -> None:
        if self._missing_bytes < 0:
            self._head += data
            end = self._head.find(_HEAD_END)
            if end < 0:
                if len(self._head) > HEAD_BYTES_MAX:
                    self._fail(BrokenAnswerError("the answer's head does not end"))
                return
            data = bytes(self._head[end + len(_HEAD_END) :])
            try:
                self._status, self._missing_bytes = _parse_head(bytes(self._head[: end + 2]))
            except BrokenAnswerError as error:
                self._fail(error)
                return
        if data:
            self._chunks.append(data)
            self._missing_bytes -= len(data)
        if self._missing_bytes <= 0:
            self._finish()

    def _finish(self) -> None:
        if self._missing_bytes < 0 or self._answer is None:
            self._fail(BrokenAnswerError("more was sent than the answer says"))
            return
        body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        answer, self._answer = self._answer, None
        self._head.clear()
        self._chunks = []
        self._missing_bytes = -1
        if not answer.done():
            answer.set_result(Answer(self._status, body))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(BrokenAnswerError(f"the broker closed the connection: {exc or 'end of file'}"))

    def _fail(self, error: BrokenAnswerError) -> None:
        if self.transport is not None:
            self.transport.abort()
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(error)


def _parse_head(head: bytes) -> tuple[int, int]:
    """Status and body length of an answer's head, which ends with its last line's end."""
    try:
        status = int(head[9:12])
        at = head.lower().find(_LENGTH_FIELD)
        if status == 204 and at < 0:
            return status, 0
        start = at + len(_LENGTH_FIELD)
        length = int(head[start : head.index(b"\r\n", start)]) if at >= 0 else -1
    except ValueError as error:
        raise BrokenAnswerError(f"the answer's head does not parse: {head[:200]!r}") from error
    if not 0 <= length <= BODY_BYTES_MAX:
        raise BrokenAnswerError(f"the answer has no usable Content-Length: {head[:200]!r}")
    return status, length


class HttpConnection:
    """A connection to one broker that is made when it is needed, and again after it broke.

    Args:
        url: the broker's base URL.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None, url
        assert parts.port is not None, url
        self.url = url
        self._host, self._port = parts.hostname, parts.port
        self._exchange: _Exchange | None = None

    def head(
        self, method: str, target: str, body_length_bytes: int = 0, *fields: tuple[str, str]
    ) -> bytes:
        """The head of a request to this broker, to be kept and sent any number of times."""
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self._host}:{self._port}"]
        lines += [f"{name}: {value}" for name, value in fields]
        if method != "GET":
            lines.append(f"Content-Length: {body_length_bytes}")
        return "\r\n".join([*lines, "", ""]).encode("ascii")

    async def request(
        self,
        method: str,
        target: str,
        *fields: tuple[str, str],
        body: bytes = b"",
        timeout_s: float,
    ) -> Answer:
        """Send one request and wait for its answer.

        Raises:
            OSError: no connection, or it broke off; what became of the request is unknown.
            TimeoutError: no answer within `timeout_s`.
        """
        return await self.exchange(
            self.head(method, target, len(body), *fields), body, timeout_s=timeout_s
        )

    async def exchange(
        self, request: bytes, body: bytes = b"", *, timeout_s: float | None
    ) -> Answer:
        """Send a request that was made beforehand; raises as `request` does.

        Without `timeout_s` the caller bounds the wait: a timer for each request costs.
        """
        try:
            async with asyncio.timeout(timeout_s):
                exchange = self._exchange
                if exchange is None or not exchange.is_open:
                    exchange = await self._connect()
                return await exchange.send(request, body)
        except BaseException:
            # An answer that comes later must not be taken for the next request's.
            self.close()
            raise

    async def _connect(self) -> _Exchange:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, self._exchange = await loop.create_connection(_Exchange, self._host, self._port)
        return self._exchange

    def close(self) -> None:
        """Close the connection; the next request makes another."""
        if self._exchange is not None and self._exchange.transport is not None:
            self._exchange.transport.abort()
        self._exchange = None
