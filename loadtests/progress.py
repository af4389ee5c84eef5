"""How a long run shows that it lives: a bar on a terminal, plain lines elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

PLAIN_STEPS = 10
"""How many lines tell of the advance where there is no terminal."""


class Progress(Protocol):
    """Told what happens; shows it."""

    def advance(self, records: int) -> None:
        """So many more records are done."""

    def say(self, text: str) -> None:
        """One line about what happens now."""


class _Bar:
    def __init__(self, bar: RichProgress, total: int) -> None:
        self._bar = bar
        self._task = bar.add_task("acknowledged", total=total)

    def advance(self, records: int) -> None:
        self._bar.advance(self._task, records)

    def say(self, text: str) -> None:
        self._bar.console.print(text, highlight=False)


class PlainProgress:
    """Lines on stdout, one for each tenth of the records."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0

    def advance(self, records: int) -> None:
        """Print a line when another tenth is full."""
        before = self._done * PLAIN_STEPS // self._total
        self._done += records
        if self._done * PLAIN_STEPS // self._total > before:
            self.say(f"acknowledged {self._done} of {self._total}")

    def say(self, text: str) -> None:
        """Print the line at once."""
        print(text, flush=True)


@contextmanager
def open_progress(total: int) -> Iterator[Progress]:
    """A bar when stdout is a terminal, else plain lines."""
    console = Console()
    if not console.is_terminal:
        yield PlainProgress(total)
        return
    with RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    ) as bar:
        yield _Bar(bar, total)
