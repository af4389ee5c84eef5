"""How a broker divides the file descriptors that the system allows it.

Running out of descriptors is worse than refusing: a segment that cannot be opened stops the broker,
and a socket that cannot be accepted leaves a client without an answer. So everything that takes
descriptors in numbers has a limit, and all limits together fit: the division is made once, at the
start, and told in one line of the log. Pure.

What is always there (the Raft store, the lock, the event loop, logs that are being opened, files
that are being renamed and synced) comes first. Of the rest, segments get what they may use, up to
three eighths; sockets get the remainder. What keeps the cluster together (Raft, the controller,
replication) has sockets of its own per peer, both ways, which no work of clients can take.
"""

from dataclasses import dataclass
from typing import Final

from ottla_broker.storage.handles import DESCRIPTORS_PER_SEGMENT, OPEN_SEGMENTS_MAX
from ottla_cluster.transactions.marker_planner import MARKER_CALLS_PER_LEADER

TURNED_AWAY_MAX: Final = 32
"""Connections beyond all limits that are told so at a time; others are closed without a word."""

RESERVED_DESCRIPTORS: Final = 96 + TURNED_AWAY_MAX
"""For everything that is not counted one by one: logs that are being opened, at most 16 at a time
with four each, threads of blocking work, the Raft store, the event loop, and refusals."""

DESCRIPTORS_MIN: Final = 256
"""With fewer a broker does not start; one of more than three brokers needs more."""

CLUSTER_CALLS_PER_PEER: Final = 6 + MARKER_CALLS_PER_LEADER
"""Calls to one peer at a time that the cluster lives by: Raft messages, replica fetches,
heartbeats, news of metadata, reports of peers and of replicas, and markers of transactions; ISR
proposals come on top."""

ISR_PROPOSALS_MAX: Final = 32
"""ISR proposals of this broker on their way to the controller at a time."""

ISR_PROPOSALS_MIN: Final = 2

FORWARDED_SOCKETS_MIN: Final = 20
"""What clients want of other brokers than the one they ask, both ways."""

CONNECTIONS_MAX: Final = 32_768
"""Clients' connections at a time, unless the broker is told otherwise."""

PEER_CONNECTIONS_MAX: Final = 4_096
"""Connections to all peers together for short calls of clients, and as many from peers."""

FORWARDED_PRODUCES_MAX: Final = 4_096
"""Produce requests at a time that wait at all peers together to be acknowledged."""

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
    cluster_connections: int
    """To all peers together for what the cluster lives by, and as many accepted from them."""
    cluster_connections_per_peer: int
    isr_proposals: int
    peer_connections: int
    forwarded_produces: int
    parked_calls: int
    streamed_reads: int


def divide_descriptors(
    descriptors: int,
    *,
    peers: int = 0,
    open_segments: int | None = None,
    connections: int | None = None,
) -> DescriptorBudget:
    """Divide them.

    Args:
        descriptors: how many the process may have (RLIMIT_NOFILE).
        peers: how many other brokers the cluster has.
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
    proposals = _isr_proposals(sockets - (connections or 0), peers)
    cluster = peers * (CLUSTER_CALLS_PER_PEER + proposals)
    sockets -= 2 * cluster
    # Half of the rest serves clients, half what this broker asks of others for them.
    served = min(CONNECTIONS_MAX, max(0, sockets // 2)) if connections is None else connections
    between = min(
        sockets - served,
        2 * PEER_CONNECTIONS_MAX + FORWARDED_PRODUCES_MAX + PARKED_CALLS_MAX + STREAMED_READS_MAX,
    )
    if between < FORWARDED_SOCKETS_MIN:
        needed = (
            RESERVED_DESCRIPTORS
            + open_segments * DESCRIPTORS_PER_SEGMENT
            + 2 * peers * (CLUSTER_CALLS_PER_PEER + ISR_PROPOSALS_MIN)
            + (FORWARDED_SOCKETS_MIN if connections is None else connections)
            + FORWARDED_SOCKETS_MIN
        )
        raise TooFewDescriptorsError(
            f"{open_segments} open segments (max_open_segments) and {served} connections "
            f"(max_connections) of a broker with {peers} peers need {needed} file descriptors with "
            f"what else a broker needs, and the system allows {descriptors} (ulimit -Hn)"
        )
    return DescriptorBudget(
        descriptors=descriptors,
        open_segments=open_segments,
        connections=served,
        reserved_connections=min(PEER_CONNECTIONS_MAX, between * 3 // 10),
        cluster_connections=cluster,
        cluster_connections_per_peer=CLUSTER_CALLS_PER_PEER + proposals,
        isr_proposals=proposals,
        peer_connections=min(PEER_CONNECTIONS_MAX, between * 2 // 10),
        forwarded_produces=min(FORWARDED_PRODUCES_MAX, between * 2 // 10),
        parked_calls=min(PARKED_CALLS_MAX, between * 2 // 10),
        streamed_reads=min(STREAMED_READS_MAX, between // 10),
    )


def _isr_proposals(sockets: int, peers: int) -> int:
    """How many may be on their way at a time, so that all peers take a twelfth of the sockets.

    Each has a place at every peer, because any of them may be the controller.
    """
    per_peer = sockets // (12 * 2 * max(1, peers))
    return max(ISR_PROPOSALS_MIN, min(ISR_PROPOSALS_MAX, per_peer - CLUSTER_CALLS_PER_PEER))
