"""What the body of a produce is, by its Content-Type, and the records in it.

    application/json, a form (curl's default for -d), no type   {"records": [...]}
    application/cloudevents+json                                one CloudEvent
    application/cloudevents-batch+json                          an array of CloudEvents
    any, with a header ce-specversion                           one CloudEvent in binary form
    application/octet-stream                                    the value of one record
    any other, with a key, a timestamp or a record header       the value of one record, which gets
                                                                the type as its header content-type

A type that we do not know is refused unless the request says what only the value of one record can
have: browsers call JSON text/plain, and an envelope must never become a record by mistake.
"""

import base64
import binascii
from collections.abc import Iterable, Sequence
from enum import Enum, auto

from ottla_broker.http.json_bodies import FORM
from ottla_broker.http.post import Post
from ottla_broker.http.query import Query
from ottla_protocol import routes
from ottla_protocol.cloud_events import (
    BATCH,
    CONTENT_TYPE,
    SPECVERSION_HEADER,
    STRUCTURED,
    binary_event,
    parse_batch,
    parse_event,
)
from ottla_protocol.errors import InvalidRequestError, UnsupportedMediaTypeError
from ottla_protocol.json_records import MAX_HEADERS_PER_RECORD, ParsedRecord, parse_records

ACCEPTED = (routes.JSON, routes.NDJSON, routes.OCTET_STREAM, STRUCTURED, BATCH)
"""What a refusal names. Everything else is the value of a record, if the request says so."""

PRODUCE_PARAMETERS = ("acks", "timeout_ms")
RAW_PARAMETERS = ("key", "key_b64", "timestamp")
"""What only the value of one record can have; so can headers with HEADER_RECORD_PREFIX."""

_RECORD_PREFIX = routes.HEADER_RECORD_PREFIX.lower()
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class BodyKind(Enum):
    """How a body is read."""

    JSON = auto()
    RAW = auto()
    EVENT = auto()
    EVENTS = auto()
    BINARY_EVENT = auto()


_KINDS = {
    routes.JSON: BodyKind.JSON,
    FORM: BodyKind.JSON,
    routes.OCTET_STREAM: BodyKind.RAW,
    STRUCTURED: BodyKind.EVENT,
    BATCH: BodyKind.EVENTS,
}


def body_kind(post: Post) -> BodyKind:
    """How this request's body is to be read.

    Raises:
        UnsupportedMediaTypeError: no way is known, and it does not say that it is a value.
    """
    if "content-type" not in post.headers:
        kind: BodyKind | None = BodyKind.JSON
    else:
        kind = _KINDS.get(post.media_type)
    if SPECVERSION_HEADER in post.headers and kind not in (BodyKind.EVENT, BodyKind.EVENTS):
        return BodyKind.BINARY_EVENT
    if kind is not None:
        return kind
    if _is_envelope(post.media_type) or not _says_that_it_is_a_value(post):
        raise UnsupportedMediaTypeError(
            f"Content-Type '{post.media_type}' is none of {', '.join(ACCEPTED)}; as the value of "
            f"one record any other is taken with ?key=, ?timestamp= or a header "
            f"{routes.HEADER_RECORD_PREFIX}*",
            accepted=list(ACCEPTED),
        )
    return BodyKind.RAW


def _is_envelope(media_type: str) -> bool:
    """Whether records stand inside of it in some way that we do not read."""
    return media_type.startswith(("multipart/", "application/cloudevents", "application/vnd.kafka"))


def _says_that_it_is_a_value(post: Post) -> bool:
    return any(name in RAW_PARAMETERS for name, _ in post.query) or any(
        name.lower().startswith(_RECORD_PREFIX) for name in post.headers
    )


def parameters(kind: BodyKind) -> Sequence[str]:
    """The query parameters that go with such a body."""
    return (*PRODUCE_PARAMETERS, *RAW_PARAMETERS) if kind is BodyKind.RAW else PRODUCE_PARAMETERS


def read_records(kind: BodyKind, post: Post, body: bytes, query: Query) -> list[ParsedRecord]:
    """The records of a request.

    Args:
        kind: what `body_kind` said.
        post: the request.
        body: its body.
        query: its parameters, of those that `parameters` allows.

    Raises:
        InvalidRequestError, MalformedBodyError, MessageTooLargeError: as the parsers tell.
    """
    match kind:
        case BodyKind.JSON:
            return parse_records(body)
        case BodyKind.RAW:
            return [_raw_record(post, body, query)]
        case BodyKind.EVENT:
            return [parse_event(body)]
        case BodyKind.EVENTS:
            return parse_batch(body)
        case BodyKind.BINARY_EVENT:
            return [binary_event(post.headers.items(), body)]


def _raw_record(post: Post, body: bytes, query: Query) -> ParsedRecord:
    headers = list(_record_headers(post.headers.items()))
    is_described = any(name == CONTENT_TYPE for name, _ in headers)
    if post.media_type != routes.OCTET_STREAM and not is_described:
        described = post.headers["content-type"].encode("utf-8", "surrogateescape")
        headers.insert(0, (CONTENT_TYPE, described))
    if len(headers) > MAX_HEADERS_PER_RECORD:
        raise InvalidRequestError(
            f"{len(headers)} headers, at most {MAX_HEADERS_PER_RECORD}",
            field=f"{routes.HEADER_RECORD_PREFIX}*",
        )
    return ParsedRecord(_key(query), body, tuple(headers), query.timestamp("timestamp"))


def _record_headers(headers: Iterable[tuple[str, str]]) -> Iterable[tuple[str, bytes]]:
    """The record's headers: names in lower case, since HTTP does not tell cases apart."""
    for name, value in headers:
        lowered = name.lower()
        if lowered.startswith(_RECORD_PREFIX):
            record_name = lowered.removeprefix(_RECORD_PREFIX)
            if not record_name:
                raise InvalidRequestError(
                    f"{routes.HEADER_RECORD_PREFIX} needs a name behind it", field=name
                )
            yield record_name, value.encode("utf-8", "surrogateescape")


def _key(query: Query) -> bytes | None:
    key, key_b64 = query.text("key"), query.text("key_b64")
    if key is not None and key_b64 is not None:
        raise InvalidRequestError("key and key_b64 exclude each other", parameter="key")
    if key_b64 is not None:
        try:
            # A plus sign in a query is a space to whoever decodes it.
            return base64.b64decode(key_b64.replace(" ", "+").encode("ascii"), validate=True)
        except (binascii.Error, UnicodeEncodeError) as error:
            raise InvalidRequestError("key_b64 must be base64", parameter="key_b64") from error
    if key is None:
        return None
    if _REPLACEMENT in key:
        raise InvalidRequestError("key must be UTF-8; bytes go in key_b64", parameter="key")
    return key.encode("utf-8", "surrogatepass")
