"""What the metadata shell does with words: resolve paths, and complete what was begun. Pure."""

from collections.abc import Callable, Sequence
from typing import Final

COMMANDS: Final = {
    "cd": "cd [PATH]          go to a node; to / without PATH",
    "exit": "exit               leave; so does Ctrl-D",
    "get": "get [PATH]         the node's value",
    "help": "help               this list",
    "ls": "ls [-R] [PATH]     what is below the node; -R all of it",
    "pwd": "pwd                where you are",
    "quit": "quit               as exit",
}
"""Every command of the shell, with its line of help."""

WITH_PATH: Final = frozenset({"cd", "get", "ls"})

RECURSIVE: Final = "-R"


def resolve(current: str, argument: str) -> str:
    """The path that `argument` means when one is at `current`: absolute, relative, with `..`.

    Above the root is the root, as in any shell. Both are written as paths are, so a name's own
    slash or blank stays as it is.
    """
    start = [] if argument.startswith("/") else _names(current)
    for name in _names(argument):
        if name == "..":
            start = start[:-1]
        elif name != ".":
            start.append(name)
    return "/" + "/".join(start)


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name]


def completions(line: str, current: str, children: Callable[[str], Sequence[str]]) -> list[str]:
    """What the last word of a line may become.

    Args:
        line: what was typed up to the cursor.
        current: the path one is at.
        children: names below a path, as they are written; empty for what does not exist.

    Returns:
        Whole words, in order. One alone has what follows it: a blank, or a slash where it has
        children.
    """
    before, _, word = line.lstrip().rpartition(" ")
    command = before.split(maxsplit=1)[0] if before.strip() else None
    if command is None:
        found = [name for name in sorted(COMMANDS) if name.startswith(word)]
        return [f"{found[0]} "] if len(found) == 1 else found
    if command not in WITH_PATH:
        return []
    if word.startswith("-"):
        return [f"{RECURSIVE} "] if command == "ls" and RECURSIVE.startswith(word) else []
    folder, slash, begun = word.rpartition("/")
    parent = resolve(current, folder + slash)
    found = [f"{folder}{slash}{name}" for name in children(parent) if name.startswith(begun)]
    if len(found) != 1:
        return found
    follows = "/" if children(resolve(current, found[0])) else " "
    return [found[0] + follows]
