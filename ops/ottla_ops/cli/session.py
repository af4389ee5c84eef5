"""What the global options of `ottla` say, handed to every command through typer's context."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ottla_ops.cli.output import Output

if TYPE_CHECKING:
    import typer

    from ottla_ops.cli.http_connection import HttpConnection


@dataclass(frozen=True, slots=True)
class Session:
    """One invocation of the command.

    Attributes:
        bootstrap: base URLs of brokers, comma-separated.
        output: where results go.
    """

    bootstrap: str
    output: Output

    def connect(self) -> "HttpConnection":
        """A connection to the cluster; nothing is sent yet.

        Raises:
            CommandError: (usage) `bootstrap` is no list of URLs.
        """
        from ottla_ops.cli.http_connection import HttpConnection

        return HttpConnection(self.bootstrap)


def session_of(context: "typer.Context") -> Session:
    """The session that the root command put into the context."""
    session = context.find_object(Session)
    assert session is not None, "the root callback makes the session"
    return session
