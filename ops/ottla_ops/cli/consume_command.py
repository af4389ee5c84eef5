"""`ottla consume`: the records of a topic to stdout."""

import re
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import typer

from ottla_ops.cli import moments
from ottla_ops.cli.failures import usage_error
from ottla_ops.cli.session import session_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ottla_ops.cli.consuming import PartitionRead

FORMATS: Final = ("value", "key-value", "json")
FORMAT_HELP: Final = (
    "How to print a record: value, key-value or json, one a line, or a template as kcat -f has it: "
    "'%t-%p@%o %k: %s\\n' (topic, partition, offset, key, value; %T timestamp, %h headers, %K %S "
    "lengths in bytes). --json is --format json."
)
FormatOption = typer.Option(
    "--format", metavar="FORMAT", autocompletion=lambda: list(FORMATS), help=FORMAT_HELP
)


class Isolation(StrEnum):
    """Whether records of transactions that are open or were aborted are printed, too."""

    UNCOMMITTED = "read_uncommitted"
    COMMITTED = "read_committed"


def consume(
    context: typer.Context,
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="Topic to read.")],
    *,
    partition: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Only this partition; all of them without it."),
    ] = None,
    start: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="START",
            help="earliest, latest, an offset, -N (the last N records of each partition), or a "
            "time: RFC 3339 or how long ago (2h).",
        ),
    ] = "earliest",
    until_end: Annotated[
        bool, typer.Option("--until-end", help="Stop at the end as it is now (the default).")
    ] = False,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with records that are still to come.")
    ] = False,
    where: Annotated[
        str | None,
        typer.Option(
            metavar="EXPRESSION",
            help="Only records for which this holds, such as '$.origin == \"JFK\" && $.delay > 30' "
            "(RFC 9535); the broker evaluates it. --from -N still counts all records.",
        ),
    ] = None,
    isolation: Annotated[
        Isolation,
        typer.Option(
            help="With read_committed, records of transactions that are open or were aborted are "
            "left out, and the end is before the oldest open one."
        ),
    ] = Isolation.UNCOMMITTED,
    max_records: Annotated[
        int | None,
        typer.Option("--max-records", "-n", min=1, metavar="N", help="Stop after so many."),
    ] = None,
    output_format: Annotated[str, FormatOption] = "value",
    key_separator: Annotated[
        str,
        typer.Option(metavar="TEXT", help="What --format key-value prints between key and value."),
    ] = "\t",
    timeout: Annotated[
        float,
        typer.Option(
            min=0.1, metavar="SECONDS", help="How long to keep trying an unavailable cluster."
        ),
    ] = 30.0,
) -> None:
    """Print the records of a topic, one a line.

    Without --follow the partitions are printed one after the other; with it, records are printed as
    they arrive, in order within each partition.
    """
    from ottla_ops.cli.consuming import ReadRequest, TopicReader
    from ottla_ops.cli.transfer_progress import TransferProgress

    session = session_of(context)
    if follow and until_end:
        raise usage_error("--follow and --until-end exclude each other")
    since = None
    if moments.is_moment(start):
        since = moments.moment_ms(start, "--from", moments.now_ms())
    elif not re.fullmatch(r"earliest|latest|-?[0-9]+", start):
        raise usage_error(
            f"--from {start}: must be earliest, latest, an offset, -N (the last N records), or a "
            f"time: {moments.WRITTEN}"
        )
    if session.output.as_json:
        output_format = "json"
    pieces_of = _printer(topic, output_format, key_separator)
    request = ReadRequest(
        topic=topic,
        start=start,
        since_ms=since,
        # As base64 the bytes come out as they were stored, whatever they are.
        value_format="auto" if output_format == "json" else "base64",
        max_records=max_records,
        timeout_s=timeout,
        where=where,
        isolation=isolation.value,
    )
    reader = TopicReader(session.connect(), request)
    partitions = reader.partitions() if partition is None else [partition]
    reads = reader.follow(partitions) if follow else reader.read_until_end(partitions)
    # Between records on the same terminal a bar would only be in the way.
    shown = session.output.shows_progress and not sys.stdout.isatty()
    with TransferProgress(session.output, None, shown=shown) as progress:
        for read in reads:
            pieces = list(pieces_of(read))
            session.output.pieces(pieces)
            progress.advance(len(pieces), sum(map(len, pieces)))
        if shown:
            progress.summarize(f"read from {topic}")


def _printer(
    topic: str, output_format: str, key_separator: str
) -> "Callable[[PartitionRead], Iterable[bytes]]":
    """What is printed for each record of a read.

    Raises:
        CommandError: (usage) there is no such format.
    """
    from ottla_ops.cli import record_output
    from ottla_ops.cli.record_template import is_template, parse_template

    lines: Callable[[PartitionRead], Iterable[bytes]]
    match output_format:
        case "json":
            lines = lambda read: record_output.json_lines(topic, read)  # noqa: E731
        case "value":
            lines = record_output.value_lines
        case "key-value":
            separator = key_separator.encode()
            lines = lambda read: record_output.key_value_lines(read, separator)  # noqa: E731
        case template if is_template(template):
            try:
                parsed = parse_template(template)
            except ValueError as error:
                raise usage_error(f"--format {template}: {error}") from error
            return lambda read: parsed.pieces(topic, read)
        case unknown:
            raise usage_error(
                f"--format {unknown}: neither {', '.join(FORMATS)} nor a template such as "
                "'%k: %s\\n'"
            )
    return lambda read: (line + b"\n" for line in lines(read))
