"""`GET …/records`: what counts as read is what has left this broker."""

import asyncio
from collections.abc import Sequence

from aiohttp import web

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.http.aiohttp_connection import AiohttpConnection
from ottla_broker.http.context import context_of
from ottla_broker.http.negotiation import accept_of
from ottla_broker.http.query import parse_integer
from ottla_broker.http.rest_v2.consumer_bodies import render_consumed
from ottla_broker.http.rest_v2.consumers import instance_of
from ottla_broker.http.rest_v2.errors import BadRequestError
from ottla_broker.http.rest_v2.media_types import records_type
from ottla_broker.services.heavy_work import on_worker
from ottla_broker.services.polled_records import PolledPartition
from ottla_broker.telemetry import METRICS
from ottla_protocol import routes
from ottla_protocol.models import MAX_WAIT_MS

DEFAULT_TIMEOUT_MS = 1_000
MAX_RESPONSE_BYTES = 64 << 20

RECORDS_RENDERED_INLINE = 100
"""More records than this are rendered on a thread, so that heartbeats go on meanwhile."""

BYTES_RENDERED_INLINE = 256 << 10
"""So are more bytes of values than this."""


async def read(request: web.Request) -> web.StreamResponse:
    """Records that the instance has not read yet, `[]` where there are none in time.

    HEAD has no body that could carry records, so it reads none.

    Raises:
        FormatMismatchError: Accept takes another format than the instance's.
        RecordFormatError: a record cannot be told in it; the instance stays before it.
        OttlaError, ProxyError: as `RestConsumerService.read`.
    """
    group, instance_id = instance_of(request)
    consumers = context_of(request).rest_consumers
    timeout_ms = _number(request, "timeout", MAX_WAIT_MS)
    max_bytes = _number(request, "max_bytes", MAX_RESPONSE_BYTES)
    settings = (await consumers.describe(group, instance_id)).settings
    accept = accept_of(request.headers.getall("Accept", ()))
    media_type = records_type(accept, settings.record_format)
    if request.method == "HEAD":
        return web.Response(content_type=media_type)
    started_ms = monotonic_ms()
    found = await consumers.read(
        group,
        instance_id,
        max_bytes=MAX_RESPONSE_BYTES if max_bytes is None else max_bytes,
        timeout_ms=_timeout_ms(timeout_ms, settings.request_timeout_ms),
        render=_rendered,
    )
    METRICS.fetch_seconds.labels("proxy").observe((monotonic_ms() - started_ms) / 1000)
    if found.delivery_id is None:
        return web.Response(body=found.body, content_type=media_type)
    is_delivered = False
    try:
        response = web.Response(body=found.body, content_type=media_type)
        response.headers[routes.HEADER_SERVED_BY] = str(context_of(request).settings.node_id)
        connection = request.protocol
        assert isinstance(connection, AiohttpConnection)
        await connection.send_whole(request, response)
        is_delivered = True
    finally:
        settling = consumers.settle(
            group, instance_id, found.delivery_id, is_delivered=is_delivered
        )
    await asyncio.shield(settling)
    return response


async def _rendered(
    found: Sequence[PolledPartition], record_format: str
) -> tuple[Sequence[PolledPartition], bytes]:
    records = [record for each in found for record in each.records]
    size_bytes = sum(len(record.key or b"") + len(record.value or b"") for record in records)
    METRICS.fetched_bytes.labels("proxy").inc(size_bytes)
    if len(records) > RECORDS_RENDERED_INLINE or size_bytes > BYTES_RENDERED_INLINE:
        return await on_worker(render_consumed, found, record_format)
    return render_consumed(found, record_format)


def _timeout_ms(asked_ms: int | None, own_ms: int | None) -> int:
    """What the request asks for, but no longer than the instance was made to wait."""
    if asked_ms is None:
        return DEFAULT_TIMEOUT_MS if own_ms is None else own_ms
    return asked_ms if own_ms is None else min(asked_ms, own_ms)


def _number(request: web.Request, name: str, maximum: int) -> int | None:
    """A number of the query, or None where it is not given or negative, which means the same."""
    text = request.query.get(name)
    if text is None:
        return None
    number = parse_integer(text)
    if number is None:
        raise BadRequestError(f"{name} must be a whole number, not '{text}'.")
    return None if number < 0 else min(number, maximum)
