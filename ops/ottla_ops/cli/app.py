"""The command tree of `ottla` and its global options.

The tree is built as far as a command line goes: the root knows its commands by name
(`command_table`), and a command's module is imported when somebody asks for it. Those import HTTP
clients, codecs and progress bars inside their functions, so that help answers before a person
notices.
"""

import importlib
import os
from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core
import typer.main

from ottla_ops.cli import command_table
from ottla_ops.cli.command_table import COMMANDS
from ottla_ops.cli.output import Output
from ottla_ops.cli.plain_values import take_plain_values
from ottla_ops.cli.session import Session, Words

if TYPE_CHECKING:
    from typer._click import Command, Context
    from typer._click.shell_completion import CompletionItem


class _LazyCommands(MutableMapping[str, "Command"]):
    """The root's commands, each imported when it is looked up."""

    def __init__(self) -> None:
        self._loaded: dict[str, Command] = {}

    def __getitem__(self, name: str) -> "Command":
        if name not in self._loaded:
            self._loaded[name] = _load(name)
        return self._loaded[name]

    def __setitem__(self, name: str, command: "Command") -> None:
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in COMMANDS

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


def _load(name: str) -> "Command":
    entry = COMMANDS[name]
    found = getattr(importlib.import_module(entry.module), entry.attribute)
    parent = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    if isinstance(found, typer.Typer):
        parent.add_typer(found, name=name, short_help=entry.help)
    else:
        parent.command(name, short_help=entry.help)(found)
    return typer.main.get_group(parent).commands[name]


class _LazyRoot(typer.core.TyperGroup):
    """The root, which completes its commands' names without importing them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _LazyCommands()

    def shell_complete(self, ctx: "Context", incomplete: str) -> list["CompletionItem"]:
        """Names of commands with their lines, else options."""
        from typer._click.shell_completion import CompletionItem

        found = [
            CompletionItem(name, help=entry.help)
            for name, entry in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return found or super().shell_complete(ctx, incomplete)


take_plain_values()
app = typer.Typer(
    name="ottla",
    cls=_LazyRoot,
    help=command_table.DESCRIPTION,
    no_args_is_help=True,
    # `--explain-config` needs no command.
    invoke_without_command=True,
    # Plain help and errors: rich would double the time that they take.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


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
        typer.Option(metavar=command_table.BOOTSTRAP.metavar, help=command_table.BOOTSTRAP.help),
    ] = None,
    cluster_context: Annotated[
        str | None,
        typer.Option(
            "--context", metavar=command_table.CONTEXT.metavar, help=command_table.CONTEXT.help
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help=command_table.JSON.help)] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help=command_table.QUIET.help)] = False,
    explain_config: Annotated[
        bool, typer.Option("--explain-config", help=command_table.EXPLAIN_CONFIG.help)
    ] = False,
    version: Annotated[  # noqa: ARG001 - the callback prints it
        bool,
        typer.Option(
            "--version",
            help=command_table.VERSION.help,
            is_eager=True,
            callback=_print_version,
        ),
    ] = False,
) -> None:
    """Make the session of which every command has one."""
    words = Words(
        bootstrap_option=bootstrap,
        context_option=cluster_context,
        bootstrap_variable=os.environ.get("OTTLA_BOOTSTRAP"),
        context_variable=os.environ.get("OTTLA_CONTEXT"),
    )
    session = Session(words=words, output=Output(as_json=as_json, quiet=quiet))
    context.obj = session
    if explain_config:
        from ottla_ops.cli.config_explanation import show

        show(session)
        raise typer.Exit
    if context.invoked_subcommand is None:
        context.fail("Missing command.")
