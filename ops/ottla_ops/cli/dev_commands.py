"""`ottla dev`: what the Procfile and `make` use around a local cluster."""

from pathlib import Path
from typing import Annotated

import typer

from ottla_ops.cli.confirmation import confirm
from ottla_ops.cli.session import session_of

app = typer.Typer(help="A local cluster: supervise, reset, banner.", no_args_is_help=True)


@app.command("supervise")
def supervise(
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="What to run.")],
) -> None:
    """Run a command and restart it when it crashes (74, a failed disk: later); 0 and 2 end it."""
    from ottla_ops.supervise import supervise as run_supervised

    raise typer.Exit(run_supervised(command))


@app.command("banner")
def banner(context: typer.Context) -> None:
    """Wait until the cluster is ready, say how to use it, and sleep until SIGTERM."""
    from ottla_ops.banner import show_banner
    from ottla_ops.cli.bootstrap import parse_bootstrap

    show_banner(parse_bootstrap(session_of(context).bootstrap))


@app.command("reset")
def reset(
    context: typer.Context,
    *,
    data: Annotated[
        Path, typer.Option("--data", help="Directory that holds the brokers' directories.")
    ] = Path("data"),
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete the local brokers' data; refused while one of them runs."""
    from ottla_ops.data_reset import broker_directories, delete_data

    output = session_of(context).output
    directories = broker_directories(data)
    if directories and not yes:
        names = ", ".join(str(directory) for directory in directories)
        confirm(f"Delete {names} with all records?")
    delete_data(directories)
    if output.as_json:
        output.document({"deleted": [str(directory) for directory in directories]})
        return
    output.note(f"{len(directories)} broker directories deleted" if directories else "no data here")
