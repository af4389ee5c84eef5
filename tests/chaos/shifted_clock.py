"""A broker whose wall clock jumps: `python -m tests.chaos.shifted_clock FILE`.

The file says by how many seconds the clock is wrong, and may change at any time. Only the wall
clock is touched, as when somebody sets a machine's clock. Where libfaketime is installed it does
this for the whole process, SQLite included; elsewhere Python's own functions are replaced, which
are all that the broker's code asks.
"""

import sys
import time
from pathlib import Path

UNPACKED = Path(__file__).parents[2] / ".venv" / "faketime" / "usr" / "lib"
"""Where the Makefile puts Debian's package, so that the machine need not have it."""

LIBRARIES = [
    str(library)
    for place in (UNPACKED, Path("/usr/lib"))
    for library in sorted(place.glob("*/faketime/libfaketimeMT.so.1"))
]
LIBRARY = LIBRARIES[0] if LIBRARIES else None
SHARED_MEMORY = Path("/dev/shm")  # where POSIX puts it on Linux
NS_PER_S = 1_000_000_000
READ_AGAIN_AFTER_NS = NS_PER_S // 20


def set_clock(path, shift_s):
    """Have the clock of the broker that reads this file be wrong by so much."""
    following = path.with_suffix(".new")
    # Relative to the real clock, in the format of libfaketime.
    following.write_text(f"{shift_s:+d}s\n")
    following.replace(path)


def environment(path):
    """What a process with a shifted clock needs in its environment."""
    if LIBRARY is None:
        return {}
    return {
        "LD_PRELOAD": LIBRARY,
        "FAKETIME_TIMESTAMP_FILE": str(path),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_CACHE_DURATION": "1",
        # Waits on locks are given absolute times by Python; the library must leave them alone.
        "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        "FAKETIME_NO_CACHE": "0",
    }


def remove_shared_memory(pid):
    """Remove what libfaketime leaves of a process that ended by SIGKILL."""
    for name in (f"faketime_shm_{pid}", f"sem.faketime_sem_{pid}"):
        (SHARED_MEMORY / name).unlink(missing_ok=True)


class ShiftedClock:
    """Python's wall clock, wrong by what the file says."""

    def __init__(self, path):
        self._path = path
        self._time_ns = time.time_ns
        self._shift_ns = 0
        self._read_ns = 0

    def time_ns(self):
        now_ns = time.monotonic_ns()
        if now_ns - self._read_ns > READ_AGAIN_AFTER_NS:
            self._shift_ns = int(self._path.read_text().strip().rstrip("s")) * NS_PER_S
            self._read_ns = now_ns
        return self._time_ns() + self._shift_ns

    def time(self):
        return self.time_ns() / NS_PER_S


def main():
    if LIBRARY is None:
        clock = ShiftedClock(Path(sys.argv[1]))
        time.time_ns, time.time = clock.time_ns, clock.time
    del sys.argv[1]
    # After the clock, so that nothing has got hold of the right one.
    from ottla_broker.__main__ import main as run_broker

    sys.exit(run_broker())


if __name__ == "__main__":
    main()
