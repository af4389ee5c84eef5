"""`ottla segment export`: records of a topic into a file of another format."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ottla_ops.cli.consume_command import Isolation
from ottla_ops.cli.failures import CommandError, ExitCode, usage_error
from ottla_ops.cli.moments import MEANING, moment_ms, now_ms
from ottla_ops.cli.output import OutputClosedError
from ottla_ops.cli.session import session_of
from ottla_ops.records.export_formats import FORMATS_BY_SUFFIX, ExportFormat, format_of
from ottla_protocol.counted_nouns import counted

if TYPE_CHECKING:
    from ottla_ops.records.export import RecordWriter

STDOUT = "-"


def export(
    context: typer.Context,
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="[PATH]",
            help="A broker's data directory, a partition's directory, or one segment; "
            "the cluster without it.",
        ),
    ] = None,
    *,
    target: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="Where to; - is stdout.")
    ],
    topic: Annotated[
        str | None,
        typer.Option(metavar="TOPIC", help="Which topic; may be left out if PATH has only one."),
    ] = None,
    partition: Annotated[
        list[int] | None,
        typer.Option(min=0, metavar="N", help="Only this one; may be repeated."),
    ] = None,
    first: Annotated[
        int | None, typer.Option("--from", min=0, metavar="OFFSET", help="From this offset on.")
    ] = None,
    last: Annotated[
        int | None, typer.Option("--to", min=0, metavar="OFFSET", help="Up to this offset.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help=f"Only records at or after this time: {MEANING}."),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only records before this time.")
    ] = None,
    export_format: Annotated[
        ExportFormat | None,
        typer.Option("--format", help="By the name's ending where it is left out."),
    ] = None,
    isolation: Annotated[
        Isolation,
        typer.Option(
            help="With read_committed, records of transactions that are open or were aborted are "
            "left out, and a partition ends before the oldest open one."
        ),
    ] = Isolation.UNCOMMITTED,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that is there.")
    ] = False,
    timeout: Annotated[
        float,
        typer.Option(min=0.1, metavar="SECONDS", help="How long reading may stand still."),
    ] = 30.0,
) -> None:
    """Write the records of a topic into one file: NDJSON, CSV, Parquet or SQLite.

    Up to the present end, each partition in the order of its offsets. SQLite gets a table of the
    topic's name with a row per record, as `ottla query` has it. Parquet needs the extra `parquet`.
    Times in it are ms since the epoch. The file appears when it is whole.
    """
    from ottla_ops.cli.library_failures import failures_told
    from ottla_ops.cli.query_command import opened_source
    from ottla_ops.cli.read_progress import ReadProgress
    from ottla_ops.records.selection import Bounds, Selection

    session = session_of(context)
    chosen = export_format or (None if target == STDOUT else format_of(Path(target)))
    if chosen is None:
        endings = ", ".join(FORMATS_BY_SUFFIX)
        raise usage_error(f"--format is needed, or a name that ends in one of {endings}")
    now = now_ms()
    selection = Selection(
        Bounds(among=None if not partition else frozenset(partition)),
        Bounds(first, last),
        Bounds(
            None if since is None else moment_ms(since, "--since", now),
            None if until is None else moment_ms(until, "--until", now) - 1,
        ),
    )
    with failures_told(), opened_source(session, path, timeout, isolation) as source:
        name = topic or _only_topic(path)
        if not source.has_topic(name):
            raise _missing(name)
        read = source.read(name, selection)
        with (
            ReadProgress(session.output, read.offsets) as progress,
            _opened(target, chosen, name, overwrite=overwrite) as writer,
        ):
            for records in read.records:
                if records:
                    writer.write(records)
                    progress.advance(len(records))
    result: dict[str, Any] = {
        "topic": name,
        "partitions": list(read.partitions),
        "records": progress.records,
        "output": target,
        "format": chosen.value,
    }
    if session.output.as_json and target != STDOUT:
        session.output.document(result)
    session.output.note(
        f"{counted(progress.records, 'record')} of {name} "
        f"({counted(len(read.partitions), 'partition')}) written to {target} in "
        f"{progress.elapsed_s:.1f} s"
    )


def _only_topic(path: Path | None) -> str:
    """The topic that is meant where none is named."""
    from ottla_ops.segments.found_segments import find_replicas

    if path is None:
        raise usage_error("--topic is needed to read from a cluster")
    names = sorted({replica.topic for replica in find_replicas(path)})
    if len(names) > 1:
        raise usage_error(f"--topic is needed: there are {', '.join(names)}")
    return names[0]


def _missing(topic: str) -> CommandError:
    return CommandError(
        f"there is no topic {topic}",
        code="UNKNOWN_TOPIC_OR_PARTITION",
        exit_code=ExitCode.NOT_FOUND,
    )


@contextmanager
def _opened(
    target: str, export_format: ExportFormat, topic: str, *, overwrite: bool
) -> "Iterator[RecordWriter]":
    from ottla_ops.records.export import open_export, stream_writer

    if target != STDOUT:
        with open_export(Path(target), export_format, topic, overwrite=overwrite) as writer:
            yield writer
        return
    try:
        writer = stream_writer(sys.stdout.buffer, export_format, topic)
        yield writer
        writer.finish()
    except BrokenPipeError:
        # `| head` has seen enough. Not an error of the export's own.
        raise OutputClosedError from None
