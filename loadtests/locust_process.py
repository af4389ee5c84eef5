"""locust in a process of its own: its gevent patches must not reach whoever starts it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parents[1]
LOCUST_FILE = ROOT / "loadtests" / "locustfile.py"
RAMP_FILE = ROOT / "loadtests" / "scenarios" / "staged_ramp.py"

STOP_TIMEOUT_S = 40
"""How long users may finish what they are at: longer than one request may take to settle."""

BEGIN_TIMEOUT_S = 120.0
END_GRACE_S = 60.0
LOOK_INTERVAL_S = 0.05


class LocustError(Exception):
    """locust did not begin or end in time."""


class LocustProcess:
    """A running locust; as a context manager it ends with the context.

    Args:
        arguments: of locust, behind its files.
        started_file: which the locustfile makes when the run begins.
        is_ramp: whether users come in stages.
    """

    def __init__(self, arguments: Sequence[str], started_file: Path, *, is_ramp: bool) -> None:
        files = [LOCUST_FILE, RAMP_FILE] if is_ramp else [LOCUST_FILE]
        self._started_file = started_file
        # A session of its own: Ctrl-C reaches the caller, who then ends it in order.
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "locust", "-f", ",".join(map(str, files))),
                *("--stop-timeout", str(STOP_TIMEOUT_S), "--exit-code-on-error", "1"),
                *("--started-file", str(started_file), *arguments),
            ],
            cwd=ROOT,
            # locust reads LOCUST_* and files of its own beside the arguments.
            env={name: text for name, text in os.environ.items() if not name.startswith("LOCUST")},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def wait_begin(self) -> bool:
        """Wait until the run has begun; False when locust ended instead.

        Raises:
            LocustError: neither happened within BEGIN_TIMEOUT_S.
        """
        deadline_s = time.monotonic() + BEGIN_TIMEOUT_S
        while not self._started_file.exists():
            if self._process.poll() is not None:
                return False
            if time.monotonic() >= deadline_s:
                raise LocustError(f"locust did not begin within {BEGIN_TIMEOUT_S:.0f} s")
            time.sleep(LOOK_INTERVAL_S)
        return True

    def wait_listening(self, port: int) -> bool:
        """Wait until its page answers on the loopback; False when locust ended instead.

        Raises:
            LocustError: neither happened within BEGIN_TIMEOUT_S.
        """
        deadline_s = time.monotonic() + BEGIN_TIMEOUT_S
        while self._process.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
                return True
            if time.monotonic() >= deadline_s:
                raise LocustError(f"locust's page was not there after {BEGIN_TIMEOUT_S:.0f} s")
            time.sleep(LOOK_INTERVAL_S)
        return False

    def runs_for(self, seconds: float) -> bool:
        """Wait for so long; False as soon as it has ended."""
        try:
            self._process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            return True
        return False

    def wait_end(self, seconds: float | None) -> int:
        """Wait for its exit code; None waits for ever.

        Raises:
            LocustError: it did not end within `seconds`, and the time that users have to stop.
        """
        limit_s = None if seconds is None else seconds + STOP_TIMEOUT_S + END_GRACE_S
        try:
            return self._process.wait(limit_s)
        except subprocess.TimeoutExpired as error:
            raise LocustError(f"locust did not end within {error.timeout:.0f} s") from error

    def interrupt(self) -> None:
        """Have it end in order, as Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()
