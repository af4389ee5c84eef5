"""One process: is it alive and ready, what does it measure, and which version is it."""

from ottla_broker.http import health
from ottla_broker.http.operations import Content, Operation, Reply, ok
from ottla_protocol import routes
from ottla_protocol.models import Readiness, VersionResponse

LIVE_SCHEMA = {
    "type": "object",
    "properties": {"live": {"const": True}},
    "required": ["live"],
}

OPERATIONS = (
    Operation(
        "GET",
        routes.LIVENESS,
        "liveness",
        "process",
        "Whether the process runs",
        ok(LIVE_SCHEMA, "The event loop turns; nothing else counts."),
        health.liveness,
    ),
    Operation(
        "GET",
        routes.READINESS,
        "readiness",
        "process",
        "Whether clients may come",
        (
            Reply(200, "They may.", (Content(Readiness),)),
            Reply(503, "Not now, for every reason that is listed.", (Content(Readiness),)),
        ),
        health.readiness,
    ),
    Operation(
        "GET",
        routes.VERSION,
        "version",
        "process",
        "Versions of Ottla, Python and SQLite",
        ok(VersionResponse, "The versions."),
        health.version,
    ),
    Operation(
        "GET",
        routes.METRICS,
        "metrics",
        "process",
        "Metrics for Prometheus",
        (
            Reply(
                200,
                "Prometheus' text format.",
                (Content({"type": "string"}, "text/plain"),),
            ),
        ),
        health.metrics,
    ),
)
