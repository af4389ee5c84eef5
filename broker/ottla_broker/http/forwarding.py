"""Passes a read on to the partition's leader: one hop, streamed, and never in a circle."""

from collections.abc import Awaitable, Callable
from urllib.parse import parse_qsl, urlencode

import aiohttp
import msgspec
from aiohttp import web

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.hosted_replicas import require_not_restored
from ottla_broker.drivers.peer_client import PeerUnavailableError, unavailable
from ottla_broker.drivers.peer_pool import CONNECT_TIMEOUT_MS
from ottla_broker.drivers.racing import Unless
from ottla_broker.http.admission import is_member
from ottla_broker.http.context import context_of
from ottla_broker.http.query import ISOLATIONS
from ottla_broker.request_id import REQUEST_ID
from ottla_broker.telemetry import METRICS
from ottla_cluster.controller.features import TRANSACTIONS, is_enabled, require
from ottla_cluster.controller.image import BrokerRegistration, MetadataImage, Partition
from ottla_protocol import routes
from ottla_protocol.errors import (
    LeaderNotAvailableError,
    NotLeaderOrFollowerError,
    OffsetNotAvailableError,
    OttlaError,
    RoutingError,
    error_from_problem,
)

LEADER_WAIT_MS = 5_000
"""How long a read waits for a leader before it answers 503."""

RETRY_INTERVAL_MS = 50
FORWARD_TIMEOUT_MS = 70_000
"""Longer than any long-poll."""

CHUNK_BYTES = 256 << 10
MAX_PROBLEM_BYTES = 64 << 10
_PASSED_ON = (
    "Content-Type", "Content-Length", "Cache-Control", "ETag", "Vary", "X-Content-Type-Options",
    "Retry-After", "Allow", routes.HEADER_NEXT_OFFSET, routes.HEADER_HIGH_WATERMARK,
    routes.HEADER_LOG_START_OFFSET, routes.HEADER_LAST_STABLE_OFFSET, routes.HEADER_OFFSET,
    routes.HEADER_TIMESTAMP, routes.HEADER_KEY, routes.HEADER_TOMBSTONE,
)  # fmt: skip
_ISOLATION = "isolation"
_ASKED_WITH = ("Accept", "If-None-Match")

_RECORD_PREFIX = routes.HEADER_RECORD_PREFIX.lower()

ServeHere = Callable[[], Awaitable[web.StreamResponse]]


async def serve_at_leader(
    request: web.Request, topic: str, partition: int, serve_here: ServeHere
) -> web.StreamResponse:
    """Serve the read here when this broker leads, else have the leader's answer streamed through.

    A read has no effects, so a leader that cannot be reached is looked for again.

    Raises:
        NotLeaderOrFollowerError: the request was forwarded to this broker, which does not lead.
        LeaderNotAvailableError: no leader within LEADER_WAIT_MS.
        OffsetNotAvailableError: a new leader does not know yet what it may show.
        TopicBeingRestoredError: the topic is not for clients yet.
        PeerBusyError: too many reads are forwarded already.
        UnsupportedFeatureLevelError: see `path_for_leader`.
    """
    context = context_of(request)
    was_forwarded = routes.HEADER_FORWARDED_BY in request.headers and is_member(
        context, request.headers
    )
    deadline_ms = monotonic_ms() + LEADER_WAIT_MS
    while True:
        state = await context.topics.find_partition(topic, partition)
        try:
            if state.leader == context.settings.node_id:
                response = await serve_here()
                response.headers[routes.HEADER_LEADER] = str(state.leader)
                return response
            # A leader's 503 would be taken for one that does not lead any more.
            require_not_restored(context.metadata.image, state)
            return await _forward(request, _next_hop(state, was_forwarded=was_forwarded))
        except (RoutingError, LeaderNotAvailableError, PeerUnavailableError) as error:
            if was_forwarded or monotonic_ms() >= deadline_ms:
                raise _for_client(error, topic, partition) from error
        await context.metadata.wait_for_change(timeout_ms=RETRY_INTERVAL_MS)


def _next_hop(state: Partition, *, was_forwarded: bool) -> int:
    if was_forwarded:
        raise NotLeaderOrFollowerError(
            f"this broker does not lead {state.topic}-{state.partition}",
            leader=state.leader,
            leader_epoch=state.leader_epoch,
        )
    if state.leader is None:
        raise LeaderNotAvailableError(
            f"{state.topic}-{state.partition} has no leader at this moment"
        )
    return state.leader


def path_for_leader(raw_path: str, image: MetadataImage) -> str:
    """Path and query as a leader understands them that may be of the version before.

    Below the feature level of transactions it may not know `isolation`, so what is meant without it
    is left out.

    Raises:
        UnsupportedFeatureLevelError: committed records are asked for at such a level.
    """
    path, mark, query = raw_path.partition("?")
    if not mark or is_enabled(image, TRANSACTIONS):
        return raw_path
    pairs = parse_qsl(query, keep_blank_values=True)
    for name, value in pairs:
        if name == _ISOLATION and value != ISOLATIONS[0]:
            require(image, TRANSACTIONS)
    kept = [pair for pair in pairs if pair[0] != _ISOLATION]
    return f"{path}?{urlencode(kept)}" if kept else path


async def _forward(request: web.Request, leader: int) -> web.StreamResponse:
    context = context_of(request)
    registration = context.metadata.image.brokers.get(leader)
    if registration is None:
        raise LeaderNotAvailableError(f"broker {leader} is not registered")
    async with context.peers.streaming() as session:
        with METRICS.forward_seconds.labels("streamed").time():
            return await _stream_through(request, registration, session)


async def _stream_through(
    request: web.Request, registration: BrokerRegistration, session: aiohttp.ClientSession
) -> web.StreamResponse:
    context = context_of(request)
    leader = registration.node_id
    try:
        # The leader may park the read for a minute, or stand still: neither this broker's stop nor
        # a reader who could be served by a new leader waits for that.
        with (
            context.purgatory.unless_released(),
            Unless(
                context.metadata.replacement_of(leader, registration.broker_epoch),
                LeaderNotAvailableError(f"broker {leader} was fenced before it answered"),
            ),
        ):
            upstream = await session.request(
                request.method,
                registration.url + path_for_leader(request.raw_path, context.metadata.image),
                headers=_headers_of(request),
                timeout=aiohttp.ClientTimeout(
                    total=FORWARD_TIMEOUT_MS / 1000, sock_connect=CONNECT_TIMEOUT_MS / 1000
                ),
                allow_redirects=False,
            )
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        METRICS.forwarded_requests.labels("read", "unreachable").inc()
        raise unavailable(registration.url, error) from error
    async with upstream:
        if upstream.status in (403, 421, 503):
            METRICS.forwarded_requests.labels("read", "moved").inc()
            try:
                body = await upstream.content.read(MAX_PROBLEM_BYTES)
            except (aiohttp.ClientError, TimeoutError, OSError):
                body = b""
            raise refused_by(leader, body)
        response = web.StreamResponse(status=upstream.status)
        for name in _PASSED_ON:
            if name in upstream.headers:
                response.headers[name] = upstream.headers[name]
        for name, value in upstream.headers.items():
            if name.lower().startswith(_RECORD_PREFIX):
                response.headers.add(name, value)
        response.headers[routes.HEADER_SERVED_BY] = str(leader)
        response.headers[routes.HEADER_LEADER] = str(leader)
        await response.prepare(request)
        try:
            async for chunk in upstream.content.iter_chunked(CHUNK_BYTES):
                await response.write(chunk)
            await response.write_eof()
        except (aiohttp.ClientError, TimeoutError, OSError):
            # Half of the answer is out: an error document would be taken for the rest of it. A cut
            # connection is what tells the client.
            METRICS.forwarded_requests.labels("read", "cut").inc()
            if request.transport is not None:
                request.transport.abort()
            return response
    METRICS.forwarded_requests.labels("read", "ok").inc()
    return response


def refused_by(leader: int, body: bytes) -> OttlaError:
    """What a leader's refusal of a read means, its problem document being `body`.

    That it moved, or that a process of another cluster has its address: the leader is looked for
    again. Only what it leads and does not know yet is passed on: it has waited for that itself.
    """
    try:
        refusal = error_from_problem(msgspec.json.decode(body, type=dict[str, object]))
    except msgspec.MsgspecError:
        refusal = None
    if isinstance(refusal, OffsetNotAvailableError):
        return refusal
    return LeaderNotAvailableError(f"broker {leader} does not lead any more")


def _headers_of(request: web.Request) -> list[tuple[str, str]]:
    """What the leader is to be told of the request."""
    request_id = REQUEST_ID.get()
    passed_on = [
        (name, value) for name in _ASKED_WITH for value in request.headers.getall(name, ())
    ]
    if request_id is not None:
        passed_on.append((routes.HEADER_REQUEST_ID, request_id))
    return passed_on


def _for_client(error: OttlaError, topic: str, partition: int) -> OttlaError:
    if isinstance(error, PeerUnavailableError):
        return LeaderNotAvailableError(
            f"the leader of {topic}-{partition} cannot be reached: {error.detail}"
        )
    return error
