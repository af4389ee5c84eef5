"""Errors as REST proxies tell them: `{"error_code", "message"}`.

The code's first three digits are the HTTP status, with one exception that is kafka-rest's own:
40001, a consumer setting out of its bounds, comes with 422. What is a plain HTTP error has the
status itself as its code.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, ClassVar, Final

import msgspec
import structlog
from aiohttp import web

from ottla_protocol.errors import (
    ConflictError,
    GroupMaxSizeReachedError,
    InvalidRequestError,
    LeaderNotAvailableError,
    MalformedBodyError,
    MessageTooLargeError,
    NotFoundError,
    OffsetOutOfRangeError,
    OttlaError,
    Outcome,
    OverloadedError,
    RequestTimedOutError,
    RoutingError,
    UnavailableError,
    UnsupportedFeatureLevelError,
    UnsupportedMediaTypeError,
)
from ottla_protocol.models_rest_v2 import ErrorBody

if TYPE_CHECKING:
    from ottla_broker.http.problems import Handler

V2_JSON: Final = "application/vnd.kafka.v2+json"

log = structlog.get_logger()


class ProxyError(Exception):
    """A refusal in the API's own terms; each class is one code of it.

    Args:
        detail: one sentence for a person.
    """

    error_code: ClassVar[int]
    status: ClassVar[int]

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class BadRequestError(ProxyError):
    """A path or query parameter breaks a rule."""

    error_code, status = 40002, 400


class ConsumerConfigConstraintError(ProxyError):
    """A number among a consumer's settings is out of its bounds."""

    error_code, status = 40001, 422


class TopicNotFoundError(ProxyError):
    """A topic to produce to does not exist."""

    error_code, status = 40401, 404


class PartitionNotFoundError(ProxyError):
    """The path names a partition that the topic has not got."""

    error_code, status = 40402, 404


class UnknownInstanceOrPartitionError(ProxyError):
    """No consumer instance of that name, or no such topic or partition."""

    error_code, status = 40403, 404


class LeaderlessError(ProxyError):
    """A partition's leader does not answer now."""

    error_code, status = 40404, 404


class FormatMismatchError(ProxyError):
    """Accept takes another embedded format than the consumer instance has."""

    error_code, status = 40601, 406


class SchemaRegistryError(ProxyError):
    """A schema was named, and there is no registry that could know it."""

    error_code, status = 40801, 408


class ConsumerExistsError(ProxyError):
    """A consumer instance of that name exists."""

    error_code, status = 40902, 409


class IllegalStateError(ProxyError):
    """What is asked does not fit the instance's subscription or assignment."""

    error_code, status = 40903, 409


class KeySchemaMissingError(ProxyError):
    """Records have keys, and no schema of theirs is named."""

    error_code, status = 42201, 422


class ValueSchemaMissingError(ProxyError):
    """No schema of the values is named."""

    error_code, status = 42202, 422


class ConsumerConfigError(ProxyError):
    """A consumer's setting is none that there is."""

    error_code, status = 42204, 422


class PayloadError(ProxyError):
    """The body parses, and is not what the call takes."""

    error_code, status = 42206, 422


class RecordFormatError(ProxyError):
    """A stored record cannot be told in the instance's format."""

    error_code, status = 42207, 422


class UnsupportedError(ProxyError):
    """This cluster does not offer it, or not yet."""

    error_code, status = 50101, 501


BROKER_NOT_AVAILABLE: Final = 50302
TOO_MANY_REQUESTS: Final = 42901
KAFKA_ERROR: Final = 50002
KAFKA_RETRIABLE_ERROR: Final = 50003


def error_code_of(error: OttlaError | ProxyError) -> tuple[int, int]:
    """The HTTP status and the code of any error."""
    match error:
        case ProxyError():
            return error.status, error.error_code
        case MalformedBodyError() | MessageTooLargeError() | UnsupportedMediaTypeError():
            return error.status, error.status
        case RequestTimedOutError():
            return 503, BROKER_NOT_AVAILABLE
        case OverloadedError() | GroupMaxSizeReachedError():
            return 429, TOO_MANY_REQUESTS
        case UnsupportedFeatureLevelError():
            return UnsupportedError.status, UnsupportedError.error_code
        case ConflictError() | OffsetOutOfRangeError():
            return IllegalStateError.status, IllegalStateError.error_code
        case LeaderNotAvailableError():
            return LeaderlessError.status, LeaderlessError.error_code
        case NotFoundError():
            return 404, UnknownInstanceOrPartitionError.error_code
        case RoutingError() | UnavailableError():
            return 503, BROKER_NOT_AVAILABLE
        case InvalidRequestError() if error.status == InvalidRequestError.status:
            return 422, PayloadError.error_code
    if error.status < 500:
        return error.status, error.status
    return 500, KAFKA_ERROR


def error_response(error: OttlaError | ProxyError) -> web.Response:
    """The error as this API renders it."""
    status, error_code = error_code_of(error)
    retry_after_seconds = 1
    if isinstance(error, OttlaError):
        retry_after_seconds = error.members.get("retry_after_seconds", 1)
    response = proxy_response(ErrorBody(error_code, _message(error)), status)
    if status in (429, 503):
        response.headers["Retry-After"] = str(retry_after_seconds)
    return response


_ROOTS = ("/topics", "/consumers", "/brokers")
_PREFIXES = tuple(f"{root}/" for root in _ROOTS)


def is_proxy_path(path: str) -> bool:
    """Whether a path is one of this API's, or would be if there were such.

    A request may have none: the target of OPTIONS may be `*`, and that of CONNECT is an authority
    (RFC 9112 section 3.2).
    """
    return path == "/" or path.startswith(_PREFIXES) or path in _ROOTS


def plain_error_response(error: OttlaError) -> web.Response:
    """An error that no handler of this API has seen: no such path, or no room for the answer."""
    return proxy_response(ErrorBody(error.status, _message(error)), error.status)


def _message(error: OttlaError | ProxyError) -> str:
    # It may quote bytes of a header that were no UTF-8.
    message = error.detail.encode("utf-8", "replace").decode()
    if isinstance(error, OttlaError) and error.outcome is Outcome.UNKNOWN:
        message += " (it may have been applied)"
    return message


def proxy_response(document: object, status: int = 200, media_type: str = V2_JSON) -> web.Response:
    """A struct as JSON under one of the API's media types."""
    return web.Response(status=status, body=msgspec.json.encode(document), content_type=media_type)


def proxied(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> "Handler":
    """The handler, with its errors told in this API's way; defects too."""

    async def serve(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except (OttlaError, ProxyError) as error:
            return error_response(error)
        except web.HTTPException:
            raise
        except Exception:
            log.exception("request_failed", method=request.method, path=request.path)
            return proxy_response(ErrorBody(KAFKA_ERROR, "the broker failed"), 500)

    return serve
