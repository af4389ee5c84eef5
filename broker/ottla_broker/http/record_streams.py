"""Reads that go on: `text/event-stream`, and NDJSON with `follow=true`, of a topic or a partition.

A stream ends when the client goes, when it takes nothing for long, when this broker stops, or with
an error that is told as its last event or line. It ends in order where it can, so that an
EventSource comes back by itself, here or at another broker, with the id of the last record it had.

WHATWG HTML, section 9.2: an EventSource comes back after a stream that ended and after a connection
that broke, but not after any other answer than 200. So what passes is not told as a status where an
event stream is resumed: the stream begins, and goes on once it can. A cursor behind which records
were taken away is told as an event with the cursor to go on from, and the stream ends.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import cast

from aiohttp import web

from ottla_broker.http.context import context_of
from ottla_broker.http.deadlines import SEND_IDLE_S
from ottla_broker.http.negotiation import accept_of, negotiate
from ottla_broker.http.query import Query
from ottla_broker.http.selections import SELECTION_PARAMETERS, selection_of
from ottla_broker.services.follower import Follower
from ottla_broker.services.following import KINDS
from ottla_broker.services.record_read import AtTimestamp
from ottla_broker.services.stream_rendering import (
    RECONNECT_MS,
    StreamMediaType,
    StreamRendering,
)
from ottla_broker.services.topic_positions import Start
from ottla_broker.telemetry import METRICS
from ottla_protocol import routes
from ottla_protocol.cursors import Cursor, decode_cursor
from ottla_protocol.errors import (
    InvalidRequestError,
    LogTruncatedError,
    OttlaError,
    OverloadedError,
)

START_PARAMETERS = ("cursor", "last_event_id", "offset", "timestamp")

FOLLOW_PARAMETERS = (*START_PARAMETERS, "isolation", "follow", *SELECTION_PARAMETERS)


ENDLESS = (routes.NDJSON, routes.EVENT_STREAM)
"""What answers a read that goes on."""


def stream_type(request: web.Request, bounded: Sequence[str]) -> StreamMediaType | None:
    """The form of a read that goes on; None for one that does not.

    Args:
        request: with `follow=true` it goes on, and an event stream does in any case.
        bounded: what the route answers without `follow`, best first.

    Raises:
        NotAcceptableError: the client accepts none of what there is.
        InvalidRequestError: `follow` is neither true nor false.
    """
    sent = [(name, value) for name, value in request.query.items() if name == "follow"]
    follows = Query(sent, ("follow",)).choice("follow", "false", ("true", "false")) == "true"
    accept = accept_of(request.headers.getall("Accept", ()))
    media_type = negotiate(accept, ENDLESS if follows else bounded)
    if media_type == routes.EVENT_STREAM or follows:
        return cast(StreamMediaType, media_type)
    return None


def start_of(request: web.Request, query: Query) -> Start:
    """Where a read begins: behind the last event, at a cursor, at a time, or at an offset.

    The header counts most: an EventSource sends it when it comes back, and cannot change the URL
    that it was made with.

    Raises:
        InvalidRequestError: several are given, or one is none.
    """
    last_event_id = request.headers.get(routes.HEADER_LAST_EVENT_ID)
    if last_event_id:
        return decode_cursor(last_event_id, parameter=routes.HEADER_LAST_EVENT_ID)
    given = [name for name in START_PARAMETERS if query.text(name) is not None]
    if len(given) > 1:
        raise InvalidRequestError(
            f"{given[0]} and {given[1]} exclude each other", parameter=given[1]
        )
    for name in ("cursor", "last_event_id"):
        text = query.text(name)
        if text is not None:
            return decode_cursor(text, parameter=name)
    timestamp = query.timestamp("timestamp")
    return query.position("offset") if timestamp is None else AtTimestamp(timestamp)


async def follow(
    request: web.Request, topic: str, partition: int | None, media_type: StreamMediaType
) -> web.StreamResponse:
    """Stream a topic, or one partition of it."""
    query = Query(request.query.items(), FOLLOW_PARAMETERS)
    selection = selection_of(query)
    rendering = StreamRendering(
        media_type,
        names_partition=partition is None,
        selection=tuple(query.text(name) for name in SELECTION_PARAMETERS),
        filter=selection.filter,
        view=selection.view,
    )
    start, isolation = start_of(request, query), query.isolation()
    context = context_of(request)
    if context.purgatory.is_released and rendering.is_events:
        return await _come_back(request)
    async with AsyncExitStack() as stack:
        try:
            follower = await stack.enter_async_context(
                context.following.follow(topic, partition, start, rendering, isolation=isolation)
            )
        except OttlaError as error:
            if rendering.is_events and isinstance(start, Cursor):
                if _passes(error):
                    return await _come_back(request)
                if isinstance(error, LogTruncatedError):
                    return await _come_back(request, rendering.error(error))
            raise
        response = _begun(request, media_type)
        response.headers[routes.HEADER_CURSOR] = follower.begun_at.decode("ascii")
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        async with _telling_errors(response, rendering):
            await _send_all(request, response, follower)
    return response


def _begun(request: web.Request, media_type: str) -> web.StreamResponse:
    response = web.StreamResponse(
        headers={
            "Content-Type": f"{media_type}; charset=utf-8",
            "Cache-Control": "no-store",
            # Proxies that gather an answer before they pass it on would hold a stream for ever.
            "X-Accel-Buffering": "no",
            routes.HEADER_SERVED_BY: str(context_of(request).settings.node_id),
        }
    )
    # Whoever comes back may be served elsewhere.
    response.force_close()
    return response


def _passes(error: OttlaError) -> bool:
    """Whether it helps to come back here; who meets a limit needs another broker."""
    return error.retriable and not isinstance(error, OverloadedError)


async def _come_back(request: web.Request, event: bytes = b"") -> web.StreamResponse:
    """An event stream that ends at once: a refusal would keep an EventSource away for good."""
    response = _begun(request, routes.EVENT_STREAM)
    await response.prepare(request)
    await response.write_eof(b"retry: %d\n\n%b" % (RECONNECT_MS, event))
    return response


@asynccontextmanager
async def _telling_errors(
    response: web.StreamResponse, rendering: StreamRendering
) -> AsyncIterator[None]:
    try:
        yield
    except OttlaError as error:
        METRICS.ended_followers.labels(error.code).inc()
        # Whoever takes nothing, or has gone, is not told: the end of the stream must do.
        with suppress(ConnectionError, TimeoutError):
            await _send(response, rendering.error(error))
    except asyncio.CancelledError:
        METRICS.ended_followers.labels("gone").inc()
        raise
    except ConnectionError:
        # The client went away between two pieces.
        METRICS.ended_followers.labels("gone").inc()
    except TimeoutError:
        METRICS.ended_followers.labels("slow").inc()


async def _send_all(request: web.Request, response: web.StreamResponse, follower: Follower) -> None:
    """Send until the broker stops.

    Raises:
        OttlaError: the stream cannot go on.
        ConnectionError: the client is gone.
        TimeoutError: it took a piece too slowly; its connection is cut.
    """
    kind = KINDS[response.content_type == routes.EVENT_STREAM]
    sent_bytes = METRICS.followed_bytes.labels(kind)
    try:
        while (piece := await follower.next()) is not None:
            await _send(response, piece)
            sent_bytes.inc(len(piece))
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise
    METRICS.ended_followers.labels("stopping").inc()
    await response.write_eof()


async def _send(response: web.StreamResponse, piece: bytes) -> None:
    """Write, and wait while the client has not taken what was written before."""
    async with asyncio.timeout(SEND_IDLE_S):
        await response.write(piece)
