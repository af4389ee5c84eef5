"""`ottla restore`: topics of a backup into a running cluster."""

from pathlib import Path
from typing import Annotated

import typer

from ottla_ops.cli.failures import usage_error
from ottla_ops.cli.session import session_of
from ottla_protocol.counted_nouns import counted


def restore(
    context: typer.Context,
    directory: Annotated[Path, typer.Argument(metavar="DIRECTORY", help="The backup.")],
    topics: Annotated[
        list[str] | None, typer.Argument(metavar="[TOPIC]...", help="All without any.")
    ] = None,
    *,
    rename: Annotated[
        list[str] | None,
        typer.Option(metavar="OLD=NEW", help="Restore OLD as NEW; may be repeated."),
    ] = None,
    groups: Annotated[
        bool, typer.Option(help="With what groups had committed; they must have no members.")
    ] = True,
    config: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="A config of every restored topic in place of the backup's; may be repeated.",
        ),
    ] = None,
    replication_factor: Annotated[
        int | None, typer.Option(min=1, help="Copies of each partition; the backup's without.")
    ] = None,
    throttle: Annotated[
        str | None,
        typer.Option(
            metavar="BYTES_PER_SECOND",
            help="Write no faster; k, M and G are accepted (1,000, 1,000,000, ...).",
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(min=0.1, metavar="SECONDS", help="How long writing may stand still."),
    ] = 30.0,
) -> None:
    """Restore topics of a backup: every record at its partition and offset, and what groups read.

    The whole backup is verified first. No topic is overwritten. Nobody reads or writes a topic
    before all of it is there. Run again, a restore that broke off goes on. Retention counts from
    the end of the restore: --config retention.ms=-1 keeps what is older than the topic keeps.
    """
    from ottla_ops.backup.cluster_target import ClusterTarget
    from ottla_ops.backup.manifest import chosen_topics
    from ottla_ops.backup.pace import Pace
    from ottla_ops.backup.restoration import Restoration, RestoreOptions
    from ottla_ops.backup.verification import read_manifest
    from ottla_ops.cli.library_failures import failures_told
    from ottla_ops.cli.rates import bytes_per_second
    from ottla_ops.cli.read_progress import ReadProgress

    session = session_of(context)
    pace = Pace(None if throttle is None else bytes_per_second(throttle, "--throttle"))
    new_names = dict(_pair(text, "--rename") for text in rename or [])
    configs = dict(_pair(text, "--config") for text in config or [])
    with failures_told():
        manifest = read_manifest(directory)
        chosen = chosen_topics(manifest, topics or [])
        options = RestoreOptions(new_names, configs, replication_factor, groups)
        _check_names([topic.name for topic in chosen], new_names)
        target = ClusterTarget(session.connect(), timeout_s=timeout)
        total = sum(topic.records for topic in chosen)
        with ReadProgress(session.output, total) as progress:
            restoration = Restoration(
                directory, manifest, target, options, pace=pace, on_records=progress.advance
            )
            try:
                restored_groups = restoration.restore(chosen)
            finally:
                target.close()
    if session.output.as_json:
        session.output.document(
            {
                "directory": str(directory),
                "id": manifest.id,
                "topics": [
                    {
                        "topic": restoration.name_of(topic.name),
                        "backed_up_as": topic.name,
                        "partitions": len(topic.partitions),
                        "records": topic.records,
                    }
                    for topic in chosen
                ],
                "groups": restored_groups,
            }
        )
        return
    session.output.table(
        ("TOPIC", "PARTITIONS", "RECORDS"),
        [
            (restoration.name_of(topic.name), len(topic.partitions), topic.records)
            for topic in chosen
        ],
    )
    session.output.note(
        f"{counted(total, 'record')} and the offsets of "
        f"{counted(len(restored_groups), 'group')} restored in "
        f"{progress.elapsed_s:.1f} s"
    )


def _pair(text: str, option: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not (name and separator and value):
        raise usage_error(f"{option} {text}: not of the form NAME=VALUE")
    return name, value


def _check_names(chosen: list[str], new_names: dict[str, str]) -> None:
    """Refuse new names of topics that are not restored, and two topics under one name."""
    strange = [name for name in new_names if name not in chosen]
    if strange:
        raise usage_error(f"--rename {strange[0]}: it is none of the topics to restore")
    names = [new_names.get(name, name) for name in chosen]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise usage_error(f"two topics would be called {min(twice)}")
