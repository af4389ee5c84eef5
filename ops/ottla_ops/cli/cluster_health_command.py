"""`ottla cluster health`: what is wrong with the cluster, why, and how much of it there is."""

import time
from typing import TYPE_CHECKING, Annotated, Final, get_args

import typer

from ottla_ops.cli.failures import CommandError, ExitCode, usage_error
from ottla_ops.cli.session import session_of

if TYPE_CHECKING:
    from ottla_ops.cli.http_connection import Answer, HttpConnection
    from ottla_ops.cli.output import Output
    from ottla_protocol.models_health import ClusterHealth, PartitionHealth

EXIT_CODES: Final = {
    "healthy": ExitCode.OK,
    "degraded": ExitCode.FAILURE,
    "unavailable": ExitCode.UNAVAILABLE,
}

WAIT_INTERVAL_S: Final = 0.5
DEFAULT_LISTED: Final = 20


def cluster_health(
    context: typer.Context,
    *,
    limit: Annotated[
        int,
        typer.Option(min=1, max=1_000, metavar="N", help="How many partitions to list at most."),
    ] = DEFAULT_LISTED,
    condition: Annotated[
        str | None,
        typer.Option(
            metavar="CONDITION",
            help="List only partitions that are offline, under_min_isr, at_min_isr, "
            "under_replicated or reassigning.",
        ),
    ] = None,
    cursor: Annotated[
        str | None,
        typer.Option(metavar="CURSOR", help="Go on where the last list ended."),
    ] = None,
    wait_s: Annotated[
        float,
        typer.Option(
            "--wait", min=0, metavar="SECONDS", help="Wait so long for the cluster to be healthy."
        ),
    ] = 0,
) -> None:
    """Tell how the cluster is: partitions and brokers that are not as they should be, and why.

    Exit codes: 0 healthy, 1 degraded (all is served, and something that makes it safe is missing),
    5 unavailable (something is not served, or no broker can be asked).
    """
    from ottla_protocol.models_health import ClusterHealth, Condition

    session = session_of(context)
    conditions = get_args(Condition)
    if condition is not None and condition not in conditions:
        raise usage_error(f"--condition {condition}: it is one of {', '.join(conditions)}")
    query: dict[str, object] = {"limit": limit, "condition": condition, "cursor": cursor}
    answer = _healthy_within(session.connect(), query, wait_s)
    health = answer.decoded(ClusterHealth)
    if session.output.as_json:
        session.output.document(answer.document())
    else:
        _show(session.output, health)
    code = EXIT_CODES.get(health.status, ExitCode.FAILURE)
    if code is not ExitCode.OK:
        raise typer.Exit(code)


def _healthy_within(
    connection: "HttpConnection", query: dict[str, object], wait_s: float
) -> "Answer":
    """The first answer that tells a healthy cluster, or the last one before the time is up.

    Raises:
        CommandError: no broker answered in time.
    """
    from ottla_protocol import routes
    from ottla_protocol.models_health import ClusterHealth

    deadline_s = time.monotonic() + wait_s
    while True:
        try:
            answer = connection.request("GET", routes.CLUSTER_HEALTH, query=query)
            if answer.decoded(ClusterHealth).status == "healthy":
                return answer
        except CommandError as error:
            is_over = time.monotonic() + WAIT_INTERVAL_S > deadline_s
            if is_over or error.exit_code is not ExitCode.UNAVAILABLE:
                raise
        else:
            if time.monotonic() + WAIT_INTERVAL_S > deadline_s:
                return answer
        time.sleep(WAIT_INTERVAL_S)


def _show(output: "Output", health: "ClusterHealth") -> None:
    counts = health.counts
    controller = "none known" if health.controller is None else str(health.controller)
    output.text(f"status      {health.status}")
    output.text(f"cluster     {health.cluster_id}, as broker {health.served_by} knows it")
    output.text(f"controller  {controller} (term {health.controller_term})")
    output.text(f"metadata    version {health.metadata_version}, {_age(health)}")
    output.text(f"brokers     {counts.active_brokers} of {counts.brokers} active")
    output.text(
        f"partitions  {counts.partitions}: {counts.offline} offline, "
        f"{counts.under_min_isr} under min ISR, {counts.at_min_isr} at min ISR, "
        f"{counts.under_replicated} under-replicated, {counts.reassigning} reassigning"
    )
    if health.reasons:
        output.text("")
        output.table(("CODE", "WHY"), [(each.code, each.detail) for each in health.reasons])
    if health.unfit_replicas:
        output.text("")
        rows = [
            (each.topic, each.partition, each.broker, each.reason.detail)
            for each in health.unfit_replicas
        ]
        output.table(("TOPIC", "PARTITION", "BROKER", "UNFIT REPLICA"), rows)
    if health.partitions:
        output.text("")
        headers = ("TOPIC", "PARTITION", "LEADER", "REPLICAS", "ISR", "CONDITION", "WHY")
        output.table(headers, [_row(each) for each in health.partitions])
    if health.next_cursor is not None:
        output.note(
            f"there are more; --limit shows more, --cursor '{health.next_cursor}' goes on from here"
        )


def _age(health: "ClusterHealth") -> str:
    if health.metadata_is_current:
        return "confirmed by the controller just now"
    if health.metadata_age_ms is None:
        return "never confirmed by a controller since this broker started"
    return f"confirmed by a controller {health.metadata_age_ms / 1000:.1f} s ago"


def _row(partition: "PartitionHealth") -> tuple[object, ...]:
    return (
        partition.topic,
        partition.partition,
        "none" if partition.leader is None else partition.leader,
        ",".join(map(str, partition.replicas)),
        ",".join(map(str, partition.isr)) or "none",
        partition.conditions[0].replace("_", " "),
        "; ".join(reason.detail for reason in partition.reasons) or "-",
    )
