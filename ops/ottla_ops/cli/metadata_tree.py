"""The metadata tree as a client sees it: whole lists, however many pages they come in."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from ottla_ops.cli.failures import usage_error

if TYPE_CHECKING:
    from ottla_ops.cli.http_connection import HttpConnection
    from ottla_protocol.models_tree import TreeNodeDescription


ANSWER_TIMEOUT_S: Final = 10.0
"""How long a broker may take: a walk waits for the coordinators of groups, twice."""


def normalized(path: str) -> str:
    """The path as Ottla writes it.

    Raises:
        CommandError: (usage) it is none; the message names the rule.
    """
    from ottla_protocol.errors import InvalidRequestError
    from ottla_protocol.tree_paths import join_path, split_path

    try:
        return join_path(split_path(path))
    except InvalidRequestError as error:
        raise usage_error(error.detail) from error


class MetadataTree:
    """Looks up nodes at the brokers.

    Args:
        connection: the way to them.
    """

    def __init__(self, connection: "HttpConnection") -> None:
        self._connection = connection

    def node(self, path: str) -> "TreeNodeDescription":
        """One node with all of its children.

        Raises:
            CommandError: there is none, or no broker tells.
        """
        import msgspec

        first, *others = self._pages(path, recursive=False)
        names = [*first.children, *(name for page in others for name in page.children)]
        missing = dict.fromkeys(page.missing for page in (first, *others) if page.missing)
        return msgspec.structs.replace(
            first, children=names, next_cursor=None, missing="; ".join(missing)
        )

    def walk(self, path: str) -> Iterator["TreeNodeDescription"]:
        """The paths of all that is below a node, a part at a time, as they come.

        Raises:
            CommandError: there is no such node, or no broker tells.
        """
        return self._pages(path, recursive=True)

    def _pages(self, path: str, *, recursive: bool) -> Iterator["TreeNodeDescription"]:
        from ottla_protocol import routes
        from ottla_protocol.models_tree import MAX_TREE_LIMIT, TreeNodeDescription

        cursor = None
        while True:
            answer = self._connection.request(
                "GET",
                routes.METADATA_TREE + quote(normalized(path), safe="/%"),
                query={
                    "limit": MAX_TREE_LIMIT,
                    "recursive": "true" if recursive else None,
                    "cursor": cursor,
                },
                answer_timeout_s=ANSWER_TIMEOUT_S,
            )
            page = answer.decoded(TreeNodeDescription)
            yield page
            cursor = page.next_cursor
            if cursor is None:
                return
