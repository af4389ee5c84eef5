"""`/livez`, `/readyz`, `/startupz`, `/version` and `/metrics`."""

import platform
from importlib.metadata import version as installed_version

from aiohttp import web

from ottla_broker.http.context import context_of
from ottla_broker.http.topics import json_response
from ottla_broker.storage.sqlite import sqlite_version
from ottla_broker.telemetry import METRICS
from ottla_protocol.models import Startup, VersionResponse

METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


async def liveness(_: web.Request) -> web.Response:
    """200 while the event loop turns; nothing else counts."""
    return json_response({"live": True})


async def readiness(request: web.Request) -> web.Response:
    """200 when this broker can serve, else 503 with every reason."""
    state = context_of(request).readiness()
    return json_response(state, status=200 if state.ready else 503)


async def startup(request: web.Request) -> web.Response:
    """200 once this process has started, whatever became of it since."""
    started = context_of(request).has_started()
    return json_response(Startup(started), status=200 if started else 503)


async def version(_: web.Request) -> web.Response:
    """Versions of Ottla, Python and SQLite."""
    return json_response(
        VersionResponse(installed_version("ottla"), platform.python_version(), sqlite_version())
    )


async def metrics(request: web.Request) -> web.Response:
    """Prometheus text exposition, of now."""
    context_of(request).measure_gauges()
    return web.Response(body=METRICS.render(), headers={"Content-Type": METRICS_CONTENT_TYPE})
