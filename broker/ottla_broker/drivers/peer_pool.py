"""Kept-alive connections to the peers, by address."""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.peer_connection import PeerConnection
from ottla_broker.settings import split_address

MAX_CONNECTIONS_PER_PEER = 256
CONNECT_TIMEOUT_MS = 1_000
MAX_IDLE_MS = 30_000
"""Well below the time after which a peer's server closes an idle connection."""


class ConnectFailedError(ConnectionError):
    """No connection could be made, so nothing was sent.

    `refused` is True for ECONNREFUSED and nothing else.
    """

    def __init__(self, reason: str, *, refused: bool) -> None:
        super().__init__(reason)
        self.refused = refused


@dataclass(slots=True)
class _Peer:
    # Newest last: the others grow old and are closed when they are met.
    idle: deque[tuple[PeerConnection, int]] = field(default_factory=deque)
    places: asyncio.Semaphore = field(kw_only=True)


class PeerPool:
    """Lends connections; whoever borrows one has it to itself.

    Args:
        max_connections: most of them to one peer, lent and idle.
    """

    def __init__(self, max_connections: int) -> None:
        self._max_connections = max_connections
        self._peers: dict[str, _Peer] = {}
        self._closed = False

    async def borrow(self, base_url: str, *, deadline_ms: int) -> PeerConnection:
        """A connection to `base_url`, an idle one if there is one; it has to be given back.

        Raises:
            ConnectFailedError: none could be made, or none came free before `deadline_ms`, of the
                monotonic clock.
        """
        peer = self._peers.get(base_url)
        if peer is None:
            peer = _Peer(places=asyncio.Semaphore(self._max_connections))
            self._peers[base_url] = peer
        if not peer.places.locked():
            # The usual case, which needs no timer: this does not wait.
            await peer.places.acquire()
        else:
            await self._wait_for_place(peer, deadline_ms)
        try:
            return self._idle(peer) or await _connect(base_url)
        except BaseException:
            peer.places.release()
            raise

    def is_full(self, base_url: str) -> bool:
        """Whether the next to borrow would have to wait for another to give back."""
        peer = self._peers.get(base_url)
        return peer is not None and peer.places.locked()

    def give_back(self, base_url: str, connection: PeerConnection) -> None:
        """End a loan, whatever came of it."""
        peer = self._peers[base_url]
        peer.places.release()
        if connection.is_reusable and not self._closed:
            peer.idle.append((connection, monotonic_ms()))
        else:
            connection.close()

    async def _wait_for_place(self, peer: _Peer, deadline_ms: int) -> None:
        try:
            async with asyncio.timeout(max(0, deadline_ms - monotonic_ms()) / 1000):
                await peer.places.acquire()
        except TimeoutError:
            raise ConnectFailedError(
                f"all {self._max_connections} connections are in use", refused=False
            ) from None

    def _idle(self, peer: _Peer) -> PeerConnection | None:
        oldest_ms = monotonic_ms() - MAX_IDLE_MS
        while peer.idle and peer.idle[0][1] < oldest_ms:
            peer.idle.popleft()[0].close()
        while peer.idle:
            connection, _ = peer.idle.pop()
            if connection.is_reusable:
                return connection
            connection.close()
        return None

    def close(self) -> None:
        """Close every idle connection, and each borrowed one when it comes back."""
        self._closed = True
        for peer in self._peers.values():
            while peer.idle:
                peer.idle.pop()[0].close()


async def _connect(base_url: str) -> PeerConnection:
    host, port = split_address(urlsplit(base_url).netloc)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_MS / 1000):
            _, connection = await asyncio.get_running_loop().create_connection(
                PeerConnection, host, port
            )
    except TimeoutError:
        raise ConnectFailedError("connecting took too long", refused=False) from None
    except OSError as error:
        refused = isinstance(error, ConnectionRefusedError)
        raise ConnectFailedError(str(error), refused=refused) from error
    return connection
