"""`ottla backup`: topics of a running cluster as files, with what groups have committed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import typer.core

from ottla_ops.cli.failures import CommandError
from ottla_ops.cli.session import session_of
from ottla_protocol.counted_nouns import counted

if TYPE_CHECKING:
    from ottla_ops.backup.manifest import Manifest
    from ottla_ops.cli.output import Output

CREATE = "create"


class CreateByDefault(typer.core.TyperGroup):
    """`ottla backup DIRECTORY` is `ottla backup create DIRECTORY`."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Put the command in front where none is named."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [CREATE, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    help="Back topics up while they are in use, and check a backup: `ottla backup DIRECTORY`.",
    cls=CreateByDefault,
    no_args_is_help=True,
)

BackupDirectory = Annotated[Path, typer.Argument(metavar="DIRECTORY", help="The backup.")]


@app.command(CREATE)
def create(
    context: typer.Context,
    directory: Annotated[
        Path, typer.Argument(metavar="DIRECTORY", help="Where to; empty, or not there yet.")
    ],
    topics: Annotated[
        list[str] | None, typer.Argument(metavar="[TOPIC]...", help="All without any.")
    ] = None,
    *,
    groups: Annotated[
        bool, typer.Option(help="With what groups have committed for these topics.")
    ] = True,
    throttle: Annotated[
        str | None,
        typer.Option(
            metavar="BYTES_PER_SECOND",
            help="Read no faster; k, M and G are accepted (1,000, 1,000,000, ...).",
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(min=0.1, metavar="SECONDS", help="How long reading may stand still."),
    ] = 30.0,
) -> None:
    """Copy topics into a directory, each partition up to where it ends now.

    Brokers go on working. Record batches are copied as they are stored; of transactions only what
    is committed, each partition up to the first that is open. The manifest.json comes last: without
    it a backup is unfinished. Every backup is a whole one; there are no increments.
    """
    import time

    from ottla_ops.backup.cluster_source import ClusterSource
    from ottla_ops.backup.creation import BackupCreation
    from ottla_ops.backup.pace import Pace
    from ottla_ops.cli.library_failures import failures_told
    from ottla_ops.cli.rates import bytes_per_second
    from ottla_ops.cli.read_progress import ReadProgress

    session = session_of(context)
    pace = Pace(None if throttle is None else bytes_per_second(throttle, "--throttle"))
    source = ClusterSource(session.connect(), timeout_s=timeout)
    notes: list[str] = []
    with failures_told(), ReadProgress(session.output, 0) as progress:
        creation = BackupCreation(
            source,
            directory,
            pace=pace,
            timeout_s=timeout,
            wall_clock_ms=lambda: time.time_ns() // 1_000_000,
            monotonic_s=time.monotonic,
            on_total=progress.expect,
            on_records=progress.advance,
            on_note=notes.append,
        )
        try:
            manifest = creation.create(topics or [], with_groups=groups)
        finally:
            source.close()
    _show(session.output, manifest, directory)
    for note in notes:
        session.output.note(note)
    session.output.note(
        f"{counted(manifest.records, 'record')} of {counted(len(manifest.topics), 'topic')}, "
        f"{counted(manifest.size_bytes, 'byte')}, and the offsets of "
        f"{counted(len(manifest.groups), 'group')} written to {directory} in "
        f"{progress.elapsed_s:.1f} s"
    )


@app.command("verify")
def verify(context: typer.Context, directory: BackupDirectory) -> None:
    """Read a backup and compare it with its manifest: files, sums, batches, ranges without holes.

    No cluster is needed.
    """
    from ottla_ops.backup.verification import damage_in, read_manifest
    from ottla_ops.cli.library_failures import failures_told
    from ottla_ops.cli.read_progress import ReadProgress

    session = session_of(context)
    with failures_told():
        manifest = read_manifest(directory)
        with ReadProgress(session.output, manifest.records) as progress:
            damage = damage_in(directory, manifest.topics, progress.advance)
    if damage:
        for error in damage[1:]:
            session.output.note(error.detail)
        more = f" ({len(damage)} files are damaged)" if len(damage) > 1 else ""
        raise CommandError(f"{damage[0].detail}{more}", code=damage[0].code)
    _show(session.output, manifest, directory)
    session.output.note(f"{counted(manifest.records, 'record')}, all as written")


def _show(output: "Output", manifest: "Manifest", directory: Path) -> None:
    if output.as_json:
        output.document(document_of(manifest, directory))
        return
    output.table(
        ("TOPIC", "PARTITIONS", "RECORDS", "BYTES"),
        [
            (topic.name, len(topic.partitions), topic.records, topic.size_bytes)
            for topic in manifest.topics
        ],
    )


def document_of(manifest: "Manifest", directory: Path) -> dict[str, object]:
    """What `--json` tells of a backup: the manifest without its chunks."""
    return {
        "directory": str(directory),
        "id": manifest.id,
        "cluster_id": manifest.cluster_id,
        "began_ms": manifest.began_ms,
        "finished_ms": manifest.finished_ms,
        "records": manifest.records,
        "bytes": manifest.size_bytes,
        "topics": [
            {
                "topic": topic.name,
                "records": topic.records,
                "bytes": topic.size_bytes,
                "partitions": [
                    {
                        "partition": partition.partition,
                        "log_start_offset": partition.log_start_offset,
                        "end_offset": partition.end_offset,
                        "records": partition.records,
                        "bytes": partition.size_bytes,
                    }
                    for partition in topic.partitions
                ],
            }
            for topic in manifest.topics
        ],
        "groups": [
            {"group": group.group, "offsets": len(group.offsets)} for group in manifest.groups
        ],
    }
