"""The page of `ottla --help`, rendered without typer.

It looks as typer would print it, and comes a good deal sooner: importing typer alone takes as much
time as a person notices. The pages of commands are typer's own.
"""

import os
import textwrap
from collections.abc import Iterable, Iterator
from typing import Final

from ottla_ops.cli.command_table import COMMANDS, DESCRIPTION, GLOBAL_OPTIONS, GlobalOption

USAGE: Final = "Usage: ottla [OPTIONS] COMMAND [ARGS]..."
WIDTH_MAX: Final = 80
"""Longer lines are read less well."""

WIDTH_MIN: Final = 52


def terminal_columns() -> int:
    """The width of the terminal: COLUMNS, else what stdout says, else 80."""
    given = os.environ.get("COLUMNS", "")
    if given.isascii() and given.isdigit() and int(given):
        return int(given)
    try:
        return os.get_terminal_size(1).columns or WIDTH_MAX
    except OSError:
        # It is no terminal.
        return WIDTH_MAX


def render(columns: int) -> str:
    """The page, for a terminal of so many columns."""
    width = max(min(columns, WIDTH_MAX), WIDTH_MIN) - 2
    paragraphs = [
        textwrap.fill(paragraph, width, initial_indent="  ", subsequent_indent="  ")
        for paragraph in DESCRIPTION.strip().split("\n\n")
    ]
    options = _definitions(((_spelling(each), each.help) for each in GLOBAL_OPTIONS), width)
    commands = _definitions(((name, each.help) for name, each in COMMANDS.items()), width)
    return "\n".join(
        [
            USAGE,
            "",
            "\n\n".join(paragraphs),
            "",
            "Options:",
            *options,
            "",
            "Commands:",
            *commands,
        ]
    )


def _spelling(option: GlobalOption) -> str:
    names = ", ".join(option.names)
    return f"{names} {option.metavar}" if option.metavar else names


def _definitions(rows: Iterable[tuple[str, str]], width: int) -> Iterator[str]:
    """Terms in one column, what they mean in another."""
    known = list(rows)
    column = 2 + max(len(term) for term, _ in known) + 2
    for term, meaning in known:
        first, *others = textwrap.wrap(" ".join(meaning.split()), width - column)
        yield f"  {term}".ljust(column) + first
        yield from (" " * column + line for line in others)
