"""How long a client may take, on both ways from a socket to a handler. Pure.

A time-out between two bytes ends who stands still; who sends one byte each second it never ends,
and each such client holds a connection for as long as it likes. So what has begun must also come to
its end: a head within HEAD_TOTAL_S, a body at BODY_BYTES_PER_S_MIN on average, an answer at
ANSWER_BYTES_PER_S_MIN. Every request gets some seconds before its rate counts, so that a line that
is bad for a while fails nobody (as in Apache's mod_reqtimeout).
"""

from typing import Final

from ottla_protocol import routes

KEEP_ALIVE_S: Final = 75.0
"""How long a connection may be idle between requests."""

RECEIVE_IDLE_S: Final = 15.0
"""How long a head or a body that has begun may stand still."""

HEAD_TOTAL_S: Final = 30.0
"""How long a head may take from its first byte."""

BODY_GRACE_S: Final = 30.0
BODY_BYTES_PER_S_MIN: Final = 1_024
"""How long a body may take: the grace, and a second for so many bytes that have come."""

SEND_IDLE_S: Final = 60.0
"""How long a client may take nothing of its answer."""

ANSWER_GRACE_S: Final = 60.0
ANSWER_BYTES_PER_S_MIN: Final = 1_024
"""How long a client may take over an answer that is written whole. Streams have no end to wait for:
they are held to SEND_IDLE_S alone, and hold no more than what is being written."""

HALF_CLOSED_READ_S: Final = 0.5
HALF_CLOSED_WRITE_S: Final = 5.0
"""How long a client that sends nothing more may wait for its answer. It has gone, or it has said
all that it had to say and shut its sending side; a broker cannot tell. So whoever has gone frees
his poll at once, and whoever has not hears what became of his write, if that is soon."""

PARKING_POSTS: Final = frozenset({routes.GROUP_POLL, routes.GROUP_HEARTBEAT})
"""POSTs that wait as reads do: they are not kept for a client that may have gone, who would go on
counting as a member that is well."""


def body_deadline_s(began_s: float, received_bytes: int) -> float:
    """Until when a body must be there of which so much has come.

    Args:
        began_s: when its first byte, or its head, came; any clock's time.
        received_bytes: how much of it is there.
    """
    return began_s + BODY_GRACE_S + received_bytes / BODY_BYTES_PER_S_MIN


def answer_deadline_s(began_s: float, answer_bytes: int) -> float:
    """Until when an answer that was written at `began_s` must be taken."""
    return began_s + ANSWER_GRACE_S + answer_bytes / ANSWER_BYTES_PER_S_MIN
