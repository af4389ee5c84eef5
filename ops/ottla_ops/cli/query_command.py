"""`ottla query`: SQL over the records of topics."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ottla_ops.cli.consume_command import Isolation
from ottla_ops.cli.row_output import RowFormat
from ottla_ops.cli.session import Session, session_of
from ottla_protocol.counted_nouns import counted

if TYPE_CHECKING:
    from ottla_ops.query.statement import TableUse
    from ottla_ops.records.record_source import RecordSource, TopicRead

DataDirectory = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        help="Read the files of this broker's data directory, and no cluster.",
    ),
]
ReadIsolation = Annotated[
    Isolation,
    typer.Option(
        help="With read_committed, records of transactions that are open or were aborted are "
        "left out, and a partition ends before the oldest open one."
    ),
]
ReadTimeout = Annotated[
    float,
    typer.Option(min=0.1, metavar="SECONDS", help="How long reading may stand still."),
]


def query(
    context: typer.Context,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One SELECT statement of SQLite's.")],
    *,
    data_directory: DataDirectory = None,
    isolation: ReadIsolation = Isolation.UNCOMMITTED,
    row_format: Annotated[
        RowFormat, typer.Option("--format", help="How to print rows; --json is --format json.")
    ] = RowFormat.TABLE,
    max_bytes: Annotated[
        int,
        typer.Option(
            min=1, metavar="BYTES", help="What the records that are read may take in all."
        ),
    ] = 2 << 30,
    timeout: ReadTimeout = 30.0,
) -> None:
    """Ask topics with SQL: each is a table of its name.

    Columns: offset, partition, timestamp (ms), key, value, headers (JSON). Key and value are text
    where they are UTF-8, so that json_extract(value, '$.field') works, else blobs. A name with dots
    or dashes is written in double quotes.

    Records up to the present end are read into a temporary database first. With a single SELECT
    from one topic, conditions on partition, offset and timestamp that are joined by AND leave
    records unread, and so do columns that are not asked for. With --data-dir, what this broker's
    copy holds is read, also records that were not committed yet.
    """
    from ottla_ops.cli.library_failures import failures_told
    from ottla_ops.cli.read_progress import ReadProgress
    from ottla_ops.cli.row_output import print_rows
    from ottla_ops.query.statement import prepare
    from ottla_ops.query.topic_tables import TableFiller, run, temporary_database

    session = session_of(context)
    if session.output.as_json:
        row_format = RowFormat.JSON
    with (
        failures_told(),
        opened_source(session, data_directory, timeout, isolation) as source,
        temporary_database() as database,
    ):
        uses = prepare(database, sql, source.has_topic)
        reads = [source.read(use.topic, use.selection) for use in uses]
        with ReadProgress(session.output, sum(read.offsets for read in reads)) as progress:
            filler = TableFiller(database, max_bytes=max_bytes, on_records=progress.advance)
            for use, read in zip(uses, reads, strict=True):
                filler.fill(use, read)
            read_s = progress.elapsed_s
        names, rows = run(database, sql)
        count = print_rows(session.output, names, rows, row_format)
        session.output.note(
            f"{counted(count, 'row')} from {counted(progress.records, 'record')} of "
            f"{_described(uses, reads)}; read in {read_s:.1f} s, {progress.elapsed_s:.1f} s in all"
        )


@contextmanager
def opened_source(
    session: Session, data_directory: Path | None, timeout_s: float, isolation: Isolation
) -> "Iterator[RecordSource]":
    """The files of a data directory, or the cluster without one."""
    if data_directory is not None:
        from ottla_ops.records.stored_records import StoredRecords
        from ottla_ops.segments.found_segments import find_replicas

        yield StoredRecords(find_replicas(data_directory), isolation.value)
        return
    from ottla_ops.cli.bootstrap import parse_bootstrap
    from ottla_ops.records.cluster_records import ClusterRecords

    source = ClusterRecords(
        parse_bootstrap(session.bootstrap), timeout_s=timeout_s, isolation=isolation.value
    )
    try:
        yield source
    finally:
        source.close()


def _described(uses: "list[TableUse]", reads: "list[TopicRead]") -> str:
    parts = [
        f"{use.topic} ({counted(len(read.partitions), 'partition')})"
        for use, read in zip(uses, reads, strict=True)
    ]
    return ", ".join(parts) or "no topic"
