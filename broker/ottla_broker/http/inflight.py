"""Bounds on what clients have a broker hold.

These are produce bodies that are being read or wait for their ack, other bodies, and answers that
are not taken.

Bytes count as they arrive. What a client has only announced costs nothing, so clients that announce
much and send nothing keep nobody else out.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Gauge

from ottla_broker.telemetry import METRICS
from ottla_protocol.errors import Outcome, OverloadedError

OTHER_BODIES_BYTES_MAX = 64 << 20
"""All bodies of clients together that are no produce: heartbeats must not wait for producers."""


class InflightBytes:
    """Counts bytes against `limit_bytes`; one request always fits, so nothing starves.

    Args:
        limit_bytes: most bytes at a time.
        what: is counted, and by which setting it is bounded, for the refusal.
        gauge: shows how much is held.
    """

    def __init__(
        self,
        limit_bytes: int,
        what: str = "produce bodies in flight (max_inflight_produce_bytes)",
        gauge: Gauge = METRICS.inflight_produce_bytes,
    ) -> None:
        self.limit_bytes = limit_bytes
        self.what = what
        self.gauge = gauge
        self.held_bytes = 0
        # Streams that wait until something is given back.
        self._waiting: list[asyncio.Future[None]] = []

    @contextmanager
    def hold(self) -> Iterator["HeldBytes"]:
        """What one request holds until it is answered."""
        held = HeldBytes(self)
        try:
            yield held
        finally:
            held.release()

    async def given_back(self) -> None:
        """Wait until somebody holds less."""
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        try:
            await waiting
        finally:
            if waiting in self._waiting:
                self._waiting.remove(waiting)

    def give_back(self, size_bytes: int) -> None:
        """Somebody holds that much less."""
        self.held_bytes -= size_bytes
        self.gauge.set(self.held_bytes)
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)


class HeldBytes:
    """The share of one request; whoever makes one must release it."""

    def __init__(self, inflight: InflightBytes) -> None:
        self.size_bytes = 0
        self._inflight = inflight

    def grow(self, size_bytes: int) -> None:
        """Hold that many bytes more.

        Raises:
            OverloadedError: the limit is reached; nothing was applied.
        """
        inflight = self._inflight
        others_hold_bytes = inflight.held_bytes - self.size_bytes
        if others_hold_bytes and inflight.held_bytes + size_bytes > inflight.limit_bytes:
            raise OverloadedError(
                f"{inflight.what} are at their limit of {inflight.limit_bytes} bytes",
                outcome=Outcome.NOT_APPLIED,
                retry_after_seconds=1,
            )
        self.count(size_bytes)

    def count(self, size_bytes: int) -> None:
        """Hold that many bytes more that are there already, whatever the limit."""
        inflight = self._inflight
        self.size_bytes += size_bytes
        inflight.held_bytes += size_bytes
        inflight.gauge.set(inflight.held_bytes)

    def shrink(self, size_bytes: int) -> None:
        """Hold that many bytes less."""
        self.size_bytes -= size_bytes
        self._inflight.give_back(size_bytes)

    async def grow_in_time(self, size_bytes: int) -> None:
        """As `grow`, but wait at the limit: whoever can be kept waiting need not be refused."""
        while True:
            try:
                self.grow(size_bytes)
            except OverloadedError:
                await self._inflight.given_back()
            else:
                return

    def release(self) -> None:
        """Hold nothing any more."""
        self.shrink(self.size_bytes)
