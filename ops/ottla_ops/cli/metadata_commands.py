"""`ottla metadata`: the metadata tree, path by path or in a shell."""

from typing import TYPE_CHECKING, Annotated

import typer

from ottla_ops.cli.session import session_of

if TYPE_CHECKING:
    from ottla_ops.cli.metadata_tree import MetadataTree
    from ottla_ops.cli.session import Session

app = typer.Typer(
    help="The metadata tree: what Kafka kept in ZooKeeper, live and read-only.",
    no_args_is_help=True,
)

PathArgument = Annotated[
    str,
    typer.Argument(metavar="[PATH]", help="As in /brokers/topics/orders; a name's own / is %2F."),
]


@app.command("ls")
def list_children(
    context: typer.Context,
    path: PathArgument = "/",
    *,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-R", help="All paths below, in place of names.")
    ] = False,
) -> None:
    """List what is below a path."""
    from ottla_ops.cli.metadata_actions import list_node

    session = session_of(context)
    list_node(_tree(session), session.output, path, recursive=recursive)


@app.command("get")
def get_value(context: typer.Context, path: PathArgument = "/") -> None:
    """Show the value at a path, as JSON."""
    from ottla_ops.cli.metadata_actions import show_node

    session = session_of(context)
    show_node(_tree(session), session.output, path)


@app.command("shell")
def shell(context: typer.Context) -> None:
    """Walk the tree: ls, get, cd, pwd, with Tab completion; or read commands from a pipe.

    From a pipe it goes on after a failure, and the exit code is that of the first one.
    """
    from ottla_ops.cli.metadata_shell import run_shell

    session = session_of(context)
    code = run_shell(_tree(session), session.output)
    if code:
        raise typer.Exit(code)


def _tree(session: "Session") -> "MetadataTree":
    from ottla_ops.cli.metadata_tree import MetadataTree

    return MetadataTree(session.connect())
