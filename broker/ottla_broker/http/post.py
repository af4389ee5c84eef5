"""A POST that has arrived whole, and its answer: what the busy calls are written against.

Requests reach these handlers in two ways, by `connection` (short and quick) and by aiohttp (for
everything out of the ordinary), and must not be able to tell which.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import msgspec
from aiohttp import web

from ottla_broker.http.context import BrokerContext
from ottla_broker.request_id import REQUEST_ID
from ottla_broker.settings import Settings
from ottla_protocol import routes
from ottla_protocol.errors import OttlaError
from ottla_protocol.record_batch import Buffer

DEFAULT_CONTENT_TYPE = routes.OCTET_STREAM
"""What a request without a Content-Type carries, by RFC 9110 section 8.3."""


STREAM_MEDIA_TYPES = frozenset({routes.NDJSON, "application/ndjson", "application/jsonl"})
"""One record a line, in a body that may never end."""


def media_type_of(content_type: str) -> str:
    """A Content-Type without its parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower() or DEFAULT_CONTENT_TYPE


class Post(NamedTuple):
    """One request.

    Attributes:
        values: the names in the route's path, as `{topic}`, with their values.
        query: the query's names and values, decoded, in order.
        headers: the header fields; look them up by lower-case names.
        body: the whole body without its Content-Encoding; the handler may keep and change it.
    """

    values: Mapping[str, str]
    query: Sequence[tuple[str, str]]
    headers: Mapping[str, str]
    body: bytes | bytearray

    @property
    def media_type(self) -> str:
        """The Content-Type without its parameters, in lower case."""
        return media_type_of(self.headers.get("content-type", DEFAULT_CONTENT_TYPE))


class Answer(NamedTuple):
    """One answer; the parts of the body are sent one after the other, without being joined."""

    status: int
    content_type: str | None
    body: tuple[Buffer, ...]
    headers: tuple[tuple[str, str], ...] = ()


RETRY_AFTER_STATUSES = (503, 507)
"""Answers that say when to come back."""

NO_CONTENT = Answer(204, None, ())

_msgpack = msgspec.msgpack.Encoder()


def msgpack_answer(document: object, status: int = 200) -> Answer:
    """A struct as MessagePack."""
    return Answer(status, routes.MSGPACK, (_msgpack.encode(document),))


def problem_answer(error: OttlaError) -> Answer:
    """The error as application/problem+json, with Retry-After where trying again may help later."""
    headers: tuple[tuple[str, str], ...] = ()
    if error.status in RETRY_AFTER_STATUSES:
        headers = (("Retry-After", str(error.members.get("retry_after_seconds", 1))),)
    document = error.problem()
    request_id = REQUEST_ID.get()
    if request_id is not None:
        # An error that another broker told may name more requests than this one.
        document["request_id"] = request_id
    body = msgspec.json.encode(_encodable(document))
    return Answer(error.status, routes.PROBLEM_JSON, (body,), headers)


def _encodable(value: object) -> object:
    """The value with U+FFFD for bytes of a header that were no UTF-8: an error may quote them."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if isinstance(value, dict):
        return {name: _encodable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_encodable(item) for item in value]
    return value


PostHandler: TypeAlias = Callable[[BrokerContext, Post], Awaitable[Answer]]


StreamHandler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _admit_anybody(context: BrokerContext, headers: Mapping[str, str]) -> None:
    """Public routes look at the request alone."""


@dataclass(frozen=True, slots=True)
class PostRoute:
    """One path, and how its requests are served.

    Attributes:
        path: with `{name}` for what varies; a label of the metrics.
        handler: serves it.
        limit_bytes: the longest body, as sent and inflated.
        is_write: failures before the handler carry the outcome `not_applied`.
        counts_inflight: its bodies count against `max_inflight_produce_bytes`. Those of forwards
            have been counted where they came in.
        admit: looks at the headers before the body is read; raises OttlaError to refuse.
        stream: serves bodies of STREAM_MEDIA_TYPES, which are not read whole; aiohttp's, always.
    """

    path: str
    handler: PostHandler
    limit_bytes: Callable[[Settings], int]
    is_write: bool = False
    counts_inflight: bool = False
    admit: Callable[[BrokerContext, Mapping[str, str]], None] = _admit_anybody
    stream: StreamHandler | None = None

    def streams(self, content_type: str | None) -> bool:
        """Whether a body of this Content-Type is for `stream`."""
        return (
            self.stream is not None
            and content_type is not None
            and media_type_of(content_type) in STREAM_MEDIA_TYPES
        )
