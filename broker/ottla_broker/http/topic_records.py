"""`GET /v1/topics/{topic}/records`: all partitions, from a cursor that any broker takes."""

import msgspec
from aiohttp import web

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.http.context import context_of
from ottla_broker.http.negotiation import accept_of, negotiate
from ottla_broker.http.query import Query
from ottla_broker.http.record_answers import BYTES_RENDERED_INLINE
from ottla_broker.http.record_streams import (
    START_PARAMETERS,
    follow,
    start_of,
    stream_type,
)
from ottla_broker.http.records import (
    DEFAULT_READ_BYTES,
    DEFAULT_READ_RECORDS,
    DEFAULT_WAIT_MS,
)
from ottla_broker.http.selections import SELECTION_PARAMETERS, selection_of
from ottla_broker.services.heavy_work import on_worker
from ottla_broker.services.leader_reads import READ_BYTES
from ottla_broker.services.record_view import RecordView
from ottla_broker.services.topic_read import TopicReadOptions, TopicRecords
from ottla_broker.telemetry import METRICS
from ottla_protocol import routes
from ottla_protocol.cursors import encode_cursor
from ottla_protocol.models import MAX_WAIT_MS

MAX_TOPIC_READ_RECORDS = 10_000

READ_PARAMETERS = (
    *START_PARAMETERS, "max_bytes", "max_records", "max_wait_ms", "isolation", "follow",
    *SELECTION_PARAMETERS,
)  # fmt: skip

BOUNDED = (routes.JSON, routes.NDJSON, routes.EVENT_STREAM)
"""What answers a read; an event stream always goes on."""


async def read(request: web.Request) -> web.StreamResponse:
    """`GET /v1/topics/{topic}/records`."""
    topic = request.match_info["topic"]
    followed_as = stream_type(request, BOUNDED)
    if followed_as is not None:
        return await follow(request, topic, None, followed_as)
    media_type = negotiate(accept_of(request.headers.getall("Accept", ())), BOUNDED)
    query = Query(request.query.items(), READ_PARAMETERS)
    selection = selection_of(query)
    options = TopicReadOptions(
        start=start_of(request, query),
        max_bytes=query.number("max_bytes", DEFAULT_READ_BYTES, minimum=1, maximum=READ_BYTES),
        max_records=query.number(
            "max_records", DEFAULT_READ_RECORDS, minimum=1, maximum=MAX_TOPIC_READ_RECORDS
        ),
        max_wait_ms=query.number("max_wait_ms", DEFAULT_WAIT_MS, minimum=0, maximum=MAX_WAIT_MS),
        isolation=query.isolation(),
        filter=selection.filter,
    )
    started_ms = monotonic_ms()
    found = await context_of(request).topic_read.read(topic, options)
    size_bytes = sum(
        len(record.value or b"") for each in found.partitions for record in each.records
    )
    METRICS.fetch_seconds.labels("topic").observe((monotonic_ms() - started_ms) / 1000)
    METRICS.fetched_bytes.labels("topic").inc(size_bytes)
    render = _json if media_type == routes.JSON else _lines
    if size_bytes > BYTES_RENDERED_INLINE:
        body = await on_worker(render, topic, found, selection.view)
    else:
        body = render(topic, found, selection.view)
    return web.Response(
        body=body,
        headers={
            "Content-Type": media_type,
            "Cache-Control": "no-store",
            routes.HEADER_CURSOR: encode_cursor(found.cursor),
        },
    )


def _json(topic: str, found: TopicRecords, view: RecordView) -> bytes:
    arrays = (view.array(each.records, partition=each.key[1]) for each in found.partitions)
    # Each is a JSON array with its brackets.
    records = b",".join(array[1:-1] for array in arrays)
    return b'{"topic":%b,"records":[%b],"cursor":"%b","unavailable":%b}' % (
        msgspec.json.encode(topic),
        records,
        encode_cursor(found.cursor).encode("ascii"),
        msgspec.json.encode(found.unavailable),
    )


def _lines(topic: str, found: TopicRecords, view: RecordView) -> bytes:  # noqa: ARG001  as `_json`
    return b"".join(view.lines(each.records, partition=each.key[1]) for each in found.partitions)
