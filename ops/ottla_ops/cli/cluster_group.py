"""`ottla cluster` with all of its commands, which live in several modules."""

from ottla_ops.cli import (
    cluster_health_command,
    drain_commands,
    feature_command,
    quorum_commands,
)
from ottla_ops.cli.cluster_commands import app

app.command("features")(feature_command.features)
app.command("drain")(drain_commands.drain)
app.command("unregister")(drain_commands.unregister)
app.command("health")(cluster_health_command.cluster_health)
app.add_typer(quorum_commands.app, name="quorum")

__all__ = ["app"]
