"""What the global options of `ottla` say, handed to every command through typer's context."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ottla_ops.cli.output import Output

if TYPE_CHECKING:
    import typer

    from ottla_ops.cli.contexts import Target
    from ottla_ops.cli.http_connection import HttpConnection


@dataclass(frozen=True, slots=True)
class Words:
    """What was said about the cluster; an empty text says nothing.

    Attributes:
        bootstrap_option: `--bootstrap`.
        context_option: `--context`.
        bootstrap_variable: `OTTLA_BOOTSTRAP`.
        context_variable: `OTTLA_CONTEXT`.
    """

    bootstrap_option: str | None = None
    context_option: str | None = None
    bootstrap_variable: str | None = None
    context_variable: str | None = None

    @property
    def need_contexts(self) -> bool:
        """Whether the file of contexts has to be looked at."""
        return not self.bootstrap_option and (
            bool(self.context_option) or not self.bootstrap_variable
        )


@dataclass(frozen=True, slots=True)
class Session:
    """One invocation of the command.

    Attributes:
        words: what flags and environment say about the cluster.
        output: where results go.
    """

    words: Words
    output: Output

    @property
    def target(self) -> "Target":
        """The cluster that is meant; the file of contexts is read only where it decides.

        Raises:
            CommandError: there is no such context, or the file cannot be read.
        """
        from ottla_ops.cli.context_file import contexts_path, read_contexts
        from ottla_ops.cli.contexts import Contexts, resolve

        path = contexts_path(os.environ)
        contexts = read_contexts(path) if self.words.need_contexts else Contexts()
        return resolve(self.words, contexts)

    @property
    def bootstrap(self) -> str:
        """Base URLs of brokers, comma-separated.

        Raises:
            CommandError: as of `target`.
        """
        return self.target.bootstrap

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
