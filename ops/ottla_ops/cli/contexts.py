"""Named clusters: what a context is, and which cluster a command means.

Whoever works with several clusters names each once (`ottla context add`). Which one a command
talks to is decided here, and the nearest word wins: flag, then environment, then the context in
use, then the default of `make start`. All of this is pure; `context_file` reads and writes.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import msgspec

from ottla_ops.cli.bootstrap import DEFAULT_BOOTSTRAP, parse_bootstrap
from ottla_ops.cli.failures import CommandError, ExitCode, usage_error
from ottla_ops.cli.session import Words

FORMAT_VERSION: Final = 1
CONTEXTS_MAX: Final = 256
NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Source(StrEnum):
    """Who named the cluster, the strongest first."""

    BOOTSTRAP_OPTION = "--bootstrap"
    CONTEXT_OPTION = "--context"
    BOOTSTRAP_VARIABLE = "OTTLA_BOOTSTRAP"
    CONTEXT_VARIABLE = "OTTLA_CONTEXT"
    CONTEXT_IN_USE = "context in use"
    DEFAULT = "default"


class Context(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A named cluster; `bootstrap` is base URLs of brokers, comma-separated."""

    bootstrap: str


class Contexts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All contexts, as the file has them; `current` is the one in use."""

    version: int = FORMAT_VERSION
    current: str | None = None
    contexts: dict[str, Context] = {}


@dataclass(frozen=True, slots=True)
class Target:
    """The cluster that a command means.

    Attributes:
        bootstrap: base URLs of brokers, comma-separated.
        source: who named it.
        context: the context's name, None where it is none.
    """

    bootstrap: str
    source: Source
    context: str | None = None


def resolve(words: Words, contexts: Contexts) -> Target:
    """The cluster that is meant: flag over environment over context in use over default.

    Raises:
        CommandError: (usage) both flags are given; (not found) there is no context of that name.
    """
    if words.bootstrap_option and words.context_option:
        raise usage_error("--bootstrap and --context exclude each other")
    if words.bootstrap_option:
        return Target(words.bootstrap_option, Source.BOOTSTRAP_OPTION)
    if words.context_option:
        return _of_context(contexts, words.context_option, Source.CONTEXT_OPTION)
    if words.bootstrap_variable:
        return Target(words.bootstrap_variable, Source.BOOTSTRAP_VARIABLE)
    if words.context_variable:
        return _of_context(contexts, words.context_variable, Source.CONTEXT_VARIABLE)
    if contexts.current is not None:
        return _of_context(contexts, contexts.current, Source.CONTEXT_IN_USE)
    return Target(DEFAULT_BOOTSTRAP, Source.DEFAULT)


def with_context(contexts: Contexts, name: str, bootstrap: str, *, overwrite: bool) -> Contexts:
    """The contexts with one more.

    Raises:
        CommandError: (usage) the name or the URLs are malformed, or there are too many contexts;
            (conflict) the name is taken and `overwrite` is not set.
    """
    if not NAME_PATTERN.fullmatch(name):
        raise usage_error(
            f"'{name}' is no name of a context: 1 to 64 letters, digits, dots, hyphens and "
            "underscores, a letter or digit first"
        )
    urls = ",".join(parse_bootstrap(bootstrap))
    if name in contexts.contexts and not overwrite:
        raise CommandError(
            f"there is a context {name} already",
            code="CONTEXT_ALREADY_EXISTS",
            exit_code=ExitCode.CONFLICT,
            hint="--overwrite replaces it",
        )
    if name not in contexts.contexts and len(contexts.contexts) >= CONTEXTS_MAX:
        raise usage_error(f"there are {CONTEXTS_MAX} contexts, and more are not kept")
    return msgspec.structs.replace(
        contexts, contexts={**contexts.contexts, name: Context(bootstrap=urls)}
    )


def without_context(contexts: Contexts, name: str) -> Contexts:
    """The contexts without this one; if it was in use, none is.

    Raises:
        CommandError: (not found) there is no such context.
    """
    context_named(contexts, name)
    rest = {each: context for each, context in contexts.contexts.items() if each != name}
    current = None if contexts.current == name else contexts.current
    return msgspec.structs.replace(contexts, current=current, contexts=rest)


def with_current(contexts: Contexts, name: str) -> Contexts:
    """The contexts with this one in use.

    Raises:
        CommandError: (not found) there is no such context.
    """
    context_named(contexts, name)
    return msgspec.structs.replace(contexts, current=name)


def context_named(contexts: Contexts, name: str) -> Context:
    """The context of that name.

    Raises:
        CommandError: (not found) there is none.
    """
    if name not in contexts.contexts:
        raise CommandError(
            f"there is no context {name}",
            code="UNKNOWN_CONTEXT",
            exit_code=ExitCode.NOT_FOUND,
            hint="`ottla context list` shows those there are",
        )
    return contexts.contexts[name]


def encode(contexts: Contexts) -> bytes:
    """The file's content: JSON that people can read."""
    return msgspec.json.format(msgspec.json.encode(contexts), indent=2) + b"\n"


def decode(content: bytes, path: str) -> Contexts:
    """The contexts that a file holds.

    Raises:
        CommandError: it is no such file, or of a newer `ottla`.
    """
    try:
        document: dict[str, Any] = msgspec.json.decode(content, type=dict[str, Any])
        if document.get("version") != FORMAT_VERSION:
            raise _malformed(path, f"its version is {document.get('version')}, not 1")
        contexts = msgspec.convert(document, Contexts)
    except msgspec.DecodeError as error:
        raise _malformed(path, str(error)) from error
    for name, context in contexts.contexts.items():
        try:
            parse_bootstrap(context.bootstrap)
        except CommandError as error:
            raise _malformed(path, f"context {name}: {error.message}") from error
    if contexts.current is not None and contexts.current not in contexts.contexts:
        raise _malformed(path, f"the context in use, {contexts.current}, is not in it")
    return contexts


def _of_context(contexts: Contexts, name: str, source: Source) -> Target:
    return Target(context_named(contexts, name).bootstrap, source, name)


def _malformed(path: str, reason: str) -> CommandError:
    return CommandError(
        f"{path} is no file of contexts: {reason}",
        code="MALFORMED_CONTEXTS",
        hint="correct it or delete it; --bootstrap works without it",
    )
