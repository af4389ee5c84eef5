"""`ottla topic trim`: partitions begin further up, and what was before is gone."""

import json
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ottla_ops.cli import moments
from ottla_ops.cli.confirmation import confirm
from ottla_ops.cli.failures import CommandError, usage_error
from ottla_ops.cli.session import session_of
from ottla_protocol.counted_nouns import counted

if TYPE_CHECKING:
    from ottla_ops.cli.http_connection import HttpConnection
    from ottla_ops.cli.session import Session
    from ottla_protocol.models_trims import TrimmedPartition

TRIM_TIMEOUT_S: Final = 45.0
"""A leader may look for a time in its segments, and wait for a controller's election."""

END: Final = "end"


def trim_topic(
    context: typer.Context,
    topic_name: Annotated[str, typer.Argument(metavar="TOPIC", help="Name of the topic.")],
    *,
    partition: Annotated[
        list[int] | None,
        typer.Option(min=0, metavar="N", help="Only this partition; may be repeated."),
    ] = None,
    all_partitions: Annotated[
        bool, typer.Option("--all-partitions", help="Every partition of the topic.")
    ] = False,
    before_offset: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="The first offset that stays, of one partition."),
    ] = None,
    before: Annotated[
        str | None,
        typer.Option(
            metavar="MOMENT",
            help=f"The first record from then on stays, none to come: {moments.MEANING}; or "
            "`end`, for nothing that is committed.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete records at the beginning of partitions, for good and for every reader."""
    session = session_of(context)
    end = _end(before_offset, before)
    if partition and all_partitions:
        raise usage_error("say --partition or --all-partitions, and not both")
    if not partition and not all_partitions:
        raise usage_error("which partitions? Name them with --partition, or --all-partitions")
    if before_offset is not None and (all_partitions or len(partition or ()) > 1):
        raise usage_error("--before-offset is an offset of one --partition; see --before")
    connection = session.connect()
    numbers = sorted(set(partition or ())) or _partitions_of(connection, topic_name)
    told: dict[int, dict[str, Any]] = dict.fromkeys(numbers, end)
    if dry_run or not yes or before_offset is None:
        found = _trim_all(session, connection, topic_name, told, dry_run=True)
        if dry_run:
            _show(session, topic_name, found, dry_run=True)
            return
        if not yes:
            records = counted(sum(each.records for each in found), "record")
            confirm(f"Delete {records} of {topic_name} in {counted(len(found), 'partition')}?")
        # What was told to go, and nothing that came since. A time, or the end, moves on until the
        # next attempt.
        told = {each.partition: {"before_offset": each.log_start_offset} for each in found}
    trimmed = _trim_all(session, connection, topic_name, told, dry_run=False)
    _show(session, topic_name, trimmed, dry_run=False)


def _end(before_offset: int | None, before: str | None) -> dict[str, Any]:
    """Which end is meant, as the API takes it.

    Raises:
        CommandError: (usage) none is named, or two are, or it is no moment, or one to come.
    """
    if (before_offset is None) == (before is None):
        raise usage_error("how much is to go? Say --before-offset or --before, and not both")
    if before is None:
        return {"before_offset": before_offset}
    if before == END:
        return {"before_end": True}
    now_ms = moments.now_ms()
    timestamp = moments.moment_ms(before, "--before", now_ms, also=f"`{END}`")
    if timestamp > now_ms:
        # Nearly always a slip, and nothing would be left after it.
        raise usage_error(
            f"--before {before}: must not be in the future; `--before {END}` has everything go "
            "that is committed"
        )
    return {"before_timestamp": timestamp}


def _partitions_of(connection: "HttpConnection", topic: str) -> list[int]:
    from ottla_ops.cli.http_connection import path_of
    from ottla_protocol import routes
    from ottla_protocol.models import TopicDescription

    answer = connection.request("GET", path_of(routes.TOPIC, topic=topic))
    return sorted(each.partition for each in answer.decoded(TopicDescription).partitions)


def _trim_all(
    session: "Session",
    connection: "HttpConnection",
    topic: str,
    ends: dict[int, dict[str, Any]],
    *,
    dry_run: bool,
) -> list["TrimmedPartition"]:
    """Trim one partition after the other.

    Raises:
        CommandError: one failed; those before it are done, and are told.
    """
    from ottla_ops.cli.http_connection import path_of
    from ottla_protocol import routes
    from ottla_protocol.models_trims import TrimmedPartition

    done: list[TrimmedPartition] = []
    for number, end in ends.items():
        path = path_of(routes.PARTITION_TRIM, topic=topic, partition=str(number))
        body = json.dumps({**end, "dry_run": dry_run}).encode()
        try:
            # Trimmed again to the same offset, a partition stays as it is.
            answer = connection.request(
                "POST", path, body=body, answer_timeout_s=TRIM_TIMEOUT_S, repeatable=True
            )
        except CommandError:
            if not dry_run:
                for each in done:
                    session.output.note(
                        f"{topic}-{each.partition} begins at {each.log_start_offset} now"
                    )
            raise
        done.append(answer.decoded(TrimmedPartition))
    return done


def _show(
    session: "Session", topic: str, trimmed: list["TrimmedPartition"], *, dry_run: bool
) -> None:
    import msgspec

    if session.output.as_json:
        partitions = [msgspec.to_builtins(each) for each in trimmed]
        session.output.document({"topic": topic, "dry_run": dry_run, "partitions": partitions})
        return
    rows = [
        (
            each.partition,
            each.former_log_start_offset,
            each.log_start_offset,
            each.records,
            each.segments,
            each.size_bytes,
        )
        for each in trimmed
    ]
    headers = ("PARTITION", "BEFORE", "AFTER", "RECORDS", "SEGMENTS", "BYTES")
    session.output.table(headers, rows)
    if dry_run:
        session.output.note("nothing was deleted")
