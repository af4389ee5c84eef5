"""Errors as `application/problem+json`, for every route, in one middleware.

This is the middleware of what aiohttp serves: its own 404 and 405 become ours, and the rest is as
in `answering`.
"""

from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web

from ottla_broker.http.answering import answered, defect
from ottla_broker.http.context import context_of
from ottla_broker.http.known_paths import KNOWN_PATHS
from ottla_broker.http.post import Answer, problem_answer
from ottla_broker.http.rest_v2.errors import is_proxy_path, plain_error_response
from ottla_broker.http.rest_v3.errors import rest_answer
from ottla_broker.request_id import REQUEST_ID, accepted
from ottla_protocol import routes
from ottla_protocol.errors import (
    InvalidRequestError,
    MessageTooLargeError,
    MethodNotAllowedError,
    NotFoundError,
    OttlaError,
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

UNMATCHED = "unmatched"

log = structlog.get_logger()


def web_response(answer: Answer) -> web.Response:
    """The answer for aiohttp to send."""
    body = answer.body[0] if len(answer.body) == 1 else b"".join(answer.body)
    headers = dict(answer.headers)
    if answer.content_type is not None:
        headers["Content-Type"] = answer.content_type
    return web.Response(status=answer.status, body=bytes(body), headers=headers)


def problem_response(request: web.Request, error: OttlaError) -> web.Response:
    """The error as aiohttp's response; see `problem_answer`, and REST Proxy's own paths."""
    if is_proxy_path(request.path):
        return plain_error_response(error)
    if request.path.startswith(routes.V3_PREFIX):
        return rest_answer(error)
    return web_response(problem_answer(error))


def _count(request: web.Request, status: int) -> None:
    resource = request.match_info.route.resource
    # Where no route matched, path and method are the client's to make up: they are no labels.
    if resource is None:
        answered(UNMATCHED, UNMATCHED, status)
    else:
        answered(request.method, resource.canonical, status)


def _is_sent_away(request: web.Request) -> bool:
    """As `Listener.sends_away`, for connections that are aiohttp's."""
    is_internal = request.path.startswith(routes.INTERNAL_PREFIX)
    return context_of(request).purgatory.is_released and not is_internal


def _no_such_path(request: web.Request) -> str:
    nearest = request.app[KNOWN_PATHS].nearest(request.path)
    meant = f"did you mean {nearest}? " if nearest is not None else ""
    return f"there is no {request.path}; {meant}{routes.DOCS} has all calls"


async def tell_request_id(_: web.Request, response: web.StreamResponse) -> None:
    """Name the request in its answer, streams included; before its head is sent."""
    request_id = REQUEST_ID.get()
    if request_id is not None:
        response.headers[routes.HEADER_REQUEST_ID] = request_id


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer errors, count requests, and name the request and the broker that served."""
    is_internal = request.path.startswith(routes.INTERNAL_PREFIX)
    told = request.headers.get(routes.HEADER_REQUEST_ID)
    REQUEST_ID.set(accepted(told, is_internal=is_internal))
    try:
        response = await handler(request)
    except OttlaError as error:
        response = problem_response(request, error)
    except web.HTTPMethodNotAllowed as error:
        response = problem_response(
            request,
            MethodNotAllowedError(
                f"{request.method} is none of: {', '.join(sorted(error.allowed_methods))}"
            ),
        )
        response.headers["Allow"] = error.headers["Allow"]
    except web.HTTPNotFound:
        response = problem_response(request, NotFoundError(_no_such_path(request)))
    except web.HTTPRequestEntityTooLarge as error:
        response = problem_response(request, MessageTooLargeError(error.text or "body too large"))
    except web.HTTPException as error:
        response = problem_response(request, InvalidRequestError(error.text or error.reason))
    except Exception:
        log.exception("request_failed", method=request.method, path=request.path)
        response = problem_response(request, defect(request.method))
    _count(request, response.status)
    if not response.prepared and _is_sent_away(request):
        response.force_close()
    if not response.prepared and routes.HEADER_SERVED_BY not in response.headers:
        node_id = context_of(request).settings.node_id
        response.headers[routes.HEADER_SERVED_BY] = str(node_id)
    return response
