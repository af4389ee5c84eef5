"""`ottla cluster`: what the cluster is made of, and who leads and replicates what."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ottla_ops.cli.failures import CommandError, ExitCode, usage_error
from ottla_ops.cli.partition_names import partition_of
from ottla_ops.cli.reassignment_output import rate_of, show_reassignments, show_throttle
from ottla_ops.cli.session import session_of
from ottla_protocol.counted_nouns import counted

if TYPE_CHECKING:
    from ottla_ops.cli.http_connection import Answer
    from ottla_ops.cli.session import Session
    from ottla_protocol.models import (
        BrokerDescription,
        ElectedPartition,
        ReassignedPartition,
    )

READ_AGAIN_FOR_S = 10.0
"""How long a question is asked again, of other brokers too, that one cannot answer now."""

app = typer.Typer(
    help="The cluster: its brokers and controller, leaders and replicas.", no_args_is_help=True
)


@app.command("info")
def cluster_info(context: typer.Context) -> None:
    """Show the cluster's id, controller and brokers."""
    from ottla_protocol import routes
    from ottla_protocol.models import ClusterDescription

    session = session_of(context)
    answer = session.connect().request("GET", routes.CLUSTER)
    if session.output.as_json:
        session.output.document(answer.document())
        return
    cluster = answer.decoded(ClusterDescription)
    controller = "none elected" if cluster.controller is None else str(cluster.controller)
    session.output.text(f"cluster     {cluster.cluster_id}")
    session.output.text(f"controller  {controller} (term {cluster.controller_term})")
    session.output.text(
        f"topics      {cluster.topics} with {counted(cluster.partitions, 'partition')}"
    )
    session.output.text("")
    rows = [
        (broker.id, broker.url, _state(broker), broker.rack or "-", broker.broker_epoch)
        for broker in sorted(cluster.brokers, key=lambda broker: broker.id)
    ]
    session.output.table(("BROKER", "URL", "STATE", "RACK", "EPOCH"), rows)
    if cluster.controller is None:
        session.output.note(
            "without a controller the states may be old; `ottla cluster health` tells how old"
        )


@app.command("elect")
def elect(
    context: typer.Context,
    partitions: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TOPIC:PARTITION]...",
            help="Where to elect; when left out, wherever the first replica does not lead, or "
            "with --unclean wherever there is no leader.",
        ),
    ] = None,
    *,
    unclean: Annotated[
        bool,
        typer.Option(
            "--unclean",
            help="Let the replica with the longest log lead, though it is not in sync: what it "
            "lacks is lost. For partitions without a leader whose topic sets "
            "unclean.leader.election.enable.",
        ),
    ] = False,
) -> None:
    """Give leadership back to preferred leaders: the first replica, where it is in sync."""
    from ottla_protocol import routes
    from ottla_protocol.models import ElectionResponse

    session = session_of(context)
    named = [partition_of(text) for text in partitions or []]
    body = {
        "type": "unclean" if unclean else "preferred",
        "partitions": [{"topic": topic, "partition": number} for topic, number in named] or None,
    }
    answer = session.connect().request(
        "POST", routes.ELECTIONS, body=json.dumps(body).encode(), repeatable=True
    )
    results = answer.decoded(ElectionResponse).results
    rows = [
        (each.topic, each.partition, _leader(each), _election_outcome(each, answer))
        for each in results
    ]
    _show(session, answer, ("TOPIC", "PARTITION", "LEADER", "RESULT"), rows)
    if not results:
        session.output.note(
            "no partition whose topic allows it is without a leader"
            if unclean
            else "every partition is led by its first replica"
        )
    if answer.is_repeated:
        session.output.note(
            "a broker to which this was sent first did not answer: it may have elected leaders, "
            "which are not told here as elected"
        )
    _fail_if_any(results)


@app.command("reassign")
def reassign(
    context: typer.Context,
    moves: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TOPIC:PARTITION=ID,ID,...]...",
            help="The replicas that partitions are to have, the preferred leader first.",
        ),
    ] = None,
    *,
    cancel: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TOPIC:PARTITION", help="A reassignment to call off; may be repeated."
        ),
    ] = None,
    throttle: Annotated[
        str | None,
        typer.Option(
            metavar="BYTES_PER_SECOND|none",
            help="What each broker sends to new replicas at most, over all reassignments, until "
            "this is changed; k, M and G are accepted (1,000, 1,000,000, ...).",
        ),
    ] = None,
) -> None:
    """Move partitions to other brokers; without arguments, show what is under way, and how far.

    New replicas catch up first. A partition switches to its new replicas once all of them are in
    sync; until then it can be called off. A throttle holds back only what new replicas copy. The
    brokers' own topics, __consumer_offsets and __transaction_state, are moved as any others.
    """
    from ottla_protocol import routes
    from ottla_protocol.models import ReassignmentList, ReassignmentResponse

    session = session_of(context)
    wanted = [_move_of(text) for text in moves or []]
    for text in cancel or []:
        topic, number = partition_of(text)
        wanted.append({"topic": topic, "partition": number, "replicas": None})
    body: dict[str, Any] = {"reassignments": wanted}
    if throttle is not None:
        body["throttle_bytes_per_second"] = rate_of(throttle)
    connection = session.connect()
    if not wanted and throttle is None:
        # A broker that is cut off says so: another one may know.
        answer = connection.retry(
            lambda: connection.request("GET", routes.REASSIGNMENTS), timeout_s=READ_AGAIN_FOR_S
        )
        show_reassignments(session, answer, answer.decoded(ReassignmentList))
        return
    # What was called off is not under way any more: asked a second time, that would be an error.
    answer = connection.request(
        "POST",
        routes.REASSIGNMENTS,
        body=json.dumps(body).encode(),
        repeatable=not cancel,
    )
    if not wanted:
        show_throttle(session, answer, body["throttle_bytes_per_second"])
        return
    results = answer.decoded(ReassignmentResponse).results
    outcomes = ["begun"] * len(moves or []) + ["called off"] * len(cancel or [])
    rows = [
        (each.topic, each.partition, outcome if each.error is None else _refusal(each.error))
        for each, outcome in zip(results, outcomes, strict=True)
    ]
    _show(session, answer, ("TOPIC", "PARTITION", "RESULT"), rows)
    _fail_if_any(results)


def _state(broker: "BrokerDescription") -> str:
    """The state of the process, and where its replicas leave it, of that."""
    return broker.state if broker.drain is None else f"{broker.state}, {broker.drain}"


def _show(
    session: "Session", answer: "Answer", headers: Sequence[str], rows: Sequence[Sequence[object]]
) -> None:
    if session.output.as_json:
        session.output.document(answer.document())
    else:
        session.output.table(headers, rows)


def _fail_if_any(results: "Sequence[ElectedPartition | ReassignedPartition]") -> None:
    """Scripts look at the exit code alone, and one that failed is a failure.

    Raises:
        typer.Exit: with the code of a failure.
    """
    if any(each.error is not None for each in results):
        raise typer.Exit(ExitCode.FAILURE)


def _leader(elected: "ElectedPartition") -> str:
    return "none" if elected.leader is None else str(elected.leader)


def _election_outcome(elected: "ElectedPartition", answer: "Answer") -> str:
    if elected.error is not None:
        return _refusal(elected.error)
    if elected.elected:
        return "elected"
    return "leads" if answer.is_repeated else "led already"


def _refusal(problem: dict[str, Any]) -> str:
    return str(problem.get("detail") or problem.get("code"))


def _move_of(text: str) -> dict[str, Any]:
    """`TOPIC:PARTITION=ID,ID,...` as a member of the request.

    Raises:
        CommandError: (usage) it is not of that form.
    """
    form = "TOPIC:PARTITION=ID,ID,..."
    partition, _, replicas = text.partition("=")
    node_ids = replicas.split(",")
    if not all(node_id.isascii() and node_id.isdigit() for node_id in node_ids):
        raise usage_error(f"{text}: not of the form {form}")
    try:
        topic, number = partition_of(partition)
    except CommandError as error:
        raise usage_error(f"{text}: not of the form {form}") from error
    return {"topic": topic, "partition": number, "replicas": [int(each) for each in node_ids]}
