"""The reference of error codes, made from the tree of errors."""

from collections.abc import Iterator, Mapping
from typing import Final

from ottla_ops.documentation.markdown import code, paragraph, table
from ottla_protocol import errors
from ottla_protocol.errors import OttlaError

HEADER: Final = """\
# Error codes

An error is `application/problem+json` (RFC 9457), and an exception of the SDK with the same
members: `code` is for programs, `detail` names the field and the rule for a person, `retriable`
says whether the same request may succeed later. The status and `retriable` belong to the code;
what is needed to go on (the leader, bounds, an index) are further members.

An error of a write says its `outcome`, which belongs to the one request. `not_applied`: nothing
was written, and sending it again is safe if the error is retriable. `unknown`: it may have been
written; only with a producer id or the same `Idempotency-Key` may it be sent again without a
second copy.

"""

ADVICE: Final[Mapping[type, str]] = {
    errors.InvalidRequestError: "change the request",
    errors.NotFoundError: "create it, or change the name",
    errors.ConflictError: "look at the newer state, and decide anew",
    errors.RoutingError: "ask the broker that is named, or any other",
    errors.UnavailableError: "again, later, after `Retry-After` where that is sent",
    errors.InternalError: "look into the broker's log",
}
"""What to do, by branch of the tree."""


def described_errors() -> list[type[OttlaError]]:
    """Every class of error that has a code of its own, by code."""
    found = {each.code: each for each in reversed(list(_below(OttlaError)))}
    return [found[code] for code in sorted(found)]


def error_reference() -> str:
    """The reference, as Markdown."""
    columns = ("Code", "Status", "Retriable", "Meaning", "What to do", "Exception")
    return HEADER + table(columns, map(_row, described_errors()))


def _below(error: type[OttlaError]) -> Iterator[type[OttlaError]]:
    """Every subclass in the protocol, those nearer to the root first."""
    direct = [each for each in error.__subclasses__() if each.__module__ == errors.__name__]
    yield from direct
    for each in direct:
        yield from _below(each)


def _row(error: type[OttlaError]) -> tuple[str, ...]:
    return (
        code(error.code),
        str(error.status),
        "yes" if error.retriable else "no",
        paragraph((error.__doc__ or "").split("\n\n")[0]),
        _advice(error),
        code(error.__name__),
    )


def _advice(error: type[OttlaError]) -> str:
    branch = next(ADVICE[kind] for kind in error.__mro__ if kind in ADVICE)
    if error.retriable and not issubclass(error, errors.UnavailableError | errors.RoutingError):
        branch = "again, later"
    return f"fresh metadata, then: {branch}" if error.refresh_metadata else branch
