"""Shows on stderr how many records have been written or read, and how fast."""

import time
from typing import Any, Final, Self

from ottla_ops.cli.output import Output

PROGRESS_AFTER_S: Final = 1.0
"""A bar for less would only flicker."""


class TransferProgress:
    """Counts what was transferred, and shows it while a person waits.

    Args:
        output: where results go.
        total_bytes: how much there is; None where nobody knows.
        shown: whether anything is shown at all, on a terminal that is to see progress.
    """

    def __init__(self, output: Output, total_bytes: int | None, *, shown: bool = True) -> None:
        self.records = 0
        self.bytes = 0
        self._output = output
        self._started_s = time.monotonic()
        self._total_bytes = total_bytes
        self._shown = shown
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_bar()

    def advance(self, records: int, size_bytes: int) -> None:
        """So many more have been transferred."""
        self.records += records
        self.bytes += size_bytes
        is_wanted = self._shown and self._output.shows_progress
        if self._bar is None and is_wanted and self._elapsed_s > PROGRESS_AFTER_S:
            self._start_bar()
        if self._bar is not None:
            rate = f"{self.records / self._elapsed_s:,.0f} records/s"
            self._bar.update(
                self._task, completed=self.bytes, records=f"{self.records:,}", rate=rate
            )

    def summarize(self, what: str, prefix: str = "") -> None:
        """Tell how many there were, and how fast."""
        self._stop_bar()
        elapsed_s = max(self._elapsed_s, 1e-3)
        noun = "record" if self.records == 1 else "records"
        self._output.note(
            f"{prefix}{self.records:,} {noun} {what} in {elapsed_s:.1f} s "
            f"({self.records / elapsed_s:,.0f} records/s, {self.bytes / elapsed_s / 1e6:.1f} MB/s)"
        )

    @property
    def _elapsed_s(self) -> float:
        return time.monotonic() - self._started_s

    def _start_bar(self) -> None:
        from rich import progress
        from rich.console import Console

        columns = (
            progress.BarColumn(),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            progress.TextColumn("{task.fields[records]} records, {task.fields[rate]}"),
        )
        self._bar = progress.Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("", total=self._total_bytes, records="", rate="")
        self._bar.start()

    def _stop_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
