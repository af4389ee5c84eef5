"""The short way from a socket to a handler and back, for the POSTs that a broker lives by.

Appends, fetches and what brokers say to one another are small exchanges in great number, or bodies
of megabytes. A general server spends more on each than the broker itself does: objects that nobody
asks for, and several copies of every body. This connection reads a body into the memory in which
its batches stay, and sends an answer from the memory in which they lie.

Whatever is not a plain POST to one of these routes is left to aiohttp, which takes the connection
over with the bytes of that request, and keeps it.

States, one after the other for each request:

    head     `_received` holds less than a head
    body     `_request` is set; the body gathers in `_received`, or directly in its own memory
    serving  `_serving` is set; what comes meanwhile waits in `_received`

and at the end of a connection whose request was refused unread:

    lingering  what still comes is thrown away, so that the answer is not lost to a reset

Nothing here trusts an announcement: memory for a body is taken when a good part of it has come.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

from ottla_broker.http.answering import answer_post, count, no_room, refusal
from ottla_broker.http.bodies import slow_body
from ottla_broker.http.deadlines import (
    HALF_CLOSED_READ_S,
    HALF_CLOSED_WRITE_S,
    HEAD_TOTAL_S,
    KEEP_ALIVE_S,
    PARKING_POSTS,
    RECEIVE_IDLE_S,
    SEND_IDLE_S,
    answer_deadline_s,
    body_deadline_s,
)
from ottla_broker.http.inflight import HeldBytes
from ottla_broker.http.post import Answer, Post, PostRoute, problem_answer
from ottla_broker.request_id import REQUEST_ID
from ottla_protocol import routes
from ottla_protocol.errors import (
    MalformedBodyError,
    MalformedRequestError,
    OttlaError,
    OverloadedError,
    RequestNotReceivedError,
)

if TYPE_CHECKING:
    from ottla_broker.http.listener import Listener

HEAD_BYTES_MAX = 8_190
"""A longer head is left to aiohttp, which lets no field be longer than this."""

DIRECT_BODY_BYTES_MIN = 32 << 10
DIRECT_BODY_SHARE = 4
"""When this much of a body has come, and a fourth of it, memory for the whole is taken and the rest
read into it. So nobody makes a broker take more than four times what he has sent."""

PIPELINED_BYTES_MAX = 64 << 10
"""How much may come of the next request while one is served, before reading stops."""

LINGER_S = 2.0
LINGER_BYTES_MAX = 4 << 20
"""How long, and how much of, a refused body is read and thrown away: a client that is still sending
would lose the refusal to a reset, and with it the certainty that nothing was applied."""

SMALL_ANSWER_BYTES = 64 << 10
"""Answers this small are sent however much waits to be taken: they tell why larger ones are not."""

UNREAD = "unread"
"""What the count of answers calls the path and the method of a connection that was turned away."""

_HEAD_END = b"\r\n\r\n"


@dataclass(slots=True)
class IncomingRequest:
    """A request whose head has come."""

    route: PostRoute
    values: Mapping[str, str]
    query: Sequence[tuple[str, str]]
    headers: Mapping[str, str]
    content_length: int
    keep_alive: bool
    held: HeldBytes | None
    """The share of the bound on produce bodies, for writes."""
    request_id: str | None = None
    """None for what brokers do of their own accord."""

    def arrived(self, size_bytes: int) -> None:
        """Count the body's bytes, `size_bytes` in all until now.

        Raises:
            OverloadedError: the bodies of all requests together are too large.
        """
        if self.held is not None:
            self.held.grow(size_bytes - self.held.size_bytes)

    def release(self) -> None:
        """The request is over."""
        if self.held is not None:
            self.held.release()


class ServerConnection(asyncio.BufferedProtocol):
    """One accepted connection; the listener makes it."""

    def __init__(self, listener: "Listener") -> None:
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._request: IncomingRequest | None = None
        # Invariant: set only while the body is read directly; the first `_filled` bytes have come.
        self._body: bytearray | None = None
        self._filled = 0
        self._serving: asyncio.Task[None] | None = None
        self.is_surplus = False
        """Whether there were too many connections already: only peers and probes are served."""
        self.is_beyond_reserve = False
        """Whether peers' work for clients had all of theirs too: only CLUSTER_CALLs are served."""
        self._was_surplus = False
        self._is_closing = False
        self._is_reading_paused = False
        self._changed_s = self._loop.time()
        self._began_s = self._changed_s
        """When the request began that is being received."""
        self._is_half_closed = False
        # Set while the client takes its answer slower than it is written.
        self._send_blocked: asyncio.Event | None = None
        self._unsent_bytes = 0
        self._answer_deadline_s = 0.0
        # Set while lingering: when to end, and how much may still come.
        self._linger_until_s: float | None = None
        self._linger_bytes = 0

    # --- asyncio.BufferedProtocol -------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.BaseProtocol."""
        # A cast, because uvloop's transports are no subclass of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._listener.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        """Part of asyncio.BaseProtocol: whoever goes away frees what its request holds."""
        self._listener.closed(self)
        self._is_closing = True
        if self._serving is not None:
            self._serving.cancel()
        elif self._request is not None:
            self._request.release()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  asyncio's signature
        """Part of asyncio.BufferedProtocol."""
        if self._body is None or self._linger_until_s is not None:
            return self._listener.scratch
        return memoryview(self._body)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """Part of asyncio.BufferedProtocol."""
        self._changed_s = self._loop.time()
        if self._linger_until_s is not None:
            self._linger_bytes -= nbytes
            if self._linger_bytes < 0:
                self.abort()
            return
        if self._body is not None:
            self._filled += nbytes
            if self._filled == len(self._body):
                body, self._body = self._body, None
                self._serve(body)
            return
        if self._request is None and not self._received:
            self._began_s = self._changed_s
        self._received += self._listener.scratch[:nbytes]
        if self._serving is None:
            self._advance()
        elif len(self._received) > PIPELINED_BYTES_MAX and not self._is_reading_paused:
            self._is_reading_paused = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """Part of asyncio.BufferedProtocol: the client sends nothing more, or has gone.

        Returns:
            True to keep the other direction open for an answer.
        """
        self._is_half_closed = True
        if self._is_closing or self.is_idle:
            return False
        if self._serving is None:
            if self._request is None:
                self._end_with(problem_answer(MalformedRequestError("the head was cut off")))
            else:
                self._refuse(MalformedBodyError("the body was cut off: the client sent no more"))
            return True
        assert self._request is not None
        route = self._request.route
        is_awaited = route.is_write and route.path not in PARKING_POSTS
        grace_s = HALF_CLOSED_WRITE_S if is_awaited else HALF_CLOSED_READ_S
        self._loop.call_later(grace_s, self._leave_serving, self._serving)
        return True

    def _leave_serving(self, serving: "asyncio.Task[None]") -> None:
        if self._serving is serving and self._send_blocked is None:
            self.abort()

    def pause_writing(self) -> None:
        """Part of asyncio.BaseProtocol."""
        self._send_blocked = asyncio.Event()

    def resume_writing(self) -> None:
        """Part of asyncio.BaseProtocol."""
        if self._send_blocked is not None:
            self._send_blocked.set()
            self._send_blocked = None

    # --- receiving ----------------------------------------------------------------------------

    def _advance(self) -> None:
        """Go as far as the received bytes reach."""
        if self._is_closing:
            return
        try:
            if self._request is None:
                self._begin()
            if self._request is not None:
                self._gather_body(self._request)
        except OttlaError as error:
            self._refuse(error)

    def _begin(self) -> None:
        """Read a head, if a whole one has come, or leave the connection to aiohttp."""
        received = self._received
        end = received.find(_HEAD_END)
        if self.is_surplus and (end >= 0 or len(received) > HEAD_BYTES_MAX):
            if not self._listener.serves_surplus(
                bytes(received), is_beyond_reserve=self.is_beyond_reserve
            ):
                self.turn_away()
                return
            self.is_surplus = False
            self._was_surplus = True
        if end < 0:
            if self.is_surplus:
                return
            # What is no request at all is told so at once; everything else is waited for here.
            if not received[:1].isalpha() or len(received) > HEAD_BYTES_MAX:
                self._leave_to_aiohttp()
            return
        end += len(_HEAD_END)
        request = self._listener.recognise(bytes(received[:end]))
        if request is None:
            self._leave_to_aiohttp()
            return
        del received[:end]
        self._request = request
        self._listener.admit(request)

    def _gather_body(self, request: IncomingRequest) -> None:
        length, received = request.content_length, self._received
        if len(received) >= length:
            request.arrived(length)
            body = received[:length]
            del received[:length]
            self._serve(body)
        elif len(received) >= max(DIRECT_BODY_BYTES_MIN, length // DIRECT_BODY_SHARE):
            request.arrived(length)
            self._filled = len(received)
            self._body = bytearray(length)
            self._body[: self._filled] = received
            received.clear()
        else:
            request.arrived(len(received))

    def _leave_to_aiohttp(self) -> None:
        """Nothing of the request is taken yet, so aiohttp sees the connection as if it were new."""
        self._listener.closed(self)
        transport, received = self._transport, bytes(self._received)
        # A probe beyond the limit gets its answer, and its place goes to the next one.
        successor = self._listener.successor(self._was_surplus)
        # The event loop chooses how to read when reading begins.
        transport.pause_reading()
        transport.set_protocol(successor)
        successor.connection_made(transport)
        transport.resume_reading()
        if received:
            successor.data_received(received)

    # --- serving ------------------------------------------------------------------------------

    def _serve(self, body: bytearray) -> None:
        assert self._request is not None
        self._serving = self._loop.create_task(self._answer(self._request, body))
        self._serving.add_done_callback(self._served)

    def _served(self, serving: "asyncio.Task[None]") -> None:
        """A request ended, perhaps without its task having taken a single step."""
        if serving.cancelled() or serving.exception() is not None:
            # Nobody will answer it any more, and its connection can carry no other.
            if self._request is not None:
                self._request.release()
            self.abort()

    async def _answer(self, request: IncomingRequest, body: bytearray) -> None:
        REQUEST_ID.set(request.request_id)
        post = Post(request.values, request.query, request.headers, body)
        answer = await answer_post(self._listener.context, request.route, post)
        request.release()
        path = request.route.path
        keep_alive = request.keep_alive and not self._listener.sends_away(path)
        if self._listener.unsent.held_bytes and not path.startswith(routes.INTERNAL_PREFIX):
            answer = self._if_there_is_room(answer, is_write=request.route.is_write)
        self._send(answer, keep_alive=keep_alive)
        if self._send_blocked is not None:
            await self._sent(self._send_blocked)
        self._serving = None
        self._request = None
        self._changed_s = self._began_s = self._loop.time()
        if self._is_closing or not keep_alive or (self._is_half_closed and not self._received):
            self.close()
            return
        if self._received:
            self._advance()
        still_full = self._serving is not None and len(self._received) > PIPELINED_BYTES_MAX
        if self._is_reading_paused and not still_full and not self._is_closing:
            self._is_reading_paused = False
            self._transport.resume_reading()

    def _if_there_is_room(self, answer: Answer, *, is_write: bool) -> Answer:
        """The answer, or a refusal where those that nobody takes are too many."""
        size_bytes = sum(len(part) for part in answer.body)
        if size_bytes <= SMALL_ANSWER_BYTES:
            return answer
        try:
            with self._listener.unsent.hold() as held:
                held.grow(size_bytes)
        except OverloadedError as error:
            return problem_answer(no_room(error, is_write=is_write))
        return answer

    async def _sent(self, unblocked: asyncio.Event) -> None:
        """Wait until the client has taken its answer, which counts among those that wait."""
        self._unsent_bytes = self._transport.get_write_buffer_size()
        self._answer_deadline_s = answer_deadline_s(self._loop.time(), self._unsent_bytes)
        with self._listener.unsent.hold() as held:
            held.count(self._unsent_bytes)
            await unblocked.wait()

    def _send(self, answer: Answer, *, keep_alive: bool) -> None:
        keep_alive = keep_alive and not self._is_closing
        request_id = None if self._request is None else self._request.request_id
        head = self._listener.render_head(answer, keep_alive=keep_alive, request_id=request_id)
        self._transport.writelines((head, *answer.body))

    def turn_away(self) -> None:
        """Answer that there are too many connections, whatever is asked, and end this one."""
        count(UNREAD, UNREAD, HTTPStatus.SERVICE_UNAVAILABLE)
        self._end_with(problem_answer(self._listener.too_many()))

    def _refuse(self, error: OttlaError) -> None:
        """Answer without reading further: what follows on the connection is of no use then."""
        assert self._request is not None
        self._request.release()
        # Perhaps within the task of the request before.
        outer = REQUEST_ID.set(self._request.request_id)
        answer = refusal(self._request.route, error)
        REQUEST_ID.reset(outer)
        self._end_with(answer)

    def _end_with(self, answer: Answer) -> None:
        """Send this, and throw away what still comes."""
        self._send(answer, keep_alive=False)
        self._is_closing = True
        self._body = None
        self._received.clear()
        if self._is_half_closed:
            self.close()
            return
        self._linger_bytes = LINGER_BYTES_MAX
        self._linger_until_s = self._loop.time() + LINGER_S
        self._transport.write_eof()

    # --- ending -------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether no request has begun."""
        return self._request is None and not self._received

    def stop(self) -> None:
        """Close as soon as no request is being served."""
        self._is_closing = True
        if self._serving is None:
            self.close()

    def close(self) -> None:
        """Close when what is written has been sent."""
        self._is_closing = True
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._is_closing = True
        self._transport.abort()

    def check_deadline(self, now_s: float) -> None:
        """Give up on a client that stands still; called about once a second."""
        still_s = now_s - self._changed_s
        if self._serving is not None:
            self._check_sending(now_s, still_s)
        elif self._linger_until_s is not None:
            if now_s > self._linger_until_s:
                self.abort()
        elif self._is_closing:
            # An answer, and then the end: whoever does not take it is left.
            if still_s > RECEIVE_IDLE_S:
                self.abort()
        elif self.is_idle:
            if still_s > KEEP_ALIVE_S:
                self.close()
        elif still_s > RECEIVE_IDLE_S or now_s > self._receive_deadline_s():
            self._give_up_receiving()

    def _receive_deadline_s(self) -> float:
        if self._request is None:
            return self._began_s + HEAD_TOTAL_S
        came_bytes = len(self._received) if self._body is None else self._filled
        return body_deadline_s(self._began_s, came_bytes)

    def _give_up_receiving(self) -> None:
        if self._request is not None:
            self._refuse(slow_body())
            return
        count(UNREAD, UNREAD, RequestNotReceivedError.status)
        slow_head = RequestNotReceivedError("the head of the request did not come whole")
        self._end_with(problem_answer(slow_head))

    def _check_sending(self, now_s: float, still_s: float) -> None:
        if self._send_blocked is None:
            return
        unsent_bytes = self._transport.get_write_buffer_size()
        if unsent_bytes != self._unsent_bytes:
            self._unsent_bytes = unsent_bytes
            self._changed_s = now_s
        elif still_s > SEND_IDLE_S:
            self.abort()
        if now_s > self._answer_deadline_s:
            self.abort()
