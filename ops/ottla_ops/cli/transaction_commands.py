"""`ottla transaction`: list, describe, open, abort, find-hanging."""

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ottla_ops.cli import moments
from ottla_ops.cli.confirmation import confirm
from ottla_ops.cli.failures import usage_error
from ottla_ops.cli.partition_names import partition_of
from ottla_ops.cli.session import Session, session_of

if TYPE_CHECKING:
    from ottla_protocol.models_transactions import TransactionDescription

app = typer.Typer(
    help="Transactions: list, describe, open, abort, find-hanging.", no_args_is_help=True
)

TransactionalId = Annotated[
    str, typer.Argument(metavar="ID", help="The producers' transactional id.")
]
PartitionArgument = Annotated[str, typer.Argument(metavar="TOPIC:PARTITION", help="Whose log.")]


class State(StrEnum):
    """Where a transactional id is on its way."""

    EMPTY = "Empty"
    ONGOING = "Ongoing"
    PREPARE_COMMIT = "PrepareCommit"
    PREPARE_ABORT = "PrepareAbort"
    COMPLETE_COMMIT = "CompleteCommit"
    COMPLETE_ABORT = "CompleteAbort"


_UNITS_MS: Final = (("h", 3_600_000), ("m", 60_000), ("s", 1_000))


@app.command("list")
def list_transactions(
    context: typer.Context,
    *,
    state: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STATE[,STATE]",
            autocompletion=lambda: list(State),
            help=f"Only those in these states; may be repeated. Some of {', '.join(State)}.",
        ),
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option(
            metavar="SPAN", help="Only transactions that have been open for longer, as 90s or 10m."
        ),
    ] = None,
) -> None:
    """List transactional ids, with what is open or being ended."""
    import msgspec

    from ottla_protocol.models_transactions import TransactionListing

    session = session_of(context)
    query: dict[str, object] = {
        "state": ",".join(_states(state)) if state else None,
        "older_than_ms": None
        if older_than is None
        else moments.duration_ms(older_than, "--older-than"),
    }
    found = _listed(session, query)
    if session.output.as_json:
        session.output.document({"transactions": found})
        return
    rows = [
        (
            each.transactional_id,
            each.state,
            each.producer_id,
            each.producer_epoch,
            each.partitions,
            _span(each.age_ms),
            _span(each.timeout_ms),
        )
        for each in msgspec.convert(found, list[TransactionListing])
    ]
    headers = ("ID", "STATE", "PRODUCER", "EPOCH", "PARTITIONS", "OPEN FOR", "TIMEOUT")
    is_filtered = state is not None or older_than is not None
    none = "no transactional id is like that" if is_filtered else "there is no transactional id"
    session.output.table(headers, rows, empty=none)


def _states(words: list[str]) -> list[State]:
    """The states that are named, by one option or several; capitals do not matter.

    Raises:
        CommandError: there is no such state.
    """
    known = {state.lower(): state for state in State}
    named = [word for each in words for word in each.split(",")]
    for word in named:
        if word.lower() not in known:
            raise usage_error(f"--state must be some of {', '.join(State)}, not '{word}'")
    return list(dict.fromkeys(known[word.lower()] for word in named))


def _listed(session: Session, query: dict[str, object]) -> list[dict[str, Any]]:
    """Every transactional id that is asked for, page after page."""
    from ottla_protocol import routes
    from ottla_protocol.models_transactions import MAX_LISTED_TRANSACTIONS

    connection = session.connect()
    listed: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = {**query, "limit": MAX_LISTED_TRANSACTIONS, "cursor": cursor}
        answer = connection.request("GET", routes.TRANSACTIONS, query=page).document()
        listed.extend(answer["transactions"])
        cursor = answer.get("next_cursor")
        if cursor is None:
            return listed


@app.command("describe")
def describe_transaction(context: typer.Context, name: TransactionalId) -> None:
    """Show one transactional id: its state, its partitions, and how the last one ended."""
    from ottla_ops.cli.http_connection import path_of
    from ottla_protocol import routes
    from ottla_protocol.models_transactions import TransactionDescription

    session = session_of(context)
    path = path_of(routes.TRANSACTION, transactional_id=name)
    answer = session.connect().request("GET", path)
    if session.output.as_json:
        session.output.document(answer.document())
        return
    _show(session, answer.decoded(TransactionDescription))


def _show(session: Session, found: "TransactionDescription") -> None:
    output = session.output
    output.text(f"id           {found.transactional_id}")
    output.text(f"state        {found.state}")
    output.text(f"coordinator  {'none' if found.coordinator is None else found.coordinator}")
    output.text(f"producer     {found.producer_id} epoch {found.producer_epoch}")
    output.text(f"timeout      {_span(found.timeout_ms)}")
    output.text(f"open for     {_span(found.age_ms)}")
    last = "none"
    if found.ended is not None:
        last = f"{found.ended.state} by {found.ended.by}, epoch {found.ended.producer_epoch}"
    output.text(f"last         {last}")
    output.text("")
    rows = [(each.topic, each.partition) for each in found.partitions]
    output.table(("TOPIC", "PARTITION"), rows)


@app.command("open")
def open_transactions(context: typer.Context, partition: PartitionArgument) -> None:
    """Show what is open in one partition: the oldest holds readers of committed records back."""
    from ottla_ops.cli.http_connection import path_of
    from ottla_protocol import routes
    from ottla_protocol.models_transactions import PartitionTransactions

    topic, number = partition_of(partition)
    session = session_of(context)
    path = path_of(routes.PARTITION_TRANSACTIONS, topic=topic, partition=number)
    answer = session.connect().request("GET", path)
    if session.output.as_json:
        session.output.document(answer.document())
        return
    found = answer.decoded(PartitionTransactions)
    rows = [
        (each.producer_id, each.producer_epoch, each.first_offset, _span(each.idle_ms))
        for each in found.transactions
    ]
    headers = ("PRODUCER", "EPOCH", "FIRST OFFSET", "IDLE FOR")
    session.output.table(headers, rows, empty=f"no transaction is open in {topic}-{number}")
    session.output.note(
        f"last stable offset {found.last_stable_offset}, high watermark {found.high_watermark}"
    )


@app.command("abort")
def abort_transaction(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(metavar="[ID]", help="The transactional id whose transaction is open."),
    ] = None,
    *,
    partition: Annotated[
        str | None,
        typer.Option(metavar="TOPIC:PARTITION", help="In place of ID: where a transaction hangs."),
    ] = None,
    producer_id: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="With --partition: whose it is.")
    ] = None,
    producer_epoch: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="With --partition: in which epoch.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Abort the open transaction of an id, or what hangs in a partition (find-hanging)."""
    if partition is None:
        if name is None or producer_id is not None or producer_epoch is not None:
            raise usage_error(
                "name an ID, or --partition with --producer-id and --producer-epoch, as "
                "find-hanging tells them"
            )
        _abort_open(session_of(context), name, yes=yes)
        return
    if name is not None or producer_id is None or producer_epoch is None:
        raise usage_error("--partition takes no ID, and needs --producer-id and --producer-epoch")
    _abort_hanging(session_of(context), partition, producer_id, producer_epoch, yes=yes)


def _abort_open(session: Session, name: str, *, yes: bool) -> None:
    from ottla_ops.cli.http_connection import path_of
    from ottla_protocol import routes

    if not yes:
        confirm(f"Abort the open transaction of {name}? Its producer's commit will be refused.")
    path = path_of(routes.TRANSACTION_ABORT, transactional_id=name)
    answer = session.connect().request("POST", path, body=b"{}", repeatable=True)
    if session.output.as_json:
        session.output.document(answer.document())
        return
    session.output.note(f"the transaction of {name} is aborted")


def _abort_hanging(
    session: Session, partition: str, producer_id: int, producer_epoch: int, *, yes: bool
) -> None:
    from ottla_ops.cli.http_connection import path_of
    from ottla_protocol import routes
    from ottla_protocol.models_transactions import AbortedHanging

    topic, number = partition_of(partition)
    if not yes:
        confirm(f"Write an abort marker of producer {producer_id} to {topic}-{number}?")
    path = path_of(
        routes.PARTITION_TRANSACTION_ABORT, topic=topic, partition=number, producer=producer_id
    )
    body = json.dumps({"producer_epoch": producer_epoch}).encode()
    answer = session.connect().request("POST", path, body=body, repeatable=True)
    if session.output.as_json:
        session.output.document(answer.document())
        return
    if answer.decoded(AbortedHanging).aborted:
        session.output.note(f"aborted in {topic}-{number}")
    else:
        session.output.note(
            f"nothing of producer {producer_id} epoch {producer_epoch} is open in {topic}-{number}"
        )


@app.command("find-hanging")
def find_hanging(
    context: typer.Context,
    *,
    topic: Annotated[
        str | None, typer.Option(metavar="TOPIC", help="Only there; all topics without.")
    ] = None,
    idle: Annotated[
        str | None,
        typer.Option(
            metavar="SPAN",
            help="Only what nobody has written to for longer, as 30m; without, longer than any "
            "transaction may be open.",
        ),
    ] = None,
) -> None:
    """Find transactions that are open in a log, and that no coordinator is going to end."""
    from ottla_protocol import routes
    from ottla_protocol.models_transactions import HangingTransactionList

    session = session_of(context)
    query: dict[str, object] = {
        "topic": topic,
        "idle_ms": None if idle is None else moments.duration_ms(idle, "--idle"),
    }
    answer = session.connect().request("GET", routes.HANGING_TRANSACTIONS, query=query)
    if session.output.as_json:
        session.output.document(answer.document())
        return
    found = answer.decoded(HangingTransactionList)
    rows = [
        (
            each.topic,
            each.partition,
            each.producer_id,
            each.producer_epoch,
            each.first_offset,
            _span(each.idle_ms),
            "none" if each.transactional_id is None else each.transactional_id,
        )
        for each in found.transactions
    ]
    headers = ("TOPIC", "PARTITION", "PRODUCER", "EPOCH", "FIRST OFFSET", "IDLE FOR", "ID")
    # Where somebody did not tell, nobody knows.
    none = "" if found.unavailable else "no transaction hangs"
    session.output.table(headers, rows, empty=none)
    for each in found.unavailable:
        session.output.note(f"the leader of {each.topic}-{each.partition} did not tell")


def _span(span_ms: int | None) -> str:
    """A span of time as people say it: its two largest units at most."""
    if span_ms is None:
        return "none"
    if span_ms < 1_000:
        return f"{span_ms}ms"
    parts = []
    for unit, unit_ms in _UNITS_MS:
        count, span_ms = divmod(span_ms, unit_ms)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts[:2])
