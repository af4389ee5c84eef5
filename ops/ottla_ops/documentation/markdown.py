"""Markdown tables, from texts that may have anything in them."""

from collections.abc import Iterable, Sequence


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with these columns; a line break or bar in a cell does not break it."""
    lines = [_row(columns), _row(["---"] * len(columns)), *(_row(cells) for cells in rows)]
    return "\n".join(lines) + "\n"


def code(text: object) -> str:
    """The text as code; nothing where there is none."""
    return f"`{text}`" if str(text) else ""


def paragraph(text: str) -> str:
    """A docstring's or help's text as one line."""
    return " ".join(text.split())


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(paragraph(cell).replace("|", r"\|") for cell in cells) + " |"
