"""The routes of aiohttp: every operation of the tables, and what brokers ask each other."""

from collections.abc import Mapping

from aiohttp import web

from ottla_broker.http.admission import at_broker
from ottla_broker.http.bodies import read_body, uncounted
from ottla_broker.http.context import CONTEXT, BrokerContext, context_of
from ottla_broker.http.description import DESCRIPTION, Description
from ottla_broker.http.known_paths import KNOWN_PATHS, KnownPaths
from ottla_broker.http.operation_tables import OPERATIONS
from ottla_broker.http.operations import Operation
from ottla_broker.http.post import Post, PostRoute
from ottla_broker.http.post_routes import POST_ROUTES
from ottla_broker.http.problems import Handler, problems, tell_request_id, web_response
from ottla_broker.http.rest_v2.errors import is_proxy_path
from ottla_broker.http.site_guard import name_server, site_guard, tell_origins
from ottla_protocol import routes
from ottla_protocol.errors import OttlaError, Outcome


def build_application(context: BrokerContext) -> web.Application:
    """The aiohttp application of one broker."""
    application = web.Application(
        middlewares=[problems, site_guard],
        client_max_size=0,  # Bodies are bounded per route in `bodies`.
    )
    application[CONTEXT] = context
    application.on_response_prepare.append(name_server)
    application.on_response_prepare.append(tell_origins)
    application.on_response_prepare.append(tell_request_id)
    application[DESCRIPTION] = Description(OPERATIONS, context.settings.url)
    application[KNOWN_PATHS] = KnownPaths(each.path for each in OPERATIONS)
    posts = {route.path: route for route in POST_ROUTES}
    for operation in OPERATIONS:
        handler = _handler(operation, posts)
        if operation.method == "GET":
            application.router.add_get(operation.path, handler)  # And HEAD.
        else:
            application.router.add_route(operation.method, operation.path, handler)
        if is_proxy_path(operation.path) and not operation.path.endswith("/"):
            # Some clients of REST proxies send one more slash.
            application.router.add_route(operation.method, f"{operation.path}/", handler)
    for route in POST_ROUTES:
        if route.path.startswith(routes.INTERNAL_PREFIX):
            application.router.add_post(route.path, _served(route))
    return application


def _handler(operation: Operation, posts: Mapping[str, PostRoute]) -> Handler:
    """What serves an operation that was not served by the short way."""
    if operation.handler is None:
        assert operation.method == "POST", operation.operation_id
        return _served(posts[operation.path])
    return at_broker(operation.handler) if operation.broker_only else operation.handler


def _served(route: PostRoute) -> Handler:
    """A handler, for aiohttp, of a POST that did not take the short way: see `connection`."""

    async def serve(request: web.Request) -> web.StreamResponse:
        context = context_of(request)
        try:
            route.admit(context, request.headers)
            if route.stream is not None and route.streams(request.headers.get("Content-Type")):
                return await route.stream(request)
            limit_bytes = route.limit_bytes(context.settings)
            if not route.counts_inflight:
                is_internal = route.path.startswith(routes.INTERNAL_PREFIX)
                arrived = uncounted if is_internal else None
                body = await read_body(request, limit_bytes, arrived)
                return web_response(await route.handler(context, _post(request, body)))
            with context.inflight.hold() as held:
                body = await read_body(request, limit_bytes, held.grow)
                return web_response(await route.handler(context, _post(request, body)))
        except OttlaError as error:
            # Errors after an append say so themselves.
            raise error.with_outcome(Outcome.NOT_APPLIED) if route.is_write else error from None

    return serve


def _post(request: web.Request, body: bytes | bytearray) -> Post:
    return Post(request.match_info, list(request.query.items()), request.headers, body)
