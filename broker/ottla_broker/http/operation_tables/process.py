"""One process: is it alive and ready, what does it measure, and which version is it."""

from ottla_broker.http import description, health
from ottla_broker.http.operations import Content, Operation, Parameter, Reply, ok
from ottla_protocol import routes
from ottla_protocol.models import Readiness, Startup, VersionResponse

LIVE_SCHEMA = {
    "type": "object",
    "properties": {"live": {"const": True}},
    "required": ["live"],
}

IF_NONE_MATCH = Parameter(
    "If-None-Match", "header", "The `ETag` of what the caller has.", {"type": "string"}
)

DESCRIPTION_HEADERS = {"ETag": "Names this text.", "Cache-Control": "`no-cache`."}

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
        routes.STARTUP,
        "startup",
        "process",
        "Whether the process has started",
        (
            Reply(
                200,
                "It has read its own files and joined in; this never goes back, and waits for no "
                "other process.",
                (Content(Startup),),
            ),
            Reply(503, "It is starting.", (Content(Startup),)),
        ),
        health.startup,
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
    Operation(
        "GET",
        routes.OPENAPI,
        "openapi",
        "process",
        "This description, for programs",
        (
            Reply(200, "OpenAPI 3.1.", (Content({"type": "object"}),), DESCRIPTION_HEADERS),
            Reply(304, "The caller has it.", (), DESCRIPTION_HEADERS),
        ),
        description.openapi,
        parameters=(IF_NONE_MATCH,),
    ),
    Operation(
        "GET",
        routes.DOCS,
        "docs",
        "process",
        "This description, for people",
        (
            Reply(
                200,
                "A page that needs nothing from elsewhere.",
                (Content({"type": "string"}, routes.HTML),),
                DESCRIPTION_HEADERS,
            ),
            Reply(304, "The caller has it.", (), DESCRIPTION_HEADERS),
        ),
        description.docs,
        parameters=(IF_NONE_MATCH,),
    ),
)
