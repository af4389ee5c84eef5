"""What `ls` and `get` do, from the command line and in the shell alike."""

from typing import TYPE_CHECKING

import msgspec

from ottla_protocol.tree_paths import written_name

if TYPE_CHECKING:
    from ottla_ops.cli.metadata_tree import MetadataTree
    from ottla_ops.cli.output import Output


def list_node(tree: "MetadataTree", output: "Output", path: str, *, recursive: bool) -> None:
    """Print what is below a node: its children's names, or all paths.

    Raises:
        CommandError: there is no such node, or no broker tells.
    """
    if recursive:
        _list_all(tree, output, path)
        return
    node = tree.node(path)
    if output.as_json:
        output.document(
            {
                "path": node.path,
                "children": node.children,
                "note": node.note,
                "missing": node.missing,
            }
        )
        return
    for name in node.children:
        output.text(written_name(name))
    if not node.children and node.note:
        output.note(node.note)
    _tell_missing(output, node.missing)


def _list_all(tree: "MetadataTree", output: "Output", path: str) -> None:
    paths: list[str] = []
    # Each page tells it of its own part, mostly in the same words.
    missing: dict[str, None] = {}
    for page in tree.walk(path):
        if page.missing:
            missing[page.missing] = None
        if output.as_json:
            paths += page.paths
            continue
        for each in page.paths:
            output.text(each)
    if output.as_json:
        output.document({"path": path, "paths": paths, "missing": "; ".join(missing)})
    for each in missing:
        _tell_missing(output, each)


def _tell_missing(output: "Output", missing: str) -> None:
    if missing:
        output.note(f"missing here: {missing}")


def show_node(tree: "MetadataTree", output: "Output", path: str) -> None:
    """Print a node's value as one line of JSON, and tell what there is to explain.

    Raises:
        CommandError: there is no such node, or no broker tells.
    """
    node = tree.node(path)
    if output.as_json:
        output.document(msgspec.to_builtins(node))
        return
    output.line(msgspec.json.encode(node.value))
    if node.note:
        output.note(node.note)
    _tell_missing(output, node.missing)
