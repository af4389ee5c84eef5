"""`ottla segment` with all of its commands, which live in several modules."""

from ottla_ops.cli import export_command
from ottla_ops.cli.segment_commands import app

app.command("export")(export_command.export)

__all__ = ["app"]
