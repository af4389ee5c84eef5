"""How fast a leader copies partitions to the replicas that a reassignment adds.

Moving a partition reads all of it from one broker's disk and writes it to another's, as fast as
both can: clients of those brokers feel it. So a rate can be set for the cluster: each broker sends
at most so many bytes a second, over all partitions, to replicas that are being added and are not in
sync yet. What a replica in the ISR fetches never counts and never waits (KIP-73's two rates are one
here, and the list of throttled replicas is what the metadata says anyway).

The rate is kept by a token bucket that may run into debt: a piece is sent if there is anything in
it, and then pays for itself. So one large batch passes under any rate, and the average holds.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ottla_cluster.controller.image import Partition

BURST_MS = 1_000
"""How much of a quiet time can be made up for: a second's worth."""

PIECE_BYTES = 64 << 10
"""What it is worth to go to the disk for; a smaller piece waits, unless the rate is as small."""

PIECE_MS = 100
"""A piece need not be larger than what the rate gives in this time."""


def is_throttled(partition: "Partition", replica_id: int) -> bool:
    """Whether the replica is being added to the partition and is not in sync yet."""
    return replica_id in partition.adding_replicas and replica_id not in partition.isr


class ReplicationThrottle:
    """One broker's sending rate for replicas that are being added; unlimited at first."""

    def __init__(self) -> None:
        self._bytes_per_second: int | None = None
        # In thousandths of a byte, so that a millisecond of any rate counts.
        self._tokens = 0
        self._as_of_ms = 0

    def set_rate(self, bytes_per_second: int | None, now_ms: int) -> None:
        """The rate from now on; None for no limit. The same rate again changes nothing.

        A debt stays a debt of bytes: raising the rate pays it off sooner.
        """
        if bytes_per_second == self._bytes_per_second:
            return
        assert bytes_per_second is None or bytes_per_second > 0, bytes_per_second
        self._refill(now_ms)
        self._bytes_per_second = bytes_per_second
        self._tokens = 0 if bytes_per_second is None else min(self._tokens, 0)
        self._as_of_ms = now_ms

    def allowance_bytes(self, now_ms: int) -> int | None:
        """How much may be sent now, 0 for nothing; None without a limit."""
        rate = self._bytes_per_second
        if rate is None:
            return None
        self._refill(now_ms)
        available = self._tokens // 1000
        piece_bytes = max(1, min(PIECE_BYTES, rate * PIECE_MS // 1000))
        return available if available >= piece_bytes else 0

    def sent(self, size_bytes: int, now_ms: int) -> None:
        """Count what was sent; a negative size takes back what was not sent after all."""
        if self._bytes_per_second is not None:
            self._refill(now_ms)
            self._tokens = min(self._tokens - size_bytes * 1000, self._burst)

    @property
    def _burst(self) -> int:
        assert self._bytes_per_second is not None
        return self._bytes_per_second * BURST_MS

    def _refill(self, now_ms: int) -> None:
        elapsed_ms = max(0, now_ms - self._as_of_ms)
        if self._bytes_per_second is not None:
            self._tokens = min(self._tokens + elapsed_ms * self._bytes_per_second, self._burst)
        self._as_of_ms = max(now_ms, self._as_of_ms)
