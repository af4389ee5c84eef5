"""What is told of a path that no route has: the nearest one that there is.

Paths are templates, as `/v1/topics/{topic}`, whose parameters take any text.
"""

from collections.abc import Iterable
from difflib import SequenceMatcher
from typing import Final

from aiohttp import web

MAX_PATH_CHARACTERS: Final = 500
"""Longer paths are no slips, and comparing takes the time of their length."""

SIMILARITY_MIN: Final = 0.7
"""Of two parts of a path, from 0 to 1: `topic` is to `topics` what 0.9 is to 1."""


class KnownPaths:
    """The paths that are served."""

    def __init__(self, templates: Iterable[str]) -> None:
        self._by_length: dict[int, list[list[str]]] = {}
        for template in sorted(set(templates)):
            parts = template.split("/")
            self._by_length.setdefault(len(parts), []).append(parts)

    def nearest(self, path: str) -> str | None:
        """The path that was meant, if one part of this one, or a slash at its end, is a slip.

        Parameters are filled in from the path.
        """
        if len(path) > MAX_PATH_CHARACTERS:
            return None
        parts = path.rstrip("/").split("/")
        best: tuple[float, list[str]] | None = None
        for template in self._by_length.get(len(parts), ()):
            similarity = _similarity(parts, template)
            if similarity and (best is None or similarity > best[0]):
                best = similarity, template
        if best is None:
            return None
        return "/".join(
            given if _is_parameter(part) else part
            for given, part in zip(parts, best[1], strict=True)
        )


KNOWN_PATHS = web.AppKey("known_paths", KnownPaths)


def _is_parameter(part: str) -> bool:
    return part.startswith("{")


def _similarity(parts: list[str], template: list[str]) -> float:
    """Of the part that differs; 1 if none does, and 0 if more than one do, or one is missing."""
    lowest = 1.0
    for given, part in zip(parts, template, strict=True):
        if given == part:
            continue
        if not given or not part:
            return 0.0
        if _is_parameter(part):
            continue
        matcher = SequenceMatcher(None, given.lower(), part)
        if lowest < 1 or matcher.quick_ratio() < SIMILARITY_MIN:
            return 0.0
        lowest = matcher.ratio()
    return lowest if lowest >= SIMILARITY_MIN else 0.0
