"""How fast a compaction goes, and that it can be told to stop."""

import threading
import time

PAUSE_SECONDS_MIN = 0.002
"""Shorter pauses are saved up: each costs a switch of threads."""

WORK_SECONDS_MAX = 0.002
YIELD_SECONDS = 0.0001
"""After that much processor time the event loop's thread gets its turn, if it waits for one. By
itself the interpreter would let it wait for 5 ms."""


class CompactionStoppedError(Exception):
    """The log is being closed."""


class CompactionPace:
    """Shared by the thread that compacts and whoever stops it.

    Args:
        bytes_per_s: batch bytes that may be read and written a second; None for no bound.
    """

    def __init__(self, bytes_per_s: int | None) -> None:
        self._bytes_per_s = bytes_per_s
        self._stopping = threading.Event()
        self._due_s = time.monotonic()
        # Processor time of the thread that compacts, at its last pause.
        self._paused_at_s = 0.0

    def stop(self) -> None:
        """Have the next `spend` raise CompactionStoppedError."""
        self._stopping.set()

    def spend(self, size_bytes: int) -> None:
        """Account for bytes that were read or written, and wait where they were too many.

        Raises:
            CompactionStoppedError: the compaction is to end.
        """
        now_s = time.monotonic()
        pause_s = 0.0
        if self._bytes_per_s is not None:
            # What was not used before is not saved up.
            self._due_s = max(self._due_s, now_s) + size_bytes / self._bytes_per_s
            pause_s = self._due_s - now_s
        if pause_s < PAUSE_SECONDS_MIN:
            worked_s = abs(time.thread_time() - self._paused_at_s)
            pause_s = YIELD_SECONDS if worked_s > WORK_SECONDS_MAX else 0.0
        if pause_s:
            self._stopping.wait(pause_s)
            self._paused_at_s = time.thread_time()
        if self._stopping.is_set():
            raise CompactionStoppedError
