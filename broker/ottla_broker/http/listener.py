"""The broker's listening socket, and the connections that are not aiohttp's."""

import asyncio
import time
from collections.abc import Callable
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

from ottla_broker.descriptor_budget import (
    CLUSTER_CALLS_PER_PEER,
    CONNECTIONS_MAX,
    PEER_CONNECTIONS_MAX,
    TURNED_AWAY_MAX,
)
from ottla_broker.http.admission import has_cluster_secret, is_member
from ottla_broker.http.connection import IncomingRequest, ServerConnection
from ottla_broker.http.context import BrokerContext
from ottla_broker.http.inflight import HeldBytes
from ottla_broker.http.post import Answer
from ottla_broker.http.post_routes import Found, find_post_route
from ottla_broker.http.request_head import RequestHead, parse_head
from ottla_broker.request_id import accepted, take_from_head
from ottla_protocol import routes
from ottla_protocol.errors import Outcome, OverloadedError

LISTEN_BACKLOG = 1_024
SCRATCH_BYTES = 256 << 10
SWEEP_INTERVAL_S = 1.0
SWEEP_SLICE = 100
SWEEP_PAUSE_S = 0.005
"""Connections that are looked at in one turn of the loop, and the pause until the next ones."""

BODY_BYTES_MAX = 4 << 20
"""Longer bodies are left to aiohttp, which takes memory for them only as they come."""

UNCOUNTED_BODY_BYTES = 4 << 10
"""Bodies that are no produce, and no longer than this, are not counted."""

PROBES = frozenset({routes.LIVENESS, routes.READINESS, routes.STARTUP, routes.METRICS})
"""What is answered on connections beyond the limit, besides what brokers say to one another."""

PURPOSE = routes.HEADER_PURPOSE.lower()
"""Tells what the cluster lives by, which has connections that nothing else takes."""

KNOWN_HEADS = 1_024
KNOWN_HEAD_BYTES_MAX = 1 << 10
"""A client sends the same head again and again: so many, no longer than this, are remembered."""


class Listener:
    """Accepts connections.

    Args:
        context: for the handlers.
        successor: makes the protocol for a connection that is left to aiohttp; it is told whether
            that one ends with its first answer.
        successors_count: how many connections aiohttp has.
        check_successors: has them give up on clients that take too long, as of the loop's time.
        connections_max: how many connections serve clients at a time.
        reserved_connections: how many more there may be, for peers and probes.
        cluster_connections: how many more beyond those, for what the cluster lives by.
    """

    def __init__(
        self,
        context: BrokerContext,
        successor: Callable[[bool], asyncio.Protocol],
        *,
        successors_count: Callable[[], int] = lambda: 0,
        check_successors: Callable[[float], None] = lambda _: None,
        connections_max: int = CONNECTIONS_MAX,
        reserved_connections: int = PEER_CONNECTIONS_MAX,
        cluster_connections: int = CLUSTER_CALLS_PER_PEER,
    ) -> None:
        self.context = context
        self.successor = successor
        self._successors_count = successors_count
        self._check_successors = check_successors
        self.unsent = context.unsent
        self._connections_max = connections_max
        self._reserved_connections = reserved_connections
        self._surplus_max = reserved_connections + cluster_connections
        # Shared: what is read into it is taken out before anything else can run.
        self.scratch = memoryview(bytearray(SCRATCH_BYTES))
        self._connections: set[ServerConnection] = set()
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._is_leaving = False
        self._is_stopping = False
        self._no_connection = asyncio.Event()
        self._served_by = str(context.settings.node_id)
        self._recall = lru_cache(KNOWN_HEADS)(self._understand)
        # Bounded by statuses and content types.
        self._heads: dict[tuple[int, str | None], str] = {}
        self._date = ""
        self._date_s = 0

    @property
    def connections(self) -> int:
        """Connections that are open now, those that aiohttp serves included."""
        return len(self._connections) + self._successors_count()

    @property
    def connections_max(self) -> int:
        """How many serve clients at a time; peers and probes may have more."""
        return self._connections_max

    async def start(self, host: str, port: int) -> None:
        """Listen.

        Raises:
            OSError: the address cannot be listened on.
        """
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: ServerConnection(self), host, port, backlog=LISTEN_BACKLOG
        )
        self._sweep()

    def send_clients_away(self) -> None:
        """Close each connection of a client behind its next answer: this broker is about to stop.

        A connection that is closed while it is idle may lose the request that is on its way, and
        then nobody knows what became of that.
        """
        self._is_leaving = True

    def sends_away(self, path: str) -> bool:
        """Whether the connection of a request for `path` is to be closed behind the answer."""
        return self._is_leaving and not path.startswith(routes.INTERNAL_PREFIX)

    async def stop(self, *, timeout_s: float) -> None:
        """Accept no more, let open requests be answered for `timeout_s`, then close everything."""
        self._is_stopping = True
        if self._server is not None:
            self._server.close()
        for connection in tuple(self._connections):
            connection.stop()
        try:
            async with asyncio.timeout(timeout_s):
                while self._connections:
                    self._no_connection.clear()
                    await self._no_connection.wait()
        except TimeoutError:
            for connection in tuple(self._connections):
                connection.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._check_successors(loop.time())
        self._sweep_slice(list(self._connections))

    def _sweep_slice(self, left: list[ServerConnection]) -> None:
        """Look at some, and at the rest in later turns: thousands may be given up at once."""
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        for connection in left[-SWEEP_SLICE:]:
            if connection in self._connections:
                connection.check_deadline(now_s)
        del left[-SWEEP_SLICE:]
        if left:
            self._sweeper = loop.call_later(SWEEP_PAUSE_S, self._sweep_slice, left)
        else:
            self._sweeper = loop.call_later(SWEEP_INTERVAL_S, self._sweep)

    # --- called by connections ----------------------------------------------------------------

    def opened(self, connection: ServerConnection) -> None:
        """A connection was accepted."""
        self._connections.add(connection)
        if self._is_stopping:
            # It was accepted in the very turn in which the stop began.
            connection.stop()
            return
        surplus = self.connections - self._connections_max
        if surplus > self._surplus_max + TURNED_AWAY_MAX:
            connection.abort()
        elif surplus > self._surplus_max:
            connection.turn_away()
        elif surplus > 0:
            connection.is_surplus = True
            connection.is_beyond_reserve = surplus > self._reserved_connections

    def closed(self, connection: ServerConnection) -> None:
        """A connection ended, or is aiohttp's from now on."""
        self._connections.discard(connection)
        if not self._connections:
            self._no_connection.set()

    def serves_surplus(self, head: bytes, *, is_beyond_reserve: bool) -> bool:
        """Whether a connection beyond `connections_max` may ask this: peers and probes may.

        A broker that clients keep busy, its own or those of its peers, would otherwise lose its
        place in the cluster.
        """
        lines = head.partition(b"\r\n\r\n")[0].decode("utf-8", "surrogateescape").split("\r\n")
        _, _, rest = lines[0].partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if not path.startswith(routes.INTERNAL_PREFIX):
            return path in PROBES and not is_beyond_reserve
        pairs = [line.partition(":") for line in lines[1:]]
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        # Whoever only says that he is one would keep the cluster's own out.
        if not is_member(self.context, headers):
            return False
        is_cluster_call = headers.get(PURPOSE) == routes.PURPOSE_CLUSTER
        return is_cluster_call or not is_beyond_reserve

    def too_many(self) -> OverloadedError:
        """Why a connection is turned away."""
        return OverloadedError(
            f"{self._connections_max} connections are open already (max_connections)",
            outcome=Outcome.NOT_APPLIED,
            retry_after_seconds=1,
        )

    def _understand(self, head: bytes) -> tuple[RequestHead, Found] | None:
        """What a head asks for; it depends on nothing but the head's bytes and the settings."""
        parsed = parse_head(head)
        if parsed is None:
            return None
        if not self.context.site.allows_host(parsed.headers.get("host")) and not has_cluster_secret(
            self.context, parsed.headers
        ):
            return None
        found = find_post_route(parsed.target)
        if found is None or found[0].streams(parsed.headers.get("content-type")):
            return None
        return parsed, found

    def recognise(self, head: bytes) -> IncomingRequest | None:
        """The request that begins with this head; None where it is aiohttp's."""
        told, head = take_from_head(head)
        is_long = len(head) > KNOWN_HEAD_BYTES_MAX
        known = self._understand(head) if is_long else self._recall(head)
        if known is None:
            return None
        parsed, (route, values, query) = known
        limit_bytes = min(BODY_BYTES_MAX, route.limit_bytes(self.context.settings))
        if parsed.content_length > limit_bytes:
            return None
        held = None
        if route.counts_inflight:
            held = HeldBytes(self.context.inflight)
        elif parsed.content_length > UNCOUNTED_BODY_BYTES and not route.path.startswith(
            routes.INTERNAL_PREFIX
        ):
            held = HeldBytes(self.context.other_bodies)
        return IncomingRequest(
            route,
            values,
            query,
            parsed.headers,
            parsed.content_length,
            parsed.keep_alive,
            held,
            accepted(told, is_internal=route.path.startswith(routes.INTERNAL_PREFIX)),
        )

    def admit(self, request: IncomingRequest) -> None:
        """Let the route refuse by the headers alone; raises what it raises."""
        request.route.admit(self.context, request.headers)

    def render_head(
        self, answer: Answer, *, keep_alive: bool, request_id: str | None = None
    ) -> bytes:
        """The status line and the headers of an answer."""
        known = (answer.status, answer.content_type)
        head = self._heads.get(known)
        if head is None:
            head = f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}\r\n"
            if answer.content_type is not None:
                head += f"Content-Type: {answer.content_type}\r\n"
            head += f"{routes.HEADER_SERVED_BY}: {self._served_by}\r\n"
            self._heads[known] = head
        # A 204 has no body and must not say how long it is (RFC 9110 section 8.6).
        if answer.status != HTTPStatus.NO_CONTENT:
            head += f"Content-Length: {sum(len(part) for part in answer.body)}\r\n"
        for name, value in answer.headers:
            head += f"{name}: {value}\r\n"
        if request_id is not None:
            head += f"{routes.HEADER_REQUEST_ID}: {request_id}\r\n"
        if not keep_alive:
            head += "Connection: close\r\n"
        return f"{head}Date: {self._now()}\r\n\r\n".encode("latin-1")

    def _now(self) -> str:
        """The time for the Date field, made once a second."""
        now_s = int(time.time())
        if now_s != self._date_s:
            self._date_s = now_s
            self._date = formatdate(now_s, usegmt=True)
        return self._date
