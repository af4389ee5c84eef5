"""`--explain-config`: what a command would go by, and who says so.

Precedence is flag over environment over context over default.
"""

import os
import sys
from typing import NamedTuple

from ottla_ops.cli.session import Session


class Explained(NamedTuple):
    """One setting of the command line.

    Attributes:
        name: the setting.
        value: what it is now.
        source: who says so: an option, a variable, the context in use, the terminal, the default.
    """

    name: str
    value: str
    source: str


def explain(session: Session) -> list[Explained]:
    """All settings of this invocation.

    Raises:
        CommandError: there is no such context, or the file of contexts cannot be read.
    """
    from ottla_ops.cli.context_file import contexts_path

    target = session.target
    path = contexts_path(os.environ)
    source = target.source.value
    by_variable = os.environ.get("XDG_CONFIG_HOME")
    return [
        Explained("bootstrap", target.bootstrap, source),
        Explained("context", target.context or "none", source if target.context else "default"),
        Explained(
            "contexts file",
            "none" if path is None else str(path),
            "XDG_CONFIG_HOME" if by_variable else "default",
        ),
        _flag("json", given=session.output.as_json),
        _flag("quiet", given=session.output.quiet),
        _colour(),
        Explained(
            "progress",
            "yes" if session.output.shows_progress else "no",
            _progress_source(session),
        ),
    ]


def show(session: Session) -> None:
    """Print them."""
    explained = explain(session)
    if session.output.as_json:
        settings = {
            each.name.replace(" ", "_"): {"value": each.value, "source": each.source}
            for each in explained
        }
        session.output.document({"settings": settings})
        return
    session.output.table(("SETTING", "VALUE", "SOURCE"), explained)


def _flag(name: str, *, given: bool) -> Explained:
    return Explained(name, "yes" if given else "no", f"--{name}" if given else "default")


def _colour() -> Explained:
    if os.environ.get("NO_COLOR"):
        return Explained("colour", "no", "NO_COLOR")
    return Explained("colour", "yes" if sys.stdout.isatty() else "no", "terminal")


def _progress_source(session: Session) -> str:
    if session.output.quiet:
        return "--quiet"
    return "--json" if session.output.as_json else "terminal"
