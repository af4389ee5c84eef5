"""What every handler of the REST Proxy API begins with."""

import msgspec
from aiohttp import web

from ottla_broker.http.client_url import base_url_of
from ottla_broker.http.context import context_of
from ottla_broker.http.query import Query
from ottla_broker.http.rest_v3.links import Links
from ottla_protocol import routes
from ottla_protocol.errors import InvalidRequestError, NotFoundError, Outcome


def begun(request: web.Request, *parameters: str) -> tuple[Links, Query]:
    """The links below the cluster that the path names, and the query.

    Raises:
        NotFoundError: it is another cluster.
        InvalidRequestError: a query parameter is none of `parameters`.
    """
    settings = context_of(request).settings
    query = Query(request.query.items(), parameters)
    named = request.match_info.get("cluster", settings.cluster_id)
    if named != settings.cluster_id:
        raise NotFoundError(f"the cluster here is '{settings.cluster_id}', not '{named}'")
    return Links(base_url_of(request), settings.cluster_id), query


def refuse_idempotency_key(request: web.Request) -> None:
    """Refuse a promise that is not kept here.

    Raises:
        InvalidRequestError: the request has an Idempotency-Key.
    """
    if routes.HEADER_IDEMPOTENCY_KEY in request.headers:
        raise InvalidRequestError(
            f"{routes.HEADER_IDEMPOTENCY_KEY} counts at {routes.TOPIC_RECORDS}, not here",
            outcome=Outcome.NOT_APPLIED,
        )


def rendered(resource: object, status: int = 200) -> web.Response:
    """A resource, or a list of them."""
    return web.Response(
        status=status,
        body=msgspec.json.encode(resource),
        content_type=routes.JSON,
        headers={"Cache-Control": "no-store"},
    )
