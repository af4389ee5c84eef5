"""Has every request that aiohttp serves pass the site policy, and every answer tell what it allows.

The short way takes no request with an Origin, and none for a Host that it would have to refuse; so
this is the one place where such requests are judged and answered.
"""

from aiohttp import HttpVersion11, hdrs, web

from ottla_broker.http.admission import has_cluster_secret
from ottla_broker.http.context import BrokerContext, context_of
from ottla_broker.http.problems import Handler
from ottla_broker.site_policy import SAFE_METHODS
from ottla_protocol import routes
from ottla_protocol.errors import OttlaError, Outcome


@web.middleware
async def site_guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse foreign names and untrusted pages, and answer preflights."""
    context = context_of(request)
    try:
        _check(context, request)
        if _is_preflight(request) and context.site.origins:
            return web.Response(status=204, headers=context.site.preflight(request.headers))
    except OttlaError as error:
        if request.method in SAFE_METHODS:
            raise
        raise error.with_outcome(Outcome.NOT_APPLIED) from None
    return await handler(request)


def _check(context: BrokerContext, request: web.Request) -> None:
    if has_cluster_secret(context, request.headers):
        # Peers know this node by whatever name their own settings have for it.
        return
    host = request.headers.get(hdrs.HOST)
    # HTTP/1.0 knows no Host, and no browser speaks it.
    if host is not None or request.version >= HttpVersion11:
        context.site.check_host(host)
    context.site.check_origin(request.method, request.headers)


def _is_preflight(request: web.Request) -> bool:
    return (
        request.method == hdrs.METH_OPTIONS
        and hdrs.ORIGIN in request.headers
        and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
    )


async def name_server(_: web.Request, response: web.StreamResponse) -> None:
    """Say who serves, and not with which libraries of which versions, as aiohttp would."""
    response.headers[hdrs.SERVER] = routes.SERVER


async def tell_origins(request: web.Request, response: web.StreamResponse) -> None:
    """Name the page's origin in an answer, streams included; before its head is sent."""
    site = context_of(request).site
    if not site.origins:
        return
    for name, value in site.cors_headers(request.headers.get(hdrs.ORIGIN)).items():
        response.headers.setdefault(name, value)
    # A cache must not give one origin the answer to another, or to none.
    varies = response.headers.get(hdrs.VARY)
    response.headers[hdrs.VARY] = hdrs.ORIGIN if varies is None else f"{varies}, {hdrs.ORIGIN}"
