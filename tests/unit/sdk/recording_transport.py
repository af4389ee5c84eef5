"""A way to the fake cluster that notes what goes over it."""

import asyncio
import threading
import time
from typing import NamedTuple

import msgspec

from ottla_protocol import routes
from ottla_protocol.models import BinaryProduceRequest
from ottla_protocol.record_batch import read_header


class Sent(NamedTuple):
    """One request, as it left the producer."""

    at_s: float
    url: str
    path: str
    body: bytes
    timeout_ms: int


class RecordingTransport:
    """Passes everything on, and keeps it; posts wait while `holds` is set."""

    def __init__(self, cluster):
        self._inner = cluster.transport()
        self.holds = threading.Event()
        self.sent = []
        self.at_once = 0
        self.most_at_once = 0
        self.is_closed = False

    async def post(self, url, path, body, *, timeout_ms, content_type=routes.MSGPACK):
        self.sent.append(Sent(time.monotonic(), url, path, body, timeout_ms))
        if path == routes.PRODUCE:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            while self.holds.is_set():  # noqa: ASYNC110  the test's thread holds it
                await asyncio.sleep(0.002)
            return await self._inner.post(
                url, path, body, timeout_ms=timeout_ms, content_type=content_type
            )
        finally:
            if path == routes.PRODUCE:
                self.at_once -= 1

    async def get(self, url, path, *, timeout_ms):
        self.sent.append(Sent(time.monotonic(), url, path, b"", timeout_ms))
        return await self._inner.get(url, path, timeout_ms=timeout_ms)

    async def close(self):
        self.is_closed = True

    def to(self, path):
        return [each for each in self.sent if each.path.startswith(path)]

    @property
    def produces(self):
        """The produce requests, decoded."""
        return [
            msgspec.msgpack.decode(each.body, type=BinaryProduceRequest)
            for each in self.to(routes.PRODUCE)
            if each.path == routes.PRODUCE
        ]

    @property
    def headers(self):
        """The header of every batch sent."""
        return [read_header(batch.batch) for request in self.produces for batch in request.batches]
