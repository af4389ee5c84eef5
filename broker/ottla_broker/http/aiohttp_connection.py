"""A connection that aiohttp serves, with the deadlines, limits and errors of the short way.

aiohttp waits an hour for a head and for ever for a client that takes nothing of its answer. It
gives up on requests whose client has shut its sending side. It tells of malformed requests in plain
text, with a traceback in the log for each. This class adds what is missing by the methods that
aiohttp calls; `AiohttpConnections` makes them and looks after them.
"""

import asyncio
from http import HTTPStatus
from typing import Any

import structlog
from aiohttp import StreamReader, hdrs, web
from aiohttp.http_exceptions import LineTooLong

from ottla_broker.http.answering import count, no_room
from ottla_broker.http.connection import UNREAD
from ottla_broker.http.deadlines import (
    HALF_CLOSED_READ_S,
    HALF_CLOSED_WRITE_S,
    HEAD_TOTAL_S,
    KEEP_ALIVE_S,
    PARKING_POSTS,
    RECEIVE_IDLE_S,
    SEND_IDLE_S,
    answer_deadline_s,
)
from ottla_broker.http.inflight import InflightBytes
from ottla_broker.http.post import problem_answer
from ottla_broker.http.problems import problem_response, web_response
from ottla_protocol import routes
from ottla_protocol.errors import (
    InternalError,
    InvalidRequestError,
    MalformedRequestError,
    OttlaError,
    OverloadedError,
    RequestHeadTooLargeError,
    RequestNotReceivedError,
)

LINE_BYTES_MAX = 8_190
"""Longest request line, and longest header field with its name."""

HEADERS_MAX = 100
HEAD_BYTES_MAX = 64 << 10
"""Most header fields of a request, and most bytes of a head with them."""

LINGER_S = 2.0
"""How long what still comes of a refused body is thrown away."""

SMALL_ANSWER_BYTES = 64 << 10
"""Answers this small are sent however much waits to be taken: they tell why larger ones are not."""

log = structlog.get_logger()


class AiohttpConnection(web.RequestHandler):
    """One connection; `AiohttpConnections` makes it."""

    def __init__(
        self,
        owner: "AiohttpConnections",
        loop: asyncio.AbstractEventLoop,
        *,
        closes_after_answer: bool,
    ) -> None:
        super().__init__(
            owner.server,
            loop=loop,
            keepalive_timeout=KEEP_ALIVE_S,
            access_log=None,  # type: ignore[arg-type]  # aiohttp's own way to have none
            auto_decompress=False,
            lingering_time=LINGER_S,
            max_line_size=LINE_BYTES_MAX,
            max_field_size=LINE_BYTES_MAX,
            max_headers=HEADERS_MAX,
        )
        self._owner = owner
        # Accepted beyond the limit on connections, it serves one request.
        self._closes_after_answer = closes_after_answer
        # Of the request that came last: the only one that may not be whole.
        self._newest_body: StreamReader | None = None
        # Of a head that has begun and is not whole: its bytes until now, when the first one came,
        # and the last one. Invariant: all 0 while no head has begun.
        self._head_bytes = 0
        self._head_began_s = 0.0
        self._head_changed_s = 0.0
        # Of an answer that is not taken: how much of it was left when it last became less.
        self._unsent_bytes = 0
        self._unsent_since_s = 0.0
        self._answer_deadline_s: float | None = None

    # --- receiving ----------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol: count what comes while no request is there to take it."""
        seen = self._request_count
        body = self._newest_body
        super().data_received(data)
        if self._request_count != seen and body is not None:
            # No request follows before the end of a body: what came is no part of it. aiohttp tells
            # that as the next request's error, and whoever waits for the body hears nothing.
            _cut_off(body, "what came of it is no chunk")
        if self._messages:
            self._newest_body = self._messages[-1][1]
        if self._request_count != seen or not self._is_waiting:
            # A head was whole, or what came belongs to a request that is being served.
            self._head_bytes = 0
            return
        now_s = self._loop.time()
        if self._head_bytes == 0:
            self._head_began_s = now_s
        self._head_bytes += len(data)
        self._head_changed_s = now_s
        if self._head_bytes > HEAD_BYTES_MAX:
            self._refuse(
                RequestHeadTooLargeError(f"the head is longer than {HEAD_BYTES_MAX} bytes")
            )

    @property
    def _is_waiting(self) -> bool:
        """Whether no request is being served, nor about to be."""
        if self._request_count == 0:
            return True
        return self._waiter is not None and not self._waiter.done()

    def eof_received(self) -> bool | None:  # type: ignore[override]  # asyncio's own signature
        """Part of asyncio.Protocol: the client sends nothing more, or has gone.

        Returns:
            True to keep the other direction open for an answer.
        """
        if self._is_waiting or self._close:
            return None
        if self._newest_body is not None:
            _cut_off(self._newest_body, "the client sent no more of it")
        # After this answer, the end.
        self._close = True
        self._loop.call_later(HALF_CLOSED_READ_S, self._leave_parked)
        self._loop.call_later(HALF_CLOSED_WRITE_S, self._leave_serving)
        return True

    def _leave_serving(self) -> None:
        # What is being sent has deadlines of its own.
        if self._current_request is not None:
            self.abort()

    def _leave_parked(self) -> None:
        request = self._current_request
        if request is None:
            return
        resource = request.match_info.route.resource if isinstance(request, web.Request) else None
        is_parking = resource is not None and resource.canonical in PARKING_POSTS
        if is_parking or request.method in ("GET", "HEAD"):
            self.abort()

    # --- answering ----------------------------------------------------------------------------

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Part of aiohttp: send an answer, and hold its bytes against the bound until it is taken.

        An answer that has no room among those that nobody takes becomes a refusal: a client that
        asks for much and takes nothing must not cost a broker its memory.
        """
        if resp.status == HTTPStatus.EXPECTATION_FAILED and isinstance(request, web.Request):
            # aiohttp's own, from before the middlewares.
            resp = problem_response(request, InvalidRequestError("Expect is not '100-continue'"))
            resp.headers[routes.HEADER_SERVED_BY] = self._owner.served_by
        size_bytes = 0
        if isinstance(resp, web.Response) and isinstance(resp.body, bytes | bytearray):
            size_bytes = len(resp.body)
        if self._closes_after_answer and not resp.prepared:
            resp.force_close()
        is_sent = resp.prepared
        if is_sent or size_bytes <= SMALL_ANSWER_BYTES or not isinstance(request, web.Request):
            return await self._finish(request, resp, start_time, size_bytes)
        with self._owner.unsent.hold() as held:
            try:
                held.grow(size_bytes)
            except OverloadedError as error:
                resp = problem_response(request, no_room(error, is_write=_is_write(request)))
            return await self._finish(request, resp, start_time, size_bytes)

    async def send_whole(self, request: web.BaseRequest, response: web.Response) -> None:
        """Send an answer from its handler; returns when all of it has left the process.

        Raises:
            OverloadedError: there is no room for it among those that nobody takes; none was sent.
            ConnectionError: the client went away before.
        """
        transport = self.transport
        if transport is None:
            raise ConnectionResetError("the client went away")
        assert isinstance(response.body, bytes | bytearray)
        size_bytes = len(response.body)
        low, high = transport.get_write_buffer_limits()
        with self._owner.unsent.hold() as held:
            if size_bytes > SMALL_ANSWER_BYTES:
                held.grow(size_bytes)
            self._answer_deadline_s = answer_deadline_s(self._loop.time(), size_bytes)
            transport.set_write_buffer_limits(high=0)
            try:
                await response.prepare(request)
                await response.write_eof()
            finally:
                self._answer_deadline_s = None
                transport.set_write_buffer_limits(high=high, low=low)

    async def _finish(
        self,
        request: web.BaseRequest,
        resp: web.StreamResponse,
        start_time: float | None,
        size_bytes: int,
    ) -> tuple[web.StreamResponse, bool]:
        if size_bytes:
            self._answer_deadline_s = answer_deadline_s(self._loop.time(), size_bytes)
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self._answer_deadline_s = None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Part of aiohttp: what came is no request. Told as every error is, and not logged.

        What fails outside the handlers and their middlewares comes here too, and is logged.
        """
        if request.writer.output_size > 0:
            raise ConnectionError("half of an answer is out")
        error: OttlaError
        if isinstance(exc, LineTooLong):
            error = RequestHeadTooLargeError(
                f"the request line or a header field is longer than {LINE_BYTES_MAX} bytes"
            )
        elif status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            log.error("request_failed", method=request.method, path=request.path, exc_info=exc)
            error = InternalError("the broker failed; its log tells more")
        else:
            error = MalformedRequestError(_first_line(message) or "this is no HTTP request")
        response = self._problem(error)
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Part of aiohttp: a body that a client breaks off is nothing to log."""
        if not isinstance(kw.get("exc_info"), web.RequestPayloadError):
            super().log_exception(*args, **kw)

    def _problem(self, error: OttlaError) -> web.Response:
        count(UNREAD, UNREAD, error.status)
        response = web_response(problem_answer(error))
        response.headers[routes.HEADER_SERVED_BY] = self._owner.served_by
        response.headers[hdrs.SERVER] = routes.SERVER
        return response

    def _refuse(self, error: OttlaError) -> None:
        """Answer a request that has not come whole, and end the connection."""
        transport = self.transport
        if transport is None or self._close or self._force_close:
            return
        count(UNREAD, UNREAD, error.status)
        transport.write(self._owner.render_refusal(error))
        transport.write_eof()
        # What still comes is thrown away for a while, or a reset would overtake the answer.
        self._head_bytes = 0
        self.close()
        self._loop.call_later(LINGER_S, self.abort)

    # --- deadlines ----------------------------------------------------------------------------

    def check_deadline(self, now_s: float) -> None:
        """Give up on a client that takes too long; called about once a second."""
        if self._head_bytes:
            too_slow = now_s - self._head_began_s > HEAD_TOTAL_S
            if too_slow or now_s - self._head_changed_s > RECEIVE_IDLE_S:
                self._refuse(RequestNotReceivedError("the head of the request did not come whole"))
            return
        transport = self.transport
        unsent_bytes = 0 if transport is None else transport.get_write_buffer_size()
        if unsent_bytes == 0:
            self._unsent_bytes = 0
            return
        if unsent_bytes != self._unsent_bytes:
            self._unsent_bytes = unsent_bytes
            self._unsent_since_s = now_s
        is_late = self._answer_deadline_s is not None and now_s > self._answer_deadline_s
        if is_late or now_s - self._unsent_since_s > SEND_IDLE_S:
            self.abort()

    def abort(self) -> None:
        """Close at once, whatever is unsent; the handler is cancelled."""
        if self.transport is not None:
            self.transport.abort()


def _is_write(request: web.Request) -> bool:
    """Whether serving a request may have changed something."""
    if request.method in ("GET", "HEAD"):
        return False
    resource = request.match_info.route.resource
    return resource is None or resource.canonical != routes.FETCH


def _cut_off(body: StreamReader, reason: str) -> None:
    """Whoever reads this body hears that it does not come to its end, unless it has."""
    if not body.is_eof() and body.exception() is None:
        body.set_exception(web.RequestPayloadError(reason))


class AiohttpConnections:
    """Makes the connections of one aiohttp server, and looks after them.

    Args:
        runner: of the application; set up before the first connection comes.
        unsent: the bound on answers that are not taken, those of the short way included.
        served_by: this broker's node id.
    """

    def __init__(self, runner: web.AppRunner, unsent: InflightBytes, served_by: str) -> None:
        self._runner = runner
        self.unsent = unsent
        self.served_by = served_by

    @property
    def server(self) -> web.Server:
        """The server whose connections these are."""
        assert self._runner.server is not None, "setup() comes first"
        return self._runner.server

    def make(self, closes_after_answer: bool) -> AiohttpConnection:  # noqa: FBT001  the listener's
        """The protocol for a connection; one that `closes_after_answer` serves one request."""
        loop = asyncio.get_running_loop()
        return AiohttpConnection(self, loop, closes_after_answer=closes_after_answer)

    def __len__(self) -> int:
        return 0 if self._runner.server is None else len(self._runner.server.connections)

    def check_deadlines(self, now_s: float) -> None:
        """See `AiohttpConnection.check_deadline`."""
        if self._runner.server is None:
            return
        for connection in self._runner.server.connections:
            if isinstance(connection, AiohttpConnection):
                connection.check_deadline(now_s)

    def render_refusal(self, error: OttlaError) -> bytes:
        """An answer to what is no whole request, as it goes out."""
        answer = problem_answer(error)
        body = b"".join(bytes(part) for part in answer.body)
        head = (
            f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}\r\n"
            f"Content-Type: {answer.content_type}\r\nContent-Length: {len(body)}\r\n"
            f"{routes.HEADER_SERVED_BY}: {self.served_by}\r\nConnection: close\r\n\r\n"
        )
        return head.encode("latin-1") + body


def _first_line(message: str | None) -> str:
    """What the parser complains of, without the bytes that it quotes."""
    return (message or "").strip().partition("\n")[0].rstrip(":").strip()
