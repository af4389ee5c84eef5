"""Bounds on what clients have a broker hold.

These are produce bodies that are being read or wait for their ack, other bodies, and answers that
are not taken.

Bytes count as they arrive. What a client has only announced costs nothing, so clients that announce
much and send nothing keep nobody else out.
"""

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

    @contextmanager
    def hold(self) -> Iterator["HeldBytes"]:
        """What one request holds until it is answered."""
        held = HeldBytes(self)
        try:
            yield held
        finally:
            held.release()


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

    def release(self) -> None:
        """Hold nothing any more."""
        self._inflight.held_bytes -= self.size_bytes
        self.size_bytes = 0
        self._inflight.gauge.set(self._inflight.held_bytes)
