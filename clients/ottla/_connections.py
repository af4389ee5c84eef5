"""Kept-alive connections for the calls that carry records, one exchange at a time on each.

What a general client does for every call (redirects, cookies, bodies in pieces that are joined)
costs a consumer more than everything else it does off its caller's thread, and all of that holds
the interpreter's lock. So POSTs go this short way (decision 54).

Nothing is ever sent twice: whether to try again is for those to decide who know what was asked. And
nothing is sent after the call is over: a connection that is closed is reset (`_sockets.py`).
"""

import asyncio
import socket
import time
from ipaddress import ip_address
from typing import Final, cast
from urllib.parse import urlsplit

from ottla._answer_reader import Answer, AnswerReader, NotAnAnswerError
from ottla._sockets import RESET_ON_CLOSE

JOINED_BODY_BYTES: Final = 64 << 10
"""A body up to this size is copied behind its head, so that both are one write."""

MAX_IDLE_S: Final = 60.0
"""How long an idle connection is kept; brokers close them after 75 seconds."""


class NotSentError(Exception):
    """No connection could be made, or none came free in time, so nothing was sent.

    `refused` is True where nothing listens at that address.
    """

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused


class BrokerConnection(asyncio.BufferedProtocol):
    """One connection; made by `loop.create_connection`.

    Once `is_reusable` is False it can only be closed.
    """

    def __init__(self, max_body_bytes: int) -> None:
        self._reader = AnswerReader(max_body_bytes)
        self._transport: asyncio.Transport | None = None
        # Set while an exchange waits for its answer.
        self._waiting: asyncio.Future[Answer] | None = None
        self._keeps_alive = True
        self.idle_since_s = 0.0

    @property
    def is_reusable(self) -> bool:
        """Whether another exchange may follow."""
        return (
            self._keeps_alive
            and self._waiting is None
            and self._transport is not None
            and not self._transport.is_closing()
        )

    async def exchange(self, head: bytes, body: bytes) -> Answer:
        """Send a request and wait for its answer; cancelling it closes the connection.

        Raises:
            NotAnAnswerError: what came is none; the request may have been carried out.
            ConnectionError: the connection broke; likewise.
        """
        assert self.is_reusable, "one exchange at a time, while it lasts"
        transport = self._transport
        assert transport is not None, "it is reusable"
        self._waiting = asyncio.get_running_loop().create_future()
        try:
            if len(body) <= JOINED_BODY_BYTES:
                transport.write(head + body)
            else:
                transport.write(head)
                transport.write(body)
            answer = await self._waiting
            # Who answers before all was sent wants no more of it.
            self._keeps_alive = answer.keeps_alive and not transport.get_write_buffer_size()
        except BaseException:
            # The answer may still come, and must not be taken for the next one's.
            self.close()
            raise
        finally:
            self._waiting = None
        return answer

    def close(self) -> None:
        """Close at once."""
        self._keeps_alive = False
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio.BufferedProtocol -------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.BaseProtocol."""
        # A cast, because uvloop's transports are no subclass of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        # At once, since a process that is killed closes nothing itself.
        self._transport.get_extra_info("socket").setsockopt(*RESET_ON_CLOSE)

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio.BaseProtocol."""
        self._fail(ConnectionResetError(f"the connection was closed: {exc or 'by the broker'}"))

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  asyncio's signature
        """Part of asyncio.BufferedProtocol."""
        return self._reader.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Part of asyncio.BufferedProtocol."""
        if self._waiting is None or self._waiting.done():
            # Nobody asked: whatever this is, no later answer could be trusted.
            self.close()
            return
        try:
            answer = self._reader.received(nbytes)
        except NotAnAnswerError as error:
            self._fail(error)
            return
        if answer is not None:
            self._waiting.set_result(answer)

    def _fail(self, error: Exception) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)
        self.close()


class _Broker:
    """One broker's address, its idle connections, and places for those that are lent."""

    def __init__(self, url: str, connections: int) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"no address of a broker: {url!r}")
        self.authority = parts.netloc
        self.host = parts.hostname
        self.port = parts.port or 80
        self.places = asyncio.Semaphore(connections)
        # Newest last: the others grow old, and are closed when they are met.
        self.idle: list[BrokerConnection] = []

    def idle_connection(self) -> BrokerConnection | None:
        oldest_s = time.monotonic() - MAX_IDLE_S
        while self.idle:
            connection = self.idle.pop()
            if connection.is_reusable and connection.idle_since_s >= oldest_s:
                return connection
            connection.close()
        return None


class BrokerConnections:
    """Connections to all brokers, by URL; for one event loop.

    Args:
        user_agent: sent with every request.
        connections_per_broker: most connections to one broker.
        max_body_bytes: the longest answer that is taken.
    """

    def __init__(
        self, *, user_agent: str, connections_per_broker: int, max_body_bytes: int
    ) -> None:
        self._user_agent = user_agent
        self._connections_per_broker = connections_per_broker
        self._max_body_bytes = max_body_bytes
        self._brokers: dict[str, _Broker] = {}
        self._is_closed = False

    async def post(
        self, url: str, path: str, body: bytes, *, content_type: str, timeout_ms: int
    ) -> Answer:
        """POST, and wait for the answer, whatever its status.

        Raises:
            NotSentError: nothing was sent.
            NotAnAnswerError, ConnectionError, TimeoutError: the request may have been carried out.
        """
        connection = None
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                broker = self._broker(url)
                async with broker.places:
                    connection = broker.idle_connection() or await self._connect(broker, timeout_ms)
                    try:
                        return await connection.exchange(
                            self._head(broker, path, content_type, len(body)), body
                        )
                    finally:
                        self._give_back(broker, connection)
        except TimeoutError:
            if connection is None:
                raise NotSentError(f"no connection within {timeout_ms} ms") from None
            raise

    def close(self) -> None:
        """Close every idle connection, and each borrowed one when it comes back."""
        self._is_closed = True
        for broker in self._brokers.values():
            while broker.idle:
                broker.idle.pop().close()

    def _broker(self, url: str) -> _Broker:
        broker = self._brokers.get(url)
        if broker is None:
            try:
                broker = _Broker(url, self._connections_per_broker)
            except ValueError as error:
                raise NotSentError(str(error)) from error
            self._brokers[url] = broker
        return broker

    def _head(self, broker: _Broker, path: str, content_type: str, length: int) -> bytes:
        return (
            f"POST {path} HTTP/1.1\r\nHost: {broker.authority}\r\nUser-Agent: {self._user_agent}"
            f"\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n"
        ).encode()

    def _give_back(self, broker: _Broker, connection: BrokerConnection) -> None:
        if connection.is_reusable and not self._is_closed:
            connection.idle_since_s = time.monotonic()
            broker.idle.append(connection)
        else:
            connection.close()

    async def _connect(self, broker: _Broker, timeout_ms: int) -> BrokerConnection:
        """A new connection, to the first of the broker's addresses that takes one.

        Each address has its share of the time, so that one that is silent is not all there is.
        """
        loop = asyncio.get_running_loop()
        failures: list[Exception] = []
        try:
            addresses = await _addresses(broker.host, broker.port)
            for host in addresses:
                try:
                    async with asyncio.timeout(timeout_ms / 1000 / len(addresses)):
                        _, connection = await loop.create_connection(
                            lambda: BrokerConnection(self._max_body_bytes), host, broker.port
                        )
                except (OSError, TimeoutError) as error:
                    failures.append(error)
                else:
                    return connection
        except (OSError, ValueError, OverflowError) as error:
            # A name that nobody knows, or that DNS has no form for.
            failures.append(error)
        refused = all(isinstance(each, ConnectionRefusedError) for each in failures)
        reason = str(failures[-1]) if failures else "the name has no address"
        raise NotSentError(
            "connection refused" if refused and failures else reason or "connecting took too long",
            refused=refused and bool(failures),
        )


async def _addresses(host: str, port: int) -> list[str]:
    """The addresses of a name; an address is its own, and needs no thread to look it up."""
    try:
        ip_address(host)
    except ValueError:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(each[4][0]) for each in found))
    return [host]
