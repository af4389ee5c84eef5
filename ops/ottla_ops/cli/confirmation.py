"""Questions before something is deleted: on a terminal only, scripts say `--yes`."""

import sys

import typer

from ottla_ops.cli.failures import usage_error


def confirm(question: str) -> None:
    """Ask for a yes on the terminal.

    Raises:
        CommandError: (usage) there is no terminal to ask on.
        typer.Exit: the answer is no.
    """
    if not has_terminal():
        raise usage_error(
            "this needs a confirmation, and there is no terminal to ask on; add --yes"
        )
    if not typer.confirm(question, err=True):
        raise typer.Exit(1)


def has_terminal() -> bool:
    """Whether a person can answer."""
    return sys.stdin.isatty()
