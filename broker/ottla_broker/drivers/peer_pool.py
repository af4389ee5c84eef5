"""Kept-alive connections to the peers, by address."""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import urlsplit

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.peer_connection import MAX_ANSWER_BYTES, PeerConnection
from ottla_broker.settings import split_address

MAX_CONNECTIONS_PER_PEER = 256
CONNECT_TIMEOUT_MS = 1_000
MAX_IDLE_MS = 30_000
"""Well below the time after which a peer's server closes an idle connection."""

PLACE_WAIT_MS = 500
"""How long work of clients waits for a connection where all that it may have are lent."""


class ConnectFailedError(ConnectionError):
    """No connection could be made, so nothing was sent.

    `refused` is True for ECONNREFUSED and nothing else.
    """

    def __init__(self, reason: str, *, refused: bool) -> None:
        super().__init__(reason)
        self.refused = refused


class AllLentError(Exception):
    """Every connection that there may be to this peer is lent; nothing was sent."""


@dataclass(slots=True)
class _Peer:
    # Newest last: the others grow old and are closed when they are met.
    idle: deque[tuple[PeerConnection, int]] = field(default_factory=deque)
    lent: int = 0
    # First come, first served; a place is granted with its future's result.
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)


class PeerPool:
    """Lends connections; whoever borrows one has it to itself.

    Every peer has the same share of the connections, so that one that answers slowly takes nothing
    from the others; the share shrinks with each peer that becomes known.

    Args:
        max_connections: most of them to one peer, lent and idle.
        total: most of them to all peers together; None where each peer may have `max_connections`.
        wait_ms_max: how long a borrower waits for another to give back; None for its deadline.
    """

    def __init__(
        self, max_connections: int, total: int | None = None, *, wait_ms_max: int | None = None
    ) -> None:
        self._max_connections = max_connections
        self._total = total
        self._wait_ms_max = wait_ms_max
        self._peers: dict[str, _Peer] = {}
        self._closed = False

    @property
    def _share(self) -> int:
        if self._total is None:
            return self._max_connections
        return max(1, min(self._max_connections, self._total // max(1, len(self._peers))))

    async def borrow(self, base_url: str, *, deadline_ms: int) -> PeerConnection:
        """A connection to `base_url`, an idle one if there is one; it has to be given back.

        Raises:
            ConnectFailedError: none could be made.
            AllLentError: none came free before `deadline_ms`, of the monotonic clock, or within
                `wait_ms_max`.
        """
        peer = self._peers.get(base_url)
        if peer is None:
            peer = self._peers[base_url] = _Peer()
        if peer.lent < self._share:
            peer.lent += 1
        else:
            await self._wait_for_place(peer, deadline_ms)
        try:
            return self._idle(peer) or await connect(base_url)
        except BaseException:
            self._free_place(peer)
            raise

    @property
    def places(self) -> tuple[int, int]:
        """How many connections the peer with most of them has lent, and how many each may have."""
        return max((peer.lent for peer in self._peers.values()), default=0), self._share

    def is_full(self, base_url: str) -> bool:
        """Whether the next to borrow would have to wait for another to give back."""
        peer = self._peers.get(base_url)
        return peer is not None and peer.lent >= self._share

    def give_back(self, base_url: str, connection: PeerConnection) -> None:
        """End a loan, whatever came of it."""
        peer = self._peers[base_url]
        if connection.is_reusable and not self._closed and peer.lent <= self._share:
            peer.idle.append((connection, monotonic_ms()))
        else:
            connection.close()
        self._free_place(peer)

    def _free_place(self, peer: _Peer) -> None:
        while peer.waiting and peer.lent <= self._share:
            place = peer.waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        peer.lent -= 1

    async def _wait_for_place(self, peer: _Peer, deadline_ms: int) -> None:
        place = asyncio.get_running_loop().create_future()
        peer.waiting.append(place)
        wait_ms = max(0, deadline_ms - monotonic_ms())
        if self._wait_ms_max is not None:
            wait_ms = min(wait_ms, self._wait_ms_max)
        try:
            async with asyncio.timeout(wait_ms / 1000):
                await place
        except BaseException as error:
            if place.done() and not place.cancelled():
                self._free_place(peer)
            if isinstance(error, TimeoutError):
                raise AllLentError(f"all {self._share} connections are in use") from None
            raise

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


async def connect(base_url: str, *, answer_bytes_max: int = MAX_ANSWER_BYTES) -> PeerConnection:
    """A new connection, which belongs to the caller.

    Args:
        base_url: where to.
        answer_bytes_max: the longest body that an answer may have.

    Raises:
        ConnectFailedError: none could be made.
    """
    try:
        host, port = split_address(urlsplit(base_url).netloc)
        async with asyncio.timeout(CONNECT_TIMEOUT_MS / 1000):
            _, connection = await asyncio.get_running_loop().create_connection(
                partial(PeerConnection, answer_bytes_max), host, port
            )
    except TimeoutError:
        raise ConnectFailedError("connecting took too long", refused=False) from None
    except OSError as error:
        refused = isinstance(error, ConnectionRefusedError)
        raise ConnectFailedError(str(error), refused=refused) from error
    except (ValueError, OverflowError) as error:
        # A name that DNS has no form for, or a port beyond all.
        raise ConnectFailedError(f"no address: {error}", refused=False) from error
    return connection
