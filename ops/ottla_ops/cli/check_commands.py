"""`ottla check`: plugins for monitoring systems, with their exit codes and not those of `ottla`."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Final

import typer

from ottla_ops.cli.failures import CommandError, usage_error
from ottla_ops.cli.session import session_of

if TYPE_CHECKING:
    from ottla_ops.cli.http_connection import Answer, HttpConnection
    from ottla_ops.cli.monitoring import Verdict

app = typer.Typer(
    help="For Nagios and its like: cluster, topic, group. Exit codes 0 OK, 1 WARNING, 2 CRITICAL, "
    "3 UNKNOWN.",
    no_args_is_help=True,
)

DEFAULT_TIMEOUT_S: Final = 5.0

Timeout = Annotated[
    float,
    typer.Option(
        min=0.1, max=60, metavar="SECONDS", help="How long each broker of --bootstrap may take."
    ),
]


@app.command("cluster")
def check_cluster(context: typer.Context, *, timeout: Timeout = DEFAULT_TIMEOUT_S) -> None:
    """WARNING when the cluster is degraded, CRITICAL when something is not served."""
    from ottla_ops.cli.monitoring import cluster_verdict
    from ottla_protocol import routes
    from ottla_protocol.models_health import ClusterHealth

    def judge(connection: "HttpConnection") -> "Verdict":
        answer = _get(connection, routes.CLUSTER_HEALTH, timeout)
        return cluster_verdict(answer.decoded(ClusterHealth))

    _tell(context, judge)


@app.command("topic")
def check_topic(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="TOPIC", help="Name of the topic.")],
    *,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """WARNING when replicas are missing, CRITICAL when a partition is not served, or no topic."""
    from ottla_ops.cli.http_connection import path_of
    from ottla_ops.cli.monitoring import IN_SYNC_CONFIG, topic_verdict
    from ottla_protocol import routes
    from ottla_protocol.models import TopicConfigs, TopicDescription

    def judge(connection: "HttpConnection") -> "Verdict":
        topic = _get(connection, path_of(routes.TOPIC, topic=name), timeout)
        configs = _get(connection, path_of(routes.TOPIC_CONFIGS, topic=name), timeout)
        min_insync_replicas = configs.decoded(TopicConfigs).configs[IN_SYNC_CONFIG].value
        return topic_verdict(topic.decoded(TopicDescription), int(min_insync_replicas))

    _tell(context, judge)


@app.command("group")
def check_group(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="GROUP", help="Name of the consumer group.")],
    *,
    warning: Annotated[
        int | None,
        typer.Option("--warning", "-w", min=0, metavar="RECORDS", help="WARNING above this lag."),
    ] = None,
    critical: Annotated[
        int | None,
        typer.Option("--critical", "-c", min=0, metavar="RECORDS", help="CRITICAL above this lag."),
    ] = None,
    topic: Annotated[
        list[str] | None,
        typer.Option(metavar="TOPIC", help="Only its lag there; may be repeated."),
    ] = None,
    min_members: Annotated[
        int, typer.Option(min=0, metavar="N", help="CRITICAL with fewer members.")
    ] = 0,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Hold a group's lag, over all of its partitions, against thresholds."""
    from ottla_ops.cli.http_connection import path_of
    from ottla_ops.cli.monitoring import group_verdict
    from ottla_protocol import routes
    from ottla_protocol.models_groups import GroupDescription

    def judge(connection: "HttpConnection") -> "Verdict":
        if warning is None and critical is None and not min_members:
            raise usage_error(
                "nothing to hold it against; see --warning, --critical, --min-members"
            )
        if warning is not None and critical is not None and warning > critical:
            raise usage_error(f"--warning {warning} is above --critical {critical}")
        answer = _get(connection, path_of(routes.GROUP, group=name), timeout)
        return group_verdict(
            answer.decoded(GroupDescription),
            warning=warning,
            critical=critical,
            topics=topic or (),
            min_members=min_members,
        )

    _tell(context, judge)


def _get(connection: "HttpConnection", path: str, timeout_s: float) -> "Answer":
    return connection.request("GET", path, answer_timeout_s=timeout_s)


def _tell(context: typer.Context, judge: "Callable[[HttpConnection], Verdict]") -> None:
    """Print the verdict on stdout, where monitoring systems read, and end with its exit code."""
    from ottla_ops.cli.monitoring import failure_verdict

    session = session_of(context)
    try:
        verdict = judge(session.connect())
    except CommandError as error:
        verdict = failure_verdict(error)
    if session.output.as_json:
        session.output.document(verdict.document())
    else:
        session.output.text(verdict.line())
    raise typer.Exit(verdict.state.value)
