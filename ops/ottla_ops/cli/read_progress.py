"""Shows on stderr how far the reading of many records is."""

import time
from typing import Any, Final, Self

from ottla_ops.cli.output import Output

PROGRESS_AFTER_S: Final = 0.5
"""What is done sooner needs no bar."""


class ReadProgress:
    """Counts records, and shows that while a person waits for long.

    Args:
        output: where results go.
        total: how many there will be, as far as that is known.
    """

    def __init__(self, output: Output, total: int) -> None:
        self.records = 0
        self._output = output
        self._total = total
        self._started_s = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def elapsed_s(self) -> float:
        """Time since the beginning."""
        return time.monotonic() - self._started_s

    def expect(self, total: int) -> None:
        """There will be about so many."""
        self._total = total

    def advance(self, records: int) -> None:
        """So many more have been read."""
        self.records += records
        if self._bar is None and self._output.shows_progress and self.elapsed_s > PROGRESS_AFTER_S:
            self._start_bar()
        if self._bar is not None:
            self._bar.update(self._task, completed=self.records, records=f"{self.records:,}")

    def close(self) -> None:
        """Take the bar away; it must not stand between rows."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _start_bar(self) -> None:
        from rich import progress
        from rich.console import Console

        columns = (
            progress.BarColumn(),
            progress.TaskProgressColumn(),
            progress.TextColumn("{task.fields[records]} records"),
            progress.TimeRemainingColumn(),
        )
        self._bar = progress.Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("", total=self._total, records="")
        self._bar.start()
