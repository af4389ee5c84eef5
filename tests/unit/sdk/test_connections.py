"""The connections that carry records: kept, lent, and never believed twice."""

import asyncio
import socket

import pytest

from ottla import _connections
from ottla._connections import BrokerConnections, NotSentError
from ottla_ops.local_cluster import free_ports
from tests.unit.awaiting import until

MIB = 1 << 20
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"


class Server:
    """Answers each request by `answer(body)`, and knows its connections."""

    def __init__(self, answer):
        self.answer = answer
        self.writers = []
        self.heads = []
        self.ended = 0

    async def start(self):
        self._server = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    async def _handle(self, reader, writer):
        self.writers.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                answer = await self.answer(await reader.readexactly(length))
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.ended += 1
            writer.close()

    async def stop(self):
        self._server.close()
        for writer in self.writers:
            writer.close()


@pytest.fixture
async def serve():
    """Starts a server that answers as this function says."""
    servers = []

    async def start(answer):
        server = Server(answer)
        await server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        await server.stop()


@pytest.fixture
async def connections():
    connections = BrokerConnections(
        user_agent="me", connections_per_broker=2, max_body_bytes=4 * MIB
    )
    yield connections
    connections.close()
    await asyncio.sleep(0)


def rendered(body):
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


async def echo(body):
    return rendered(body)


async def post(connections, url, body=b"", timeout_ms=5_000):
    return await connections.post(
        url, "/v1/fetch", body, content_type="text/x", timeout_ms=timeout_ms
    )


async def test_calls_one_after_the_other_share_a_connection(serve, connections):
    server = await serve(echo)
    for body in (b"", b"a", bytes(range(256)) * 4096, b"b" * (3 * MIB)):
        assert (await post(connections, server.url, body)).body == body
    assert len(server.writers) == 1
    assert server.heads[1].decode().split("\r\n") == [
        "POST /v1/fetch HTTP/1.1",
        f"Host: 127.0.0.1:{server.port}",
        "User-Agent: me",
        "Content-Type: text/x",
        "Content-Length: 1",
        "",
        "",
    ]


async def test_calls_at_the_same_time_have_connections_of_their_own_up_to_the_limit(
    serve, connections
):
    waiting, released = [], asyncio.Event()

    async def answer(body):
        waiting.append(body)
        await released.wait()
        return rendered(body)

    server = await serve(answer)
    calls = [asyncio.create_task(post(connections, server.url, b"%d" % i)) for i in range(3)]
    await until(lambda: len(waiting) == 2)
    with pytest.raises(NotSentError, match="no connection within"):
        await post(connections, server.url, timeout_ms=20)
    released.set()
    assert [(await call).body for call in calls] == [b"0", b"1", b"2"]
    assert len(server.writers) == 2
    assert b"" not in waiting


async def test_a_late_answer_is_nobody_elses(serve, connections):
    late = asyncio.Event()

    async def answer(body):
        if body == b"first":
            await late.wait()
        return rendered(body)

    server = await serve(answer)
    with pytest.raises(TimeoutError):
        await post(connections, server.url, b"first", timeout_ms=300)
    late.set()
    assert (await post(connections, server.url, b"second")).body == b"second"
    assert len(server.writers) == 2


async def test_a_connection_on_which_something_comes_unasked_is_closed(serve, connections):
    server = await serve(echo)
    await post(connections, server.url)
    server.writers[0].write(rendered(b"for nobody"))
    await until(lambda: server.ended == 1)
    assert (await post(connections, server.url, b"mine")).body == b"mine"


async def test_a_connection_is_not_used_again_where_that_was_said(serve, connections):
    async def answer(_):
        return OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")

    server = await serve(answer)
    for _ in range(2):
        assert (await post(connections, server.url)).body == b"ok"
    assert len(server.writers) == 2


async def test_an_idle_connection_that_is_old_or_closed_is_replaced(
    serve, connections, monkeypatch
):
    server = await serve(echo)
    await post(connections, server.url)
    monkeypatch.setattr(_connections, "MAX_IDLE_S", -1.0)
    await post(connections, server.url)
    assert len(server.writers) == 2
    monkeypatch.undo()
    server.writers[1].close()
    # The end of the connection arrives at the client some turns later.
    await until(lambda: not connections._brokers[server.url].idle[-1].is_reusable)
    await post(connections, server.url)
    assert len(server.writers) == 3


async def test_an_answer_before_the_request_is_sent_ends_the_connection(connections):
    accepted = []

    async def refuse(reader, writer):
        accepted.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await writer.drain()
        # Nothing more is read.

    server = await asyncio.start_server(refuse, "127.0.0.1", 0, limit=1024)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    for _ in range(2):
        assert (await post(connections, url, bytes(32 * MIB))).body == b"ok"
    assert len(accepted) == 2
    server.close()
    for writer in accepted:
        writer.close()


async def test_a_broken_connection_is_an_error_of_that_call(serve, connections):
    async def answer(_):
        raise ConnectionError

    server = await serve(answer)
    for _ in range(2):
        with pytest.raises(ConnectionResetError, match="closed: by the broker"):
            await post(connections, server.url)


async def test_an_address_that_takes_nothing_leaves_the_next_one(serve, connections, monkeypatch):
    server = await serve(echo)
    loop = asyncio.get_running_loop()

    async def two_addresses(_host, port, **_):
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))
            for host in ("127.0.0.2", "127.0.0.1")
        ]

    monkeypatch.setattr(loop, "getaddrinfo", two_addresses)
    url = f"http://broker.example:{server.port}"
    assert (await post(connections, url, b"x")).body == b"x"


async def test_an_address_is_not_looked_up(serve, connections, monkeypatch):
    async def never(*_, **__):
        raise AssertionError("looking up takes a thread")

    server = await serve(echo)
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", never)
    assert (await post(connections, server.url, b"x")).body == b"x"


async def test_what_cannot_be_connected_to_was_sent_nothing(connections, monkeypatch):
    with pytest.raises(NotSentError, match="refused") as caught:
        await post(connections, f"http://127.0.0.1:{free_ports(1)[0]}")
    assert caught.value.refused
    for url in ("http://", "ftp://127.0.0.1:1", "http://127.0.0.1:99999", "http://" + "a" * 99):
        with pytest.raises(NotSentError) as caught:
            await post(connections, url)
        assert not caught.value.refused

    async def no_address(*_, **__):
        return []

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", no_address)
    with pytest.raises(NotSentError, match="no address") as caught:
        await post(connections, "http://broker.example:80")
    assert not caught.value.refused


async def test_what_is_lent_is_closed_when_it_comes_back(serve, connections):
    asked, released = asyncio.Event(), asyncio.Event()

    async def answer(body):
        asked.set()
        await released.wait()
        return rendered(body)

    server = await serve(answer)
    call = asyncio.create_task(post(connections, server.url, b"last"))
    await asked.wait()
    connections.close()
    released.set()
    assert (await call).body == b"last"
    await until(lambda: server.ended == 1)
