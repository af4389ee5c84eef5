"""`ottla cluster quorum`: who votes about the metadata, and who leads."""

import json
import time
from typing import TYPE_CHECKING, Annotated

import typer

from ottla_ops.cli.failures import CommandError
from ottla_ops.cli.session import session_of

if TYPE_CHECKING:
    from ottla_ops.cli.http_connection import Answer
    from ottla_ops.cli.session import Session
    from ottla_protocol.models_quorum import QuorumDescription, QuorumMember

POLL_INTERVAL_S = 0.2

app = typer.Typer(
    help="The metadata quorum: its voters, learners and observers, and its leader.",
    invoke_without_command=True,
)


@app.callback()
def quorum(context: typer.Context) -> None:
    """Show who votes in the metadata quorum, who leads it, and how far each node is."""
    from ottla_protocol import routes

    if context.invoked_subcommand is not None:
        return
    session = session_of(context)
    _show(session, session.connect().request("GET", routes.CLUSTER_QUORUM))


@app.command("add-voter")
def add_voter(
    context: typer.Context,
    node_id: Annotated[int, typer.Argument(metavar="ID", help="Node id of the new voter.")],
    *,
    url: Annotated[
        str | None,
        typer.Option(help="Where the others reach it; a registered broker's own without."),
    ] = None,
    timeout_s: Annotated[
        float,
        typer.Option("--wait", help="Seconds to wait until it votes; 0 to return at once."),
    ] = 30.0,
) -> None:
    """Have a running controller vote: it gets the log first, and votes once it has caught up."""
    from ottla_protocol import routes
    from ottla_protocol.models_quorum import QuorumDescription

    session = session_of(context)
    connection = session.connect()
    body = json.dumps({"node_id": node_id, "url": url}).encode()
    answer = connection.request("POST", routes.CLUSTER_QUORUM_VOTERS, body=body)
    deadline_s = time.monotonic() + timeout_s
    while node_id not in [each.id for each in answer.decoded(QuorumDescription).voters]:
        if time.monotonic() >= deadline_s:
            if timeout_s:
                raise CommandError(
                    f"node {node_id} has not caught up within {timeout_s:g} s; "
                    "it votes as soon as it has",
                    code="REQUEST_TIMED_OUT",
                    retriable=True,
                )
            break
        time.sleep(POLL_INTERVAL_S)
        answer = connection.request("GET", routes.CLUSTER_QUORUM)
    _show(session, answer)


@app.command("remove-voter")
def remove_voter(
    context: typer.Context,
    node_id: Annotated[int, typer.Argument(metavar="ID", help="Node id of the voter.")],
    *,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Also where the voters that are left could decide nothing until others come back.",
        ),
    ] = False,
) -> None:
    """Have a node vote no more; it may be gone. It goes on following the log while it runs.

    Refused where without it fewer voters than a majority would answer and have the log.
    """
    from ottla_protocol import routes

    session = session_of(context)
    path = routes.CLUSTER_QUORUM_VOTER.format(voter=node_id) + ("?force=true" if force else "")
    _show(session, session.connect().request("DELETE", path))


@app.command("transfer")
def transfer(
    context: typer.Context,
    node_id: Annotated[
        int | None,
        typer.Argument(metavar="[ID]", help="The voter that is to lead; any other one without."),
    ] = None,
) -> None:
    """Have another voter lead the metadata quorum, and so be the controller."""
    from ottla_protocol import routes

    session = session_of(context)
    body = json.dumps({"target": node_id}).encode()
    _show(session, session.connect().request("POST", routes.CLUSTER_QUORUM_TRANSFER, body=body))


def _show(session: "Session", answer: "Answer") -> None:
    from ottla_protocol.models_quorum import QuorumDescription

    if session.output.as_json:
        session.output.document(answer.document())
        return
    found = answer.decoded(QuorumDescription)
    session.output.text(f"leader        {found.leader} (term {found.term})")
    session.output.text(f"commit index  {found.commit_index} of {found.log_end_index}")
    if not found.configuration_committed:
        session.output.text("a change of the voters is being committed")
    session.output.text("")
    headers = ("NODE", "ROLE", "LAG", "LAST CONTACT", "DIRECTORY", "URL")
    session.output.table(headers, [_row(each) for each in _members(found)])


def _members(found: "QuorumDescription") -> "list[QuorumMember]":
    return [*found.voters, *found.learners, *found.observers]


def _row(member: "QuorumMember") -> tuple[object, ...]:
    contact_ms = member.last_contact_ms
    return (
        member.id,
        member.role,
        "-" if member.lag is None else member.lag,
        "never" if contact_ms is None else f"{contact_ms} ms ago",
        member.directory_id or "-",
        member.url or "-",
    )
