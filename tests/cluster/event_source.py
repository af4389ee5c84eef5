"""An EventSource, as WHATWG HTML section 9.2 has it, over real sockets.

It interprets the stream line by line, keeps the last event id, comes back by itself after a stream
that ended or a connection that broke, with `Last-Event-ID`, and gives up at any answer other than a
200 of `text/event-stream`. A browser has one URL behind which a balancer chooses; here the next of
several is taken when one does not connect.
"""

import http.client
import json
import socket
import threading
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.cluster.awaiting import eventually

READ_TIMEOUT_S = 20.0
"""Longer than a broker may keep silent."""

CONNECT_AGAIN_S = 0.1
"""In place of `retry`, where nobody listens: tests are not that patient."""


@dataclass(frozen=True)
class Event:
    """One dispatched event."""

    type: str
    data: str
    last_event_id: str

    @property
    def document(self):
        return json.loads(self.data)


class EventStream:
    """The interpretation of one stream (section 9.2.6), a line at a time."""

    def __init__(self, last_event_id=""):
        self.last_event_id = last_event_id
        self.retry_ms = None
        self.comments = 0
        self._id_buffer = last_event_id
        self._data = []
        self._type = ""

    def feed(self, line):
        """Take a line without its end; returns the event that it dispatches, or None."""
        if not line:
            return self._dispatch()
        if line.startswith(":"):
            self.comments += 1
            return None
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            self._type = value
        elif field == "data":
            self._data.append(value)
        elif field == "id" and "\0" not in value:
            self._id_buffer = value
        elif field == "retry" and value.isascii() and value.isdigit():
            self.retry_ms = int(value)
        return None

    def _dispatch(self):
        # The id counts even where there is no data, and so no event.
        self.last_event_id = self._id_buffer
        data, self._data = self._data, []
        kind, self._type = self._type, ""
        if not data:
            return None
        return Event(kind or "message", "\n".join(data), self.last_event_id)


class EventSource:
    """Follows in a thread until it is closed.

    Args:
        urls: of the brokers, without the path; it begins with the first.
        path: with the query.
    """

    def __init__(self, urls, path, *, headers=None):
        self.events = []
        self.errors = []
        self.connected_to = None
        self.connections = 0
        self.comments = 0
        self.retry_ms = None
        self.last_event_id = ""
        self.failed = None
        """The status that made it give up."""
        self._urls = list(urls)
        self._path = path
        self._headers = headers or {}
        self._socket = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._closed.set()
        self._cut()
        self._thread.join(READ_TIMEOUT_S)

    def _cut(self):
        """Wake the thread that reads: to close a socket does not."""
        try:
            if self._socket is not None:
                self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            # It is closed already.
            return

    def wait_for(self, count, timeout_s=30.0):
        """Wait for that many records; returns all."""

        def came():
            assert self.failed is None, self.failed
            assert len(self.events) >= count, f"{len(self.events)} of {count} events"

        eventually(came, timeout_s)
        return [event.document for event in self.events]

    def wait_open(self):
        """Wait until the stream has said where it begins."""
        eventually(lambda: bool(self.last_event_id) or self.failed is not None)
        assert self.failed is None, self.failed

    def _run(self):
        turn = 0
        while not self._closed.is_set() and self.failed is None:
            url = self._urls[turn % len(self._urls)]
            turn += 1
            try:
                self._connect(url)
            except (OSError, http.client.HTTPException, ValueError):
                if self._closed.is_set():
                    return
            self.connected_to = None
            self._closed.wait(CONNECT_AGAIN_S)

    def _connect(self, url):
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=READ_TIMEOUT_S)
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"} | self._headers
        if self.last_event_id:
            headers["Last-Event-ID"] = self.last_event_id
        try:
            connection.request("GET", self._path, headers=headers)
            # The answer takes the socket over.
            self._socket = connection.sock
            if self._closed.is_set():
                return
            response = connection.getresponse()
            kind = response.headers.get_content_type()
            if response.status != 200 or kind != "text/event-stream":
                self.failed = response.status, response.read()
                return
            self.connections += 1
            self.connected_to = url
            self._interpret(response)
        finally:
            connection.close()

    def _interpret(self, response):
        stream = EventStream(self.last_event_id)
        while line := response.readline():
            if not line.endswith(b"\n"):
                return
            event = stream.feed(line.decode().rstrip("\r\n"))
            self.comments += stream.comments
            stream.comments = 0
            self.retry_ms = stream.retry_ms or self.retry_ms
            if event is not None:
                (self.errors if event.type == "error" else self.events).append(event)
            # After the event is kept: whoever waits for the id finds the event.
            self.last_event_id = stream.last_event_id
