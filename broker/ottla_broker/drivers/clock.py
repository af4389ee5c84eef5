"""The two clocks of a broker.

Leases, sessions, elections and deadlines use the monotonic clock, so that a step of the wall clock
moves none of them (reliability: bug 11). The wall clock only stamps records.
"""

import time


def monotonic_ms() -> int:
    """Milliseconds of the monotonic clock; only differences mean anything."""
    return time.monotonic_ns() // 1_000_000


def wall_clock_ms() -> int:
    """Milliseconds since the Unix epoch, for record timestamps."""
    return time.time_ns() // 1_000_000
