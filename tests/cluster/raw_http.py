"""HTTP as bytes on a socket, for requests that no client library would send."""

import http.client
import socket
from contextlib import closing
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import msgspec

SOCKET_TIMEOUT_S = 60.0
"""Longer than any deadline of a broker's, on a machine that is busy."""


@dataclass(frozen=True)
class RawAnswer:
    """What came back; `status` is None where the connection was closed without an answer."""

    status: int | None
    headers: dict = field(default_factory=dict)
    body: bytes = b""

    @property
    def code(self):
        """The error's code; None where the answer is no problem document."""
        if self.headers.get("content-type", "").startswith("application/problem+json"):
            return msgspec.json.decode(self.body)["code"]
        return None


def connect(url):
    """A socket to the broker at `url`."""
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), SOCKET_TIMEOUT_S)


def request(method, target, *fields, host="localhost", body=b"", length=None):
    """The bytes of one request; each field is `Name: value`."""
    lines = [f"{method} {target} HTTP/1.1", *([f"Host: {host}"] if host is not None else ())]
    lines += fields
    if length is not None or body or method not in ("GET", "OPTIONS", "DELETE"):
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join((*lines, "", "")).encode() + body


def receive(connection):
    """The next answer on this connection."""
    try:
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return RawAnswer(answer.status, headers, answer.read())
    except (http.client.BadStatusLine, ConnectionError):
        return RawAnswer(None)


def exchange(url, *parts, half_close=False):
    """Send these bytes, perhaps nothing more after them, and receive the answer."""
    with closing(connect(url)) as connection:
        try:
            for part in parts:
                connection.sendall(part)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        except ConnectionError:
            # Refused before everything was sent; the answer may be there.
            pass
        return receive(connection)
