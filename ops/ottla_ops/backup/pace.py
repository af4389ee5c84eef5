"""A bound on how fast bytes are moved."""

import time
from collections.abc import Callable


class Pace:
    """Holds a copy back to so many bytes per second, averaged from its beginning.

    Args:
        bytes_per_second: the most; None for no bound.
        clock_s, sleep: take the place of the system's, for tests.
    """

    def __init__(
        self,
        bytes_per_second: int | None,
        *,
        clock_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._bytes_per_second = bytes_per_second
        self._clock_s = clock_s
        self._sleep = sleep
        self._free_at_s = clock_s()

    def bounded(self, size_bytes: int) -> int:
        """How much to ask for at once: about a second's worth, and no more than `size_bytes`."""
        rate = self._bytes_per_second
        return size_bytes if rate is None else min(size_bytes, max(rate, 1))

    def moved(self, size_bytes: int) -> None:
        """Wait until so many bytes may have been moved; time that was not used is not saved up."""
        if self._bytes_per_second is None or size_bytes == 0:
            return
        now_s = self._clock_s()
        self._free_at_s = max(self._free_at_s, now_s) + size_bytes / self._bytes_per_second
        self._sleep(self._free_at_s - now_s)
