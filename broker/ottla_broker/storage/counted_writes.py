"""Counts writes from their beginning to their end, so that somebody notices when none ends."""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Writing(Protocol):
    """Enter what it returns for as long as something is being written."""

    def __call__(self, *, is_long: bool = False) -> AbstractContextManager[None]:
        """`is_long`: on a sound disk, too, it may take seconds."""


def uncounted(*, is_long: bool = False) -> AbstractContextManager[None]:  # noqa: ARG001  as Writing
    """For whoever does not care."""
    return nullcontext()
