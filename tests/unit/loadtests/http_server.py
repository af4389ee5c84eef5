"""A little HTTP server that answers what a test tells it, and remembers what it was asked."""

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class Asked:
    method: str
    target: str
    fields: dict[str, str]
    body: bytes


@dataclass
class HttpServer:
    """`answer` returns the raw bytes to send; None closes the connection without an answer."""

    answer: Callable[[Asked], bytes | None]
    url: str = ""
    asked: list[Asked] = field(default_factory=list)

    async def serve(self, reader, writer):
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().strip().split("\r\n")
                fields = dict(line.lower().split(": ", 1) for line in lines)
                body = await reader.readexactly(int(fields.get("content-length", "0")))
                request = Asked(*first.split(" ")[:2], fields, body)
                self.asked.append(request)
                raw = self.answer(request)
                if raw is None:
                    return
                writer.write(raw)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def response(body: bytes, status: int = 200) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


@asynccontextmanager
async def http_server(answer):
    server = HttpServer(answer)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()
        await listener.wait_closed()
