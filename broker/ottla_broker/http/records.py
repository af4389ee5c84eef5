"""`…/records` and `…/offsets`: read as JSON."""

from typing import Literal, cast

import msgspec
from aiohttp import web

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.http.context import context_of
from ottla_broker.http.forwarding import serve_at_leader
from ottla_broker.http.query import MAX_TIMESTAMP, Query, parse_integer, partition_number
from ottla_broker.http.record_streams import follow, stream_type
from ottla_broker.services.heavy_work import on_worker
from ottla_broker.services.record_read import AtTimestamp, Position, ReadOptions, RecordsRead
from ottla_broker.telemetry import METRICS
from ottla_protocol import routes
from ottla_protocol.errors import (
    InvalidRequestError,
)
from ottla_protocol.json_records import RecordFormat, render_records
from ottla_protocol.models import MAX_WAIT_MS, OffsetResponse

DEFAULT_READ_BYTES = 1 << 20
MAX_READ_BYTES = 64 << 20
DEFAULT_READ_RECORDS = 500
MAX_READ_RECORDS = 100_000
DEFAULT_WAIT_MS = 500

BYTES_RENDERED_INLINE = 256 << 10
"""Larger answers are rendered on a thread, for the same reason."""

READ_PARAMETERS = (
    "offset", "timestamp", "max_bytes", "max_records", "min_bytes", "max_wait_ms", "format",
    "replica", "follow",
)  # fmt: skip
FORMATS = ("auto", "json", "text", "base64")


async def read(request: web.Request) -> web.StreamResponse:
    """`GET /v1/topics/{topic}/partitions/{partition}/records`."""
    followed_as = stream_type(request, (routes.JSON, routes.EVENT_STREAM))
    if followed_as is not None:
        number = partition_number(request.match_info["partition"])
        return await follow(request, request.match_info["topic"], number, followed_as)
    context = context_of(request)
    query = Query(request.query.items(), READ_PARAMETERS)
    local = query.choice("replica", "leader", ("leader", "local")) == "local"
    options = ReadOptions(
        position=_position(query, local=local),
        max_bytes=query.number("max_bytes", DEFAULT_READ_BYTES, minimum=1, maximum=MAX_READ_BYTES),
        max_records=query.number(
            "max_records", DEFAULT_READ_RECORDS, minimum=1, maximum=MAX_READ_RECORDS
        ),
        min_bytes=query.number("min_bytes", 1, minimum=0, maximum=MAX_READ_BYTES),
        max_wait_ms=query.number("max_wait_ms", DEFAULT_WAIT_MS, minimum=0, maximum=MAX_WAIT_MS),
    )
    record_format = cast(RecordFormat, query.choice("format", "auto", FORMATS))
    topic, partition = (
        request.match_info["topic"],
        partition_number(request.match_info["partition"]),
    )

    async def serve_here() -> web.Response:
        started_ms = monotonic_ms()
        found = await context.record_read.read(topic, partition, options, local=local)
        METRICS.fetch_seconds.labels("json").observe((monotonic_ms() - started_ms) / 1000)
        METRICS.fetched_bytes.labels("json").inc(found.size_bytes)
        if found.size_bytes > BYTES_RENDERED_INLINE:
            return await on_worker(_render, topic, partition, found, record_format)
        return _render(topic, partition, found, record_format)

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


def _render(
    topic: str, partition: int, found: RecordsRead, record_format: RecordFormat
) -> web.Response:
    body = b'{"topic":%b,"partition":%d,"records":%b,"next_offset":%d,' % (
        msgspec.json.encode(topic),
        partition,
        render_records(found.records, record_format),
        found.next_offset,
    ) + b'"high_watermark":%d,"log_start_offset":%d}' % (
        found.high_watermark,
        found.log_start_offset,
    )
    return web.Response(body=body, content_type=routes.JSON, headers={"Cache-Control": "no-store"})


async def offsets(request: web.Request) -> web.StreamResponse:
    """`GET /v1/topics/{topic}/partitions/{partition}/offsets?at=earliest|latest|<timestamp>`."""
    context = context_of(request)
    at = _at(Query(request.query.items(), {"at"}))
    topic, partition = (
        request.match_info["topic"],
        partition_number(request.match_info["partition"]),
    )

    async def serve_here() -> web.Response:
        found = await context.record_read.offset_at(topic, partition, at)
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
