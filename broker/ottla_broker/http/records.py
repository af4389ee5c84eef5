"""`…/records` and `…/offsets`: read a partition, in the media type that Accept asks for."""

from typing import Literal, cast

import msgspec
from aiohttp import web

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.http.context import context_of
from ottla_broker.http.forwarding import serve_at_leader
from ottla_broker.http.negotiation import accept_of, negotiate
from ottla_broker.http.query import MAX_TIMESTAMP, Query, parse_integer, partition_number
from ottla_broker.http.record_answers import (
    BYTES_RENDERED_INLINE,
    READ_MEDIA_TYPES,
    ReadSource,
    answer,
    wanted_answer,
)
from ottla_broker.http.record_streams import follow, stream_type
from ottla_broker.http.selections import SELECTION_PARAMETERS
from ottla_broker.services.heavy_work import on_worker
from ottla_broker.services.record_read import AtTimestamp, Position, ReadOptions
from ottla_broker.telemetry import METRICS
from ottla_cluster.controller.topic_configs import COMPACT, cleanup_policies
from ottla_protocol import routes
from ottla_protocol.errors import (
    InvalidRequestError,
    UnknownTopicOrPartitionError,
)
from ottla_protocol.models import MAX_WAIT_MS, OffsetResponse

DEFAULT_READ_BYTES = 1 << 20
MAX_READ_BYTES = 64 << 20
DEFAULT_READ_RECORDS = 500
MAX_READ_RECORDS = 100_000
DEFAULT_WAIT_MS = 500

READ_PARAMETERS = (
    "offset", "timestamp", "max_bytes", "max_records", "min_bytes", "max_wait_ms", "replica",
    "isolation", "follow", *SELECTION_PARAMETERS,
)  # fmt: skip


async def read(request: web.Request) -> web.StreamResponse:
    """`GET /v1/topics/{topic}/partitions/{partition}/records`."""
    followed_as = stream_type(request, (*READ_MEDIA_TYPES, routes.EVENT_STREAM))
    if followed_as is not None:
        number = partition_number(request.match_info["partition"])
        return await follow(request, request.match_info["topic"], number, followed_as)
    media_type = negotiate(accept_of(request.headers.getall("Accept", ())), READ_MEDIA_TYPES)
    context = context_of(request)
    query = Query(request.query.items(), READ_PARAMETERS)
    wanted = wanted_answer(query, media_type)
    local = query.choice("replica", "leader", ("leader", "local")) == "local"
    max_records = query.number(
        "max_records", DEFAULT_READ_RECORDS, minimum=1, maximum=MAX_READ_RECORDS
    )
    options = ReadOptions(
        position=_position(query, local=local),
        max_bytes=query.number("max_bytes", DEFAULT_READ_BYTES, minimum=1, maximum=MAX_READ_BYTES),
        max_records=1 if media_type == routes.OCTET_STREAM else max_records,
        min_bytes=query.number("min_bytes", 1, minimum=0, maximum=MAX_READ_BYTES),
        max_wait_ms=query.number("max_wait_ms", DEFAULT_WAIT_MS, minimum=0, maximum=MAX_WAIT_MS),
        isolation=query.isolation(),
        filter=wanted.selection.filter,
    )
    topic, partition = (
        request.match_info["topic"],
        partition_number(request.match_info["partition"]),
    )

    async def serve_here() -> web.Response:
        # Before the read: of an election that comes while records are decoded they know nothing.
        unclean_leader_epoch = context.metadata.image.partition(
            topic, partition
        ).unclean_leader_epoch
        started_ms = monotonic_ms()
        found = await context.record_read.read(topic, partition, options, local=local)
        METRICS.fetch_seconds.labels(wanted.label).observe((monotonic_ms() - started_ms) / 1000)
        METRICS.fetched_bytes.labels(wanted.label).inc(found.size_bytes)
        state = context.metadata.image.topics.get(found.topic_id)
        if state is None:
            raise UnknownTopicOrPartitionError(f"topic '{topic}' was deleted")
        source = ReadSource(
            topic,
            partition,
            unclean_leader_epoch=unclean_leader_epoch,
            is_compacted=COMPACT in cleanup_policies(state.configs),
            is_local=local,
            is_at_an_offset=isinstance(options.position, int) and options.position >= 0,
        )
        if_none_match = accept_of(request.headers.getall("If-None-Match", ()))
        if found.size_bytes > BYTES_RENDERED_INLINE:
            return await on_worker(answer, found, source, wanted, if_none_match)
        return answer(found, source, wanted, if_none_match)

    if local:
        await context.topics.find_partition(topic, partition)
        return await serve_here()
    return await serve_at_leader(request, topic, partition, serve_here)


def _position(query: Query, *, local: bool) -> Position:
    timestamp = query.timestamp("timestamp")
    if timestamp is None:
        return query.position("offset")
    if query.text("offset") is not None:
        raise InvalidRequestError("offset and timestamp exclude each other", parameter="timestamp")
    if local:
        raise InvalidRequestError(
            "timestamp is looked for at the leader, not with replica=local", parameter="timestamp"
        )
    return AtTimestamp(timestamp)


async def offsets(request: web.Request) -> web.StreamResponse:
    """`GET …/offsets?at=earliest|latest|<timestamp>&isolation=…` of a partition."""
    context = context_of(request)
    query = Query(request.query.items(), {"at", "isolation"})
    at, isolation = _at(query), query.isolation()
    topic, partition = (
        request.match_info["topic"],
        partition_number(request.match_info["partition"]),
    )

    async def serve_here() -> web.Response:
        found = await context.record_read.offset_at(topic, partition, at, isolation=isolation)
        leader_epoch = context.metadata.image.partition(topic, partition).leader_epoch
        answer = OffsetResponse(topic, partition, found.offset, leader_epoch, found.timestamp)
        return web.Response(
            body=msgspec.json.encode(answer),
            content_type=routes.JSON,
            headers={"Cache-Control": "no-store"},
        )

    return await serve_at_leader(request, topic, partition, serve_here)


def _at(query: Query) -> Literal["earliest", "latest"] | AtTimestamp:
    at = query.text("at") or "latest"
    if at in ("earliest", "latest"):
        return cast(Literal["earliest", "latest"], at)
    timestamp = parse_integer(at)
    if timestamp is None or not 0 <= timestamp <= MAX_TIMESTAMP:
        raise InvalidRequestError(
            f"at must be earliest, latest or a time in ms since the epoch, not '{at}'",
            parameter="at",
        )
    return AtTimestamp(timestamp)
