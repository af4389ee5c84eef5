"""Calls to peers: what goes out, what comes back, and what a failure proves."""

import asyncio
import socket
from contextlib import suppress

import msgspec
import pytest
from aiohttp import web

from ottla_broker.drivers import peer_client, peer_pool
from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.peer_client import (
    STRANGERS_ANSWER_BYTES_MAX,
    PeerBusyError,
    PeerClient,
    PeerUnavailableError,
    Purpose,
)
from ottla_broker.drivers.peer_pool import PeerPool
from ottla_protocol.errors import NotControllerError, Outcome

TIMEOUT_MS = 5_000


@pytest.fixture
async def peers():
    client = PeerClient(node_id=7, cluster_id="tests", cluster_secret="s3cret")
    await client.start()
    yield client
    await client.close()


@pytest.fixture
async def peer():
    """An aiohttp server whose answers the test chooses."""
    seen = []

    async def handle(request):
        body = await request.read()
        seen.append((request.path, dict(request.headers), body, request.transport))
        if request.path == "/refuse":
            problem = NotControllerError("elsewhere", outcome=Outcome.NOT_APPLIED, controller=2)
            return web.Response(
                status=421,
                body=msgspec.json.encode(problem.problem()),
                content_type="application/problem+json",
            )
        if request.path == "/slow":
            await asyncio.sleep(30)
        if request.path == "/odd":
            return web.Response(status=500, text="?")
        return web.Response(body=body)

    application = web.Application(client_max_size=0)
    application.router.add_post("/{any}", handle)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}", seen
    await runner.cleanup()


async def raw_peer(answer):
    """A server that sends `answer` to whatever comes, then closes."""

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("size", [0, 1, 70_000, 3_000_000])
async def test_a_body_arrives_and_comes_back_whole(peers, peer, size):
    url, seen = peer
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    assert (
        await peers.post(url, "/echo", body, timeout_ms=TIMEOUT_MS, purpose=Purpose.CLIENT) == body
    )
    path, headers, received, _ = seen[0]
    assert (path, received) == ("/echo", body)
    assert headers["Ottla-Cluster-Id"] == "tests"
    assert headers["Ottla-Cluster-Secret"] == "s3cret"
    assert headers["Ottla-Forwarded-By"] == "7"
    assert headers["Content-Type"] == "application/msgpack"


async def test_calls_one_after_another_share_a_connection(peers, peer):
    url, seen = peer
    for _ in range(5):
        await peers.post(url, "/echo", b"x", timeout_ms=TIMEOUT_MS, purpose=Purpose.CLIENT)
    assert len({id(transport) for *_, transport in seen}) == 1


async def test_calls_at_the_same_time_do_not_mix(peers, peer):
    url, _ = peer
    bodies = [f"body {number}".encode() * number for number in range(1, 40)]
    answers = await asyncio.gather(
        *(
            peers.post(url, "/echo", body, timeout_ms=TIMEOUT_MS, purpose=Purpose.CLIENT)
            for body in bodies
        )
    )
    assert [bytes(answer) for answer in answers] == bodies


async def test_the_peers_error_comes_back_as_itself(peers, peer):
    url, _ = peer
    with pytest.raises(NotControllerError) as caught:
        await peers.post(url, "/refuse", b"", timeout_ms=TIMEOUT_MS, purpose=Purpose.CLIENT)
    assert (caught.value.outcome, caught.value.members) == (
        Outcome.NOT_APPLIED,
        {"controller": 2},
    )


async def test_an_answer_that_is_no_problem_document_proves_nothing(peers, peer):
    url, _ = peer
    with pytest.raises(PeerUnavailableError, match="unexpected status 500") as caught:
        await peers.post(url, "/odd", b"", timeout_ms=TIMEOUT_MS, purpose=Purpose.CLIENT)
    assert (caught.value.refused, caught.value.outcome) == (False, Outcome.UNKNOWN)


async def test_a_refused_connection_proves_that_nothing_was_applied(peers):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(PeerUnavailableError) as caught:
        await peers.post(url, "/echo", b"", timeout_ms=TIMEOUT_MS, purpose=Purpose.CLIENT)
    assert (caught.value.refused, caught.value.outcome) == (True, Outcome.NOT_APPLIED)


@pytest.mark.parametrize(
    "url",
    ["http://no-port", f"http://{'x' * 64}.example:1", "http://127.0.0.1:99999", "http://:0:"],
)
async def test_what_is_no_address_proves_that_nothing_was_applied(peers, url):
    with pytest.raises(PeerUnavailableError, match="no address") as caught:
        await peers.post(url, "/echo", b"", timeout_ms=TIMEOUT_MS, purpose=Purpose.CLIENT)
    assert (caught.value.refused, caught.value.outcome) == (False, Outcome.NOT_APPLIED)


async def test_a_call_that_is_too_slow_may_have_been_applied_and_its_connection_is_not_used_again(
    peers, peer
):
    url, seen = peer
    await peers.post(url, "/echo", b"1", timeout_ms=TIMEOUT_MS, purpose=Purpose.CLIENT)
    with pytest.raises(PeerUnavailableError, match="within 50 ms") as caught:
        await peers.post(url, "/slow", b"2", timeout_ms=50, purpose=Purpose.CLIENT)
    assert (caught.value.refused, caught.value.outcome) == (False, Outcome.UNKNOWN)
    assert (
        await peers.post(url, "/echo", b"3", timeout_ms=TIMEOUT_MS, purpose=Purpose.CLIENT) == b"3"
    )
    transports = [id(transport) for *_, transport in seen]
    assert transports[0] == transports[1] != transports[2]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"\x00\x01 no HTTP at all\r\n\r\n",
    ],
)
async def test_a_broken_answer_may_stand_for_an_applied_call(peers, answer):
    server, url = await raw_peer(answer)
    async with server:
        with pytest.raises(PeerUnavailableError) as caught:
            await peers.post(url, "/echo", b"", timeout_ms=TIMEOUT_MS, purpose=Purpose.CLIENT)
    assert (caught.value.refused, caught.value.outcome) == (False, Outcome.UNKNOWN)


async def test_a_stranger_is_told_no_secret_and_read_no_further_than_its_limit(peers, peer):
    url, seen = peer
    longest = b"x" * STRANGERS_ANSWER_BYTES_MAX
    assert await peers.ask_stranger(url, "/echo", longest, timeout_ms=TIMEOUT_MS) == longest
    _, headers, _, _ = seen[0]
    assert headers["Ottla-Cluster-Id"] == "tests"
    assert "Ottla-Cluster-Secret" not in headers
    with pytest.raises(PeerUnavailableError) as told:
        await peers.ask_stranger(url, "/echo", longest + b"x", timeout_ms=TIMEOUT_MS)
    assert f"{len(longest) + 1} bytes" in told.value.detail
    # It was asked, and a peer would have been heard out.
    assert len(seen) == 2


def few_places(places):
    return PeerClient(
        node_id=7,
        cluster_id="tests",
        cluster_secret=None,
        cluster_calls_per_peer=places,
        connections_max=places,
        forwarded_produces_max=places,
        parked_calls_max=places,
        streamed_reads_max=places,
    )


@pytest.fixture
async def busy_peer(peer):
    """A client of which as many calls of clients wait at the peer as may for each purpose."""
    url, seen = peer
    client = few_places(2)
    await client.start()
    waiting = [
        asyncio.create_task(client.post(url, "/slow", b"", timeout_ms=TIMEOUT_MS, purpose=purpose))
        for purpose in Purpose
        for _ in range(2)
        if purpose is not Purpose.CLUSTER
    ]
    while len(seen) < len(waiting):  # noqa: ASYNC110  the peer has no event to wait for
        await asyncio.sleep(0.001)
    yield client, url, waiting
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await client.close()


async def test_what_the_cluster_lives_by_never_waits_behind_clients(busy_peer):
    client, url, _ = busy_peer
    bodies = [b"raft", b"fetch"]
    answers = await asyncio.gather(
        *(
            client.post(url, "/echo", body, timeout_ms=TIMEOUT_MS, purpose=Purpose.CLUSTER)
            for body in bodies
        )
    )
    assert answers == bodies


async def test_calls_that_the_cluster_lives_by_have_their_places_at_every_peer(peer):
    url, seen = peer
    client = few_places(2)
    await client.start()
    # The same server under another name is another peer: it takes nothing from the first one.
    other = url.replace("127.0.0.1", "localhost")
    waiting = [
        asyncio.create_task(
            client.post(each, "/slow", b"", timeout_ms=TIMEOUT_MS, purpose=Purpose.CLUSTER)
        )
        for each in (url, other)
        for _ in range(2)
    ]
    while len(seen) < len(waiting):  # noqa: ASYNC110  the peer has no event to wait for
        await asyncio.sleep(0.001)
    with pytest.raises(PeerUnavailableError, match="in use") as caught:
        await client.post(url, "/echo", b"", timeout_ms=20, purpose=Purpose.CLUSTER)
    assert (caught.value.refused, caught.value.outcome) == (False, Outcome.NOT_APPLIED)
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await client.close()


@pytest.mark.parametrize("purpose", [each for each in Purpose if each is not Purpose.CLUSTER])
async def test_clients_work_beyond_its_places_is_refused_soon(busy_peer, purpose, monkeypatch):
    client, url, _ = busy_peer
    monkeypatch.setattr(client._pools[purpose], "_wait_ms_max", 20)
    started_ms = monotonic_ms()
    with pytest.raises(PeerBusyError, match="in use") as caught:
        await client.post(url, "/echo", b"", timeout_ms=TIMEOUT_MS, purpose=purpose)
    assert monotonic_ms() - started_ms < TIMEOUT_MS
    assert caught.value.outcome is Outcome.NOT_APPLIED
    assert caught.value.problem()["retry_after_seconds"] == 1
    assert caught.value.code == "THROTTLING_QUOTA_EXCEEDED"


async def test_clients_work_waits_a_moment_for_a_place(busy_peer):
    client, url, waiting = busy_peer
    soon = asyncio.create_task(
        client.post(url, "/echo", b"soon", timeout_ms=TIMEOUT_MS, purpose=Purpose.CLIENT)
    )
    await asyncio.sleep(0)
    assert not client.may_park(url)
    waiting[0].cancel()
    assert await soon == b"soon"


async def test_every_purpose_of_clients_has_a_bounded_wait():
    client = PeerClient(node_id=7, cluster_id="tests", cluster_secret=None)
    assert {purpose: pool._wait_ms_max for purpose, pool in client._pools.items()} == {
        Purpose.CLUSTER: None,
        Purpose.CLIENT: peer_pool.PLACE_WAIT_MS,
        Purpose.PRODUCE: peer_pool.PLACE_WAIT_MS,
        Purpose.PARKED: peer_pool.PLACE_WAIT_MS,
    }


async def test_streamed_reads_beyond_their_places_are_refused_soon(monkeypatch):
    monkeypatch.setattr(peer_client, "PLACE_WAIT_MS", 20)
    client = few_places(1)
    await client.start()
    async with client.streaming():
        with pytest.raises(PeerBusyError, match="under way"):
            async with client.streaming():
                pass
    async with client.streaming():
        pass
    await client.close()


async def test_a_call_tells_what_it_is_for(peers, peer):
    url, seen = peer
    for purpose in (Purpose.CLUSTER, Purpose.CLIENT, Purpose.CLUSTER):
        await peers.post(url, "/echo", b"", timeout_ms=TIMEOUT_MS, purpose=purpose)
    assert [headers["Ottla-Purpose"] for _, headers, *_ in seen] == ["cluster", "client", "cluster"]


async def test_peers_share_the_connections_that_there_are():
    pool = PeerPool(max_connections=3, total=4)

    serving = []

    async def serve(reader, writer):
        serving.append(asyncio.current_task())
        with suppress(ConnectionResetError):
            await reader.read()
        writer.close()
        with suppress(ConnectionResetError):
            await writer.wait_closed()

    servers = [await asyncio.start_server(serve, "127.0.0.1", 0) for _ in range(2)]
    first, second = [f"http://127.0.0.1:{s.sockets[0].getsockname()[1]}" for s in servers]
    far_ms = monotonic_ms() + TIMEOUT_MS
    lent = [await pool.borrow(first, deadline_ms=far_ms) for _ in range(3)]
    assert pool.is_full(first)
    other = [await pool.borrow(second, deadline_ms=far_ms) for _ in range(2)]
    assert pool.is_full(second)
    waiting = asyncio.create_task(pool.borrow(first, deadline_ms=far_ms))
    given_up = asyncio.create_task(pool.borrow(first, deadline_ms=far_ms))
    await asyncio.sleep(0)
    given_up.cancel()
    # The first of the three was one more than the share that is left: nobody gets its place.
    pool.give_back(first, lent[0])
    await asyncio.sleep(0.01)
    assert not waiting.done()
    pool.give_back(first, lent[1])
    taken = await waiting
    for url, connection in ((first, lent[2]), (first, taken), (second, other[0])):
        pool.give_back(url, connection)
    assert not pool.is_full(first)
    pool.give_back(second, other[1])
    pool.close()
    await asyncio.gather(*serving)
    for server in servers:
        server.close()
        await server.wait_closed()
