"""What an event source hears that comes back to a broker that cannot serve it at this moment."""

from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from ottla_broker.http import record_streams
from ottla_broker.http.context import CONTEXT
from ottla_broker.http.record_streams import follow
from ottla_broker.services.stream_rendering import StreamRendering
from ottla_protocol import routes
from ottla_protocol.cursors import Cursor, encode_cursor
from ottla_protocol.errors import (
    ControllerNotAvailableError,
    CursorOfDeletedTopicError,
    LogTruncatedError,
    OttlaError,
    OverloadedError,
)

RESUMED = {"Last-Event-ID": encode_cursor(Cursor("0123456789abcdef0123456789abcdef", 0, (5,)))}


async def answer(error, headers, media_type=routes.EVENT_STREAM):
    """The status and body of a stream that cannot begin."""

    @asynccontextmanager
    async def refuse(*_, **__):
        raise error
        yield

    async def handle(request):
        try:
            return await follow(request, "t", None, media_type)
        except OttlaError as refused:
            return web.Response(status=refused.status)

    application = web.Application()
    application[CONTEXT] = SimpleNamespace(
        following=SimpleNamespace(follow=refuse),
        purgatory=SimpleNamespace(is_released=False),
        settings=SimpleNamespace(node_id=1),
    )
    application.router.add_get("/", handle)
    async with TestClient(TestServer(application)) as client:
        response = await client.get("/", headers=headers)
        return response.status, await response.read()


async def test_whoever_comes_back_to_a_broker_without_a_controller_is_to_come_again():
    """An EventSource gives up for good at any status but 200 (WHATWG HTML, section 9.2.3)."""
    assert await answer(ControllerNotAvailableError("none"), RESUMED) == (200, b"retry: 1000\n\n")


async def test_whoever_comes_back_behind_lost_records_is_told_where_to_go_on():
    error = LogTruncatedError("gone", partition=0, divergent_offset=3, cursor="AbC-_")
    status, body = await answer(error, RESUMED)
    assert status == 200
    assert body.startswith(b"retry: 1000\n\nevent: error\nid: AbC-_\ndata: {")
    assert b'"LOG_TRUNCATED"' in body
    assert (await answer(error, RESUMED, routes.NDJSON))[0] == 416


@pytest.mark.parametrize(
    ("error", "headers", "media_type", "status"),
    [
        (ControllerNotAvailableError("none"), {}, routes.EVENT_STREAM, 503),
        (ControllerNotAvailableError("none"), RESUMED, routes.NDJSON, 503),
        (OverloadedError("full"), RESUMED, routes.EVENT_STREAM, 503),
        (CursorOfDeletedTopicError("gone"), RESUMED, routes.EVENT_STREAM, 410),
    ],
)
async def test_everybody_else_hears_why(error, headers, media_type, status):
    assert (await answer(error, headers, media_type))[0] == status


@pytest.mark.parametrize("failure", [TimeoutError, ConnectionResetError])
async def test_a_client_that_cannot_be_told_the_error_is_no_failure_of_the_broker(
    monkeypatch, failure
):
    async def fail(*_):
        raise failure

    monkeypatch.setattr(record_streams, "_send", fail)
    rendering = StreamRendering(routes.EVENT_STREAM, names_partition=True)
    async with record_streams._telling_errors(None, rendering):
        raise CursorOfDeletedTopicError("gone")
