"""A request that was given up is not delivered afterwards (decision 59).

A server that reads nothing stands for a network that delivers nothing: the request waits in the
caller's kernel. When the server begins to read, after the call was given up, it must not get all.
"""

import asyncio
import socket
import subprocess
import sys
import time

import pytest
import uvloop

from ottla._admin import Urllib3Transport
from ottla._aio_admin import AiohttpAdminTransport
from ottla._connections import BrokerConnections
from ottla._transport import BrokerUnreachableError
from ottla_broker.drivers.peer_client import PeerClient, PeerUnavailableError, Purpose
from ottla_ops.cli.failures import CommandError
from ottla_ops.cli.http_connection import HttpConnection

BODY = b"x" * 300_000
"""More than the server's buffer has room for, and less than the caller's."""

TIMEOUT_MS = 300


async def broker_to_broker(url):
    peers = PeerClient(node_id=1, cluster_id="c", cluster_secret=None)
    try:
        await peers.post(url, "/x", BODY, timeout_ms=TIMEOUT_MS, purpose=Purpose.CLIENT)
    finally:
        await peers.close()


async def streamed_through(url):
    peers = PeerClient(node_id=1, cluster_id="c", cluster_secret=None)
    await peers.start()
    try:
        async with asyncio.timeout(TIMEOUT_MS / 1000), peers.streaming() as session:
            await session.get(url, data=BODY)
    finally:
        await peers.close()


async def sdk_records(url):
    connections = BrokerConnections(user_agent="me", connections_per_broker=1, max_body_bytes=1)
    try:
        await connections.post(url, "/x", BODY, content_type="a/b", timeout_ms=TIMEOUT_MS)
    finally:
        connections.close()


async def sdk_admin_asyncio(url):
    transport = AiohttpAdminTransport(client_id="me", connections_per_broker=1)
    try:
        await transport.request("PATCH", url, "/x", BODY, timeout_ms=TIMEOUT_MS)
    finally:
        await transport.close()


def sdk_admin(url):
    transport = Urllib3Transport(client_id="me")
    try:
        transport.request("POST", url, "/x", BODY, timeout_ms=TIMEOUT_MS)
    finally:
        transport.close()


def command_line(url):
    connection = HttpConnection(url)
    try:
        connection.request("POST", "/x", body=BODY, answer_timeout_s=TIMEOUT_MS / 1000)
    finally:
        connection.close()


ASYNC = [broker_to_broker, streamed_through, sdk_records, sdk_admin_asyncio]
THREADED = [sdk_admin, command_line]


@pytest.fixture
def deaf_server():
    """Listens, and has almost no room for what comes before it reads."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(30)
        yield server


def url_of(server):
    return f"http://127.0.0.1:{server.getsockname()[1]}"


def accepted(server):
    return server.accept()[0]


def received(connection):
    """All that a connection still delivers."""
    came = b""
    with connection:
        connection.settimeout(10)
        try:
            while piece := connection.recv(1 << 20):
                came += piece
        except ConnectionResetError:
            pass
    return came


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("call", ASYNC)
def test_a_call_that_was_given_up_is_not_delivered(call, run, deaf_server):
    with pytest.raises((PeerUnavailableError, BrokerUnreachableError, TimeoutError)):
        run(call(url_of(deaf_server)))
    assert len(received(accepted(deaf_server))) < len(BODY)


@pytest.mark.parametrize("call", THREADED)
def test_a_call_of_a_thread_that_was_given_up_is_not_delivered(call, deaf_server):
    with pytest.raises((BrokerUnreachableError, CommandError)):
        call(url_of(deaf_server))
    assert len(received(accepted(deaf_server))) < len(BODY)


CALL_FOR_LONG = """
import asyncio, sys
from tests.unit import test_given_up_requests as tests

tests.TIMEOUT_MS = 60_000
call = getattr(tests, sys.argv[1])
asyncio.run(call(sys.argv[2])) if asyncio.iscoroutinefunction(call) else call(sys.argv[2])
"""


@pytest.mark.parametrize("call", [*ASYNC, *THREADED])
def test_the_call_of_a_process_that_was_killed_is_not_delivered(call, deaf_server):
    process = subprocess.Popen(
        [sys.executable, "-c", CALL_FOR_LONG, call.__name__, url_of(deaf_server)]
    )
    with process:
        connection = accepted(deaf_server)
        # For the rest of the request to get as far as it can.
        time.sleep(0.3)
        process.kill()
    assert len(received(connection)) < len(BODY)
