"""Runs the `ottla` command: arguments in, exit code out.

Everything that can end a command early ends here: usage errors, failures with an exit code of
their own, Ctrl-C, and a reader of our output that has seen enough (`| head`).
"""

import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typer import TyperException

    from ottla_ops.cli.output import Output

FLAGS_ANYWHERE: Final = frozenset({"--json", "--quiet", "-q", "--explain-config"})
OPTIONS_ANYWHERE: Final = ("--bootstrap", "--context")
UNKNOWN_TO_MONITORING: Final = 3
SUPERVISE: Final = ["dev", "supervise", "--"]
COMPLETION_VARIABLE: Final = "_OTTLA_COMPLETE"
"""Set by the shell that asks for completions; then there are no arguments."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: what follows the program's name; the process's own when None.

    Returns:
        The exit code, see `ottla_ops.cli.failures`.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:3] == SUPERVISE and len(given) > len(SUPERVISE):
        # Each broker has a supervisor: without the command tree it starts in a tenth of the time
        # and takes half the memory.
        from ottla_ops.supervise import supervise

        return supervise(given[len(SUPERVISE) :])
    try:
        hoisted = hoist_global_options(given)
        code = _print_root_help() if asks_for_root_help(hoisted) else _run_command(hoisted)
        sys.stdout.flush()
    except BrokenPipeError:
        code = _reader_has_gone()
    return code


def hoist_global_options(arguments: Sequence[str]) -> list[str]:
    """Move global options to the front, where typer wants them.

    People write `ottla topic list --json`. What follows `--` stays as it is.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options: list[str] = []
    others: list[str] = []
    rest = iter(arguments[:end])
    for argument in rest:
        if argument in FLAGS_ANYWHERE or argument.startswith(
            tuple(f"{option}=" for option in OPTIONS_ANYWHERE)
        ):
            options.append(argument)
        elif argument in OPTIONS_ANYWHERE:
            options.extend([argument, *_next(rest)])
        else:
            others.append(argument)
    return [*options, *others, *arguments[end:]]


def asks_for_root_help(hoisted: Sequence[str]) -> bool:
    """Whether only the root's own page is wanted, which needs no command tree."""
    others = [argument for argument in hoisted if argument not in FLAGS_ANYWHERE]
    return others in (["--help"], ["-h"]) and COMPLETION_VARIABLE not in os.environ


def command_of(hoisted: Sequence[str]) -> str | None:
    """The command's first word, behind the global options; None where there is none."""
    rest = iter(hoisted)
    for argument in rest:
        if argument in OPTIONS_ANYWHERE:
            next(rest, None)
        elif not argument.startswith("-"):
            return argument
    return None


def _next(rest: Iterator[str]) -> list[str]:
    following = next(rest, None)
    return [] if following is None else [following]


def _print_root_help() -> int:
    from ottla_ops.cli.root_help import render, terminal_columns

    print(render(terminal_columns()))
    return 0


def _run_command(arguments: list[str]) -> int:
    import typer

    from ottla_ops.cli.app import app
    from ottla_ops.cli.failures import CommandError, ExitCode
    from ottla_ops.cli.output import Output, OutputClosedError

    # Known before the arguments are parsed, because parsing them can fail too.
    output = Output(as_json="--json" in arguments)
    try:
        return int(app(arguments, prog_name="ottla", standalone_mode=False) or ExitCode.OK)
    except CommandError as error:
        output.error(error)
        return error.exit_code
    except typer.TyperException as error:
        _show_usage_error(error, output)
        # For a monitoring system 2 is an outage; that it was asked wrongly is unknown to it.
        return UNKNOWN_TO_MONITORING if command_of(arguments) == "check" else error.exit_code
    except OutputClosedError:
        return _reader_has_gone()
    except (typer.Abort, KeyboardInterrupt):
        return ExitCode.INTERRUPTED


def _reader_has_gone() -> int:
    """What `| head` leaves behind: nobody to write to, and nothing to complain about."""
    # Python flushes stdout at exit and would complain; into the void it can.
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)
    return 0


def _show_usage_error(error: "TyperException", output: "Output") -> None:
    from ottla_ops.cli.failures import usage_error

    context = getattr(error, "ctx", None)
    if not output.as_json and context is not None and error.message == context.get_help():
        # A group without a command: its help says more than an error.
        print(error.message, file=sys.stderr)
        return
    hint = f"see {context.command_path} --help" if context is not None else ""
    output.error(usage_error(_in_plain_words(error.format_message()), hint=hint))


_PLAIN_WORDS = (
    (": Value error, ", ": "),
    ("Input should be a valid integer, unable to parse string as an integer", "not a whole number"),
    ("Input should be a valid number, unable to parse string as a number", "not a number"),
    ("Input should be greater than or equal to ", "must be at least "),
    ("Input should be less than or equal to ", "must be at most "),
)
"""What pydantic, which checks the option parser's values, calls what."""


def _in_plain_words(message: str) -> str:
    """What the option parser says, as one line."""
    for words, plain in _PLAIN_WORDS:
        message = message.replace(words, plain, 1)
    return " ".join(message.split())
