"""`ottla segment`: list, dump, verify; export has a module of its own."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ottla_ops.cli.failures import CommandError
from ottla_ops.cli.session import session_of

if TYPE_CHECKING:
    from ottla_ops.cli.output import Output
    from ottla_ops.segments.dump import DumpedBatch
    from ottla_ops.segments.found_segments import FoundReplica
    from ottla_ops.segments.verification import SegmentVerification

app = typer.Typer(
    help="Look into segment files: list, dump, verify, export.\n\n"
    "They only read, and nothing is locked, so the broker that the files belong to may run. Its "
    "active segments are copied to the temporary directory (TMPDIR) to be read.",
    no_args_is_help=True,
)

SegmentPath = Annotated[
    Path,
    typer.Argument(
        metavar="PATH", help="A broker's data directory, a partition's directory, or one segment."
    ),
]
OnlyTopic = Annotated[str | None, typer.Option(metavar="TOPIC", help="Only this topic.")]
OnlyPartition = Annotated[int | None, typer.Option(min=0, metavar="N", help="Only this partition.")]


@app.command("list")
def list_segments(
    context: typer.Context,
    path: SegmentPath,
    *,
    topic: OnlyTopic = None,
    partition: OnlyPartition = None,
) -> None:
    """List segments: their offsets, records and times."""
    from ottla_ops.cli.library_failures import failures_told
    from ottla_ops.segments.summary import summarize_replica

    output = session_of(context).output
    with failures_told():
        found = [
            summary
            for replica in _replicas(path, topic, partition)
            for summary in summarize_replica(replica)
        ]
    if output.as_json:
        output.document({"segments": [_document(summary) for summary in found]})
        return
    headers = ("TOPIC", "PARTITION", "STATE", "FIRST", "END", "BATCHES", "RECORDS", "BYTES")
    rows = [
        (
            each.topic,
            each.partition,
            each.state,
            each.base_offset,
            "unknown" if each.end_offset is None else each.end_offset,
            each.batches,
            each.records,
            each.size_bytes,
            _time(each.first_timestamp),
            _time(each.last_timestamp),
        )
        for each in found
    ]
    output.table((*headers, "OLDEST", "NEWEST"), rows)


@app.command("dump")
def dump_segments(
    context: typer.Context,
    path: SegmentPath,
    *,
    topic: OnlyTopic = None,
    partition: OnlyPartition = None,
    first: Annotated[
        int | None, typer.Option("--from", min=0, metavar="OFFSET", help="From this offset on.")
    ] = None,
    last: Annotated[
        int | None, typer.Option("--to", min=0, metavar="OFFSET", help="Up to this offset.")
    ] = None,
    records: Annotated[
        bool, typer.Option("--records", help="Show the records of each batch too.")
    ] = False,
) -> None:
    """Show each record batch: its header, and its records with --records.

    --json prints one object per batch. It stops at a damaged batch; verify goes on.
    """
    from ottla_ops.cli.library_failures import failures_told
    from ottla_ops.segments.dump import dump_replica

    output = session_of(context).output
    with failures_told():
        for replica in _replicas(path, topic, partition):
            for dumped in dump_replica(replica, first, last, decode=records):
                if output.as_json:
                    output.lines([_json(dumped.document())])
                else:
                    output.lines(_dump_lines(dumped))


@app.command("verify")
def verify_segments(
    context: typer.Context,
    path: SegmentPath,
    *,
    topic: OnlyTopic = None,
    partition: OnlyPartition = None,
    decode: Annotated[
        bool,
        typer.Option("--decode", help="Decode every record too, which brokers never do."),
    ] = False,
) -> None:
    """Check every batch, its columns, gaps, epochs, snapshots and SQLite's pages.

    What is damaged is told with file and offset, one a line; the exit code is then 1.
    """
    from ottla_ops.cli.library_failures import failures_told
    from ottla_ops.segments.verification import verify_replica

    output = session_of(context).output
    verified: list[SegmentVerification] = []
    with failures_told():
        for replica in _replicas(path, topic, partition):
            for result in verify_replica(replica, decode=decode):
                verified.append(result)
                if not output.as_json:
                    _print_findings(output, result)
    damaged = sum(bool(result.findings) for result in verified)
    if output.as_json:
        output.document(
            {"segments": [_document(result) for result in verified], "damaged_segments": damaged}
        )
    summary = (
        f"{len(verified):,} segments, {sum(result.batches for result in verified):,} batches, "
        f"{sum(result.records for result in verified):,} records"
    )
    if damaged:
        raise CommandError(
            f"{damaged} of {summary} damaged",
            code="CORRUPT_MESSAGE",
            hint="a broker that is started with them refetches what it can from the leader",
        )
    output.note(f"{summary}: all as they were written")


def _replicas(path: Path, topic: str | None, partition: int | None) -> "list[FoundReplica]":
    from ottla_ops.segments.found_segments import choose, find_replicas

    return choose(find_replicas(path), topic, partition)


def _print_findings(output: "Output", result: "SegmentVerification") -> None:
    for finding in result.findings:
        where = "" if finding.offset is None else f" offset {finding.offset}:"
        output.text(f"{finding.path}:{where} {finding.reason}")
    if not result.is_complete:
        output.text(f"{result.path}: not read beyond offset {result.end_offset - 1}")
    if result.suspect_tail:
        output.note(
            f"{result.path}: ends within a transaction: a commit under way, or cut short by a crash"
        )
    output.flush()


def _dump_lines(dumped: "DumpedBatch") -> Iterator[bytes]:
    header = dumped.header
    marks = [
        name
        for name, is_set in (
            ("transactional", header.is_transactional),
            ("control", header.is_control),
            ("log-append-time", header.is_log_append_time),
            ("idempotency-key", dumped.has_idempotency_key),
        )
        if is_set
    ]
    producer = (
        f" producer {header.producer_id} epoch {header.producer_epoch} "
        f"sequence {header.base_sequence}"
        if header.has_producer
        else ""
    )
    yield (
        f"{dumped.topic}-{dumped.partition} {header.base_offset}-{header.last_offset} "
        f"epoch {header.leader_epoch} records {header.record_count} bytes {header.size_bytes} "
        f"{header.compression.name.lower()} time {_time(header.max_timestamp)}{producer}"
        f"{''.join(f' {mark}' for mark in marks)}"
    ).encode()
    for record in dumped.rendered_records():
        yield b"  " + record


def _document(value: Any) -> dict[str, Any]:
    """A result as JSON has it: its fields, paths and states as text."""
    import msgspec

    document: dict[str, Any] = msgspec.to_builtins(value, enc_hook=str)
    return document


def _json(document: dict[str, Any]) -> bytes:
    import msgspec

    return msgspec.json.encode(document)


def _time(timestamp_ms: int | None) -> str:
    """A timestamp for a person; text without blanks."""
    from datetime import UTC, datetime

    if timestamp_ms is None or timestamp_ms < 0:
        return "none"
    try:
        moment = datetime.fromtimestamp(timestamp_ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return str(timestamp_ms)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
