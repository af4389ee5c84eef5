"""What goes to which stream: data on stdout, everything else on stderr.

A command never prints by itself. It hands its result to an `Output`, which knows whether a person
or a program reads it: tables or JSON, with or without colour. Output bypasses the text layer, so
that records come out byte for byte as they were stored.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final

from ottla_ops.cli.failures import CommandError

SCHEMA_VERSION: Final = 1
"""Raised when a documented member of the `--json` output changes its meaning or goes away."""

BOLD: Final = "\x1b[1m"
RED: Final = "\x1b[31m"
RESET: Final = "\x1b[0m"


class OutputClosedError(Exception):
    """Nobody reads our stdout any more; there is nothing left to do.

    It is no OSError, so that no layer in between takes it for a failure of its own.
    """


class Output:
    """The two streams and how the caller wants them.

    Args:
        as_json: print JSON (one object, or NDJSON for streams) in place of text.
        quiet: print nothing on stderr but errors.
    """

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet

    @property
    def shows_progress(self) -> bool:
        """Whether a person watches stderr and wants to see more than errors."""
        return sys.stderr.isatty() and not self.quiet and not self.as_json

    def document(self, document: dict[str, Any]) -> None:
        """Print one object as JSON, with the version of its schema."""
        import msgspec

        self.line(msgspec.json.encode({"schema_version": SCHEMA_VERSION, **document}))

    def line(self, data: bytes) -> None:
        """Print one line of data."""
        self._write(data + b"\n")

    def lines(self, data: Iterable[bytes]) -> None:
        """Print many lines of data at once and let the reader have them."""
        self._write(b"".join(line + b"\n" for line in data))
        self.flush()

    def pieces(self, data: Iterable[bytes]) -> None:
        """Print pieces of data as they are, one behind the other, and let the reader have them."""
        self._write(b"".join(data))
        self.flush()

    def text(self, text: str) -> None:
        """Print text as data."""
        self.line(text.encode())

    def table(
        self, headers: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str = ""
    ) -> None:
        """Print aligned columns under their headers.

        Args:
            headers: of the columns.
            rows: of cells.
            empty: what a person is told beside the headers where there is no row.
        """
        cells = [[str(cell) for cell in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
        bold, reset = (BOLD, RESET) if _has_colour(sys.stdout) else ("", "")
        self.text(f"{bold}{_aligned(headers, widths)}{reset}")
        for row in cells:
            self.text(_aligned(row, widths))
        if empty and not cells:
            self.note(empty)

    def note(self, text: str) -> None:
        """Tell a person something that is no data; not with `--quiet` or `--json`."""
        if not self.quiet and not self.as_json:
            print(text, file=sys.stderr, flush=True)

    def error(self, error: CommandError) -> None:
        """Tell why the command failed, as one line or one JSON object."""
        if self.as_json:
            import msgspec

            print(msgspec.json.encode(error.document()).decode(), file=sys.stderr, flush=True)
            return
        red, reset = (RED, RESET) if _has_colour(sys.stderr) else ("", "")
        hint = f" ({error.hint})" if error.hint else ""
        print(f"{red}ottla:{reset} {error.message}{hint}", file=sys.stderr, flush=True)

    def flush(self) -> None:
        """Let the reader have what was printed so far.

        Raises:
            OutputClosedError: there is no reader.
        """
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            raise OutputClosedError from None

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            # With PYTHONUNBUFFERED a write may end half-way, also because the reader has gone.
            while rest:
                rest = rest[sys.stdout.buffer.write(rest) :]
        except BrokenPipeError:
            raise OutputClosedError from None


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return "  ".join(padded).rstrip()


def _has_colour(stream: Any) -> bool:
    # https://no-color.org: present and not empty, whatever its value.
    return bool(stream.isatty()) and not os.environ.get("NO_COLOR")
