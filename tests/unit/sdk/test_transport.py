"""What the transport sends, and what it says of calls that failed."""

import asyncio
import gzip

import pytest

from ottla._transport import (
    AiohttpTransport,
    BrokerUnreachableError,
    MockTransport,
    Response,
    error_of,
)
from ottla_ops.local_cluster import free_ports
from ottla_protocol import routes
from ottla_protocol.errors import NotLeaderOrFollowerError, Outcome


@pytest.fixture
async def transport():
    transport = AiohttpTransport(client_id="my-app", connections_per_broker=2)
    yield transport
    await transport.close()


@pytest.fixture
async def serve():
    """Starts a server that reads a request and answers with these bytes, or never."""
    servers = []

    async def start(answer):
        seen = []

        async def handle(reader, writer):
            seen.append(await reader.readuntil(b"\r\n\r\n"))
            if answer is None:
                await reader.read()
            else:
                writer.write(answer)
            writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        servers.append(server)
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", seen

    yield start
    for server in servers:
        server.close()


ANSWER = b"HTTP/1.1 207 X\r\nContent-Type: text/plain; a=b\r\nContent-Length: 2\r\n\r\nok"


async def test_a_request_carries_the_client_id_and_any_status_is_an_answer(transport, serve):
    url, seen = await serve(ANSWER)
    answer = await transport.post(url, "/v1/produce?a=b", b"body", timeout_ms=5_000)
    assert answer == Response(207, "text/plain", b"ok")
    head = seen[0].decode().lower()
    assert head.startswith("post /v1/produce?a=b http/1.1")
    assert "user-agent: my-app" in head
    assert f"content-type: {routes.MSGPACK}" in head
    assert (await transport.get(url, "/", timeout_ms=5_000)).body == b"ok"


async def test_a_refused_connection_proves_that_nothing_was_applied(transport):
    with pytest.raises(BrokerUnreachableError, match="refused") as caught:
        await transport.get(f"http://127.0.0.1:{free_ports(1)[0]}", "/", timeout_ms=5_000)
    assert caught.value.outcome is Outcome.NOT_APPLIED
    assert caught.value.refused


async def test_a_refused_post_proves_it_too(transport):
    with pytest.raises(BrokerUnreachableError, match="refused") as caught:
        await transport.post(f"http://127.0.0.1:{free_ports(1)[0]}", "/", b"", timeout_ms=5_000)
    assert caught.value.outcome is Outcome.NOT_APPLIED
    assert caught.value.refused


@pytest.mark.parametrize("answer", [None, b"", b"nonsense\r\n\r\n"])
async def test_anything_after_the_connection_proves_nothing(transport, serve, answer):
    url, _ = await serve(answer)
    with pytest.raises(BrokerUnreachableError) as caught:
        await transport.post(url, "/", b"", timeout_ms=200)
    assert caught.value.outcome is Outcome.UNKNOWN
    assert not caught.value.refused


_GZIPPED = gzip.compress(b"ok")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 X\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b"
        % (len(_GZIPPED), _GZIPPED),
        b"HTTP/1.0 200 X\r\nContent-Length: 2\r\n\r\nok",
    ],
    ids=["chunked", "gzip", "1.0"],
)
async def test_answers_of_a_proxy_are_read_by_the_general_client(transport, serve, answer):
    url, seen = await serve(answer)
    with pytest.raises(BrokerUnreachableError) as caught:
        await transport.post(url, "/", b"", timeout_ms=5_000)
    assert caught.value.outcome is Outcome.UNKNOWN
    assert (await transport.post(url, "/", b"", timeout_ms=5_000)).body == b"ok"
    assert len(seen) == 2


async def test_a_mock_answers_by_function_and_in_time():
    async def never(*_):
        await asyncio.Event().wait()

    mock = MockTransport(lambda method, url, path, body: Response(200, method, body + b"!"))
    assert await mock.post("u", "/", b"x", timeout_ms=1) == Response(200, "POST", b"x!")
    assert await mock.get("u", "/", timeout_ms=1) == Response(200, "GET", b"!")
    with pytest.raises(BrokerUnreachableError):
        await MockTransport(never).get("u", "/", timeout_ms=10)
    await mock.close()
    assert mock.is_closed


def test_problem_documents_become_their_errors():
    problem = b'{"code":"NOT_LEADER_OR_FOLLOWER","detail":"no","outcome":"not_applied","leader":2}'
    error = error_of(Response(421, routes.PROBLEM_JSON, problem), "u")
    assert isinstance(error, NotLeaderOrFollowerError)
    assert (error.outcome, error.members) == (Outcome.NOT_APPLIED, {"leader": 2})
    for strange in (b"<html>", b"[]"):
        error = error_of(Response(502, routes.PROBLEM_JSON, strange), "u")
        assert isinstance(error, BrokerUnreachableError)
        assert error.outcome is Outcome.UNKNOWN
