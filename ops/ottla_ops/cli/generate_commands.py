"""`ottla generate`: files for the tools around a cluster."""

from pathlib import Path
from typing import Annotated

import typer

from ottla_ops.cli.session import session_of
from ottla_protocol.counted_nouns import counted

app = typer.Typer(
    help="Files for operators: alarms, dashboards, references, units, manifests.",
    no_args_is_help=True,
)


@app.command("prometheus-rules")
def prometheus_rules(
    context: typer.Context,
    *,
    runbooks: Annotated[
        str, typer.Option(metavar="URL", help="Where the runbooks are served.")
    ] = "ops/runbooks",
) -> None:
    """Print alert rules for Prometheus; each names its runbook."""
    from ottla_ops.generate.prometheus_rules import prometheus_rules as render

    _print(context, render(runbooks))


@app.command("grafana")
def grafana(
    context: typer.Context,
    dashboard: Annotated[str, typer.Argument(help="overview, topics, groups or replication.")],
) -> None:
    """Print a dashboard as Grafana imports it."""
    from ottla_ops.cli.failures import usage_error
    from ottla_ops.generate.dashboards import DASHBOARDS
    from ottla_ops.generate.grafana import grafana_dashboard

    by_name = {each.uid.removeprefix("ottla-"): each for each in DASHBOARDS}
    chosen = by_name.get(dashboard)
    if chosen is None:
        raise usage_error(
            f"there is no dashboard '{dashboard}'", hint=f"one of {', '.join(by_name)}"
        )
    _print(context, grafana_dashboard(chosen))


@app.command("metrics-reference")
def metrics_reference(context: typer.Context) -> None:
    """Print every metric that brokers export, with its labels and meaning, as Markdown."""
    from ottla_ops.generate.metrics_reference import metrics_reference as render

    _print(context, render())


@app.command("systemd")
def systemd(
    context: typer.Context,
    *,
    prefix: Annotated[
        str, typer.Option(metavar="DIRECTORY", help="The virtual environment with ottla[server].")
    ] = "/opt/ottla",
) -> None:
    """Print a template unit, ottla@.service: one broker for each node id."""
    from ottla_ops.cli.failures import usage_error
    from ottla_ops.generate.systemd_unit import systemd_unit

    if not prefix.startswith("/") or any(each.isspace() or each == "%" for each in prefix):
        raise usage_error("--prefix must be an absolute path without blanks and %")
    _print(context, systemd_unit(prefix))


@app.command("kubernetes")
def kubernetes(
    context: typer.Context,
    *,
    brokers: Annotated[int, typer.Option(help="How many, all of them voters: 1, 3 or 5.")] = 3,
    image: Annotated[str, typer.Option(help="The image of the broker.")] = "ottla:latest",
    storage: Annotated[str, typer.Option(help="The size of each broker's volume.")] = "100Gi",
) -> None:
    """Print manifests: a StatefulSet with probes, services, a budget and a network policy."""
    from ottla_ops.cli.failures import usage_error
    from ottla_ops.generate.kubernetes_manifests import REPLICAS_ALLOWED, kubernetes_manifests

    if brokers not in REPLICAS_ALLOWED:
        raise usage_error(f"--brokers must be one of {REPLICAS_ALLOWED}, not {brokers}")
    _print(context, kubernetes_manifests(replicas=brokers, image=image, storage=storage))


@app.command("dockerfile")
def dockerfile(context: typer.Context) -> None:
    """Print the Dockerfile of a broker; it is built in a clone."""
    from ottla_ops.generate.container_files import dockerfile as render

    _print(context, render())


@app.command("compose")
def compose(context: typer.Context) -> None:
    """Print a compose file: three brokers on one host."""
    from ottla_ops.generate.container_files import compose as render

    _print(context, render())


@app.command("all")
def all_files(
    context: typer.Context,
    directory: Annotated[Path, typer.Argument(help="Where to write them; `ops` in a clone.")],
) -> None:
    """Write all of them below a directory; what is there under their names is replaced."""
    from ottla_ops.cli.failures import file_failure
    from ottla_ops.generate.files import generated_files, write_files

    output = session_of(context).output
    try:
        written = write_files(generated_files(), directory)
    except OSError as error:
        raise file_failure(error.filename, "written", error) from error
    if output.as_json:
        output.document({"written": [str(path) for path in written]})
        return
    output.note(f"{counted(len(written), 'file')} written below {directory}")


def _print(context: typer.Context, text: str) -> None:
    """Print a generated file; with --json as the one member `text`."""
    output = session_of(context).output
    if output.as_json:
        output.document({"text": text})
    else:
        output.text(text.rstrip("\n"))
