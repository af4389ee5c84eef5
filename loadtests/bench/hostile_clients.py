"""A process of hostile clients: `python -m loadtests.bench.hostile_clients TOPIC IDLE URL...`.

It opens IDLE connections that say nothing or half of a head, prints `ready` with their number, and
then attacks the brokers in a few lanes until its standard input ends: floods of chunks, bodies that
inflate a thousandfold, JSON without an end, what is no HTTP. What the brokers answer is not looked
at; that is what tests are for.
"""

import socket
import sys
import threading
import zlib
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from itertools import cycle
from urllib.parse import urlsplit

ANSWER_TIMEOUT_S = 5.0
PAUSE_S = 0.05
"""Between two attacks of a lane, so that the clients that are measured have a processor too."""

BOMB_BYTES = 200 << 20
CHUNKS = 2_000
NESTING = 100_000
_GZIP_WINDOW_BITS = 31
_BEGUN = (b"", b"GET /livez", b"POST /v1/produce HTTP/1.1\r\nHost: x\r\n")

Payload = Callable[[str], bytes]


def bomb(topic: str) -> bytes:
    """200 KB that inflate to 200 MB."""
    packer = zlib.compressobj(9, wbits=_GZIP_WINDOW_BITS)
    body = packer.compress(b'{"records":[{"value":"')
    piece = b"x" * (1 << 20)
    body += b"".join(packer.compress(piece) for _ in range(BOMB_BYTES >> 20)) + packer.flush()
    return _post(topic, "Content-Encoding: gzip", f"Content-Length: {len(body)}") + body


def chunk_flood(topic: str) -> bytes:
    """A body in chunks of one byte."""
    return _post(topic, "Transfer-Encoding: chunked") + b"1\r\n \r\n" * CHUNKS + b"0\r\n\r\n"


def deep_json(topic: str) -> bytes:
    """Arrays in arrays."""
    body = b'{"records":[{"value":' + b"[" * NESTING
    return _post(topic, f"Content-Length: {len(body)}") + body


def no_http(_: str) -> bytes:
    """A TLS hello."""
    return b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20


LANES: Sequence[Payload] = (bomb, chunk_flood, deep_json, no_http)


def _post(topic: str, *fields: str) -> bytes:
    lines = [f"POST /v1/topics/{topic}/records HTTP/1.1", "Host: localhost", *fields]
    return "\r\n".join((*lines, "Content-Type: application/json", "", "")).encode()


def _connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname or "", parts.port or 80), ANSWER_TIMEOUT_S)


def _attack(urls: Sequence[str], payload: bytes, ended: threading.Event) -> None:
    """One lane: send it to one broker after another, and wait for an answer each time."""
    for url in cycle(urls):
        if ended.wait(PAUSE_S):
            return
        with suppress(OSError), closing(_connect(url)) as connection:
            connection.sendall(payload)
            connection.recv(1 << 16)


def main(arguments: Sequence[str]) -> int:
    """Attack until standard input ends."""
    topic, idle_count, *urls = arguments
    idle = []
    for number, url in zip(range(int(idle_count)), cycle(urls), strict=False):
        connection = _connect(url)
        connection.sendall(_BEGUN[number % len(_BEGUN)])
        idle.append(connection)
    ended = threading.Event()
    lanes = [
        threading.Thread(target=_attack, args=(urls, payload(topic), ended)) for payload in LANES
    ]
    for lane in lanes:
        lane.start()
    print(f"ready {len(idle)}", flush=True)
    sys.stdin.read()
    ended.set()
    for lane in lanes:
        lane.join()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
