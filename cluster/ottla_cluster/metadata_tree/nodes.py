"""Trees of named nodes, made as they are looked at: finding one, listing one, walking all.

A node knows its children's names and makes a child when it is asked for, so looking one path up
costs little. Children are ordered by their names, numbers by their value; that order is total, so a
list or a walk can go on behind a name that is gone.

Some nodes are *not loaded*: what is below them is elsewhere than in the metadata, and whoever has
the tree made has not fetched it. A walk stops there and says so.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ottla_protocol.tree_paths import Segments

_Key = tuple[int, int, str]


def _nothing(_: str) -> "TreeNode | None":
    return None


@dataclass(frozen=True, slots=True)
class TreeNode:
    """One node. `folder`, `listing` and `leaf` make them."""

    value: Callable[[], object] = lambda: None
    """What it says; plain JSON."""
    note: str = ""
    """One sentence for whoever expects something else here; empty where nothing needs words."""
    names: Callable[[], Sequence[str]] = tuple
    """Its children's names, in any order."""
    child: Callable[[str], "TreeNode | None"] = _nothing
    """The child of that name, None where there is none."""
    is_live: bool = False
    """Whether children come and go with the metadata."""
    is_loaded: bool = True
    """Whether `names` tells all children that there are."""


def leaf(value: Callable[[], object] = lambda: None, note: str = "") -> TreeNode:
    """A node without children."""
    return TreeNode(value, note)


def folder(
    children: Mapping[str, Callable[[], TreeNode]],
    value: Callable[[], object] = lambda: None,
    note: str = "",
) -> TreeNode:
    """A node whose children are always there."""

    def child(name: str) -> TreeNode | None:
        make = children.get(name)
        return None if make is None else make()

    return TreeNode(value, note, lambda: tuple(children), child)


def listing(
    names: Callable[[], Sequence[str]],
    child: Callable[[str], TreeNode | None],
    value: Callable[[], object] = lambda: None,
    note: str = "",
) -> TreeNode:
    """A node whose children come and go."""
    return TreeNode(value, note, names, child, is_live=True)


def not_loaded(value: Callable[[], object] = lambda: None, note: str = "") -> TreeNode:
    """A node of which is not known here what is below."""
    return TreeNode(value, note, is_live=True, is_loaded=False)


def name_key(name: str) -> _Key:
    """The order of names: numbers by value, before all others."""
    is_number = name.isascii() and name.isdigit()
    # Of two spellings of one number, the text decides.
    return (0, int(name), name) if is_number else (1, 0, name)


class Found(NamedTuple):
    """How far a path leads."""

    node: TreeNode
    """The node, or the last one on the way."""
    depth: int
    """How many names of the path lead to `node`."""


def find(root: TreeNode, path: Segments) -> Found:
    """The node at `path`, or its nearest ancestor that exists."""
    node = root
    for depth, name in enumerate(path):
        child = node.child(name)
        if child is None:
            return Found(node, depth)
        node = child
    return Found(node, len(path))


def children(node: TreeNode, limit: int, after: str | None = None) -> tuple[list[str], bool]:
    """The names of the next `limit` children behind `after`, and whether there are more."""
    names = sorted(node.names(), key=name_key)
    if after is not None:
        behind = name_key(after)
        names = [name for name in names if name_key(name) > behind]
    return names[:limit], len(names) > limit


@dataclass(frozen=True, slots=True)
class Walk:
    """A part of a walk.

    Attributes:
        paths: relative to where the walk began, each node before what is below it.
        has_more: there are more behind the last one.
        not_loaded: the walk cannot go on before what is below this path is loaded.
    """

    paths: list[Segments]
    has_more: bool
    not_loaded: Segments | None = None


def walk(node: TreeNode, limit: int, after: Segments = ()) -> Walk:
    """The next `limit` paths below `node` behind `after`; from its first child where that is ()."""
    paths: list[Segments] = []
    for step in _descend(node, (), after):
        if step.not_loaded:
            return Walk(paths, has_more=True, not_loaded=step.path)
        if len(paths) == limit:
            return Walk(paths, has_more=True)
        paths.append(step.path)
    return Walk(paths, has_more=False)


class _Step(NamedTuple):
    path: Segments
    not_loaded: bool = False


def _descend(node: TreeNode, path: Segments, after: Segments) -> Iterator[_Step]:
    if not node.is_loaded:
        yield _Step(path, not_loaded=True)
        return
    for name in sorted(node.names(), key=name_key):
        rest: Segments = ()
        is_told = False
        if after:
            if name_key(name) < name_key(after[0]):
                continue
            if name == after[0]:
                is_told, rest = True, after[1:]
        child = node.child(name)
        if child is None:
            continue
        here = (*path, name)
        if not is_told:
            yield _Step(here)
        yield from _descend(child, here, rest)
