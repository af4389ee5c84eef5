"""A note beside a log that recovery cut: it lost records, and nothing outside tells of that yet.

A log that was cut at damage looks sound from then on. Its owner writes the loss down elsewhere
(`end_witness`), but only after recovery has put the cut file in its place; a crash in between would
have the next start find a sound log. So recovery leaves an empty file first, and reports the loss
at each opening until the owner has the note removed.

All functions block.
"""

from pathlib import Path
from typing import Final

from ottla_broker.storage.sqlite import fsync_directory

LOSS_NOTE_FILE: Final = "records-lost"


def note_loss(directory: Path) -> None:
    """Leave the note, before the log is cut; it outlasts a loss of power."""
    (directory / LOSS_NOTE_FILE).touch()
    fsync_directory(directory)


def is_loss_noted(directory: Path) -> bool:
    """Whether a loss was noted and not forgotten."""
    return (directory / LOSS_NOTE_FILE).exists()


def forget_loss(directory: Path) -> None:
    """Remove the note, if there is one: the loss is written down elsewhere, or made good."""
    (directory / LOSS_NOTE_FILE).unlink(missing_ok=True)
