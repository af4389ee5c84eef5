"""What the HTTP API offers, as data: the routes and `/v1/openapi.json` are both made from it.

The tables are in `operation_tables`, one module per resource. Each `Operation` names its handler,
its parameters with their bounds, the bodies that it takes by media type, its answers with their
models, and the errors that it may end in. Bounds come from the constants that the handlers check
against, schemas from the msgspec structs that requests are decoded into, and error statuses and
codes from the error classes: none of them is written twice.

What is the same for many operations is added where the document is made: every operation may end in
`ANYWHERE`, one with a body in `WITH_A_BODY`, one that only brokers serve in `AT_BROKERS`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from ottla_broker.http.problems import Handler
from ottla_protocol import routes
from ottla_protocol.errors import (
    ClusterAuthorizationFailedError,
    ControllerNotAvailableError,
    HostNotAllowedError,
    InconsistentClusterIdError,
    InternalError,
    InvalidRequestError,
    MalformedBodyError,
    MalformedRequestError,
    MessageTooLargeError,
    MismatchedEndpointTypeError,
    OriginNotAllowedError,
    OttlaError,
    OverloadedError,
    RequestHeadTooLargeError,
    RequestNotReceivedError,
    RequestTimedOutError,
    UnavailableError,
    UnsupportedMediaTypeError,
)

Schema: TypeAlias = Mapping[str, Any]
"""A JSON Schema (2020-12), as OpenAPI 3.1 has it."""

Problems: TypeAlias = tuple[type[OttlaError], ...]

ANYWHERE: Problems = (
    InvalidRequestError,
    MalformedRequestError,
    RequestHeadTooLargeError,
    HostNotAllowedError,
    OriginNotAllowedError,
    InternalError,
    OverloadedError,
)
"""An unknown query parameter, no request at all, a head over its limit, a name that is not the
broker's, a page of another site, a defect, and a limit of the broker."""

WITH_A_BODY: Problems = (
    MalformedBodyError,
    MessageTooLargeError,
    UnsupportedMediaTypeError,
    RequestNotReceivedError,
)
"""What reading and parsing a body may end in; see `bodies`."""

AT_BROKERS: Problems = (
    MismatchedEndpointTypeError,
    InconsistentClusterIdError,
    ClusterAuthorizationFailedError,
)
"""What `admission` refuses."""

THROUGH_THE_CONTROLLER: Problems = (
    ControllerNotAvailableError,
    UnavailableError,
    RequestTimedOutError,
)
"""What a question or a change may end in that the active controller has to answer."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One value in the path, the query or the headers.

    Attributes:
        name: as it is sent.
        place: where it is sent; those of the path are required.
        description: one sentence, with the unit.
        schema: of the value, after decoding.
        example: one that works, or None.
    """

    name: str
    place: Literal["path", "query", "header"]
    description: str
    schema: Schema
    example: Any = None


@dataclass(frozen=True, slots=True)
class Content:
    """A body: of a request, or of an answer.

    Attributes:
        model: the msgspec type that it is decoded into or encoded from, or its JSON Schema.
        media_type: its Content-Type, without parameters.
        also: a schema that it meets besides `model`'s, with rules that the type does not tell.
        example: one that works, or None.
    """

    model: Any
    media_type: str = routes.JSON
    also: Schema = field(default_factory=dict)
    example: Any = None


@dataclass(frozen=True, slots=True)
class Link:
    """What an answer leads to: an operation that goes on with what this one was told or made.

    Values are as they are, or runtime expressions of OpenAPI: `$response.body#/name`.

    Attributes:
        operation_id: what comes next.
        parameters: values of its parameters by name, where two have one name by `path.name`.
        body: members of its body; what else that needs is the caller's to say.
    """

    operation_id: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """One status that is no `application/problem+json`.

    Attributes:
        status: the HTTP status.
        description: one sentence.
        contents: the body, by media type; none where there is no body.
        headers: names and descriptions of headers that it has.
        links: what it leads to, at most one link to each operation.
    """

    status: int
    description: str
    contents: tuple[Content, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    links: tuple[Link, ...] = ()


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path.

    Attributes:
        method: GET, POST, PUT, PATCH or DELETE.
        path: as in `routes`, with `{name}` for what varies.
        operation_id: unique; what generated clients call it.
        tag: the group in the document.
        summary: what it does, in a few words.
        description: what else a caller has to know.
        handler: serves it; None where `POST_ROUTES` has the path.
        parameters: all that it takes; any other query parameter is refused.
        request: the bodies that it takes, by media type; none where it takes none.
        is_body_required: whether a body must be there.
        replies: what it answers when it does what it was asked.
        problems: the errors that it may end in, besides those that go without saying.
        broker_only: dedicated controllers refuse it.
        has_common_problems: whether those that go without saying are told as problem documents. The
            routes of other products' APIs say no, and describe their errors as replies.
    """

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    operation_id: str
    tag: str
    summary: str
    replies: tuple[Reply, ...]
    handler: Handler | None = None
    description: str = ""
    parameters: tuple[Parameter, ...] = ()
    request: tuple[Content, ...] = ()
    is_body_required: bool = True
    problems: Problems = ()
    broker_only: bool = False
    has_common_problems: bool = True

    def all_problems(self) -> Problems:
        """Every error that it may end in, by status and code."""
        classes = {*self.problems}
        if self.has_common_problems:
            classes |= {*ANYWHERE, *(WITH_A_BODY if self.request else ())}
            classes |= {*(AT_BROKERS if self.broker_only else ())}
        return tuple(sorted(classes, key=lambda each: (each.status, each.code)))


def ok(model: Any, description: str = "Done.", *, status: int = 200) -> tuple[Reply, ...]:
    """The one reply of most operations: a struct as JSON."""
    return (Reply(status, description, (Content(model),)),)


def integer(minimum: int, maximum: int, default: int | None = None) -> Schema:
    """The schema of a whole number within bounds."""
    schema: dict[str, Any] = {"type": "integer", "minimum": minimum, "maximum": maximum}
    return schema if default is None else schema | {"default": default}


def choice(*words: str, default: str) -> Schema:
    """The schema of one of some words."""
    return {"type": "string", "enum": list(words), "default": default}


def documented_path(path: str) -> str:
    """The path as OpenAPI writes it: without the patterns of aiohttp's `{name:pattern}`."""
    parts = []
    for part in path.split("{"):
        name, brace, rest = part.rpartition("}")
        parts.append(f"{name.partition(':')[0]}{brace}{rest}")
    return "{".join(parts)
