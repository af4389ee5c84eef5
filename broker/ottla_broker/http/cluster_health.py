"""`GET /v1/cluster/health`."""

from typing import cast

from aiohttp import web

from ottla_broker.http.context import context_of
from ottla_broker.http.query import Query
from ottla_broker.http.topics import json_response
from ottla_cluster.controller.health import Page
from ottla_cluster.controller.partition_conditions import CONDITIONS
from ottla_protocol.models_health import DEFAULT_HEALTH_LIMIT, MAX_HEALTH_LIMIT, Condition

ANY = "any"


async def cluster_health(request: web.Request) -> web.Response:
    """200 whatever the health is: `status` tells it."""
    query = Query(request.query.items(), {"limit", "cursor", "condition"})
    limit = query.number("limit", DEFAULT_HEALTH_LIMIT, minimum=1, maximum=MAX_HEALTH_LIMIT)
    condition = query.choice("condition", ANY, (ANY, *CONDITIONS))
    page = Page(
        limit=limit,
        condition=None if condition == ANY else cast(Condition, condition),
        cursor=query.text("cursor"),
    )
    return json_response(await context_of(request).cluster_health.health(page))
