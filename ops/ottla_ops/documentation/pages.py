"""The site's pages: those of `docs/`, and of the rest of the repository what they link to.

On the site a page of `docs/` lies where it lies in `docs/`, any other file of the repository below
`repository/`; links are rewritten to that. A directory becomes a list of its files.
"""

import posixpath
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

DOCS: Final = "docs/"
ELSEWHERE: Final = "repository/"
LIST: Final = "index.md"

MOVED: Final = {"ops/metrics.md": "reference/metrics.md"}
"""What the site makes itself."""

FENCED: Final = re.compile(r"^(`{3,})[^\n]*\n.*?^\1$", re.MULTILINE | re.DOTALL)
LINK: Final = re.compile(r"(\]\()(?![a-z]+:|#)([^)\s#]+)")
TITLE: Final = re.compile(r"^# (.*)$", re.MULTILINE)


class BrokenLinkError(Exception):
    """A page links to what is not in the repository; the message names both."""


def collect(root: Path, generated: Mapping[str, str]) -> dict[str, bytes]:
    """Every file of the site's source, by its path there.

    Args:
        root: of the repository.
        generated: pages that are made, by their path on the site.

    Raises:
        BrokenLinkError: a link leads nowhere.
    """
    files = {path: text.encode() for path, text in generated.items()}
    waiting = [path.relative_to(root).as_posix() for path in sorted((root / "docs").rglob("*"))]
    waiting = [path for path in waiting if (root / path).is_file()]
    while waiting:
        path = waiting.pop()
        if staged(root, path) in files:
            continue
        if (root / path).is_dir():
            text, linked = _listing(root, path)
        elif path.endswith(".md"):
            text, linked = _relinked(root, path, generated)
        else:
            files[staged(root, path)] = (root / path).read_bytes()
            continue
        files[staged(root, path)] = text.encode()
        waiting += linked
    return files


def staged(root: Path, path: str) -> str:
    """Where a file or directory of the repository lies on the site."""
    if path in MOVED:
        return MOVED[path]
    moved = path.removeprefix(DOCS) if path.startswith(DOCS) else ELSEWHERE + path
    return f"{moved}/{LIST}" if (root / path).is_dir() else moved


def _relinked(root: Path, path: str, generated: Mapping[str, str]) -> tuple[str, list[str]]:
    """A page with the site's links, and what it links to."""
    text = (root / path).read_text()
    linked: list[str] = []

    def on_site(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link[2]))
        if target.startswith(DOCS) and target.removeprefix(DOCS) in generated:
            return link[0]
        if not (root / target).exists():
            raise BrokenLinkError(f"{path} links to {link[2]}, which is not there")
        linked.append(target)
        here = posixpath.dirname(staged(root, path))
        return link[1] + posixpath.relpath(staged(root, target), here or ".")

    parts, end = [], 0
    for fenced in FENCED.finditer(text):
        parts += [LINK.sub(on_site, text[end : fenced.start()]), fenced[0]]
        end = fenced.end()
    return "".join([*parts, LINK.sub(on_site, text[end:])]), linked


def _listing(root: Path, path: str) -> tuple[str, list[str]]:
    """A page that lists a directory, and its pages."""
    lines, linked = [f"# {path}\n"], []
    for file in sorted((root / path).iterdir()):
        if not file.is_file() or file.name.startswith("."):
            continue
        name = f"{path}/{file.name}"
        if file.suffix == ".md":
            title = TITLE.search(file.read_text())
            lines.append(f"- [{title[1] if title else file.stem}]({file.name})")
            linked.append(name)
        else:
            lines.append(f"- `{file.name}`")
    return "\n".join(lines) + "\n", linked
