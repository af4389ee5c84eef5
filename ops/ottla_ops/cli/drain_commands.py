"""`ottla cluster drain` and `ottla cluster unregister`: a broker leaves the cluster."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from ottla_ops.cli.failures import CommandError, ExitCode, usage_error
from ottla_ops.cli.session import session_of
from ottla_protocol.counted_nouns import counted

if TYPE_CHECKING:
    from ottla_ops.cli.http_connection import Answer, HttpConnection
    from ottla_ops.cli.session import Session
    from ottla_protocol.models_brokers import DrainProgress

POLL_INTERVAL_S = 0.5
STANDSTILL_S = 30.0
"""A drain that has told nothing new for this long may wait for something that does not come."""

ASKED_AGAIN_FOR_S = 30.0
"""How long the progress is asked for again, of other brokers too, where nobody can tell it."""

NOTICED_WITHIN_S = 15.0
"""How long the cluster may take to know that a broker has stopped: some sessions' time."""


def drain(
    context: typer.Context,
    broker: Annotated[int, typer.Argument(metavar="ID", help="The broker's node id.")],
    *,
    cancel: Annotated[
        bool,
        typer.Option("--cancel", help="Call the drain off, with the moves that are under way."),
    ] = False,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait/--no-wait", help="Stay until nothing is left, and show how far it is."
        ),
    ] = True,
    unregister: Annotated[
        bool,
        typer.Option(
            "--unregister",
            help="Forget a broker that is drained and stopped, as `ottla cluster unregister`.",
        ),
    ] = False,
) -> None:
    """Move all replicas of a broker to others, so that it may be stopped for good.

    It gets no new replicas from then on, until the drain is called off. Ctrl-C ends the watching,
    not the drain.
    """
    from ottla_protocol import routes

    if cancel and unregister:
        raise usage_error("--cancel and --unregister exclude each other")
    session = session_of(context)
    if unregister:
        _unregister(session, broker)
        return
    connection = session.connect()
    path = _path(routes.BROKER_DRAIN, broker)
    if cancel:
        answer = connection.request("DELETE", path, repeatable=True)
    else:
        answer = connection.request("POST", path, repeatable=True)
        if wait:
            answer = _watch(session, connection, path, answer)
        if _progress(answer).state == "none":
            raise _called_off(broker)
    if session.output.as_json:
        session.output.document(answer.document())
    else:
        progress = _progress(answer)
        session.output.text(_told(progress))
        if progress.state == "drained":
            _tell_vote(session, connection, broker)


def unregister(
    context: typer.Context,
    broker: Annotated[int, typer.Argument(metavar="ID", help="The broker's node id.")],
    *,
    wait_s: Annotated[
        float,
        typer.Option(
            "--wait",
            min=0.0,
            metavar="SECONDS",
            help="How long to wait until the cluster knows that it is stopped; 0 asks at once.",
        ),
    ] = NOTICED_WITHIN_S,
) -> None:
    """Forget a broker that is drained and stopped.

    A vote in the metadata quorum is not taken from it by this, but by `ottla cluster quorum
    remove-voter`; that comes first where only its registration tells where it is.
    """
    _unregister(session_of(context), broker, wait_s)


def _unregister(session: "Session", broker: int, wait_s: float = NOTICED_WITHIN_S) -> None:
    from ottla_protocol import routes

    connection = session.connect()
    _await_fenced(session, connection, broker, wait_s)
    connection.request("DELETE", _path(routes.BROKER, broker))
    if session.output.as_json:
        session.output.document({"broker": broker, "unregistered": True})
    else:
        session.output.note(f"broker {broker} is forgotten")
        _tell_vote(session, connection, broker)


def _tell_vote(session: "Session", connection: "HttpConnection", broker: int) -> None:
    """A voter that is stopped for good is missed, though it has no replicas."""
    from ottla_protocol import routes
    from ottla_protocol.models_quorum import QuorumDescription

    try:
        found = connection.request("GET", routes.CLUSTER_QUORUM).decoded(QuorumDescription)
    except CommandError as error:
        session.output.note(f"whether node {broker} votes is not known: {error.message}")
        return
    if broker in [each.id for each in found.voters]:
        session.output.note(
            f"node {broker} still votes in the metadata quorum, and the quorum needs it: before it "
            "is stopped for good, `ottla cluster quorum add-voter` another one and `ottla cluster "
            f"quorum remove-voter {broker}`"
        )


def _await_fenced(
    session: "Session", connection: "HttpConnection", broker: int, wait_s: float
) -> None:
    """Wait while the broker counts as running: one that crashed may, until its session ends."""
    from ottla_protocol import routes
    from ottla_protocol.models import BrokerList

    deadline_s = time.monotonic() + wait_s
    told = False
    while time.monotonic() < deadline_s:
        found = connection.request("GET", routes.BROKERS).decoded(BrokerList).brokers
        state = next((each.state for each in found if each.id == broker), None)
        if state in (None, "fenced"):
            return
        if not told:
            session.output.note(
                f"broker {broker} is {state}: waiting up to {wait_s:g} s until the cluster knows "
                "that it is stopped"
            )
            told = True
        time.sleep(POLL_INTERVAL_S)


def _watch(
    session: "Session", connection: "HttpConnection", path: str, answer: "Answer"
) -> "Answer":
    """Tell the progress, whenever it is another, until nothing is left."""
    told, told_s = "", time.monotonic()
    while True:
        progress = _progress(answer)
        if progress.state != "draining":
            return answer
        now = _told(progress)
        if now != told:
            session.output.note(now)
            told, told_s = now, time.monotonic()
        elif time.monotonic() - told_s >= STANDSTILL_S:
            session.output.note(
                f"nothing new for {STANDSTILL_S:g} s: `ottla cluster reassign` shows what is "
                "copied, `ottla cluster health` what is not there to be copied"
            )
            told_s = time.monotonic()
        time.sleep(POLL_INTERVAL_S)
        answer = connection.retry(
            lambda: connection.request("GET", path), timeout_s=ASKED_AGAIN_FOR_S
        )


def _called_off(broker: int) -> CommandError:
    return CommandError(
        f"broker {broker} is not being drained: somebody has called that off",
        code="CONFLICT",
        exit_code=ExitCode.CONFLICT,
        hint=f"`ottla cluster drain {broker}` begins anew",
    )


def _told(progress: "DrainProgress") -> str:
    name = f"broker {progress.broker}"
    if progress.state == "none":
        left = counted(progress.partitions_left, "partition")
        return f"{name} is not being drained; it has {left}"
    if progress.state == "drained":
        return f"{name} is drained: stop it, then `ottla cluster unregister {progress.broker}`"
    text = (
        f"{name}: {progress.partitions_left} of {progress.partitions_at_start} partitions left, "
        f"{progress.partitions_moving} moving"
    )
    if progress.blocked:
        first = progress.blocked[0]
        text += f"; {first.topic}:{first.partition} cannot move: {first.detail}"
    return text


def _progress(answer: "Answer") -> "DrainProgress":
    from ottla_protocol.models_brokers import DrainProgress

    return answer.decoded(DrainProgress)


def _path(template: str, broker: int) -> str:
    from ottla_ops.cli.http_connection import path_of

    return path_of(template, broker=broker)
