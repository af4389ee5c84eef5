"""How a broker divides the file descriptors that the system allows it.

Running out of descriptors is worse than refusing: a segment that cannot be opened stops the broker,
and a socket that cannot be accepted leaves a client without an answer. So everything that takes
descriptors in numbers has a limit, and all limits together fit: the division is made once, at the
start, and told in one line of the log. Pure.

What is always there (the Raft store, the lock, the event loop, logs that are being opened, files
that are being renamed and synced) comes first. Of the rest, segments get what they may use, up to
three eighths; sockets get the remainder.
"""

from dataclasses import dataclass
from typing import Final

from ottla_broker.storage.handles import DESCRIPTORS_PER_SEGMENT, OPEN_SEGMENTS_MAX

TURNED_AWAY_MAX: Final = 32
"""Connections beyond all limits that are told so at a time; others are closed without a word."""

RESERVED_DESCRIPTORS: Final = 96 + TURNED_AWAY_MAX
"""For everything that is not counted one by one: logs that are being opened, at most 16 at a time
with four each, threads of blocking work, the Raft store, the event loop, and refusals."""

DESCRIPTORS_MIN: Final = 256
"""With fewer a broker does not start."""

SOCKETS_BETWEEN_BROKERS_MIN: Final = 40
"""The talk between brokers of a small cluster, both ways."""

CONNECTIONS_MAX: Final = 32_768
"""Clients' connections at a time, unless the broker is told otherwise."""

PEER_CONNECTIONS_MAX: Final = 4_096
"""Connections to all peers together for short calls, and as many from them."""

PARKED_CALLS_MAX: Final = 16_384
"""Calls to all peers together that wait there for something to happen."""

STREAMED_READS_MAX: Final = 1_024
"""Reads of other brokers that are streamed through to a client at a time."""


class TooFewDescriptorsError(Exception):
    """The system does not allow the descriptors that this broker was told to use."""


@dataclass(frozen=True, slots=True)
class DescriptorBudget:
    """Most of each kind at a time."""

    descriptors: int
    open_segments: int
    connections: int
    """Accepted ones that serve clients."""
    reserved_connections: int
    """Accepted ones beyond that: for peers and for probes only."""
    peer_connections: int
    parked_calls: int
    streamed_reads: int


def divide_descriptors(
    descriptors: int, *, open_segments: int | None = None, connections: int | None = None
) -> DescriptorBudget:
    """Divide them.

    Args:
        descriptors: how many the process may have (RLIMIT_NOFILE).
        open_segments: how many segments are to be open at a time; None for as many as are useful.
        connections: how many connections of clients are to be served; None for what is left.

    Raises:
        TooFewDescriptorsError: it does not fit; the message tells how many it takes.
    """
    if descriptors < DESCRIPTORS_MIN:
        raise TooFewDescriptorsError(
            f"a broker needs {DESCRIPTORS_MIN} file descriptors, and the system allows "
            f"{descriptors} (ulimit -Hn)"
        )
    left = descriptors - RESERVED_DESCRIPTORS
    if open_segments is None:
        open_segments = min(OPEN_SEGMENTS_MAX, left * 3 // 8 // DESCRIPTORS_PER_SEGMENT)
    sockets = left - open_segments * DESCRIPTORS_PER_SEGMENT
    # Half of them serve clients, half the talk between brokers, which goes on under any load.
    served = min(CONNECTIONS_MAX, sockets // 2) if connections is None else connections
    between = min(
        sockets - served, 2 * PEER_CONNECTIONS_MAX + PARKED_CALLS_MAX + STREAMED_READS_MAX
    )
    if between < SOCKETS_BETWEEN_BROKERS_MIN:
        needed = (
            RESERVED_DESCRIPTORS
            + open_segments * DESCRIPTORS_PER_SEGMENT
            + served
            + SOCKETS_BETWEEN_BROKERS_MIN
        )
        raise TooFewDescriptorsError(
            f"{open_segments} open segments (max_open_segments) and {served} connections "
            f"(max_connections) need {needed} file descriptors with what else a broker needs, and "
            f"the system allows {descriptors} (ulimit -Hn)"
        )
    return DescriptorBudget(
        descriptors=descriptors,
        open_segments=open_segments,
        connections=served,
        reserved_connections=min(PEER_CONNECTIONS_MAX, between * 3 // 10),
        peer_connections=min(PEER_CONNECTIONS_MAX, between * 3 // 10),
        parked_calls=min(PARKED_CALLS_MAX, between * 3 // 10),
        streamed_reads=min(STREAMED_READS_MAX, between // 10),
    )
