"""`ottla group`: list, describe, seek, delete."""

import json
import re
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ottla_ops.cli import moments
from ottla_ops.cli.confirmation import confirm
from ottla_ops.cli.failures import usage_error
from ottla_ops.cli.session import session_of

if TYPE_CHECKING:
    from ottla_ops.cli.http_connection import HttpConnection

app = typer.Typer(help="Consumer groups: list, describe, seek, delete.", no_args_is_help=True)

GroupName = Annotated[str, typer.Argument(metavar="GROUP", help="Name of the consumer group.")]


class SeekTarget(StrEnum):
    """Where a seek goes."""

    EARLIEST = "earliest"
    LATEST = "latest"
    OFFSET = "offset"
    SHIFT = "shift"
    TIMESTAMP = "timestamp"


_VALUE_MEANINGS: Final = {
    SeekTarget.OFFSET: "the offset",
    SeekTarget.SHIFT: "by how many records, negative to go back",
    SeekTarget.TIMESTAMP: f"the time: {moments.MEANING}",
}


@app.command("list")
def list_groups(
    context: typer.Context,
    *,
    lag: Annotated[
        bool, typer.Option("--lag", help="Tell how far each is behind; asks once for each group.")
    ] = False,
) -> None:
    """List all consumer groups."""
    from ottla_protocol import routes
    from ottla_protocol.models_groups import GroupList

    session = session_of(context)
    connection = session.connect()
    answer = connection.request("GET", routes.GROUPS)
    groups = answer.decoded(GroupList).groups
    lags = {group.group: _lag_of(connection, group.group) for group in groups} if lag else {}
    if session.output.as_json:
        document = answer.document()
        if lag:
            for each in document["groups"]:
                each["lag"] = lags[each["group"]]
        session.output.document(document)
        return
    headers = ("GROUP", "STATE", "MEMBERS", *(("LAG",) if lag else ()))
    rows = [
        (group.group, group.state, group.members, *((_or_none(lags[group.group]),) if lag else ()))
        for group in groups
    ]
    session.output.table(headers, rows, empty="there is no group")


def _lag_of(connection: "HttpConnection", group: str) -> int | None:
    """The records that a group has not committed yet.

    None where it has committed nothing, is gone meanwhile, or a partition's end is not known now:
    a sum without it would be too small.
    """
    from ottla_ops.cli.failures import CommandError
    from ottla_ops.cli.http_connection import path_of
    from ottla_protocol import routes
    from ottla_protocol.models_groups import GroupDescription

    try:
        answer = connection.request("GET", path_of(routes.GROUP, group=group))
    except CommandError as error:
        if error.code == "GROUP_ID_NOT_FOUND":
            return None
        raise
    committed = [
        each.lag for each in answer.decoded(GroupDescription).offsets if each.committed is not None
    ]
    known = [each for each in committed if each is not None]
    return sum(known) if known and len(known) == len(committed) else None


@app.command("describe")
def describe_group(context: typer.Context, name: GroupName) -> None:
    """Show a group's members, how far it is on each partition, and what waits for transactions."""
    from ottla_ops.cli.http_connection import path_of
    from ottla_protocol import routes
    from ottla_protocol.models_groups import GroupDescription

    session = session_of(context)
    answer = session.connect().request("GET", path_of(routes.GROUP, group=name))
    if session.output.as_json:
        session.output.document(answer.document())
        return
    group = answer.decoded(GroupDescription)
    session.output.text(f"group        {group.group}")
    session.output.text(f"state        {group.state}")
    session.output.text(f"coordinator  {group.coordinator}")
    session.output.text(f"generation   {group.generation}")
    session.output.text(f"assignor     {group.assignor}")
    session.output.text(f"members      {len(group.members)}")
    session.output.text("")
    rows = [
        (
            each.topic,
            each.partition,
            _or_none(each.committed),
            _or_none(each.end),
            _or_none(each.lag),
            _or_none(each.member_id),
        )
        for each in group.offsets
    ]
    headers = ("TOPIC", "PARTITION", "COMMITTED", "END", "LAG", "MEMBER")
    session.output.table(headers, rows)
    if group.pending:
        session.output.text("")
        session.output.table(
            ("TOPIC", "PARTITION", "PENDING", "PRODUCER", "EPOCH"),
            [
                (each.topic, each.partition, each.offset, held.producer_id, held.producer_epoch)
                for held in group.pending
                for each in held.offsets
            ],
        )


@app.command("seek")
def seek_group(
    context: typer.Context,
    name: GroupName,
    *,
    to: Annotated[SeekTarget, typer.Option(help="Where to go.")],
    value: Annotated[
        str | None,
        typer.Option(
            metavar="VALUE",
            help="The offset, by how much to shift (may be negative), or the time: "
            f"{moments.MEANING}.",
        ),
    ] = None,
    topic: Annotated[
        list[str] | None,
        typer.Option(metavar="TOPIC", help="Only there; may be repeated. All committed without."),
    ] = None,
    partition: Annotated[
        list[int] | None,
        typer.Option(min=0, metavar="N", help="Only these; may be repeated. All without."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Move the committed offsets of a group that has no members."""
    from ottla_ops.cli.http_connection import path_of
    from ottla_protocol import routes
    from ottla_protocol.models_groups import SeekGroupResponse

    session = session_of(context)
    number = _number(to, value)
    request: dict[str, Any] = {"to": to.value, "dry_run": dry_run}
    if number is not None:
        request["value"] = number
    if topic:
        request["topics"] = topic
    if partition:
        request["partitions"] = partition
    if not (dry_run or yes):
        confirm(f"Move the committed offsets of group {name}?")
    body = json.dumps(request).encode()
    answer = session.connect().request("POST", path_of(routes.GROUP_SEEK, group=name), body=body)
    if session.output.as_json:
        session.output.document(answer.document())
        return
    offsets = answer.decoded(SeekGroupResponse).offsets
    rows = [(each.topic, each.partition, _or_none(each.committed), each.offset) for each in offsets]
    session.output.table(("TOPIC", "PARTITION", "BEFORE", "AFTER"), rows)
    for each in offsets:
        if each.clamped_to is not None:
            session.output.note(
                f"{each.topic}-{each.partition}: what was asked for lies "
                f"{_BEYOND[each.clamped_to]}, which is offset {each.offset}"
            )
    if dry_run:
        session.output.note("nothing was changed")


_BEYOND: Final = {
    "earliest": "before the first record that is kept",
    "latest": "behind the end",
}


def _number(to: SeekTarget, value: str | None) -> int | None:
    """The value as the API takes it.

    Raises:
        CommandError: (usage) it is missing, too much, or no such value.
    """
    if value is None and to in _VALUE_MEANINGS:
        raise usage_error(f"--to {to} needs --value: {_VALUE_MEANINGS[to]}")
    if value is not None and to not in _VALUE_MEANINGS:
        raise usage_error(
            f"--to {to} takes no --value; it goes with {', '.join(_VALUE_MEANINGS)} only"
        )
    if value is None:
        return None
    if to is SeekTarget.TIMESTAMP:
        return moments.moment_ms(value, "--value", moments.now_ms())
    if not re.fullmatch(r"-?[0-9]{1,19}", value):
        raise usage_error(f"--value {value}: not a whole number; it is {_VALUE_MEANINGS[to]}")
    return int(value)


@app.command("delete")
def delete_group(
    context: typer.Context,
    name: GroupName,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a group that has no members, with its committed offsets."""
    from ottla_ops.cli.http_connection import path_of
    from ottla_protocol import routes

    session = session_of(context)
    if not yes:
        confirm(f"Delete group {name} and its committed offsets?")
    session.connect().request("DELETE", path_of(routes.GROUP, group=name))
    if session.output.as_json:
        session.output.document({"group": name, "deleted": True})
        return
    session.output.note(f"{name} deleted")


def _or_none(value: int | str | None) -> int | str:
    return "none" if value is None else value
