"""`/v1/groups`: members, committed offsets, and what an operator asks of consumer groups.

Heartbeats and commits are in `group_posts`.
"""

from collections.abc import Awaitable
from typing import TypeVar

from aiohttp import web

from ottla_broker.http.context import context_of
from ottla_broker.http.query import Query
from ottla_broker.http.topics import change_request, json_response
from ottla_protocol.errors import OttlaError, Outcome
from ottla_protocol.models_groups import JoinGroupRequest, SeekGroupRequest

CREATED = 201
NO_CONTENT = 204

ResultT = TypeVar("ResultT")


def _group(request: web.Request) -> str:
    return request.match_info["group"]


async def _changed(change: Awaitable[ResultT]) -> ResultT:
    """The result of a change; an error that does not say what became of it applied nothing.

    What comes after the append of the coordinator's records says so itself.
    """
    try:
        return await change
    except OttlaError as error:
        raise error.with_outcome(Outcome.NOT_APPLIED) from error


async def join(request: web.Request) -> web.Response:
    """`POST /v1/groups/{group}/members`."""
    wanted = await change_request(request, JoinGroupRequest)
    joined = await _changed(context_of(request).groups.join(_group(request), wanted))
    return json_response(joined, status=CREATED)


async def leave(request: web.Request) -> web.Response:
    """`DELETE /v1/groups/{group}/members/{member}`."""
    Query(request.query.items(), ())
    groups = context_of(request).groups
    await _changed(groups.leave(_group(request), request.match_info["member"]))
    return web.Response(status=NO_CONTENT)


async def committed(request: web.Request) -> web.Response:
    """`GET /v1/groups/{group}/offsets`."""
    query = Query(request.query.items(), ("require_stable",))
    is_stable = query.choice("require_stable", "false", ("true", "false")) == "true"
    groups = context_of(request).groups
    return json_response(await groups.committed(_group(request), require_stable=is_stable))


async def list_groups(request: web.Request) -> web.Response:
    """`GET /v1/groups`."""
    Query(request.query.items(), ())
    return json_response(await context_of(request).groups.list_groups())


async def describe(request: web.Request) -> web.Response:
    """`GET /v1/groups/{group}`."""
    isolation = Query(request.query.items(), {"isolation"}).isolation()
    groups = context_of(request).groups
    return json_response(await groups.describe(_group(request), isolation=isolation))


async def delete(request: web.Request) -> web.Response:
    """`DELETE /v1/groups/{group}`."""
    Query(request.query.items(), ())
    await _changed(context_of(request).groups.delete(_group(request)))
    return web.Response(status=NO_CONTENT)


async def seek(request: web.Request) -> web.Response:
    """`POST /v1/groups/{group}/seek`."""
    wanted = await change_request(request, SeekGroupRequest)
    return json_response(await _changed(context_of(request).groups.seek(_group(request), wanted)))
