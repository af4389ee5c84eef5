"""The table of POSTs that take the short way, and the look-up of a path in it."""

from collections.abc import Sequence
from typing import TypeAlias
from urllib.parse import parse_qsl

from ottla_broker.http import (
    binary,
    group_posts,
    internal,
    produce,
    produce_stream,
    transaction_posts,
)
from ottla_broker.http.admission import admit_to_broker
from ottla_broker.http.post import PostRoute
from ottla_broker.http.topics import MAX_ADMIN_BODY_BYTES
from ottla_protocol import routes

POST_ROUTES = (
    PostRoute(
        routes.TOPIC_RECORDS,
        produce.produce,
        lambda settings: settings.max_json_body_bytes,
        is_write=True,
        counts_inflight=True,
        admit=admit_to_broker,
        stream=produce_stream.produce_lines,
    ),
    PostRoute(
        routes.PARTITION_RECORDS,
        produce.produce,
        lambda settings: settings.max_json_body_bytes,
        is_write=True,
        counts_inflight=True,
        admit=admit_to_broker,
        stream=produce_stream.produce_lines,
    ),
    PostRoute(
        routes.RECORDS,
        produce.produce_to_many,
        lambda settings: settings.max_json_body_bytes,
        is_write=True,
        counts_inflight=True,
        admit=admit_to_broker,
        stream=produce_stream.produce_lines,
    ),
    PostRoute(
        routes.PRODUCE,
        binary.produce,
        lambda settings: settings.max_binary_body_bytes,
        is_write=True,
        counts_inflight=True,
        admit=admit_to_broker,
    ),
    PostRoute(
        routes.FETCH,
        binary.fetch,
        lambda _: binary.MAX_FETCH_REQUEST_BYTES,
        admit=admit_to_broker,
    ),
    PostRoute(
        routes.GROUP_HEARTBEAT,
        group_posts.heartbeat,
        lambda _: MAX_ADMIN_BODY_BYTES,
        is_write=True,
        admit=admit_to_broker,
    ),
    PostRoute(
        routes.GROUP_OFFSETS,
        group_posts.commit,
        lambda _: MAX_ADMIN_BODY_BYTES,
        is_write=True,
        admit=admit_to_broker,
    ),
    *(
        PostRoute(
            path,
            handler,
            lambda _: MAX_ADMIN_BODY_BYTES,
            is_write=True,
            admit=admit_to_broker,
        )
        for path, handler in (
            (routes.TRANSACTIONS, transaction_posts.initialise),
            (routes.TRANSACTION_OFFSETS, transaction_posts.commit_offsets),
            (routes.TRANSACTION_COMMIT, transaction_posts.commit),
            (routes.TRANSACTION_ABORT, transaction_posts.abort),
        )
    ),
    *internal.ROUTES,
)

_BY_PATTERN = {route.path: route for route in POST_ROUTES}
_TOPIC_RECORDS = _BY_PATTERN[routes.TOPIC_RECORDS]
_PARTITION_RECORDS = _BY_PATTERN[routes.PARTITION_RECORDS]
_GROUP_HEARTBEAT = _BY_PATTERN[routes.GROUP_HEARTBEAT]
_GROUP_OFFSETS = _BY_PATTERN[routes.GROUP_OFFSETS]

_OF_A_TRANSACTION = {
    "offsets": _BY_PATTERN[routes.TRANSACTION_OFFSETS],
    "commit": _BY_PATTERN[routes.TRANSACTION_COMMIT],
    "abort": _BY_PATTERN[routes.TRANSACTION_ABORT],
}

_NEEDS_A_ROUTER = frozenset("%#{}")

Found: TypeAlias = tuple[PostRoute, dict[str, str], Sequence[tuple[str, str]]]
"""A route, the values in its path, and the query."""


def find_post_route(target: str) -> Found | None:
    """What a request target asks for.

    None where there is no such route, or where the path needs decoding: aiohttp decides then.
    """
    path, has_query, raw_query = target.partition("?")
    if not _NEEDS_A_ROUTER.isdisjoint(path) or "#" in raw_query:
        return None
    query = parse_qsl(raw_query, keep_blank_values=True) if has_query else ()
    route = _BY_PATTERN.get(path)
    if route is not None:
        return route, {}, query
    match path.split("/"):
        case ["", "v1", "topics", topic, "records"] if topic:
            return _TOPIC_RECORDS, {"topic": topic}, query
        case ["", "v1", "topics", topic, "partitions", partition, "records"] if topic and partition:
            return _PARTITION_RECORDS, {"topic": topic, "partition": partition}, query
        case ["", "v1", "groups", group, "offsets"] if group:
            return _GROUP_OFFSETS, {"group": group}, query
        case ["", "v1", "groups", group, "members", member, "heartbeat"] if group and member:
            return _GROUP_HEARTBEAT, {"group": group, "member": member}, query
        case ["", "v1", "transactions", transactional_id, step] if transactional_id:
            transaction_route = _OF_A_TRANSACTION.get(step)
            if transaction_route is not None:
                return transaction_route, {"transactional_id": transactional_id}, query
    return None
