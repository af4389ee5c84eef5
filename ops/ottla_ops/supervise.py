"""Keeps one child process running: `ottla dev supervise -- COMMAND...`.

honcho stops everything as soon as one of its processes exits, so a broker that crashes would take
the whole local cluster with it. Each Procfile line therefore runs its broker under this supervisor,
which restarts it and leaves honcho none the wiser.

Which exits are crashes: any but 0 (it was asked to stop) and 2 (its settings are wrong; another
start would say the same), unless the supervisor itself was asked to stop. The first restart is at
once, so that `kill -9` on a leader shows how fast the cluster recovers; a child that crashes again
within `STABLE_AFTER_S` waits longer each time. A broker that ends because its disk failed
(`EXIT_STORAGE`) waits from the first time on, and much longer: it would come back to the same disk,
take part again for a moment, and fail again, with an election each time.

Signals: honcho signals the whole process group, and so does Ctrl-C on a terminal, so the child has
usually had the signal before it arrives here. It is repeated once for whoever signals only the
supervisor, as SIGTERM in both cases: a broker ignores a second SIGTERM, but takes a second SIGINT
as an order to stop at once.

This module imports nothing but the standard library: there is one supervisor per broker, and its
memory and start-up time count towards the broker's.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

EXITS_PASSED_THROUGH: Final = frozenset({0, 2})
"""Asked to stop, and wrong settings."""

STABLE_AFTER_S: Final = 1.0
"""A child that ran this long before it crashed is restarted at once."""

BACKOFF_FIRST_S: Final = 0.1
BACKOFF_MAX_S: Final = 2.0

EXIT_STORAGE: Final = 74
"""EX_IOERR of sysexits.h: what a broker ends with when its disk failed."""

STORAGE_STABLE_AFTER_S: Final = 300.0
"""A broker that ran this long after its disk had failed counts as well again."""

STORAGE_BACKOFF_FIRST_S: Final = 1.0
STORAGE_BACKOFF_MAX_S: Final = 60.0

STOP_CHECK_INTERVAL_S: Final = 0.05
"""How late a stop request during a back-off is noticed."""

EXIT_SIGNAL_BASE: Final = 128
"""What shells add to a signal's number to make an exit code."""

EXIT_COMMAND_NOT_RUN: Final = 2


class Supervisor:
    """Runs a command until it ends for good.

    Args:
        command: program and arguments; standard streams and environment are inherited.
    """

    def __init__(self, command: Sequence[str]) -> None:
        assert command, "there must be a command to supervise"
        self._command = tuple(command)
        self._child: subprocess.Popen[bytes] | None = None
        self._stop_requested = False
        self._stop_forwarded = False

    def run(self) -> int:
        """Supervise until the end.

        Returns:
            The child's exit code, 128 plus the signal's number if a signal ended it; 0 when the
            stop came while no child was running; 2 when the command cannot be run.
        """
        signal.signal(signal.SIGTERM, self._on_stop_signal)
        signal.signal(signal.SIGINT, self._on_stop_signal)
        quick_crashes = 0
        storage_failures = 0
        restarts = 0
        while True:
            started_s = time.monotonic()
            try:
                returncode = self._run_child()
            except OSError as error:
                _say(f"cannot run {self._command[0]}: {error.strerror}")
                return EXIT_COMMAND_NOT_RUN
            if self._stop_requested or returncode in EXITS_PASSED_THROUGH:
                return _exit_code(returncode)
            ran_s = time.monotonic() - started_s
            if ran_s >= STABLE_AFTER_S:
                quick_crashes = 0
            if ran_s >= STORAGE_STABLE_AFTER_S:
                storage_failures = 0
            if returncode == EXIT_STORAGE:
                delay_s = storage_backoff_s(storage_failures)
                storage_failures += 1
            else:
                delay_s = backoff_s(quick_crashes)
                quick_crashes += 1
            restarts += 1
            when = "now" if delay_s == 0 else f"in {delay_s:.1f} s"
            _say(f"{self._name} {_describe_exit(returncode)}; restart {restarts} {when}")
            self._sleep(delay_s)
            if self._stop_requested:
                return 0

    @property
    def _name(self) -> str:
        return " ".join(self._command[:3])

    def _run_child(self) -> int:
        """Start the child and wait for it; minus the signal's number if a signal ended it."""
        self._child = subprocess.Popen(self._command)  # noqa: S603 - running it is the purpose
        try:
            # A signal that arrived before the line above had nobody to be forwarded to.
            self._forward_stop()
            return self._child.wait()
        finally:
            self._child = None

    def _on_stop_signal(self, _signum: int, _frame: FrameType | None) -> None:
        self._stop_requested = True
        self._forward_stop()

    def _forward_stop(self) -> None:
        if self._stop_requested and not self._stop_forwarded and self._child is not None:
            self._stop_forwarded = True
            self._child.send_signal(signal.SIGTERM)

    def _sleep(self, delay_s: float) -> None:
        # In slices, because Python resumes a sleep after a signal handler has run.
        deadline_s = time.monotonic() + delay_s
        while not self._stop_requested and (left_s := deadline_s - time.monotonic()) > 0:
            time.sleep(min(left_s, STOP_CHECK_INTERVAL_S))


def supervise(command: Sequence[str]) -> int:
    """Run `command` under a supervisor and return the exit code to end with."""
    return Supervisor(command).run()


def backoff_s(quick_crashes: int) -> float:
    """Seconds before the restart that follows `quick_crashes` crashes in a row, each soon."""
    if quick_crashes == 0:
        return 0.0
    # The exponent is bounded too: a float overflows after a thousand crashes.
    return min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(quick_crashes - 1, 16))


def storage_backoff_s(failures: int) -> float:
    """Seconds before the restart of a broker whose disk failed `failures` times before."""
    return min(STORAGE_BACKOFF_MAX_S, STORAGE_BACKOFF_FIRST_S * 2.0 ** min(failures, 16))


def _exit_code(returncode: int) -> int:
    return returncode if returncode >= 0 else EXIT_SIGNAL_BASE - returncode


def _describe_exit(returncode: int) -> str:
    if returncode >= 0:
        return f"exited with {returncode}"
    try:
        return f"was ended by {signal.Signals(-returncode).name}"
    except ValueError:
        # Real-time signals have numbers but no names.
        return f"was ended by signal {-returncode}"


def _say(line: str) -> None:
    print(f"supervise: {line}", file=sys.stderr, flush=True)
