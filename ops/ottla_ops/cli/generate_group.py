"""`ottla generate` with all of its commands, which live in several modules."""

from ottla_ops.cli import completion_command
from ottla_ops.cli.generate_commands import app

app.command("completion")(completion_command.completion)

__all__ = ["app"]
