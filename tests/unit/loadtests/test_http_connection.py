"""The minimal HTTP connection, against a server that answers oddly."""

import asyncio

import pytest

from loadtests.http_connection import Answer, BrokenAnswerError, HttpConnection
from tests.unit.loadtests.http_server import http_server, response


async def test_answers_come_back_and_the_connection_is_kept():
    async with http_server(lambda asked: response(asked.body + b"!")) as server:
        connection = HttpConnection(server.url)
        for body in (b"one", b"", b"x" * 1_000_000):
            answer = await connection.request("POST", "/p?q=1", ("A", "b"), body=body, timeout_s=5)
            assert answer == Answer(200, body + b"!")
        assert [(a.method, a.target, a.fields["a"]) for a in server.asked] == [
            ("POST", "/p?q=1", "b")
        ] * 3
        connection.close()


async def test_an_answer_in_single_bytes_is_put_together():
    async def drip(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        for byte in response(b"hello", 404):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        writer.close()

    listener = await asyncio.start_server(drip, "127.0.0.1", 0)
    connection = HttpConnection(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}")
    assert await connection.request("GET", "/", timeout_s=5) == Answer(404, b"hello")
    connection.close()
    listener.close()
    await listener.wait_closed()


async def test_an_empty_answer_without_a_length_is_one_with_204():
    async with http_server(lambda _: b"HTTP/1.1 204 No Content\r\n\r\n") as server:
        connection = HttpConnection(server.url)
        assert await connection.request("DELETE", "/", timeout_s=5) == Answer(204, b"")
        connection.close()


@pytest.mark.parametrize(
    "raw",
    [
        None,
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"x" * 100_000,
    ],
    ids=["closed", "cut off", "chunked", "no number", "negative", "no HTTP", "no end"],
)
async def test_a_broken_answer_is_an_error_and_the_next_request_connects_again(raw):
    answers = [raw, response(b"good")]

    async with http_server(lambda _: answers.pop(0)) as server:
        connection = HttpConnection(server.url)
        with pytest.raises((BrokenAnswerError, TimeoutError)):
            await connection.request("GET", "/", timeout_s=0.5)
        assert await connection.request("GET", "/", timeout_s=5) == Answer(200, b"good")
        connection.close()


async def test_a_late_answer_is_not_taken_for_the_next_one():
    release = asyncio.Event()
    answers = [b"late", b"fresh"]

    async def answer(reader, writer):
        body = answers.pop(0)
        await reader.readuntil(b"\r\n\r\n")
        if body == b"late":
            await release.wait()
        else:
            release.set()
        writer.write(response(body))
        writer.close()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0)
    connection = HttpConnection(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}")
    with pytest.raises(TimeoutError):
        await connection.request("GET", "/", timeout_s=0.3)
    assert await connection.request("GET", "/", timeout_s=5) == Answer(200, b"fresh")
    connection.close()
    listener.close()
    await listener.wait_closed()


async def test_a_refused_connection_is_an_os_error():
    async with http_server(lambda _: response(b"")) as server:
        url = server.url
    with pytest.raises(ConnectionRefusedError):
        await HttpConnection(url).request("GET", "/", timeout_s=5)
