"""Paths of the metadata tree: `/brokers/topics/orders`.

A name may hold what has a meaning in a path, since groups are named freely, so `%`, `/` and blanks
in it are written as in a URL. What is checked is the name after decoding.
"""

from collections.abc import Sequence
from typing import Final
from urllib.parse import quote, unquote

from ottla_protocol.errors import InvalidRequestError

MAX_PATH_DEPTH: Final = 16
"""Names in one path; no node lies as deep."""

MAX_NODE_NAME_LENGTH: Final = 255
"""Characters of one name."""

MAX_PATH_LENGTH: Final = 8_192
"""Characters of a path as it is written."""

Segments = tuple[str, ...]
"""The names of a path from the root on; none for the root itself."""


def split_path(path: str) -> Segments:
    """The names of a path, decoded; one `/` at the end does not count.

    Raises:
        InvalidRequestError: a rule is broken; `detail` names it.
    """
    if not path.startswith("/"):
        raise _invalid(f"must begin with '/', and {path[:80]!r} does not")
    if len(path) > MAX_PATH_LENGTH:
        raise _invalid(f"must have at most {MAX_PATH_LENGTH} characters")
    written = path[1:].removesuffix("/")
    if not written:
        if path not in ("/", "//"):
            raise _invalid("must not have an empty name")
        return ()
    names = written.split("/")
    if len(names) > MAX_PATH_DEPTH:
        raise _invalid(f"must have at most {MAX_PATH_DEPTH} names")
    return tuple(_decoded(name) for name in names)


def join_path(segments: Sequence[str]) -> str:
    """The path that `split_path` takes apart into these names."""
    return "/" + "/".join(written_name(name) for name in segments)


def written_name(name: str) -> str:
    """A name as it is written in a path."""
    return "".join(
        quote(each, safe="") if each in "%/" or each.isspace() else each for each in name
    )


def _decoded(written: str) -> str:
    try:
        name = unquote(written, errors="strict")
    except UnicodeDecodeError:
        raise _invalid(f"must be UTF-8 when it is decoded, and {written[:80]!r} is not") from None
    if not name:
        raise _invalid("must not have an empty name")
    if name in {".", ".."}:
        raise _invalid(f"must not have the name {name!r}: it is no way to go up")
    if len(name) > MAX_NODE_NAME_LENGTH:
        raise _invalid(f"must have names of at most {MAX_NODE_NAME_LENGTH} characters")
    if not name.isprintable():
        raise _invalid(f"must have printable characters only, and {name[:80]!r} has others")
    return name


def _invalid(rule: str) -> InvalidRequestError:
    return InvalidRequestError(f"A path of the metadata tree {rule}.", field="path")
