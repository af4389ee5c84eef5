"""The listener on real sockets: both ways give one answer, and what a client does wrong ends."""

import asyncio
import json
from types import SimpleNamespace

import pytest
from aiohttp import web

from ottla_broker.http import connection as connections
from ottla_broker.http import listener as listeners
from ottla_broker.http.aiohttp_connection import AiohttpConnections
from ottla_broker.http.inflight import InflightBytes
from ottla_broker.http.listener import Listener
from ottla_broker.http.post import Answer, PostRoute
from ottla_broker.site_policy import SitePolicy
from ottla_protocol import routes
from ottla_protocol.errors import ClusterAuthorizationFailedError, NotControllerError

LIMIT_BYTES = 3 << 20
FAR_S = 60.0
CONNECTIONS = 24
RESERVED_CONNECTIONS = 2
CLUSTER_CONNECTIONS = 2
UNSENT_BYTES = 256 << 20
HALF_CLOSED_WRITE_S = 0.1
MEMBER = "Ottla-Cluster-Id: local"


class Broker:
    """A listener with one route of the test's own, before an aiohttp server that says so."""

    def __init__(self, inflight_bytes):
        self.posts = []
        self.clients = []
        self.handler = self.echo
        self.cancelled = asyncio.Event()
        self.serving = asyncio.Event()
        self.refuse = None
        self.context = SimpleNamespace(
            settings=SimpleNamespace(node_id=3, cluster_id="local", cluster_secret=None),
            inflight=InflightBytes(inflight_bytes),
            other_bodies=InflightBytes(inflight_bytes),
            unsent=InflightBytes(UNSENT_BYTES),
            site=SitePolicy(),
        )

    async def echo(self, context, post):
        return Answer(200, "a/b", (b"<", post.body, b">"), (("X", "1"),))

    async def park(self, context, post):
        self.serving.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.cancelled.set()

    def admit(self, context, headers):
        if self.refuse is not None:
            raise self.refuse

    async def handle(self, context, post):
        self.posts.append(post)
        return await self.handler(context, post)

    def find(self, target):
        path, _, query = target.partition("?")
        if path not in ("/here", "/internal/here"):
            return None
        return self.route, {}, [("query", query)] if query else ()

    async def start(self):
        self.route = PostRoute(
            "/here",
            self.handle,
            lambda _: LIMIT_BYTES,
            is_write=True,
            counts_inflight=True,
            admit=self.admit,
        )

        async def elsewhere(request):
            return web.Response(text=f"aiohttp {request.method} {await request.text()}")

        async def much(request):
            return web.Response(body=bytes(16 << 20))

        async def park(request):
            return await self.park(None, None)

        application = web.Application(client_max_size=0)
        application.router.add_get("/much", much)
        for path in ("/much", "/topics/much", routes.FETCH):
            application.router.add_post(path, much)
        application.router.add_get("/park", park)
        application.router.add_route("*", "/{any:.*}", elsewhere)
        self.runner = web.AppRunner(application, shutdown_timeout=0, handler_cancellation=True)
        await self.runner.setup()
        self.connections = AiohttpConnections(self.runner, self.context.unsent, "3")
        self.listener = Listener(
            self.context,
            self.connections.make,
            successors_count=self.connections.__len__,
            check_successors=self.connections.check_deadlines,
            connections_max=CONNECTIONS,
            reserved_connections=RESERVED_CONNECTIONS,
            cluster_connections=CLUSTER_CONNECTIONS,
        )
        await self.listener.start("127.0.0.1", 0)
        self.port = self.listener._server.sockets[0].getsockname()[1]

    async def stop(self):
        for client in self.clients:
            client.writer.transport.abort()
        # Closed sockets are let go by the event loop's next turn.
        await asyncio.sleep(0)
        await self.listener.stop(timeout_s=0)
        await self.runner.cleanup()

    async def connect(self):
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        self.clients.append(client)
        return client


class Client:
    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    def send(self, body=b"", *, target="/here", method="POST", announced=None, fields=()):
        lines = [f"{method} {target} HTTP/1.1", "Host: x", *fields]
        if method == "POST":
            lines.append(f"Content-Length: {len(body) if announced is None else announced}")
        self.writer.write("\r\n".join((*lines, "", "")).encode() + body)
        return self

    async def answer(self):
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        fields = dict(line.split(": ", 1) for line in head[1:] if line)
        body = await self.reader.readexactly(int(fields.get("content-length", 0)))
        return int(head[0].split()[1]), fields, body

    async def ended(self):
        return await self.reader.read() == b""


async def until(condition):
    """Let the event loop turn until it holds; pytest's own time-out ends it."""
    while not condition():  # noqa: ASYNC110  what is waited for has no event
        await asyncio.sleep(0)


@pytest.fixture
async def broker(monkeypatch):
    monkeypatch.setattr(connections, "HALF_CLOSED_WRITE_S", HALF_CLOSED_WRITE_S)
    made = Broker(inflight_bytes=8 << 20)
    monkeypatch.setattr(listeners, "find_post_route", made.find)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def client(broker):
    return await broker.connect()


@pytest.mark.parametrize("size", [0, 1, 70_000, LIMIT_BYTES])
async def test_a_body_comes_whole_and_an_answer_goes_whole(broker, client, size):
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    for _ in range(2):
        client.send(body, target="/here?a=1", fields=("X-Y: z",))
        status, fields, answered = await client.answer()
        assert (status, answered) == (200, b"<" + body + b">")
    assert fields["content-type"] == "a/b"
    assert fields["x"] == "1"
    assert fields["ottla-served-by"] == "3"
    assert "date" in fields
    post = broker.posts[-1]
    assert (post.headers["x-y"], list(post.query)) == ("z", [("query", "a=1")])
    assert isinstance(post.body, bytearray)
    assert broker.context.inflight.held_bytes == 0


async def test_a_request_that_comes_byte_by_byte(broker, client):
    request = b"POST /here HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
    for position in range(len(request)):
        client.writer.write(request[position : position + 1])
        await client.writer.drain()
        await asyncio.sleep(0)
    assert (await client.answer())[2] == b"<abc>"


async def test_requests_that_are_sent_at_once_are_answered_in_order(broker, client):
    bodies = [b"a" * 10, b"b" * 200_000, b"", b"c"]
    for body in bodies:
        client.send(body)
    assert [(await client.answer())[2] for _ in bodies] == [b"<" + body + b">" for body in bodies]


@pytest.mark.parametrize(
    "request_of",
    [
        lambda client: client.send(method="GET"),
        lambda client: client.send(b"x", target="/there"),
        lambda client: client.send(b"x", fields=("Content-Encoding: identity",)),
        lambda client: client.writer.write(
            b"POST /here HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        ),
    ],
)
async def test_what_is_not_its_own_goes_to_aiohttp_with_every_byte(broker, client, request_of):
    client.send(b"first")
    request_of(client)
    assert (await client.answer())[2] == b"<first>"
    status, _, body = await client.answer()
    assert (status, body[:7]) == (200, b"aiohttp")
    client.send(b"stays there")
    assert (await client.answer())[2] == b"aiohttp POST stays there"


async def test_a_body_over_the_limit_is_aiohttps_to_refuse(broker, client):
    client.send(b"x" * (LIMIT_BYTES + 1))
    assert (await client.answer())[2].startswith(b"aiohttp POST xxx")


async def test_errors_become_problems_and_the_connection_goes_on(broker, client):
    async def fail(context, post):
        raise NotControllerError("elsewhere") if post.body else KeyError("a defect")

    broker.handler = fail
    status, fields, body = await client.send(b"x").answer()
    assert (status, fields["content-type"]) == (421, "application/problem+json")
    assert b"NOT_CONTROLLER" in body
    status, _, body = await client.send(b"").answer()
    assert status == 500
    assert b"unknown" in body
    broker.handler = broker.echo
    assert (await client.send(b"x").answer())[0] == 200


async def test_a_request_is_named_in_its_answer_and_its_error(broker, client):
    _, fields, _ = await client.send(b"x", fields=("X-Request-ID: r-1",)).answer()
    assert fields["x-request-id"] == "r-1"
    made = [(await client.send(b"x").answer())[1]["x-request-id"] for _ in range(2)]
    assert len({"r-1", *made}) == 3
    assert all("x-request-id" not in post.headers for post in broker.posts)

    async def fail(context, post):
        raise NotControllerError("elsewhere")

    broker.handler = fail
    # What is read behind an answer begins within the task of that request.
    client.send(b"x", fields=("X-Request-Id: r-2",)).send(b"x", fields=("X-Request-Id: r-3",))
    for name in ("r-2", "r-3"):
        _, fields, body = await client.answer()
        assert (fields["x-request-id"], json.loads(body)["request_id"]) == (name, name)
    broker.refuse = ClusterAuthorizationFailedError("no")
    client.send(b"x", fields=("X-Request-Id: r-4",))
    _, fields, body = await client.answer()
    assert (fields["x-request-id"], json.loads(body)["request_id"]) == ("r-4", "r-4")


async def test_whoever_is_not_admitted_hears_it_before_his_body_is_read(broker, client):
    broker.refuse = ClusterAuthorizationFailedError("no")
    client.send(b"", announced=1_000_000)
    status, fields, body = await client.answer()
    assert (status, fields["connection"]) == (403, "close")
    assert b"not_applied" in body
    assert await client.ended()


async def test_announcements_take_nothing_and_bytes_count_as_they_come(broker, client):
    inflight = broker.context.inflight
    others = [await broker.connect() for _ in range(20)]
    for other in others:
        other.send(b"x" * 100, announced=LIMIT_BYTES)
    await until(lambda: inflight.held_bytes >= 2_000)
    assert inflight.held_bytes == 2_000
    assert (await client.send(b"y" * LIMIT_BYTES).answer())[0] == 200
    for other in others:
        other.writer.close()
    await until(lambda: not inflight.held_bytes)


async def test_bodies_over_the_bound_are_refused_and_freed(broker, client):
    broker.handler = broker.park
    others = [await broker.connect() for _ in range(2)]
    for other in others:
        broker.serving.clear()
        other.send(b"x" * LIMIT_BYTES)
        await broker.serving.wait()
    status, _, body = await client.send(b"y" * LIMIT_BYTES).answer()
    assert status == 503
    assert b"not_applied" in body
    for other in others:
        other.writer.close()
    await until(lambda: not broker.context.inflight.held_bytes)


async def test_a_client_that_goes_away_ends_its_request(broker, client):
    broker.handler = broker.park
    client.send(b"x")
    await broker.serving.wait()
    client.writer.close()
    await broker.cancelled.wait()


async def test_stopping_answers_what_is_served_and_closes_what_is_idle(broker, client):
    proceed = asyncio.Event()

    async def wait(context, post):
        broker.serving.set()
        await proceed.wait()
        return await broker.echo(context, post)

    broker.handler = wait
    idle = await broker.connect()
    client.send(b"x")
    await broker.serving.wait()
    stopping = asyncio.create_task(broker.listener.stop(timeout_s=FAR_S))
    assert await idle.ended()
    proceed.set()
    _, fields, body = await client.answer()
    assert (body, fields["connection"]) == (b"<x>", "close")
    assert await client.ended()
    await stopping


async def test_before_a_stop_clients_are_sent_away_with_their_answers(broker, client):
    client.send(b"x")
    _, fields, _ = await client.answer()
    assert "connection" not in fields
    broker.listener.send_clients_away()
    # An idle connection stays open until it is used: whatever was on its way is answered.
    client.send(b"y")
    _, fields, body = await client.answer()
    assert (body, fields["connection"]) == (b"<y>", "close")
    assert await client.ended()
    assert broker.listener.sends_away("/v1/produce")
    assert not broker.listener.sends_away("/internal/fetch")


async def test_stopping_gives_up_on_what_takes_too_long(broker, client):
    broker.handler = broker.park
    client.send(b"x")
    await broker.serving.wait()
    await broker.listener.stop(timeout_s=0)
    await broker.cancelled.wait()


def pass_time(broker, seconds):
    loop = asyncio.get_running_loop()
    for connection in tuple(broker.listener._connections):
        connection.check_deadline(loop.time() + seconds)


async def opened(broker):
    await until(lambda: broker.listener._connections)


async def test_an_idle_connection_is_closed_after_its_time(broker, client):
    await client.send(b"x").answer()
    pass_time(broker, connections.KEEP_ALIVE_S - 1)
    await client.send(b"x").answer()
    pass_time(broker, connections.KEEP_ALIVE_S + 1)
    assert await client.ended()


async def test_a_head_that_stands_still_is_given_up(broker, client):
    client.writer.write(b"POST /here HT")
    await opened(broker)
    connection = next(iter(broker.listener._connections))
    await until(lambda: not connection.is_idle)
    pass_time(broker, connections.RECEIVE_IDLE_S - 1)
    assert not client.reader.at_eof()
    pass_time(broker, connections.RECEIVE_IDLE_S + 1)
    assert (await client.answer())[0] == 408
    assert await client.ended()


@pytest.mark.parametrize("come", [3, 100_000, 400_000])
async def test_a_body_that_stands_still_is_given_up_and_told(broker, client, come):
    client.send(b"x" * come, announced=1_000_000)
    inflight = broker.context.inflight
    await until(lambda: inflight.held_bytes >= come)
    pass_time(broker, connections.RECEIVE_IDLE_S + 1)
    status, _, body = await client.answer()
    assert status == 408
    assert b"not_applied" in body
    assert await client.ended()
    assert inflight.held_bytes == 0


async def test_an_answer_that_is_not_taken_is_given_up(broker, client):
    async def much(context, post):
        return Answer(200, "a/b", (bytes(64 << 20),))

    broker.handler = much
    client.send(b"x")
    await opened(broker)
    connection = next(iter(broker.listener._connections))
    await until(lambda: connection._send_blocked is not None)
    # The first look notes what is unsent; while less and less is, there is no haste.
    pass_time(broker, connections.SEND_IDLE_S + 1)
    assert await client.reader.read(1)
    pass_time(broker, 2 * connections.SEND_IDLE_S + 2)
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await client.reader.readexactly(64 << 20)


async def test_a_request_is_not_begun_before_the_answer_before_it_is_taken(broker, client):
    async def much(context, post):
        return Answer(200, "a/b", (bytes(16 << 20),))

    broker.handler = much
    client.send(b"x").send(b"y")
    assert len((await client.answer())[2]) == 16 << 20
    assert len((await client.answer())[2]) == 16 << 20
    assert [post.body for post in broker.posts] == [b"x", b"y"]


async def test_a_refusal_reaches_a_client_that_is_still_sending(broker, client):
    broker.refuse = ClusterAuthorizationFailedError("no")
    client.send(b"x" * 500_000, announced=1_000_000)
    await asyncio.sleep(0)
    for _ in range(10):
        client.writer.write(b"x" * 50_000)
        await client.writer.drain()
    assert (await client.answer())[0] == 403
    assert await client.ended()


async def test_a_refused_client_that_goes_on_is_left_after_a_while(broker, client):
    broker.refuse = ClusterAuthorizationFailedError("no")
    client.send(announced=1_000_000)
    assert (await client.answer())[0] == 403
    pass_time(broker, connections.LINGER_S - 0.5)
    assert broker.listener._connections
    pass_time(broker, connections.LINGER_S + 0.5)
    await until(lambda: not broker.listener._connections)


async def test_memory_is_taken_for_what_has_come_and_not_for_what_is_announced(broker, client):
    come = LIMIT_BYTES // connections.DIRECT_BODY_SHARE - 10_000
    client.send(b"x" * come, announced=LIMIT_BYTES)
    await until(lambda: broker.context.inflight.held_bytes == come)
    connection = next(iter(broker.listener._connections))
    assert connection._body is None
    client.writer.write(b"x" * 10_001)
    await until(lambda: connection._body is not None)
    assert broker.context.inflight.held_bytes == LIMIT_BYTES


async def test_requests_sent_in_advance_wait_with_the_sender(broker, client):
    """However fast they come, only a bounded part of them is in the broker's memory."""
    held = []

    async def look(context, post):
        held.append(sum(len(other._received) for other in broker.listener._connections))
        return await broker.echo(context, post)

    broker.handler = look
    count = 20_000

    async def send():
        for _ in range(count // 100):
            for _ in range(100):
                client.send(b"x" * 100)
            await client.writer.drain()

    sending = asyncio.create_task(send())
    for _ in range(count):
        assert (await client.answer())[0] == 200
    await sending
    assert max(held) <= connections.PIPELINED_BYTES_MAX + listeners.SCRATCH_BYTES


async def test_whoever_vanishes_with_requests_sent_in_advance_leaves_nothing_held(broker):
    async def refuse(context, post):
        raise NotControllerError("elsewhere")

    broker.handler = refuse
    for _ in range(50):
        client = await broker.connect()
        for _ in range(20):
            client.send(b"x" * 1_000)
        await client.writer.drain()
        client.writer.transport.abort()
    await until(lambda: not broker.listener._connections)
    await until(lambda: broker.context.inflight.held_bytes == 0)


async def test_a_header_that_is_no_utf8_is_quoted_in_an_error_all_the_same(broker, client):
    async def quote(context, post):
        raise NotControllerError(post.headers["odd"], odd=[post.headers["odd"]])

    broker.handler = quote
    client.writer.write(
        b"POST /here HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nOdd: a\xffb\r\n\r\n"
    )
    status, _, body = await client.answer()
    assert (status, body.count("a\ufffdb".encode())) == (421, 2)


async def test_a_request_whose_task_dies_takes_its_connection_along(broker, client, monkeypatch):
    async def die(*_):
        raise asyncio.CancelledError

    monkeypatch.setattr(connections, "answer_post", die)
    client.send(b"x" * 1_000)
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await client.answer()
    assert broker.context.inflight.held_bytes == 0


async def test_a_connection_that_was_accepted_as_the_stop_began_is_closed(broker):
    await broker.listener.stop(timeout_s=0)
    closed = []
    transport = SimpleNamespace(close=lambda: closed.append(1))
    connection = connections.ServerConnection(broker.listener)
    connection.connection_made(transport)
    assert closed
    connection.connection_lost(None)


async def fill(broker):
    """As many connections as serve clients; every second one is aiohttp's."""
    clients = [await broker.connect() for _ in range(CONNECTIONS)]
    for client in clients[::2]:
        client.send(method="GET")
        assert (await client.answer())[0] == 200
    return clients


async def test_connections_beyond_the_limit_are_told_so(broker):
    clients = await fill(broker)
    surplus = await broker.connect()
    surplus.send(b"x")
    status, fields, body = await surplus.answer()
    assert (status, fields["retry-after"], fields["connection"]) == (503, "1", "close")
    assert b"max_connections" in body
    assert b"not_applied" in body
    assert await surplus.ended()
    assert broker.posts == []
    for client in clients:
        client.send(b"x")
        assert (await client.answer())[0] == 200


async def test_connections_beyond_the_limit_serve_peers_and_probes(broker):
    await fill(broker)
    peer, probe = [await broker.connect() for _ in range(RESERVED_CONNECTIONS)]
    for _ in range(2):
        peer.send(b"x", target="/internal/here", fields=[MEMBER])
        assert (await peer.answer())[0] == 200
    # A peer says so; whoever does not, or names another cluster, is a client.
    for field in ("X: y", "Ottla-Cluster-Id: other"):
        probe.send(b"x", target="/internal/here", fields=[field])
        assert (await probe.answer())[0] == 503
        assert await probe.ended()
        probe.writer.close()
        await until(lambda: len(broker.listener._connections) == CONNECTIONS // 2 + 1)
        probe = await broker.connect()
    probe.send(method="GET", target="/readyz?x=1")
    status, fields, _ = await probe.answer()
    assert (status, fields["connection"]) == (200, "close")
    assert await probe.ended()


async def test_a_full_reserve_serves_no_more_peers_and_probes(broker):
    await fill(broker)
    for _ in range(RESERVED_CONNECTIONS):
        peer = await broker.connect()
        peer.send(b"x", target="/internal/here", fields=[MEMBER])
        assert (await peer.answer())[0] == 200
    for target in ("/internal/here", "/readyz"):
        refused = await broker.connect()
        refused.send(b"x", target=target, fields=[MEMBER])
        assert (await refused.answer())[0] == 503
        assert await refused.ended()


async def test_what_the_cluster_lives_by_has_connections_that_nothing_else_takes(broker):
    await fill(broker)
    peers = [await broker.connect() for _ in range(RESERVED_CONNECTIONS)]
    for peer in peers:
        peer.send(b"x", target="/internal/here", fields=[MEMBER])
        assert (await peer.answer())[0] == 200
    for_client = await broker.connect()
    for_client.send(b"Ottla-Purpose: cluster", target="/internal/here", fields=[MEMBER])
    assert (await for_client.answer())[0] == 503
    assert await for_client.ended()
    for_client.writer.close()
    left = CONNECTIONS // 2 + RESERVED_CONNECTIONS
    await until(lambda: len(broker.listener._connections) == left)
    for _ in range(CLUSTER_CONNECTIONS):
        peer = await broker.connect()
        peer.send(b"x", target="/internal/here", fields=["Ottla-Purpose: cluster", MEMBER])
        assert (await peer.answer())[0] == 200
    refused = await broker.connect()
    # Not even read: there is no descriptor left for it.
    assert (await refused.answer())[0] == 503
    assert await refused.ended()


async def test_a_connection_that_ends_makes_room(broker):
    clients = await fill(broker)
    for client in clients[:2]:
        client.writer.close()
        await client.writer.wait_closed()
    await until(lambda: len(broker.listener._connections) == CONNECTIONS // 2 - 1)
    await until(lambda: len(broker.runner.server.connections) == CONNECTIONS // 2 - 1)
    again = await broker.connect()
    again.send(b"x")
    assert (await again.answer())[0] == 200


async def test_a_surplus_head_that_comes_in_pieces_is_read_to_its_end(broker):
    await fill(broker)
    surplus = await broker.connect()
    for piece in (b"GET", b" /x HTTP/1.1\r\n", b"Host: x\r\n\r\n"):
        surplus.writer.write(piece)
        await surplus.writer.drain()
        await asyncio.sleep(0.01)
    assert (await surplus.answer())[0] == 503
