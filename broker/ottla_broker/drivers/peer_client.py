"""Calls from this broker to its peers.

Every call carries the cluster id and, where one is set, the cluster secret; none follows redirects.
What went wrong is sorted by what it proves: a refused connection proves that the process is gone
and that nothing was applied; a failure to connect proves only the latter; anything after the
request went out proves nothing.
"""

import errno
from typing import TypeVar

import aiohttp
import msgspec

from ottla_protocol import routes
from ottla_protocol.errors import OttlaError, Outcome, UnavailableError, error_from_problem

CONNECT_TIMEOUT_MS = 1_000
MAX_CONNECTIONS_PER_PEER = 256

Message = TypeVar("Message")


class PeerUnavailableError(UnavailableError):
    """A peer could not be reached or did not answer.

    `refused` is True for ECONNREFUSED and nothing else: no process listens there.
    """

    code = "BROKER_NOT_AVAILABLE"

    def __init__(self, detail: str, *, refused: bool, outcome: Outcome) -> None:
        super().__init__(detail, outcome=outcome)
        self.refused = refused


class PeerClient:
    """One pool of connections to all peers."""

    def __init__(self, *, node_id: int, cluster_id: str, cluster_secret: str | None) -> None:
        self._headers = {
            routes.HEADER_CLUSTER_ID: cluster_id,
            routes.HEADER_FORWARDED_BY: str(node_id),
        }
        if cluster_secret is not None:
            self._headers[routes.HEADER_CLUSTER_SECRET] = cluster_secret
        self._session: aiohttp.ClientSession | None = None

    @property
    def headers(self) -> dict[str, str]:
        """What identifies this broker to a peer."""
        return dict(self._headers)

    async def start(self) -> None:
        """Open the pool; must run on the event loop."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, limit_per_host=MAX_CONNECTIONS_PER_PEER),
            headers=self._headers,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        """The pool, for callers that stream."""
        assert self._session is not None, "start() comes first"
        return self._session

    async def call(
        self, base_url: str, path: str, body: bytes, *, timeout_ms: int, answer: type[Message]
    ) -> Message:
        """POST a MessagePack body and decode the answer as `answer`.

        Raises:
            PeerUnavailableError: no answer; `outcome` says whether it may have been applied.
            OttlaError: the error that the peer told.
        """
        return msgspec.msgpack.decode(
            await self.post(base_url, path, body, timeout_ms=timeout_ms), type=answer
        )

    async def post(self, base_url: str, path: str, body: bytes, *, timeout_ms: int) -> bytes:
        """POST and return the body of a 2xx answer; raises as `call` does."""
        try:
            async with self.session.post(
                base_url + path,
                data=body,
                headers={"Content-Type": routes.MSGPACK},
                timeout=aiohttp.ClientTimeout(
                    total=timeout_ms / 1000, sock_connect=CONNECT_TIMEOUT_MS / 1000
                ),
                allow_redirects=False,
            ) as response:
                payload = await response.read()
                if response.status >= 300:
                    raise _error_of(response, payload, base_url)
                return payload
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise unavailable(base_url, error) from error


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


def _error_of(response: aiohttp.ClientResponse, payload: bytes, base_url: str) -> OttlaError:
    if response.content_type == routes.PROBLEM_JSON:
        try:
            return error_from_problem(msgspec.json.decode(payload, type=dict[str, object]))
        except msgspec.DecodeError:
            pass
    return PeerUnavailableError(
        f"{base_url}: unexpected status {response.status}", refused=False, outcome=Outcome.UNKNOWN
    )
