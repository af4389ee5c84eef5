"""Errors as `application/problem+json`, for every route, in one middleware.

What a handler raises as OttlaError is rendered as it is. aiohttp's own 404 and 405 become ours.
Anything else is a defect: it is logged with its traceback, answered as 500, and says of a write
that its outcome is unknown.
"""

from collections.abc import Awaitable, Callable

import msgspec
import structlog
from aiohttp import web
from prometheus_client import Counter

from ottla_broker.http.context import context_of
from ottla_broker.telemetry import METRICS
from ottla_protocol import routes
from ottla_protocol.errors import (
    InternalError,
    InvalidRequestError,
    MessageTooLargeError,
    MethodNotAllowedError,
    NotFoundError,
    OttlaError,
    Outcome,
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

UNMATCHED = "unmatched"

# Looking a labelled counter up costs more than counting; bounded by routes, methods and statuses.
_counters: dict[tuple[str, str, int], Counter] = {}

log = structlog.get_logger()


def problem_response(error: OttlaError) -> web.Response:
    """The error as a response, with Retry-After where trying again may help later."""
    headers = {}
    if error.status == 503:
        headers["Retry-After"] = str(error.members.get("retry_after_seconds", 1))
    return web.Response(
        status=error.status,
        body=msgspec.json.encode(error.problem()),
        content_type=routes.PROBLEM_JSON,
        headers=headers,
    )


def _count(request: web.Request, status: int) -> None:
    resource = request.match_info.route.resource
    # Where no route matched, path and method are the client's to make up: they are no labels.
    route, method = (resource.canonical, request.method) if resource else (UNMATCHED, UNMATCHED)
    counter = _counters.get((route, method, status))
    if counter is None:
        counter = METRICS.http_requests.labels(route, method, status)
        _counters[route, method, status] = counter
    counter.inc()


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer errors, count requests, and name the broker that served."""
    try:
        response = await handler(request)
    except OttlaError as error:
        response = problem_response(error)
    except web.HTTPMethodNotAllowed as error:
        response = problem_response(
            MethodNotAllowedError(
                f"{request.method} is none of: {', '.join(sorted(error.allowed_methods))}"
            )
        )
        response.headers["Allow"] = error.headers["Allow"]
    except web.HTTPNotFound:
        response = problem_response(NotFoundError(f"there is no {request.path}"))
    except web.HTTPRequestEntityTooLarge as error:
        response = problem_response(MessageTooLargeError(error.text or "body too large"))
    except web.HTTPException as error:
        response = problem_response(InvalidRequestError(error.text or error.reason))
    except Exception:
        log.exception("request_failed", method=request.method, path=request.path)
        outcome = Outcome.UNKNOWN if request.method == "POST" else None
        response = problem_response(
            InternalError("the broker failed; its log tells more", outcome=outcome)
        )
    _count(request, response.status)
    if not response.prepared and routes.HEADER_SERVED_BY not in response.headers:
        node_id = context_of(request).settings.node_id
        response.headers[routes.HEADER_SERVED_BY] = str(node_id)
    return response
