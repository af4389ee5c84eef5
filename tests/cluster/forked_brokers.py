"""Broker processes that start in a tenth of the time: forks of one that has imported everything."""

import json
import os
import select
import signal
import subprocess
import sys
import threading
import weakref
from pathlib import Path

from ottla_ops.local_cluster import BROKER_COMMAND, CommandProcess

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "tests.cluster.fork_server")
ACT_BEFORE_MAIN = ("LD_", "MALLOC_", "PYTHON")
"""Variables that the loader, the allocator and the interpreter read before a program begins."""


class ForkServer:
    """Starts brokers for one test process; its `launch` is what `LocalCluster` takes.

    Use it as a context manager. Needs Linux.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._server = None
        self._environment = os.environ | {"PYTHONUNBUFFERED": "1"}

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        self.stop()

    def stop(self):
        """End it, and every broker that it started."""
        with self._lock:
            server, self._server = self._server, None
        if server is not None:
            server.stdin.close()
            server.wait()
            server.stdout.close()

    def launch(self, environment, log_path, **more):
        """Start a broker with this environment whose output goes to the end of that file.

        `network_namespace` may name one, by its path.
        """
        if early(environment) != early(self._environment) and not more:
            return CommandProcess.launch(BROKER_COMMAND, environment, log_path)
        pid = self.ask(
            start={
                "environment": dict(environment),
                "directory": str(Path.cwd()),
                "log_path": str(log_path),
                **more,
            }
        )
        return ForkedProcess(self, pid)

    def exit_code(self, pid):
        """The exit code of a broker that has ended."""
        with self._lock:
            stopped = self._server is None
        return -signal.SIGKILL if stopped else self.ask(collect=pid)

    def ask(self, **request):
        with self._lock:
            if self._server is None:
                self._server = self._start()
            self._server.stdin.write(json.dumps(request).encode() + b"\n")
            self._server.stdin.flush()
            answer = self._server.stdout.readline()
        assert answer, "the fork server is gone"
        return json.loads(answer)

    def _start(self):
        # A session of its own: Ctrl-C reaches the tests, which then stop the brokers in order.
        return subprocess.Popen(
            COMMAND,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self._environment,
            start_new_session=True,
        )


def early(environment):
    return {name: text for name, text in environment.items() if name.startswith(ACT_BEFORE_MAIN)}


class ForkedProcess:
    """A `BrokerProcess` that is the fork server's child.

    Its process id stays its own until the exit code has been collected here.
    """

    def __init__(self, server, pid):
        self.pid = pid
        self._server = server
        self._descriptor = os.pidfd_open(pid)
        weakref.finalize(self, os.close, self._descriptor)
        self._lock = threading.Lock()
        self._exit_code = None

    def poll(self):
        return self._collected(0)

    def wait(self, timeout=None):
        exit_code = self._collected(timeout)
        if exit_code is None:
            raise subprocess.TimeoutExpired(COMMAND, timeout)
        return exit_code

    def send_signal(self, sig):
        if self.poll() is None:
            signal.pidfd_send_signal(self._descriptor, sig)

    def wait_stopped(self):
        self._server.ask(wait_stopped=self.pid)

    def _collected(self, timeout_s):
        """The exit code, None if the process still runs after `timeout_s`."""
        ended = select.poll()
        ended.register(self._descriptor, select.POLLIN)
        if not ended.poll(None if timeout_s is None else timeout_s * 1000):
            return None
        with self._lock:
            if self._exit_code is None:
                self._exit_code = self._server.exit_code(self.pid)
            return self._exit_code
