"""The id of the request that is being served: in log lines, in answers, and at the next broker.

A client or a proxy may send one (`X-Request-Id`); else the broker that is asked makes one. It is
kept in a context variable, so that whatever a request has done says for whom, and calls to other
brokers carry it. A forward that serves several requests names them all, with commas between.

What clients send ends up in logs, so it is taken only in a narrow form; anything else is as if
there were none.
"""

import contextvars
import re
import secrets
from collections.abc import Iterable, MutableMapping
from contextvars import ContextVar
from itertools import count
from typing import Any, Final

from ottla_protocol import routes

REQUEST_ID_CHARACTERS_MAX: Final = 64
"""Long enough for a UUID, a trace id, or what proxies make."""

IDS_PER_FORWARD_MAX: Final = 16
"""Requests that one forward names; it may serve more."""

REQUEST_ID: Final[ContextVar[str | None]] = ContextVar("request_id", default=None)
"""None in what the broker does of its own accord."""

_ONE = rf"[A-Za-z0-9._~:/+=@-]{{1,{REQUEST_ID_CHARACTERS_MAX}}}"
_REQUEST_ID = re.compile(_ONE)
_FORWARDED = re.compile(rf"{_ONE}(?:,{_ONE}){{0,{IDS_PER_FORWARD_MAX - 1}}}")

_MARK = f"\r\n{routes.HEADER_REQUEST_ID.lower()}:".encode("ascii")
# The value has no blanks: where they could be its own or those around it, a head full of them
# would be tried in every combination, for seconds, before anybody knows who sends it.
_FIELD = re.compile(
    rb"\r\n%b:[ \t]*([^\r\n \t]+)[ \t]*(?=\r\n[^ \t])" % routes.HEADER_REQUEST_ID.encode("ascii"),
    re.IGNORECASE,
)

_process = secrets.token_hex(4)
_numbers = count(1)


def new_request_id() -> str:
    """An id that no other request has: of this process, and a number."""
    return f"{_process}-{next(_numbers):x}"


def accepted(told: str | None, *, is_internal: bool) -> str | None:
    """The id that a request goes by.

    Args:
        told: what its header says; None without one.
        is_internal: it came from another broker, for requests that have their ids, or for none.
    """
    if is_internal:
        return told if told is not None and _FORWARDED.fullmatch(told) else None
    return told if told is not None and _REQUEST_ID.fullmatch(told) else new_request_id()


def joined(request_ids: Iterable[str | None]) -> str | None:
    """What a forward for all of these goes by."""
    known = dict.fromkeys(each for each in request_ids if each is not None)
    return ",".join(list(known)[:IDS_PER_FORWARD_MAX]) or None


def take_from_head(head: bytes) -> tuple[str | None, bytes]:
    """The id in a request's head, and the head without it.

    Heads are the same again and again but for their ids, and what they mean is remembered by their
    bytes. A head is left as it is where the field is anything but an id on one line.
    """
    if _MARK not in head.lower():
        return None, head
    field = _FIELD.search(head)
    if field is None:
        return None, head
    told = field[1].decode("latin-1")
    if _FORWARDED.fullmatch(told) is None:
        return None, head
    return told, head[: field.start()] + head[field.end() :]


def outside_requests() -> contextvars.Context:
    """A context for work that a request happens to begin, and that is not its own."""
    context = contextvars.copy_context()
    context.run(REQUEST_ID.set, None)
    return context


def add_request_id(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Say for which request a log line is; a processor of structlog's."""
    request_id = REQUEST_ID.get()
    if request_id is not None:
        event["request_id"] = request_id
    return event
