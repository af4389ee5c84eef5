"""`/v1/cluster/features`."""

from aiohttp import web

from ottla_broker.http.context import context_of
from ottla_broker.http.query import Query
from ottla_broker.http.topics import change_request, json_response
from ottla_protocol.models_features import FeatureUpgradeRequest


async def describe(request: web.Request) -> web.Response:
    """`GET /v1/cluster/features`."""
    Query(request.query.items(), ())
    return json_response(await context_of(request).features.describe())


async def upgrade(request: web.Request) -> web.Response:
    """`POST /v1/cluster/features`."""
    wanted = await change_request(request, FeatureUpgradeRequest)
    return json_response(await context_of(request).features.upgrade(wanted))
