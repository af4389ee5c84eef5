"""The reference of the command line, made from the tree of commands that runs it."""

from collections.abc import Iterator
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

import typer.main

from ottla_ops.cli.app import app
from ottla_ops.cli.command_table import DESCRIPTION, GLOBAL_OPTIONS
from ottla_ops.cli.exit_codes import MEANINGS
from ottla_ops.documentation.markdown import code, paragraph, table

if TYPE_CHECKING:
    from typer._click import Command, Parameter

KINDS: Final = {int: "INTEGER", float: "NUMBER"}
"""What the value of an option is called that has no name for it."""

EXIT_CODES_HEADER: Final = """
## Exit codes

Those of `ottla check` are a monitoring plugin's: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.

"""


def commands() -> Iterator[tuple[str, "Command"]]:
    """Every command that does something, by its words, in the order of `--help`."""
    yield from _leaves("ottla", typer.main.get_command(app))


def command_reference() -> str:
    """The reference, as Markdown."""
    options = table(
        ("Option", "Meaning"),
        (
            (", ".join(map(code, option.names)) + _value(option.metavar), option.help)
            for option in GLOBAL_OPTIONS
        ),
    )
    exit_codes = table(
        ("Code", "Meaning"), ((str(each.value), meaning) for each, meaning in MEANINGS.items())
    )
    head = f"# Command line\n\n{paragraph(DESCRIPTION)}\n\n## Global options\n\n{options}"
    sections = "".join(_section(path, command) for path, command in commands())
    return head + EXIT_CODES_HEADER + exit_codes + sections


def _leaves(path: str, command: "Command") -> Iterator[tuple[str, "Command"]]:
    below: dict[str, Command] = getattr(command, "commands", {})
    if not below or (getattr(command, "invoke_without_command", False) and path != "ottla"):
        yield path, command
    for name in below:
        yield from _leaves(f"{path} {name}", below[name])


def _section(path: str, command: "Command") -> str:
    rows = [_parameter(each) for each in command.params if "--help" not in each.opts]
    parameters = "\n" + table(("", "Meaning"), rows) if rows else ""
    return f"\n## {path}\n\n{command.help or ''}\n{parameters}"


def _parameter(parameter: "Parameter") -> tuple[str, str]:
    described = getattr(parameter, "help", None) or ""
    if parameter.param_type_name == "argument":
        return code((parameter.metavar or parameter.name or "").upper()), described
    names = ", ".join(map(code, (*parameter.opts, *parameter.secondary_opts)))
    if not getattr(parameter, "is_flag", False):
        names += _value(parameter.metavar or _kind(getattr(parameter, "bare_type", None)))
    return names, described


def _kind(of: Any) -> str:
    if isinstance(of, type) and issubclass(of, Enum):
        return "|".join(str(each.value) for each in of)
    return KINDS.get(of, "TEXT")


def _value(metavar: str | None) -> str:
    return f" {code(metavar)}" if metavar else ""
