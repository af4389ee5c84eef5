"""Calls from this broker to its peers.

Calls with a MessagePack body go over the connections of `peer_pool`, and each purpose has
connections of its own (`Purpose`): what the cluster lives by never waits behind work of clients,
which may wait at the peer for as long as replication does. A client's work that finds all of its
connections lent waits a moment and is then refused. Reads that are streamed through to a client go
over an aiohttp session. Every call carries the cluster id and, where one is set, the cluster
secret; none follows redirects.

What went wrong is sorted by what it proves: a refused connection proves that the process is gone
and that nothing was applied; a failure to connect proves only the latter; anything after the
request went out proves nothing.
"""

import asyncio
import errno
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from enum import Enum
from typing import TypeVar
from urllib.parse import urlsplit

import aiohttp
import msgspec

from ottla_broker.descriptor_budget import (
    CLUSTER_CALLS_PER_PEER,
    FORWARDED_PRODUCES_MAX,
    ISR_PROPOSALS_MAX,
    PARKED_CALLS_MAX,
    PEER_CONNECTIONS_MAX,
    STREAMED_READS_MAX,
)
from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.peer_connection import Answer
from ottla_broker.drivers.peer_pool import (
    MAX_CONNECTIONS_PER_PEER,
    PLACE_WAIT_MS,
    AllLentError,
    ConnectFailedError,
    PeerPool,
    connect,
)
from ottla_broker.request_id import REQUEST_ID
from ottla_broker.reset_on_close import new_socket
from ottla_protocol import routes
from ottla_protocol.errors import (
    InconsistentClusterIdError,
    OttlaError,
    Outcome,
    OverloadedError,
    UnavailableError,
    error_from_problem,
)

Message = TypeVar("Message")


MAX_PARKED_CALLS_PER_PEER = 4_096
"""Calls that wait at one peer for something to happen there; each takes a connection. Fewer where
the descriptors of the process do not suffice: all peers share them."""

STRANGERS_ANSWER_BYTES_MAX = 16 << 10
"""How much is read of who is asked who it is, which says that in a hundred bytes."""


_REQUEST_ID_FIELD = routes.HEADER_REQUEST_ID.encode("ascii")


class PeerUnavailableError(UnavailableError):
    """A peer could not be reached or did not answer.

    `refused` is True for ECONNREFUSED and nothing else: no process listens there.
    """

    code = "BROKER_NOT_AVAILABLE"

    def __init__(self, detail: str, *, refused: bool, outcome: Outcome) -> None:
        super().__init__(detail, outcome=outcome)
        self.refused = refused


class PeerBusyError(OverloadedError):
    """As many calls of clients as may wait at a peer wait there already; nothing was sent.

    Not tried again for the client: as long as this lasts, more attempts only queue.
    """

    def __init__(self, detail: str) -> None:
        super().__init__(detail, outcome=Outcome.NOT_APPLIED, retry_after_seconds=1)


class Purpose(Enum):
    """What a call is for; each has connections of its own."""

    CLUSTER = routes.PURPOSE_CLUSTER
    """Raft, heartbeats, ISR, news of metadata, replica fetches. Their callers bound them."""
    CLIENT = "client"
    """Short work of clients: commands, questions, reads that do not wait."""
    PRODUCE = "produce"
    """Forwarded produce requests; with acks=all they wait for replication."""
    PARKED = "parked"
    """Polls and heartbeats that wait at the peer for news, and verifications."""


class PeerClient:
    """The way to every peer.

    Args:
        node_id: of this broker.
        cluster_id: sent with every call.
        cluster_secret: sent too, where there is one.
        cluster_calls_per_peer: most calls to one peer that the cluster lives by.
        connections_max: most connections to all peers together for clients' short calls.
        forwarded_produces_max: most produce requests that wait at all peers together.
        parked_calls_max: most calls that wait at all peers together.
        streamed_reads_max: most reads that are streamed through at a time.
    """

    def __init__(
        self,
        *,
        node_id: int,
        cluster_id: str,
        cluster_secret: str | None,
        cluster_calls_per_peer: int = CLUSTER_CALLS_PER_PEER + ISR_PROPOSALS_MAX,
        connections_max: int = PEER_CONNECTIONS_MAX,
        forwarded_produces_max: int = FORWARDED_PRODUCES_MAX,
        parked_calls_max: int = PARKED_CALLS_MAX,
        streamed_reads_max: int = STREAMED_READS_MAX,
    ) -> None:
        self._headers = {
            routes.HEADER_CLUSTER_ID: cluster_id,
            routes.HEADER_FORWARDED_BY: str(node_id),
        }
        if cluster_secret is not None:
            self._headers[routes.HEADER_CLUSTER_SECRET] = cluster_secret
        self._session: aiohttp.ClientSession | None = None
        self._streamed_reads_max = streamed_reads_max
        self._streams = asyncio.Semaphore(streamed_reads_max)
        self._streaming = 0
        self._pools = {
            Purpose.CLUSTER: PeerPool(cluster_calls_per_peer),
            Purpose.CLIENT: PeerPool(
                MAX_CONNECTIONS_PER_PEER, connections_max, wait_ms_max=PLACE_WAIT_MS
            ),
            Purpose.PRODUCE: PeerPool(
                MAX_CONNECTIONS_PER_PEER, forwarded_produces_max, wait_ms_max=PLACE_WAIT_MS
            ),
            Purpose.PARKED: PeerPool(
                MAX_PARKED_CALLS_PER_PEER, parked_calls_max, wait_ms_max=PLACE_WAIT_MS
            ),
        }
        # Heads by purpose, base URL and path: bounded by the brokers' URLs and internal routes.
        self._heads: dict[tuple[Purpose, str, str], bytes] = {}

    async def start(self) -> None:
        """Open the pool; must run on the event loop."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._streamed_reads_max, socket_factory=new_socket
            ),
            headers=self._headers,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        """Close every connection."""
        for pool in self._pools.values():
            pool.close()
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def streaming(self) -> AsyncIterator[aiohttp.ClientSession]:
        """A place for an answer that is streamed through, and the session to get it with.

        Raises:
            PeerBusyError: no place came free within PLACE_WAIT_MS.
        """
        assert self._session is not None, "start() comes first"
        try:
            async with asyncio.timeout(PLACE_WAIT_MS / 1000):
                await self._streams.acquire()
        except TimeoutError:
            raise PeerBusyError(
                f"{self._streamed_reads_max} reads of other brokers are under way"
            ) from None
        self._streaming += 1
        try:
            yield self._session
        finally:
            self._streaming -= 1
            self._streams.release()

    async def call(
        self,
        base_url: str,
        path: str,
        body: bytes,
        *,
        timeout_ms: int,
        answer: type[Message],
        purpose: Purpose,
    ) -> Message:
        """POST a MessagePack body and decode the answer as `answer`.

        Raises:
            PeerUnavailableError: no answer; `outcome` says whether it may have been applied.
            PeerBusyError: too many calls for this purpose wait at that peer.
            OttlaError: the error that the peer told.
        """
        received = await self.post(base_url, path, body, timeout_ms=timeout_ms, purpose=purpose)
        try:
            return msgspec.msgpack.decode(received, type=answer)
        except msgspec.MsgspecError as error:
            raise not_an_answer(base_url, path, error) from error

    async def post(
        self, base_url: str, path: str, body: bytes, *, timeout_ms: int, purpose: Purpose
    ) -> bytes | bytearray:
        """POST and return the body of a 2xx answer; raises as `call` does.

        Args:
            base_url: the peer's.
            path: of an internal route.
            body: in MessagePack.
            timeout_ms: how long the answer may take.
            purpose: whose connections it takes.
        """
        deadline_ms = monotonic_ms() + timeout_ms
        try:
            with _failures_of(base_url, timeout_ms):
                answer = await self._exchange(purpose, base_url, path, body, deadline_ms)
        except AllLentError as error:
            raise _busy(base_url, purpose, error) from error
        if answer.status >= 300:
            told = _error_of(answer, base_url)
            if isinstance(told, InconsistentClusterIdError) and purpose is not Purpose.CLUSTER:
                # To a client that is as good as nobody: the peer's address has been taken over.
                raise PeerUnavailableError(
                    f"{base_url}: {told.detail}", refused=False, outcome=Outcome.NOT_APPLIED
                )
            raise told
        return answer.body

    def places(self, purpose: Purpose) -> tuple[int, int]:
        """How many calls wait at the peer with most of them, and how many may at each."""
        return self._pools[purpose].places

    @property
    def streaming_places(self) -> tuple[int, int]:
        """How many reads are streamed through now, and may be."""
        return self._streaming, self._streamed_reads_max

    async def ask_stranger(
        self, base_url: str, path: str, body: bytes, *, timeout_ms: int
    ) -> bytes | bytearray:
        """POST to a process that need not be a peer: it is told the cluster's id, and no secret.

        Over a connection of its own, so that nothing is remembered of the URL.

        Raises:
            PeerUnavailableError: no answer, or one over STRANGERS_ANSWER_BYTES_MAX.
            OttlaError: the error that it told.
        """
        cluster_id = self._headers[routes.HEADER_CLUSTER_ID]
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {urlsplit(base_url).netloc}\r\n"
            f"Content-Type: {routes.MSGPACK}\r\n{routes.HEADER_CLUSTER_ID}: {cluster_id}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        with _failures_of(base_url, timeout_ms):
            connection = await connect(base_url, answer_bytes_max=STRANGERS_ANSWER_BYTES_MAX)
            try:
                answer = await connection.exchange(
                    head.encode("ascii"), body, deadline_ms=monotonic_ms() + timeout_ms
                )
            finally:
                connection.close()
        if answer.status >= 300:
            raise _error_of(answer, base_url)
        return answer.body

    def may_park(self, base_url: str) -> bool:
        """Whether one more call may wait at that peer now."""
        return not self._pools[Purpose.PARKED].is_full(base_url)

    async def _exchange(
        self, purpose: Purpose, base_url: str, path: str, body: bytes, deadline_ms: int
    ) -> Answer:
        pool = self._pools[purpose]
        connection = await pool.borrow(base_url, deadline_ms=deadline_ms)
        try:
            return await connection.exchange(
                self._head(purpose, base_url, path, len(body)), body, deadline_ms=deadline_ms
            )
        finally:
            pool.give_back(base_url, connection)

    def _head(self, purpose: Purpose, base_url: str, path: str, body_bytes: int) -> bytes:
        """The request line and headers; all but length and request is the same every time."""
        head = self._heads.get((purpose, base_url, path))
        if head is None:
            lines = [
                f"POST {path} HTTP/1.1",
                f"Host: {urlsplit(base_url).netloc}",
                f"Content-Type: {routes.MSGPACK}",
                f"{routes.HEADER_PURPOSE}: {purpose.value}",
                *(f"{name}: {value}" for name, value in self._headers.items()),
                "Content-Length: ",
            ]
            head = "\r\n".join(lines).encode("ascii")
            self._heads[purpose, base_url, path] = head
        request_id = REQUEST_ID.get()
        if request_id is None:
            return b"%b%d\r\n\r\n" % (head, body_bytes)
        return b"%b%d\r\n%b: %b\r\n\r\n" % (
            head, body_bytes, _REQUEST_ID_FIELD, request_id.encode("ascii"),
        )  # fmt: skip


@contextmanager
def _failures_of(base_url: str, timeout_ms: int) -> Iterator[None]:
    """What no answer proves, as `PeerUnavailableError`."""
    try:
        yield
    except ConnectFailedError as error:
        raise PeerUnavailableError(
            f"{base_url}: {error}", refused=error.refused, outcome=Outcome.NOT_APPLIED
        ) from error
    except (ConnectionError, TimeoutError) as error:
        reason = str(error) or f"no answer within {timeout_ms} ms"
        raise PeerUnavailableError(
            f"{base_url}: {reason}", refused=False, outcome=Outcome.UNKNOWN
        ) from error


def not_an_answer(base_url: str, path: str, error: Exception) -> PeerUnavailableError:
    """The peer took the call, and what it said makes no sense."""
    return PeerUnavailableError(
        f"{base_url}: not an answer to {path}: {error}", refused=False, outcome=Outcome.UNKNOWN
    )


def unavailable(base_url: str, error: BaseException) -> PeerUnavailableError:
    """What a failed call proves."""
    refused = (
        isinstance(error, aiohttp.ClientConnectorError)
        and error.os_error.errno == errno.ECONNREFUSED
    )
    never_sent = isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
    reason = str(error) or type(error).__name__
    return PeerUnavailableError(
        f"{base_url}: {reason}",
        refused=refused,
        outcome=Outcome.NOT_APPLIED if never_sent else Outcome.UNKNOWN,
    )


def _busy(base_url: str, purpose: Purpose, error: AllLentError) -> OttlaError:
    detail = f"{base_url}: {error} ({purpose.value} calls)"
    if purpose is Purpose.CLUSTER:
        return PeerUnavailableError(detail, refused=False, outcome=Outcome.NOT_APPLIED)
    return PeerBusyError(detail)


def _error_of(answer: Answer, base_url: str) -> OttlaError:
    if answer.content_type == routes.PROBLEM_JSON:
        try:
            return error_from_problem(msgspec.json.decode(answer.body, type=dict[str, object]))
        except msgspec.DecodeError:
            pass
    return PeerUnavailableError(
        f"{base_url}: unexpected status {answer.status}", refused=False, outcome=Outcome.UNKNOWN
    )
