"""A bound on the bytes of produce bodies that are being read or wait for their ack.

Bytes count as they arrive. What a client has only announced costs nothing, so clients that announce
much and send nothing keep nobody else out.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from ottla_broker.telemetry import METRICS
from ottla_protocol.errors import Outcome, OverloadedError


class InflightBytes:
    """Counts bytes against `limit_bytes`; one request always fits, so nothing starves."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
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
                f"produce bodies in flight are at their limit of {inflight.limit_bytes} bytes "
                "(max_inflight_produce_bytes)",
                outcome=Outcome.NOT_APPLIED,
                retry_after_seconds=1,
            )
        self.size_bytes += size_bytes
        inflight.held_bytes += size_bytes
        METRICS.inflight_produce_bytes.set(inflight.held_bytes)

    def release(self) -> None:
        """Hold nothing any more."""
        self._inflight.held_bytes -= self.size_bytes
        self.size_bytes = 0
        METRICS.inflight_produce_bytes.set(self._inflight.held_bytes)
