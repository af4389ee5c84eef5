"""`…/segments`: what the files of a replica hold, and whether they are sound."""

from aiohttp import web

from ottla_broker.http.bodies import read_body
from ottla_broker.http.context import context_of
from ottla_broker.http.json_bodies import parse_json
from ottla_broker.http.query import MAX_OFFSET, Query, partition_number
from ottla_broker.http.topics import MAX_ADMIN_BODY_BYTES, json_response
from ottla_protocol import routes
from ottla_protocol.errors import InvalidRequestError
from ottla_protocol.models_segments import (
    DEFAULT_LISTED_SEGMENTS,
    MAX_LISTED_SEGMENTS,
    MAX_VERIFIED_BYTES,
    VerifySegmentsRequest,
)

MAX_NODE_ID = 2**31 - 1


async def list_segments(request: web.Request) -> web.Response:
    """`GET /v1/topics/{topic}/partitions/{partition}/segments`."""
    query = Query(request.query.items(), ("replica", "from", "max_segments"))
    replica = query.number("replica", 0, minimum=1, maximum=MAX_NODE_ID)
    found = await context_of(request).segments.list_segments(
        request.match_info["topic"],
        partition_number(request.match_info["partition"]),
        replica or None,
        from_offset=query.number("from", 0, minimum=0, maximum=MAX_OFFSET),
        limit=query.number(
            "max_segments", DEFAULT_LISTED_SEGMENTS, minimum=1, maximum=MAX_LISTED_SEGMENTS
        ),
    )
    return _served_by(found.replica, json_response(found))


async def verify(request: web.Request) -> web.Response:
    """`POST /v1/topics/{topic}/partitions/{partition}/segments/verify`."""
    Query(request.query.items(), ())
    body = await read_body(request, MAX_ADMIN_BODY_BYTES)
    wanted = VerifySegmentsRequest()
    if body:
        wanted = parse_json(body, VerifySegmentsRequest, request.headers.get("Content-Type"))
    if not 1 <= wanted.max_bytes <= MAX_VERIFIED_BYTES:
        raise InvalidRequestError(
            f"max_bytes must be from 1 to {MAX_VERIFIED_BYTES}", field="max_bytes"
        )
    if wanted.offset is not None and not 0 <= wanted.offset <= MAX_OFFSET:
        raise InvalidRequestError(f"offset must be from 0 to {MAX_OFFSET}", field="offset")
    found = await context_of(request).segments.verify(
        request.match_info["topic"],
        partition_number(request.match_info["partition"]),
        wanted.replica,
        offset=wanted.offset or 0,
        max_bytes=wanted.max_bytes,
    )
    return _served_by(found.replica, json_response(found))


def _served_by(replica: int, response: web.Response) -> web.Response:
    response.headers[routes.HEADER_SERVED_BY] = str(replica)
    response.headers["Cache-Control"] = "no-store"
    return response
