"""`/v1/brokers/{broker}`: brokers that leave the cluster."""

from aiohttp import web

from ottla_broker.http.context import context_of
from ottla_broker.http.query import Query
from ottla_broker.http.topics import json_response
from ottla_protocol.errors import NotFoundError


async def drain(request: web.Request) -> web.Response:
    """`POST /v1/brokers/{broker}/drain`."""
    Query(request.query.items(), ())
    return json_response(await context_of(request).drains.begin(_node_id(request)), status=202)


async def drain_progress(request: web.Request) -> web.Response:
    """`GET /v1/brokers/{broker}/drain`."""
    Query(request.query.items(), ())
    return json_response(await context_of(request).drains.progress(_node_id(request)))


async def cancel_drain(request: web.Request) -> web.Response:
    """`DELETE /v1/brokers/{broker}/drain`."""
    Query(request.query.items(), ())
    return json_response(await context_of(request).drains.cancel(_node_id(request)))


async def unregister(request: web.Request) -> web.Response:
    """`DELETE /v1/brokers/{broker}`."""
    Query(request.query.items(), ())
    await context_of(request).drains.unregister(_node_id(request))
    return web.Response(status=204)


def _node_id(request: web.Request) -> int:
    """The node id in the path.

    Raises:
        NotFoundError: it is no number.
    """
    text = request.match_info["broker"]
    if not text.isascii() or not text.isdigit() or len(text) > len(str(2**31)):
        raise NotFoundError(f"There is no broker {text!r}: a broker's id is a number.")
    return int(text)
