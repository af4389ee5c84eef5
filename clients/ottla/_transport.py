"""How the SDK reaches a broker: one small port, and its implementation over HTTP.

Everything that the producer sends goes through `Transport`, so that a test can put a fake cluster
in the place of the sockets. A transport answers every HTTP status with a `Response`; it raises only
when there is no answer, and then says what that proves about a write: NOT_APPLIED if the request
cannot have reached the broker (the connection was never made), else UNKNOWN.
"""

import asyncio
import errno
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import msgspec

from ottla._answer_reader import ForeignAnswerError, NotAnAnswerError
from ottla._connections import BrokerConnections, NotSentError
from ottla._sockets import new_socket
from ottla_protocol import routes
from ottla_protocol.errors import OttlaError, Outcome, UnavailableError, error_from_problem

if TYPE_CHECKING:
    import aiohttp

MAX_RESPONSE_BYTES = 64 << 20
"""The longest announced answer that is read: a cluster's metadata, with room to spare."""

KEEPALIVE_S = 60.0
"""How long an idle connection is kept."""


@dataclass(frozen=True, slots=True)
class Response:
    """One HTTP answer, whatever its status.

    Attributes:
        status: the HTTP status.
        content_type: without parameters.
        body: the whole body.
    """

    status: int
    content_type: str
    body: bytes


class BrokerUnreachableError(UnavailableError):
    """A broker gave no answer, or none that makes sense.

    `outcome` tells whether a write may have been applied; `refused` is True where nothing listens
    at that address.
    """

    code = "BROKER_NOT_AVAILABLE"
    refresh_metadata = True

    def __init__(
        self, detail: str, *, outcome: Outcome | None = Outcome.UNKNOWN, refused: bool = False
    ) -> None:
        super().__init__(detail, outcome=outcome)
        self.refused = refused


class Transport(Protocol):
    """The way to the brokers.

    `url` is a broker's base URL, `path` begins with `/` and may have a query. Both calls return
    whatever the broker answered and raise BrokerUnreachableError when nothing came within
    `timeout_ms`.
    """

    async def post(
        self,
        url: str,
        path: str,
        body: bytes,
        *,
        timeout_ms: int,
        content_type: str = routes.MSGPACK,
    ) -> Response:
        """POST `body`."""
        ...

    async def get(self, url: str, path: str, *, timeout_ms: int) -> Response:
        """GET."""
        ...

    async def close(self) -> None:
        """Close every connection; nothing is called afterwards."""
        ...


def error_of(response: Response, url: str) -> OttlaError:
    """The error that an answer with a status of 300 and more tells."""
    if response.content_type == routes.PROBLEM_JSON:
        try:
            return error_from_problem(msgspec.json.decode(response.body, type=dict[str, Any]))
        except msgspec.DecodeError:
            pass
    return BrokerUnreachableError(f"{url}: unexpected status {response.status}")


class AiohttpTransport:
    """HTTP: a short way for POSTs, which carry records, and aiohttp for everything else.

    Everything is opened by the first call that needs it, on the loop that makes it. A broker whose
    answers are not its own, because a proxy stands before it, is left to aiohttp.

    Args:
        client_id: sent as the first word of User-Agent.
        connections_per_broker: most connections to one broker, on either way.
    """

    def __init__(self, *, client_id: str, connections_per_broker: int) -> None:
        self._user_agent = f"{client_id} ottla-python"
        self._connections_per_broker = connections_per_broker
        self._session: aiohttp.ClientSession | None = None
        self._connections = BrokerConnections(
            user_agent=self._user_agent,
            connections_per_broker=connections_per_broker,
            max_body_bytes=MAX_RESPONSE_BYTES,
        )
        self._left_to_aiohttp: set[str] = set()

    async def post(
        self,
        url: str,
        path: str,
        body: bytes,
        *,
        timeout_ms: int,
        content_type: str = routes.MSGPACK,
    ) -> Response:
        """See `Transport`."""
        if url in self._left_to_aiohttp or not url.startswith("http://"):
            return await self._call(
                "POST", url, path, timeout_ms, data=body, headers={"Content-Type": content_type}
            )
        try:
            answer = await self._connections.post(
                url, path, body, content_type=content_type, timeout_ms=timeout_ms
            )
        except ForeignAnswerError as error:
            self._left_to_aiohttp.add(url)
            raise BrokerUnreachableError(f"{url}: {error}") from error
        except NotSentError as error:
            raise BrokerUnreachableError(
                f"{url}: {error}", outcome=Outcome.NOT_APPLIED, refused=error.refused
            ) from error
        except TimeoutError as error:
            raise _too_late(url, timeout_ms) from error
        except (NotAnAnswerError, OSError) as error:
            raise BrokerUnreachableError(f"{url}: {error}") from error
        # A cast, because what reads bytes reads this too, and a fetched megabyte is not copied.
        return Response(answer.status, answer.content_type, cast(bytes, answer.body))

    async def get(self, url: str, path: str, *, timeout_ms: int) -> Response:
        """See `Transport`."""
        return await self._call("GET", url, path, timeout_ms)

    async def close(self) -> None:
        """See `Transport`."""
        self._connections.close()
        # What was closed just now ends with the loop's next turn.
        await asyncio.sleep(0)
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _opened(self) -> "aiohttp.ClientSession":
        if self._session is None:
            import aiohttp

            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0,
                    limit_per_host=self._connections_per_broker,
                    keepalive_timeout=KEEPALIVE_S,
                    socket_factory=new_socket,
                ),
                # The deadline of each call bounds it; aiohttp's own five minutes would not.
                timeout=aiohttp.ClientTimeout(total=None),
                headers={"User-Agent": self._user_agent},
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def _call(
        self, method: str, url: str, path: str, timeout_ms: int, **options: Any
    ) -> Response:
        import aiohttp
        from yarl import URL

        session = self._opened()
        try:
            async with (
                asyncio.timeout(timeout_ms / 1000),
                session.request(
                    method, URL(url + path, encoded=True), allow_redirects=False, **options
                ) as answer,
            ):
                if (answer.content_length or 0) > MAX_RESPONSE_BYTES:
                    raise BrokerUnreachableError(
                        f"{url}: an answer of {answer.content_length} bytes is over the limit of "
                        f"{MAX_RESPONSE_BYTES}"
                    )
                return Response(answer.status, answer.content_type, await answer.read())
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise _unreachable(url, error, timeout_ms) from error


def _unreachable(url: str, error: Exception, timeout_ms: int) -> BrokerUnreachableError:
    """What a call without an answer proves."""
    import aiohttp

    if isinstance(error, aiohttp.ClientConnectorError):
        refused = error.os_error.errno == errno.ECONNREFUSED
        reason = "connection refused" if refused else str(error.os_error) or str(error)
        return BrokerUnreachableError(
            f"{url}: {reason}", outcome=Outcome.NOT_APPLIED, refused=refused
        )
    if isinstance(error, aiohttp.InvalidURL | aiohttp.ConnectionTimeoutError):
        return BrokerUnreachableError(f"{url}: {error}", outcome=Outcome.NOT_APPLIED)
    if isinstance(error, TimeoutError):
        return _too_late(url, timeout_ms)
    return BrokerUnreachableError(f"{url}: {str(error) or type(error).__name__}")


def _too_late(url: str, timeout_ms: int) -> BrokerUnreachableError:
    return BrokerUnreachableError(f"{url}: no answer within {timeout_ms} ms")


Handler = Callable[[str, str, str, bytes], "Response | Awaitable[Response]"]
"""(method, url, path, body) to an answer, or an exception to raise."""


class MockTransport:
    """A transport that asks a function instead of the network; for tests.

    Args:
        handler: called with (method, url, path, body); what it raises, the caller sees.
    """

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.is_closed = False

    async def post(
        self,
        url: str,
        path: str,
        body: bytes,
        *,
        timeout_ms: int,
        content_type: str = routes.MSGPACK,  # noqa: ARG002 - the port's
    ) -> Response:
        """See `Transport`; a handler that takes longer than the deadline counts as no answer."""
        return await self._ask("POST", url, path, body, timeout_ms)

    async def get(self, url: str, path: str, *, timeout_ms: int) -> Response:
        """See `Transport`."""
        return await self._ask("GET", url, path, b"", timeout_ms)

    async def close(self) -> None:
        """See `Transport`."""
        self.is_closed = True

    async def _ask(
        self, method: str, url: str, path: str, body: bytes, timeout_ms: int
    ) -> Response:
        answer = self._handler(method, url, path, body)
        if not inspect.isawaitable(answer):
            return answer
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                return await answer
        except TimeoutError as error:
            raise BrokerUnreachableError(f"{url}: no answer within {timeout_ms} ms") from error
