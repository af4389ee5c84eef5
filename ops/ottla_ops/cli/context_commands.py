"""`ottla context`: list, add, use, remove, show."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from ottla_ops.cli.failures import usage_error
from ottla_ops.cli.session import session_of

if TYPE_CHECKING:
    from ottla_ops.cli.contexts import Contexts

app = typer.Typer(help="Named clusters: list, add, use, remove, show.", no_args_is_help=True)

ContextName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the context.")]


@app.command("list")
def list_contexts(context: typer.Context) -> None:
    """List the contexts; * marks the one in use."""
    from ottla_ops.cli.context_file import contexts_path, read_contexts

    session = session_of(context)
    path = contexts_path(os.environ)
    contexts = read_contexts(path)
    names = sorted(contexts.contexts)
    if session.output.as_json:
        session.output.document(
            {
                "file": None if path is None else str(path),
                "current": contexts.current,
                "contexts": [_document(contexts, name) for name in names],
            }
        )
        return
    rows = [
        ("*" if name == contexts.current else "", name, contexts.contexts[name].bootstrap)
        for name in names
    ]
    session.output.table(("CURRENT", "NAME", "BOOTSTRAP"), rows)


@app.command("add")
def add_context(
    context: typer.Context,
    name: ContextName,
    urls: Annotated[
        str | None,
        typer.Argument(
            metavar="[URLS]", help="URLs of brokers, comma-separated; or give --bootstrap."
        ),
    ] = None,
    *,
    use: Annotated[bool, typer.Option("--use", help="Use it from now on.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a context of that name.")
    ] = False,
) -> None:
    """Give a cluster a name."""
    from ottla_ops.cli.context_file import change_contexts, contexts_path
    from ottla_ops.cli.contexts import with_context, with_current

    session = session_of(context)
    option = session.words.bootstrap_option
    if bool(urls) == bool(option):
        raise usage_error(
            "the brokers are named twice: as argument and with --bootstrap"
            if urls
            else "name the brokers: ottla context add NAME http://host:port,..."
        )
    bootstrap = urls or option or ""

    def change(contexts: "Contexts") -> "Contexts":
        added = with_context(contexts, name, bootstrap, overwrite=overwrite)
        return with_current(added, name) if use else added

    contexts = change_contexts(contexts_path(os.environ), change)
    if session.output.as_json:
        session.output.document(_document(contexts, name))
        return
    session.output.note(f"{name} is {contexts.contexts[name].bootstrap}")
    if not use:
        session.output.note(f"`ottla context use {name}` makes it the one in use")


@app.command("use")
def use_context(context: typer.Context, name: ContextName) -> None:
    """Use a context where neither a flag nor the environment names a cluster."""
    from ottla_ops.cli.context_file import change_contexts, contexts_path
    from ottla_ops.cli.contexts import with_current

    session = session_of(context)
    contexts = change_contexts(
        contexts_path(os.environ), lambda contexts: with_current(contexts, name)
    )
    if session.output.as_json:
        session.output.document(_document(contexts, name))
        return
    session.output.note(f"{name} is in use: {contexts.contexts[name].bootstrap}")
    if session.words.bootstrap_variable or session.words.context_variable:
        session.output.note("but OTTLA_BOOTSTRAP or OTTLA_CONTEXT is set, and goes before it")


@app.command("remove")
def remove_context(context: typer.Context, name: ContextName) -> None:
    """Forget a context; the cluster is left alone."""
    from ottla_ops.cli.context_file import change_contexts, contexts_path
    from ottla_ops.cli.contexts import without_context

    session = session_of(context)
    contexts = change_contexts(
        contexts_path(os.environ), lambda contexts: without_context(contexts, name)
    )
    if session.output.as_json:
        session.output.document({"name": name, "removed": True, "current": contexts.current})
        return
    session.output.note(f"{name} removed")
    if contexts.current is None:
        session.output.note("no context is in use")


@app.command("show")
def show_context(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="A context; without it, the cluster that commands talk to now."
        ),
    ] = None,
) -> None:
    """Show a context, or which cluster commands talk to and who says so."""
    from ottla_ops.cli.context_file import contexts_path, read_contexts
    from ottla_ops.cli.contexts import context_named

    session = session_of(context)
    if name is not None:
        contexts = read_contexts(contexts_path(os.environ))
        named = context_named(contexts, name)
        if session.output.as_json:
            session.output.document(_document(contexts, name))
            return
        session.output.text(f"context    {name}")
        session.output.text(f"bootstrap  {named.bootstrap}")
        return
    target = session.target
    if session.output.as_json:
        session.output.document(
            {
                "name": target.context,
                "bootstrap": target.bootstrap,
                "source": target.source.value,
            }
        )
        return
    session.output.text(f"context    {target.context or 'none'}")
    session.output.text(f"bootstrap  {target.bootstrap}")
    session.output.text(f"source     {target.source.value}")


def _document(contexts: "Contexts", name: str) -> dict[str, object]:
    return {
        "name": name,
        "bootstrap": contexts.contexts[name].bootstrap,
        "current": name == contexts.current,
    }
