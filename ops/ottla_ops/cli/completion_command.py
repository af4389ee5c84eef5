"""`ottla generate completion`: what a shell has to be told so that Tab completes."""

from enum import StrEnum
from typing import Annotated

import typer

from ottla_ops.cli.main import COMPLETION_VARIABLE
from ottla_ops.cli.session import session_of


class Shell(StrEnum):
    """Shells that can be told."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    context: typer.Context,
    shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")],
) -> None:
    """Print a script that makes a shell complete commands, options and choices.

    For bash: ottla generate completion bash > ~/.local/share/bash-completion/completions/ottla
    """
    from typer._completion_shared import get_completion_script

    output = session_of(context).output
    script = get_completion_script(
        prog_name="ottla", complete_var=COMPLETION_VARIABLE, shell=shell.value
    )
    if output.as_json:
        output.document({"shell": shell.value, "text": script})
        return
    output.text(script.rstrip("\n"))
