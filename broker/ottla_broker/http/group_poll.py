"""`POST /v1/groups/{group}/poll`: a consumer group in one call."""

import msgspec
from aiohttp import web

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.http.context import context_of
from ottla_broker.http.topics import change_request
from ottla_broker.services.group_poll import Polled
from ottla_broker.services.heavy_work import on_worker
from ottla_broker.telemetry import METRICS
from ottla_protocol import routes
from ottla_protocol.json_records import RecordFormat, render_records
from ottla_protocol.models_poll import GroupPollRequest

RECORDS_RENDERED_INLINE = 100
"""More records than this are rendered on a thread, so that heartbeats go on meanwhile."""

BYTES_RENDERED_INLINE = 256 << 10
"""So are more bytes of values than this."""


async def poll(request: web.Request) -> web.Response:
    """`POST /v1/groups/{group}/poll`."""
    wanted = await change_request(request, GroupPollRequest)
    polls = context_of(request).group_polls
    started_ms = monotonic_ms()
    polled = await polls.poll(request.match_info["group"], wanted)
    try:
        count = sum(len(each.records) for each in polled.partitions)
        size_bytes = sum(
            len(record.value or b"") for each in polled.partitions for record in each.records
        )
        if count > RECORDS_RENDERED_INLINE or size_bytes > BYTES_RENDERED_INLINE:
            body = await on_worker(_render, polled, wanted.format)
        else:
            body = _render(polled, wanted.format)
    except BaseException:
        polls.abandon(polled)
        raise
    METRICS.fetch_seconds.labels("poll").observe((monotonic_ms() - started_ms) / 1000)
    METRICS.fetched_bytes.labels("poll").inc(size_bytes)
    return web.Response(body=body, content_type=routes.JSON, headers={"Cache-Control": "no-store"})


def _render(polled: Polled, record_format: RecordFormat) -> bytes:
    arrays = (
        render_records(each.records, record_format, topic=each.key[0], partition=each.key[1])
        for each in polled.partitions
        if each.records
    )
    # Each is a JSON array with its brackets.
    records = b",".join(array[1:-1] for array in arrays)
    return b'{"member_id":%b,"generation":%d,"records":[%b],"ack":%b}' % (
        msgspec.json.encode(polled.member_id),
        polled.generation,
        records,
        msgspec.json.encode(polled.ack),
    )
