"""The supervisor restarts what crashed and lets everything else end."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from ottla_broker import app
from ottla_ops.supervise import (
    BACKOFF_MAX_S,
    EXIT_STORAGE,
    STORAGE_BACKOFF_MAX_S,
    backoff_s,
    storage_backoff_s,
)

# On a machine that stands still for a second, a child that crashes at once has not become stable.
SUPERVISE = (
    "import sys; from ottla_ops import supervise; supervise.STABLE_AFTER_S = 60.0; "
    "sys.exit(supervise.supervise(sys.argv[1:]))"
)


class Supervised:
    """A supervisor process with a child script, and what they print."""

    def __init__(self, tmp_path, script):
        self.state = tmp_path / "runs"
        path = tmp_path / "child.py"
        prelude = f"""
            import os, signal, sys, time
            with open({str(self.state)!r}, "a") as f:
                f.write(f"{{os.getpid()}}\\n")
            run = len(open({str(self.state)!r}).readlines())
        """
        path.write_text(textwrap.dedent(prelude) + textwrap.dedent(script))
        self.process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISE, sys.executable, "-S", str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def read_until(self, line):
        """Read the children's output up to a line."""
        for printed in self.process.stdout:
            if printed.rstrip() == line:
                return
        pytest.fail(f"ended without printing {line!r}: {self.process.stderr.read()}")

    def child_pid(self):
        return int(self.state.read_text().split()[-1])

    def runs(self):
        return len(self.state.read_text().split())

    def end(self):
        """Wait for the end: exit code and stderr."""
        _, stderr = self.process.communicate(timeout=20)
        return self.process.returncode, stderr


@pytest.fixture
def supervised(tmp_path):
    """Makes a supervised child from a script; ends it with its whole session."""
    started = []

    def start(script):
        started.append(Supervised(tmp_path, script))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            os.killpg(each.process.pid, signal.SIGKILL)
        each.process.communicate()


@pytest.mark.parametrize("code", [0, 2])
def test_orderly_exits_are_passed_through(supervised, code):
    child = supervised(f"sys.exit({code})")
    assert child.end() == (code, "")
    assert child.runs() == 1


def test_a_crash_restarts_the_child_and_says_so_in_one_line(supervised):
    child = supervised("sys.exit(1 if run == 1 else 0)")
    code, stderr = child.end()
    assert code == 0
    assert child.runs() == 2
    assert stderr.count("\n") == 1
    assert "exited with 1; restart 1 now" in stderr


def test_a_killed_child_is_restarted_at_once(supervised):
    child = supervised("""
        print(f"run {run} at {time.monotonic()}", flush=True)
        if run == 2:
            sys.exit(0)
        print("waiting", flush=True)
        time.sleep(60)
    """)
    child.read_until("waiting")
    killed_s = time.monotonic()
    os.kill(child.child_pid(), signal.SIGKILL)
    restarted_s = float(child.process.stdout.readline().rpartition(" ")[2])
    code, stderr = child.end()
    assert code == 0
    assert "was ended by SIGKILL; restart 1 now" in stderr
    # A few milliseconds in truth; the rest is what a loaded machine may take to start Python.
    assert restarted_s - killed_s < 15.0


def test_a_child_that_keeps_crashing_waits_longer_each_time(supervised):
    child = supervised("sys.exit(1 if run < 4 else 0)")
    code, stderr = child.end()
    assert code == 0
    delays = [line.partition("; ")[2] for line in stderr.splitlines()]
    assert delays == ["restart 1 now", "restart 2 in 0.1 s", "restart 3 in 0.2 s"]


def test_the_backoff_starts_at_nothing_grows_and_is_bounded():
    delays = [backoff_s(crashes) for crashes in range(2_000)]
    assert delays[0] == 0
    assert delays == sorted(delays)
    assert delays[-1] == BACKOFF_MAX_S


def test_a_child_whose_disk_fails_is_not_restarted_in_a_hurry(supervised):
    child = supervised(f"sys.exit({EXIT_STORAGE} if run == 1 else 0)")
    code, stderr = child.end()
    assert code == 0
    assert f"exited with {EXIT_STORAGE}; restart 1 in 1.0 s" in stderr


def test_a_broker_ends_with_the_code_that_the_supervisor_knows():
    assert app.EXIT_STORAGE == EXIT_STORAGE


def test_the_backoff_after_a_failed_disk_grows_and_is_bounded():
    delays = [storage_backoff_s(failures) for failures in range(2_000)]
    assert delays[:3] == [1.0, 2.0, 4.0]
    assert delays == sorted(delays)
    assert delays[-1] == STORAGE_BACKOFF_MAX_S


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_reaches_the_child_once_and_its_exit_code_comes_back(supervised, signum):
    child = supervised("""
        count = 0
        def stop(signum, frame):
            global count
            count += 1
        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, lambda *_: sys.exit(99))
        print("waiting", flush=True)
        while not count:
            time.sleep(0.01)
        print("stopping", flush=True)
        time.sleep(0.3)
        sys.exit(10 + count)
    """)
    child.read_until("waiting")
    child.process.send_signal(signum)
    child.read_until("stopping")
    child.process.send_signal(signum)
    code, stderr = child.end()
    assert code == 11
    assert stderr == ""
    assert child.runs() == 1


def test_a_child_killed_while_stopping_is_not_restarted(supervised):
    child = supervised("""
        signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        print("waiting", flush=True)
        time.sleep(60)
    """)
    child.read_until("waiting")
    child.process.terminate()
    code, _ = child.end()
    assert code == 128 + signal.SIGKILL
    assert child.runs() == 1


def test_a_stop_during_the_backoff_ends_the_supervisor(supervised):
    child = supervised("sys.exit(1)")
    for line in child.process.stderr:
        if "restart 6 in" in line:
            break
    child.process.terminate()
    assert child.end()[0] == 0


def test_a_command_that_does_not_exist_is_a_usage_error():
    done = subprocess.run(
        [sys.executable, "-c", SUPERVISE, "/does/not/exist"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "cannot run /does/not/exist" in done.stderr
