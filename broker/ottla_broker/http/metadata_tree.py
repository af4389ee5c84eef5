"""`GET /v1/metadata/tree/{path}`."""

from aiohttp import web

from ottla_broker.http.context import context_of
from ottla_broker.http.query import Query
from ottla_broker.http.topics import json_response
from ottla_broker.services.metadata_tree import Look
from ottla_protocol import routes
from ottla_protocol.models_tree import DEFAULT_TREE_LIMIT, MAX_TREE_LIMIT
from ottla_protocol.tree_paths import split_path


async def look(request: web.Request) -> web.Response:
    """One node; with `recursive=true`, the paths of all that is below it."""
    query = Query(request.query.items(), {"recursive", "limit", "cursor"})
    limit = query.number("limit", DEFAULT_TREE_LIMIT, minimum=1, maximum=MAX_TREE_LIMIT)
    recursive = query.choice("recursive", "false", ("false", "true")) == "true"
    cursor = query.text("cursor")
    wanted = Look(
        # As it was sent: decoded, a name's own slash would look like one between two names.
        path=split_path(request.rel_url.raw_path.removeprefix(routes.METADATA_TREE) or "/"),
        recursive=recursive,
        limit=limit,
        cursor=None if cursor is None else split_path(cursor),
    )
    return json_response(await context_of(request).metadata_tree.look(wanted))
