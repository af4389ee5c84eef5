"""The command tree of `ottla` and its global options.

Building the tree needs every command's signature but none of its work, so command modules import
HTTP clients, codecs and progress bars inside their functions: `ottla --help` answers before a
person notices.
"""

import os
from typing import Annotated

import typer

from ottla_ops.cli import (
    backup_commands,
    bench_command,
    check_commands,
    cluster_commands,
    cluster_health_command,
    consume_command,
    context_commands,
    debug_bundle_command,
    dev_commands,
    doctor_command,
    drain_commands,
    export_command,
    feature_command,
    generate_commands,
    group_commands,
    metadata_commands,
    produce_command,
    query_command,
    quorum_commands,
    segment_commands,
    topic_commands,
)
from ottla_ops.cli.output import Output
from ottla_ops.cli.session import Session, Words

app = typer.Typer(
    name="ottla",
    no_args_is_help=True,
    # Plain help and errors: rich would double the time that `--help` takes.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)
cluster_commands.app.command("features")(feature_command.features)
cluster_commands.app.command("drain")(drain_commands.drain)
cluster_commands.app.command("unregister")(drain_commands.unregister)
cluster_commands.app.command("health")(cluster_health_command.cluster_health)
cluster_commands.app.add_typer(quorum_commands.app, name="quorum")
app.add_typer(cluster_commands.app, name="cluster")
app.add_typer(topic_commands.app, name="topic")
app.command("produce")(produce_command.produce)
app.command("consume")(consume_command.consume)
app.add_typer(group_commands.app, name="group")
app.add_typer(metadata_commands.app, name="metadata")
app.command("query")(query_command.query)
segment_commands.app.command("export")(export_command.export)
app.add_typer(segment_commands.app, name="segment")
app.add_typer(backup_commands.app, name="backup")
app.add_typer(check_commands.app, name="check")
app.command("doctor")(doctor_command.doctor)
app.command("bench")(bench_command.bench)
app.command("debug-bundle")(debug_bundle_command.debug_bundle)
app.add_typer(generate_commands.app, name="generate")
app.add_typer(context_commands.app, name="context")
app.add_typer(dev_commands.app, name="dev")


def _print_version(requested: bool) -> None:  # noqa: FBT001 - typer calls it with the flag
    if requested:
        from importlib.metadata import version

        print(f"ottla {version('ottla')}")
        raise typer.Exit


@app.callback()
def ottla(
    context: typer.Context,
    *,
    bootstrap: Annotated[
        str | None,
        typer.Option(
            metavar="URLS",
            help="URLs of brokers, comma-separated.  [env var: OTTLA_BOOTSTRAP; default: those of "
            "the context in use, else of `make start`, ports 7101 to 7103 here]",
        ),
    ] = None,
    cluster_context: Annotated[
        str | None,
        typer.Option(
            "--context",
            metavar="NAME",
            help="The cluster that `ottla context add` gave this name.  [env var: OTTLA_CONTEXT]",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: one object, or NDJSON for records.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print nothing on stderr but errors.")
    ] = False,
    version: Annotated[  # noqa: ARG001 - the callback prints it
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Work with an Ottla cluster: a replicated, partitioned commit log over HTTP.

    Data goes to stdout, everything else to stderr. Global options may stand anywhere. Which cluster
    is meant, a flag says before the environment, that before the context in use.
    Exit codes: 0 ok, 1 failure, 2 usage, 3 not found, 4 conflict, 5 unavailable or timeout,
    6 denied, 130 interrupted; those of `ottla check` are a monitoring plugin's.
    """
    words = Words(
        bootstrap_option=bootstrap,
        context_option=cluster_context,
        bootstrap_variable=os.environ.get("OTTLA_BOOTSTRAP"),
        context_variable=os.environ.get("OTTLA_CONTEXT"),
    )
    context.obj = Session(words=words, output=Output(as_json=as_json, quiet=quiet))
