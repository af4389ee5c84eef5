"""Clients that drip, break off or take nothing, on both ways from a socket to a handler."""

import asyncio
import json
from dataclasses import replace

import pytest
import structlog

from ottla_broker.http import aiohttp_connection, deadlines
from ottla_broker.http import connection as connections
from ottla_broker.http.post import Answer
from ottla_protocol import routes
from tests.unit.broker import test_listener
from tests.unit.broker.test_listener import LIMIT_BYTES, UNSENT_BYTES, until

broker, client = test_listener.broker, test_listener.client

WAYS = ["POST", "GET"]
"""The first takes the short way, the second is aiohttp's."""


def all_connections(broker):
    return [*broker.listener._connections, *broker.runner.server.connections]


def pass_time(broker, seconds):
    now_s = asyncio.get_running_loop().time() + seconds
    for connection in tuple(broker.listener._connections):
        connection.check_deadline(now_s)
    broker.connections.check_deadlines(now_s)


async def drip(broker, client, data, *, every_s, shift):
    """Send one byte after another, `every_s` seconds of the connection's time apart."""
    for position in range(len(data)):
        if client.reader._buffer or client.reader.at_eof():
            return
        client.writer.write(data[position : position + 1])
        seen = position + 1
        await until(
            lambda seen=seen: (
                received_bytes(broker) >= seen or client.reader._buffer or client.reader.at_eof()
            )
        )
        shift(every_s)
        pass_time(broker, 0)
    raise AssertionError("nobody gave up")


def received_bytes(broker):
    found = all_connections(broker)
    if not found:
        return 0
    if isinstance(found[0], connections.ServerConnection):
        return len(found[0]._received)
    return found[0]._head_bytes


@pytest.fixture
async def shift(broker, monkeypatch):
    """Lets the loop's clock go forward, for what asks it by `time()`."""
    loop = asyncio.get_running_loop()
    real, ahead = loop.time, [0.0]
    monkeypatch.setattr(loop, "time", lambda: real() + ahead[0])

    def forward(seconds):
        ahead[0] += seconds

    return forward


@pytest.mark.parametrize("method", WAYS)
@pytest.mark.parametrize("request_number", [1, 2])
async def test_a_head_that_drips_ends(broker, client, shift, method, request_number):
    if request_number == 2:
        assert (await client.send(method=method).answer())[0] == 200
        [connection] = all_connections(broker)
        await until(lambda: getattr(connection, "_waiter", True))
    await drip(broker, client, method.encode() + b" /" + b"x" * 60, every_s=1.0, shift=shift)
    status, fields, body = await client.answer()
    assert (status, fields["connection"]) == (408, "close")
    assert b"REQUEST_NOT_RECEIVED" in body
    assert await client.ended()


async def test_a_body_that_drips_ends(broker, client, shift):
    client.send(announced=1_000)
    await until(lambda: all(not each.is_idle for each in all_connections(broker)))
    await drip(broker, client, b"x" * 200, every_s=1.0, shift=shift)
    status, _, body = await client.answer()
    assert status == 408
    assert b"not_applied" in body
    assert broker.context.inflight.held_bytes == 0


@pytest.mark.parametrize("come", [10_000, 200_000])
async def test_a_body_at_the_least_rate_goes_on(broker, client, come):
    client.send(b"x" * come, announced=400_000)
    await until(lambda: broker.context.inflight.held_bytes >= come)
    [connection] = broker.listener._connections
    await until(lambda: connection._filled in (0, come))
    allowed_s = deadlines.BODY_GRACE_S + come / deadlines.BODY_BYTES_PER_S_MIN
    # As if the last of it had come just now.
    connection._changed_s += allowed_s
    pass_time(broker, allowed_s - 1)
    assert connection._linger_until_s is None
    pass_time(broker, allowed_s + 1)
    assert (await client.answer())[0] == 408


def test_deadlines_grow_with_what_has_come():
    assert deadlines.body_deadline_s(5.0, 0) == 35.0
    assert deadlines.body_deadline_s(5.0, 10 * 1_024) == 45.0
    assert deadlines.answer_deadline_s(5.0, 1_024) == 66.0


class TestHalfClosed:
    @pytest.mark.parametrize("method", WAYS)
    async def test_whoever_has_said_all_hears_the_answer(self, broker, client, method):
        client.send(method=method)
        client.writer.write_eof()
        assert (await client.answer())[0] == 200
        assert await client.ended()
        client.writer.close()
        await until(lambda: not all_connections(broker))

    async def test_several_requests_in_one_go_are_answered(self, broker, client):
        client.send(b"x").send(b"y")
        client.writer.write_eof()
        assert [(await client.answer())[2] for _ in range(2)] == [b"<x>", b"<y>"]
        assert await client.ended()

    async def test_half_a_body_is_malformed(self, broker, client):
        client.send(b"xxx", announced=10)
        client.writer.write_eof()
        status, _, body = await client.answer()
        assert status == 400
        assert b"not_applied" in body
        assert await client.ended()
        await until(lambda: not broker.context.inflight.held_bytes)
        assert broker.posts == []

    async def test_half_a_head_is_malformed(self, broker, client):
        client.writer.write(b"POST /here HTTP")
        client.writer.write_eof()
        assert (await client.answer())[0] == 400
        assert await client.ended()

    @pytest.mark.parametrize("is_write", [True, False])
    async def test_what_waits_is_not_kept_for_long(self, broker, client, monkeypatch, is_write):
        monkeypatch.setattr(connections, "HALF_CLOSED_READ_S", 0.01)
        broker.route = test_listener.PostRoute(
            "/here", broker.handle, lambda _: LIMIT_BYTES, is_write=is_write
        )
        broker.handler = broker.park
        client.send(b"x")
        client.writer.write_eof()
        await broker.cancelled.wait()

    async def test_a_parked_get_is_not_kept_for_long(self, broker, client, monkeypatch):
        monkeypatch.setattr(aiohttp_connection, "HALF_CLOSED_READ_S", 0.01)
        client.send(method="GET", target="/park")
        await broker.serving.wait()
        client.writer.write_eof()
        await broker.cancelled.wait()


class TestMalformed:
    @pytest.mark.parametrize(
        ("sent", "status", "code"),
        [
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", 400, b"MALFORMED_REQUEST"),
            (b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", 400, b"MALFORMED_REQUEST"),
            (b"GET / HTTP/1.1\r\nHost: x\r\nX\x00: y\r\n\r\n", 400, b"MALFORMED_REQUEST"),
            (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n", 431, b"REQUEST_HEAD_TOO_LARGE"),
            (
                b"GET / HTTP/1.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
                431,
                b"REQUEST_HEAD_TOO_LARGE",
            ),
            (
                b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n",
                400,
                b"MALFORMED_REQUEST",
            ),
        ],
    )
    async def test_what_is_no_request_is_told_as_a_problem(
        self, broker, client, caplog, sent, status, code
    ):
        client.writer.write(sent)
        answered, fields, body = await client.answer()
        assert (answered, fields["content-type"]) == (status, "application/problem+json")
        assert fields["ottla-served-by"] == "3"
        assert fields.get("server", "ottla") == "ottla"
        assert code in body
        assert await client.ended()
        assert caplog.text == ""

    async def test_what_fails_outside_the_handlers_is_logged(self, broker, client, monkeypatch):
        async def fail(request):
            raise IndexError("planted")

        monkeypatch.setattr(broker.runner.server, "request_handler", fail)
        with structlog.testing.capture_logs() as lines:
            status, _, body = await client.send(method="GET").answer()
        assert (status, b"UNKNOWN_SERVER_ERROR" in body) == (500, True)
        [line] = lines
        assert (line["event"], str(line["exc_info"])) == ("request_failed", "planted")

    async def test_a_head_of_many_long_fields_is_refused_before_it_is_whole(self, broker, client):
        client.writer.write(b"GET / HTTP/1.1\r\n")
        for number in range(12):
            client.writer.write(f"X{number}: {'a' * 8_000}\r\n".encode())
        assert (await client.answer())[0] == 431
        assert await client.ended()


class TestNotTaken:
    @pytest.fixture
    def much(self, broker, monkeypatch):
        async def much(context, post):
            return Answer(200, "a/b", (bytes(16 << 20),))

        broker.handler = much
        broker.context.unsent.limit_bytes = 20 << 20

    async def test_large_answers_are_refused_while_too_many_are_not_taken(self, broker, much):
        unsent = broker.context.unsent
        idle, other = [await broker.connect() for _ in range(2)]
        idle.send(b"x")
        await until(lambda: unsent.held_bytes > 10 << 20)
        status, fields, _ = await other.send(b"x").answer()
        assert (status, fields["retry-after"]) == (503, "1")
        get = await broker.connect()
        assert (await get.send(method="GET", target="/much").answer())[0] == 503
        # What is small goes on, and whoever takes his answer makes room.
        assert (await get.send(method="GET").answer())[0] == 200
        assert len((await idle.answer())[2]) == 16 << 20
        await until(lambda: not unsent.held_bytes)
        assert (await other.send(b"x").answer())[0] == 200
        assert (await get.send(method="GET", target="/much").answer())[0] == 200
        await until(lambda: not unsent.held_bytes)

    @pytest.mark.parametrize(
        ("way", "target", "outcome"),
        [
            ("write", "/here", "unknown"),
            ("read", "/here", "not_applied"),
            ("POST", "/much", "unknown"),
            ("POST", routes.FETCH, "not_applied"),
            ("GET", "/much", "not_applied"),
        ],
    )
    async def test_a_write_whose_answer_is_refused_was_carried_out(
        self, broker, much, way, target, outcome
    ):
        broker.route = replace(broker.route, is_write=way == "write")
        idle, other = [await broker.connect() for _ in range(2)]
        idle.send(b"x")
        await until(lambda: broker.context.unsent.held_bytes > 10 << 20)
        served = len(broker.posts) + (target == "/here")
        is_get = way == "GET"
        other.send(b"" if is_get else b"x", target=target, method="GET" if is_get else "POST")
        status, _, body = await other.answer()
        assert (status, json.loads(body)["outcome"]) == (503, outcome)
        assert len(broker.posts) == served

    async def test_clients_of_rest_proxies_are_told_so_too(self, broker, much):
        idle, other = [await broker.connect() for _ in range(2)]
        idle.send(b"x")
        await until(lambda: broker.context.unsent.held_bytes > 10 << 20)
        status, _, body = await other.send(b"x", target="/topics/much").answer()
        assert (status, json.loads(body)["error_code"]) == (503, 503)
        assert "it may have been applied" in json.loads(body)["message"]

    @pytest.mark.parametrize("target", ["/here", "/much"])
    async def test_an_answer_that_drips_away_is_given_up(self, broker, client, much, target, shift):
        broker.context.unsent.limit_bytes = UNSENT_BYTES
        client.send(method="GET" if target == "/much" else "POST", target=target)
        await until(lambda: broker.context.unsent.held_bytes)
        took = 0
        while not client.reader.at_eof() and took < 2_000_000:
            took += len(await client.reader.read(100))
            shift(1_000.0)
            pass_time(broker, 0)
        await until(lambda: not all_connections(broker))
        await until(lambda: not broker.context.unsent.held_bytes)
