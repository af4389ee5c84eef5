"""Sockets that take with them whatever they have not delivered.

Closing a socket gives up an answer, not the request: what the peer has not confirmed stays with the
kernel, which goes on sending it for a minute and more, even after the process has ended. So a
request that nobody waits for any more, and that was long since sent again elsewhere, can arrive
after a broken network has healed and be carried out then. Every socket that carries requests is
therefore reset when it is closed, however it comes to be closed (decision 59). An exchange that is
complete loses nothing by that: its answer says that the request has arrived.
"""

import socket
import struct
import sys
from typing import Any

_LINGER_FORMAT = "hh" if sys.platform == "win32" else "ii"

RESET_ON_CLOSE = (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack(_LINGER_FORMAT, 1, 0))
"""The arguments of `setsockopt`: to linger after the end, for no time at all."""


def new_socket(address: tuple[Any, ...]) -> socket.socket:
    """A socket that is reset on close, for an address as `getaddrinfo` gives it."""
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(*RESET_ON_CLOSE)
    except BaseException:
        made.close()
        raise
    return made
