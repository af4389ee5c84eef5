"""What `GET /v1/metadata/tree/{path}` answers."""

from typing import Any

from ottla_protocol.models import Response

DEFAULT_TREE_LIMIT = 1_000
MAX_TREE_LIMIT = 2_000
"""How many children or paths one answer has."""


class TreeNodeDescription(Response, frozen=True):
    """One node: what is below it, and what it says.

    `children` are names, not written for a path; `paths` are the paths of all that is below, in
    the order of the tree, when `recursive=true` was asked, and there are no `children` then. Where
    there are more than the limit, `next_cursor` is the path to ask with as `cursor` for the rest.

    `value` is what Kafka kept at this path in ZooKeeper, in the same form where Ottla has the like,
    and None where there is nothing to say. `note` explains what is otherwise here. `missing` says
    what is not told here because nobody answered for it, and is empty where nothing is.
    """

    path: str
    children: list[str]
    value: Any
    note: str
    metadata_version: int
    paths: list[str]
    next_cursor: str | None = None
    missing: str = ""
