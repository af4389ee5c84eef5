"""`ottla segment`: list, dump, verify; export has a module of its own."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ottla_ops.cli.failures import CommandError, usage_error
from ottla_ops.cli.segment_output import document_of, dump_lines, json_of, shown_time
from ottla_ops.cli.session import session_of
from ottla_protocol.counted_nouns import counted

if TYPE_CHECKING:
    from ottla_broker.storage.segment_verification import SegmentVerification
    from ottla_ops.cli.output import Output
    from ottla_ops.segments.found_segments import FoundReplica

app = typer.Typer(
    help="Look into segments: list, dump, verify, export.\n\n"
    "With PATH they read files, and nothing is locked, so the broker that these belong to may run; "
    "its active segments are copied to the temporary directory (TMPDIR) to be read. Without it, "
    "they ask the brokers of a cluster about a topic's replicas.",
    no_args_is_help=True,
)

SegmentPath = Annotated[
    Path | None,
    typer.Argument(
        metavar="[PATH]",
        help="A broker's data directory, a partition's directory, or one segment; the cluster "
        "without it.",
    ),
]
OnlyTopic = Annotated[str | None, typer.Option(metavar="TOPIC", help="Only this topic.")]
OnlyPartition = Annotated[int | None, typer.Option(min=0, metavar="N", help="Only this partition.")]
OnlyBroker = Annotated[
    int | None,
    typer.Option("--broker", min=1, metavar="ID", help="Only this broker's; without PATH."),
]
Timeout = Annotated[
    float,
    typer.Option(min=0.1, metavar="SECONDS", help="How long to keep trying a silent broker."),
]


@app.command("list")
def list_segments(
    context: typer.Context,
    path: SegmentPath = None,
    *,
    topic: OnlyTopic = None,
    partition: OnlyPartition = None,
    broker: OnlyBroker = None,
    timeout: Timeout = 10.0,
) -> None:
    """List segments: their offsets, records and times; of all replicas in a cluster."""
    if path is None:
        from ottla_ops.cli.cluster_segment_commands import WantedReplicas, list_in_cluster

        list_in_cluster(session_of(context), WantedReplicas(topic, partition, broker, timeout))
        return
    _refuse_broker(broker)
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
        output.document({"segments": [document_of(summary) for summary in found]})
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
            shown_time(each.first_timestamp),
            shown_time(each.last_timestamp),
            each.aborted_transactions,
        )
        for each in found
    ]
    output.table((*headers, "OLDEST", "NEWEST", "ABORTED"), rows)


@app.command("dump")
def dump_segments(
    context: typer.Context,
    path: SegmentPath = None,
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
    broker: OnlyBroker = None,
    timeout: Timeout = 10.0,
) -> None:
    """Show each record batch: its header, and its records with --records.

    --json prints one object per batch. It stops at a damaged batch; verify goes on. In a cluster it
    shows what the leaders have, or the broker that is named, below the high watermark.
    """
    if path is None:
        from ottla_ops.cli.cluster_segment_commands import WantedReplicas, dump_in_cluster

        wanted = WantedReplicas(topic, partition, broker, timeout)
        dump_in_cluster(session_of(context), wanted, first, last, decode=records)
        return
    _refuse_broker(broker)
    from ottla_ops.cli.library_failures import failures_told
    from ottla_ops.segments.dump import dump_replica

    output = session_of(context).output
    with failures_told():
        for replica in _replicas(path, topic, partition):
            for dumped in dump_replica(replica, first, last, decode=records):
                if output.as_json:
                    output.lines([json_of(dumped.document())])
                else:
                    output.lines(dump_lines(dumped))


@app.command("verify")
def verify_segments(
    context: typer.Context,
    path: SegmentPath = None,
    *,
    topic: OnlyTopic = None,
    partition: OnlyPartition = None,
    decode: Annotated[
        bool,
        typer.Option(
            "--decode", help="Decode every record too, which brokers never do; needs PATH."
        ),
    ] = False,
    broker: OnlyBroker = None,
    timeout: Timeout = 10.0,
) -> None:
    """Check every batch, its columns, gaps, epochs and snapshots; of files, SQLite's pages too.

    What is damaged is told with file and offset, one a line; the exit code is then 1. In a cluster
    each broker checks its own replicas, a little at a time.
    """
    if path is None:
        from ottla_ops.cli.cluster_segment_commands import WantedReplicas, verify_in_cluster

        if decode:
            raise usage_error("--decode needs PATH: brokers do not look into batches")
        verify_in_cluster(session_of(context), WantedReplicas(topic, partition, broker, timeout))
        return
    _refuse_broker(broker)
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
            {"segments": [document_of(result) for result in verified], "damaged_segments": damaged}
        )
    summary = (
        f"{counted(len(verified), 'segment')}, "
        f"{counted(sum(result.batches for result in verified), 'batch', 'batches')}, "
        f"{counted(sum(result.records for result in verified), 'record')}"
    )
    if damaged:
        raise CommandError(
            f"{damaged} of {summary} damaged",
            code="CORRUPT_MESSAGE",
            hint="a broker that is started with them refetches what it can from the leader",
        )
    output.note(f"{summary}: all as they were written")


def _refuse_broker(broker: int | None) -> None:
    if broker is not None:
        raise usage_error("--broker goes without PATH: a path says itself whose files it has")


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
