"""Ottla's errors as the REST Proxy API tells them: `{"error_code", "message"}`.

`error_code` is the HTTP status, or a code of five digits that clients of that API know. Items of a
stream have the status there, and the longer code in front of the message. What the body has no
member for stands at the end of the message: Ottla's own code, and of a write what became of it.
"""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec
from aiohttp import web

from ottla_broker.http.post import RETRY_AFTER_STATUSES
from ottla_protocol import routes
from ottla_protocol.errors import (
    ConflictError,
    GroupIdNotFoundError,
    InsufficientStorageError,
    InvalidRequestError,
    MalformedBodyError,
    NotFoundError,
    OttlaError,
    Outcome,
    RoutingError,
    TopicAlreadyExistsError,
    UnavailableError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
)
from ottla_protocol.models_rest_v3 import RestError

BAD_REQUEST = 400
UNPROCESSABLE = 422
NOT_FOUND = 404

INVALID = 40002
"""The cluster does not take what was asked for."""
NO_SUCH_TOPIC_OR_PARTITION = 40403
NO_SUCH_GROUP = 40405
BAD_PAYLOAD = 42206
"""A record's fields break a rule."""
BAD_BATCH = 42208
FAILED = 50002
RETRIABLE = 50003

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class RestCode(NamedTuple):
    """An HTTP status, and the code in the body."""

    status: int
    code: int


def rest_code(error: OttlaError) -> RestCode:
    """How the REST Proxy API tells this error."""
    match error:
        case UnknownTopicOrPartitionError() | UnknownTopicIdError():
            return RestCode(NOT_FOUND, NO_SUCH_TOPIC_OR_PARTITION)
        case GroupIdNotFoundError():
            return RestCode(NOT_FOUND, NO_SUCH_GROUP)
        case NotFoundError() | MalformedBodyError() | RoutingError():
            return RestCode(error.status, error.status)
        case TopicAlreadyExistsError():
            return RestCode(BAD_REQUEST, INVALID)
        case InvalidRequestError() if error.code == InvalidRequestError.code:
            return RestCode(UNPROCESSABLE, UNPROCESSABLE)
        case InvalidRequestError() if error.status == UNPROCESSABLE:
            return RestCode(BAD_REQUEST, INVALID)
        case InvalidRequestError() | ConflictError():
            return RestCode(error.status, error.status)
        case InsufficientStorageError() | UnavailableError():
            return RestCode(error.status, RETRIABLE)
    return RestCode(error.status, FAILED)


def rest_error(error: OttlaError) -> RestError:
    """The body of an answer that is an error."""
    return RestError(rest_code(error).code, _message(error))


def item_error(error: OttlaError) -> RestError:
    """The item of a record that was not appended, or perhaps was not."""
    status, code = rest_code(error)
    if status == code and status == UNPROCESSABLE:
        code = BAD_PAYLOAD
    return RestError(status, _message(error) if code == status else f"{code}: {_message(error)}")


def _message(error: OttlaError) -> str:
    facts = error.code if error.outcome is None else f"{error.code}, {error.outcome.value}"
    detail = error.detail.encode("utf-8", "replace").decode()
    return f"{detail} ({facts})"


def rest_answer(error: OttlaError) -> web.Response:
    """The error as an answer."""
    response = web.Response(
        status=rest_code(error).status,
        body=msgspec.json.encode(rest_error(error)),
        content_type=routes.JSON,
    )
    if response.status in RETRY_AFTER_STATUSES:
        response.headers["Retry-After"] = str(error.members.get("retry_after_seconds", 1))
    return response


def says_outcome(handler: Handler) -> Handler:
    """The handler of a change: its errors say that nothing was applied, unless they say more."""

    async def serve(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except OttlaError as error:
            raise error.with_outcome(Outcome.NOT_APPLIED) from error

    return serve
