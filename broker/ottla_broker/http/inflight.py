"""A bound on the bytes of produce bodies that are being read or wait for their ack."""

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
    def hold(self, size_bytes: int) -> Iterator[None]:
        """Hold `size_bytes` until the request is answered.

        Raises:
            OverloadedError: the limit is reached; nothing was read or applied.
        """
        if self.held_bytes and self.held_bytes + size_bytes > self.limit_bytes:
            raise OverloadedError(
                f"produce bodies in flight are at their limit of {self.limit_bytes} bytes "
                "(max_inflight_produce_bytes)",
                outcome=Outcome.NOT_APPLIED,
                retry_after_seconds=1,
            )
        self.held_bytes += size_bytes
        METRICS.inflight_produce_bytes.set(self.held_bytes)
        try:
            yield
        finally:
            self.held_bytes -= size_bytes
            METRICS.inflight_produce_bytes.set(self.held_bytes)
