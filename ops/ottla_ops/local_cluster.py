"""A cluster of real broker processes on this machine, for tests, the demo, benches and load runs.

Everything that claims something about crashes has to crash a real process. `LocalBroker` is one
`python -m ottla_broker` that can be killed, paused, terminated and started again on the same
address and data; `LocalCluster` is several of them that vote for one another. Both are synchronous,
so that a test reads as the list of what happened.

What they promise:

- The processes see only the settings that they were given: inherited `OTTLA_*` variables are taken
  out, so that a developer's `.env` never changes a test.
- No process outlives its cluster: leaving the context, `stop()` and the interpreter's exit all end
  every process by its own pid, paused ones too.
- Whoever waits is told why it did not work, with the end of the broker's log.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import urllib3

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

HOST: Final = "127.0.0.1"

BROKER_COMMAND: Final = (sys.executable, "-m", "ottla_broker")

START_TIMEOUT_S: Final = 30.0
"""How long `wait_ready` waits when it is not told: a cold start on a busy shared machine."""

STOP_TIMEOUT_S: Final = 6.0
"""How long `stop` gives all brokers together; a broker promises to be gone within four seconds."""

READY_POLL_INTERVAL_S: Final = 0.02
READY_REQUEST_TIMEOUT_S: Final = 2.0

LOG_TAIL_BYTES: Final = 4_000
"""How much of a broker's log an error shows."""

PORT_FIRST: Final = 20_000
PORT_LOCKS: Final = Path(tempfile.gettempdir()) / f"ottla-ports-{os.getuid()}"
PORT_ATTEMPTS_MAX: Final = 1_000


class LocalClusterError(RuntimeError):
    """A broker process did not do what it was told; the message has the end of its log."""


class BrokerProcess(Protocol):
    """A running or ended process, as `subprocess.Popen` has it."""

    pid: int

    def poll(self) -> int | None:
        """Exit code, minus the signal's number when killed; None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit code.

        Raises:
            subprocess.TimeoutExpired: it still runs after `timeout` seconds.
        """
        ...

    def send_signal(self, sig: int) -> None:
        """Send a signal; no-op when the process has ended."""

    def wait_stopped(self) -> None:
        """Wait until the process stands still after SIGSTOP, or has ended."""


class CommandProcess(subprocess.Popen[bytes]):
    """A process that runs a command."""

    @classmethod
    def launch(
        cls, command: Sequence[str], environment: Mapping[str, str], log_path: Path
    ) -> CommandProcess:
        """Start the command with this environment; its output goes to the end of that file."""
        with log_path.open("ab") as log:
            # A session of its own: Ctrl-C reaches the caller, who then stops the brokers in order.
            return cls(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def wait_stopped(self) -> None:
        """Wait until the process stands still after SIGSTOP, or has ended; nothing on macOS."""
        if hasattr(os, "waitid"):  # macOS has none before Python 3.13.
            # Threads stop one after the other. WNOWAIT leaves an exit for Popen to collect.
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


class LocalBroker:
    """One broker process with an address and a data directory that survive its restarts.

    Args:
        node_id: the broker's node id.
        listen: `host:port` to listen on.
        data_dir: the broker's data directory; the broker creates it.
        log_path: file that collects stdout and stderr of every run, in order.
        settings: `OTTLA_*` variables for the process, its only ones.
        command: what to run.
        launch: makes the process in place of `command`, from its environment and the path of its
            log.
    """

    def __init__(
        self,
        node_id: int,
        *,
        listen: str,
        data_dir: Path,
        log_path: Path,
        settings: Mapping[str, str],
        command: Sequence[str] = BROKER_COMMAND,
        launch: Callable[[Mapping[str, str], Path], BrokerProcess] | None = None,
    ) -> None:
        self.node_id = node_id
        self.listen = listen
        self.url = f"http://{listen}"
        self.data_dir = data_dir
        self.log_path = log_path
        self.settings = dict(settings)
        self.is_paused = False
        self._launch = launch or partial(CommandProcess.launch, command)
        self._process: BrokerProcess | None = None

    @property
    def is_running(self) -> bool:
        """Whether the process exists, paused or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Process id of the current or last run."""
        return self._started_process().pid

    @property
    def exit_code(self) -> int | None:
        """Exit code of the last run: minus the signal's number when killed, None while running."""
        return self._started_process().poll()

    def start(self) -> None:
        """Start the process; it is not ready yet when this returns."""
        assert not self.is_running, f"broker {self.node_id} is already running"
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self._process = self._launch(environment_for(self.settings), self.log_path)
        self.is_paused = False

    def restart(self) -> None:
        """Start again on the same address and data, killing the process first if it still runs."""
        self.kill()
        self.start()

    def kill(self) -> None:
        """SIGKILL, as after a crash, and wait until the process is gone; no-op when it is."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self.is_paused = False

    def terminate(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """SIGTERM, and wait for the exit.

        Returns:
            The exit code, 0 for an orderly stop.

        Raises:
            LocalClusterError: the process is still there after `timeout_s`; it is left running.
        """
        process = self._started_process()
        self.request_stop()
        try:
            exit_code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            message = f"broker {self.node_id} (pid {process.pid}) ignored SIGTERM for {timeout_s} s"
            raise LocalClusterError(self._with_log(message)) from None
        self.is_paused = False
        return exit_code

    def request_stop(self) -> None:
        """Send SIGTERM and return at once; a paused process is resumed so that it can obey."""
        process = self._started_process()
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        self.is_paused = False

    def pause(self) -> None:
        """SIGSTOP: the process keeps its sockets and locks and does nothing, as in a long stall.

        On Linux it stands still when this returns.
        """
        assert self.is_running, f"broker {self.node_id} is not running"
        process = self._started_process()
        process.send_signal(signal.SIGSTOP)
        process.wait_stopped()
        self.is_paused = True

    def resume(self) -> None:
        """SIGCONT after a pause."""
        self._started_process().send_signal(signal.SIGCONT)
        self.is_paused = False

    def wait_exit(self, timeout_s: float) -> int:
        """Wait until the process has exited by itself.

        Raises:
            LocalClusterError: it is still running after `timeout_s`.
        """
        try:
            return self._started_process().wait(timeout_s)
        except subprocess.TimeoutExpired:
            message = f"broker {self.node_id} is still running after {timeout_s} s"
            raise LocalClusterError(self._with_log(message)) from None

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Poll `GET /readyz` until it answers 200.

        Raises:
            LocalClusterError: the process exited, or was not ready within `timeout_s`.
        """
        deadline_s = time.monotonic() + timeout_s
        with urllib3.PoolManager(retries=False) as http:
            while True:
                reason = self._readiness(http)
                if reason is None:
                    return
                if not self.is_running:
                    message = f"broker {self.node_id} exited with {self.exit_code} before ready"
                    raise LocalClusterError(self._with_log(message))
                if time.monotonic() >= deadline_s:
                    message = f"broker {self.node_id} not ready in time: {reason}"
                    raise LocalClusterError(self._with_log(message))
                time.sleep(READY_POLL_INTERVAL_S)

    def log_tail(self, limit_bytes: int = LOG_TAIL_BYTES) -> str:
        """The end of the log, at most `limit_bytes`."""
        if not self.log_path.exists():
            return ""
        with self.log_path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(0, size - limit_bytes))
            return log.read().decode(errors="replace")

    def _readiness(self, http: urllib3.PoolManager) -> str | None:
        """None when ready, else the reason in a few words."""
        try:
            response = http.request("GET", f"{self.url}/readyz", timeout=READY_REQUEST_TIMEOUT_S)
        except urllib3.exceptions.HTTPError as error:
            return str(error)
        if response.status == 200:
            return None
        return f"{response.status} {response.data[:500].decode(errors='replace')}"

    def _started_process(self) -> BrokerProcess:
        assert self._process is not None, f"broker {self.node_id} was never started"
        return self._process

    def _with_log(self, message: str) -> str:
        return f"{message}\n--- end of {self.log_path} ---\n{self.log_tail()}"


class LocalCluster:
    """Brokers 1 to N that form one cluster, in one directory, with the controllers behind them.

    Use it as a context manager: entering starts all brokers and waits until they are ready,
    leaving stops them.

        with LocalCluster(tmp_path, brokers=3) as cluster:
            cluster.broker(1).kill()

    Args:
        directory: gets `broker-N/` or `controller-N/` (data) and `broker-N.log` or
            `controller-N.log`; kept when the cluster stops.
        brokers: number of brokers.
        voters: how many of them vote, from the first on; all when None. Not with `controllers`.
        controllers: number of dedicated controllers, which vote then in place of the brokers. Their
            node ids follow the brokers'.
        settings: further `OTTLA_*` variables, for every process.
        broker_settings: further variables by node id, over `settings`.
        cluster_id: `OTTLA_CLUSTER_ID`.
        addresses: `host:port` of each process; free ports on the loopback when not given.
        command: what to run as a broker.
        launch: makes the processes in place of `command`, as for `LocalBroker`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        brokers: int = 3,
        voters: int | None = None,
        controllers: int = 0,
        settings: Mapping[str, str] | None = None,
        broker_settings: Mapping[int, Mapping[str, str]] | None = None,
        cluster_id: str = "local",
        addresses: Sequence[str] | None = None,
        command: Sequence[str] = BROKER_COMMAND,
        launch: Callable[[Mapping[str, str], Path], BrokerProcess] | None = None,
    ) -> None:
        assert brokers > 0, "a cluster has at least one broker"
        self.directory = directory
        self.cluster_id = cluster_id
        assert voters is None or not controllers, "dedicated controllers are the voters"
        node_ids = range(1, brokers + controllers + 1)
        addresses = addresses or [f"{HOST}:{port}" for port in free_ports(len(node_ids))]
        assert len(addresses) == len(node_ids), "an address for each process"
        listen = dict(zip(node_ids, addresses, strict=True))
        voter_ids = node_ids[brokers:] if controllers else node_ids[: voters or brokers]
        self._voters = ",".join(f"{node_id}@{listen[node_id]}" for node_id in voter_ids)

        def process(node_id: int) -> LocalBroker:
            is_broker, is_voter = node_id <= brokers, node_id in voter_ids
            name = f"{'broker' if is_broker else 'controller'}-{node_id}"
            roles = ["broker"] * is_broker + ["controller"] * is_voter
            return LocalBroker(
                node_id,
                listen=listen[node_id],
                data_dir=directory / name,
                log_path=directory / f"{name}.log",
                settings={
                    "OTTLA_NODE_ID": str(node_id),
                    "OTTLA_LISTEN": listen[node_id],
                    "OTTLA_DATA_DIR": str(directory / name),
                    "OTTLA_VOTERS": self._voters,
                    **({} if len(roles) == 2 else {"OTTLA_ROLES": roles[0]}),
                    "OTTLA_CLUSTER_ID": cluster_id,
                    "OTTLA_LOG_FORMAT": "json",
                    **(settings or {}),
                    **(broker_settings or {}).get(node_id, {}),
                },
                command=command,
                launch=launch,
            )

        self.brokers: tuple[LocalBroker, ...] = tuple(map(process, node_ids[:brokers]))
        self.controllers: tuple[LocalBroker, ...] = tuple(map(process, node_ids[brokers:]))

    @property
    def processes(self) -> tuple[LocalBroker, ...]:
        """Brokers and dedicated controllers, in node id order."""
        return self.brokers + self.controllers

    @property
    def voters(self) -> str:
        """The voters as `OTTLA_VOTERS` takes them."""
        return self._voters

    @property
    def urls(self) -> tuple[str, ...]:
        """The brokers' base URLs, in node id order."""
        return tuple(broker.url for broker in self.brokers)

    @property
    def bootstrap(self) -> str:
        """The URLs as clients take them: comma-separated."""
        return ",".join(self.urls)

    def broker(self, node_id: int) -> LocalBroker:
        """The broker or dedicated controller with this node id, running or not."""
        assert 1 <= node_id <= len(self.processes), f"no broker {node_id}"
        return self.processes[node_id - 1]

    def start(self) -> None:
        """Start every broker that is not running; none is ready yet when this returns."""
        atexit.register(self.kill)
        for broker in self.processes:
            if not broker.is_running:
                broker.start()

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until every broker is ready, within `timeout_s` for all of them together.

        Raises:
            LocalClusterError: one of them exited or was not ready in time.
        """
        deadline_s = time.monotonic() + timeout_s
        for broker in self.processes:
            broker.wait_ready(max(0.0, deadline_s - time.monotonic()))

    def kill(self) -> None:
        """SIGKILL all processes at once, as when the power goes, and wait until they are gone."""
        kill_together(self.processes)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> dict[int, int]:
        """Stop all brokers: SIGTERM, and SIGKILL for those still there after `timeout_s`.

        Returns:
            The exit code of every broker that was running, by node id; -9 for a killed one.
        """
        running = [broker for broker in self.processes if broker.is_running]
        deadline_s = time.monotonic() + timeout_s
        exit_codes: dict[int, int] = {}
        try:
            for broker in running:
                broker.request_stop()
            for broker in running:
                try:
                    exit_codes[broker.node_id] = broker.wait_exit(
                        max(0.0, deadline_s - time.monotonic())
                    )
                except LocalClusterError:
                    broker.kill()
                    exit_codes[broker.node_id] = -signal.SIGKILL
        finally:
            # Also on Ctrl-C in the middle of the wait above.
            self.kill()
            atexit.unregister(self.kill)
        return exit_codes

    def __enter__(self) -> Self:
        try:
            self.start()
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def kill_together(brokers: Sequence[LocalBroker]) -> None:
    """SIGKILL those of them that run at the same moment, and wait until they are gone."""
    running = [broker for broker in brokers if broker.is_running]
    # All signals go out before the first wait, so that no broker sees another one missing.
    for broker in running:
        os.kill(broker.pid, signal.SIGKILL)
    for broker in running:
        broker.kill()


def environment_for(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with its `OTTLA_*` variables replaced by `settings`."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("OTTLA_")}
    return {**inherited, "PYTHONUNBUFFERED": "1", **settings}


def free_ports(count: int) -> list[int]:
    """`count` different TCP ports on the loopback that nobody uses now.

    They lie below the range from which the kernel takes ports for outgoing connections. One from
    that range could be lost while its broker is down: to any client's outgoing connection, or to a
    peer that keeps calling the dead broker until the kernel gives it that very port to call from,
    which connects it to itself. Where there is no such room, the kernel chooses.

    Other runs on this machine do not choose them while this process lives: a broker of theirs on
    the port of a killed one would answer the killed one's clients.
    """
    candidates = random.SystemRandom()  # Not seeded: parallel test runs must not agree.
    last = _ephemeral_port_first() - 1
    ports: list[int] = []
    for _ in range(PORT_ATTEMPTS_MAX if last - PORT_FIRST > PORT_ATTEMPTS_MAX else 0):
        if len(ports) == count:
            return ports
        port = candidates.randint(PORT_FIRST, last)
        if port not in ports and _can_listen(port) and _reserve(port):
            ports.append(port)
    return _ports_from_kernel(count)


def _reserve(port: int) -> bool:
    """Lock the port's file until this process ends; False where another process has."""
    PORT_LOCKS.mkdir(exist_ok=True)
    lock = os.open(PORT_LOCKS / str(port), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return False
    # Not closed: the lock lasts as long as the descriptor.
    return True


def _ephemeral_port_first() -> int:
    try:
        first, _last = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    except OSError:
        # IANA's dynamic range, which the systems without that file use.
        return 49_152
    return int(first)


def _can_listen(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do, so that a port with connections in TIME_WAIT counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _ports_from_kernel(count: int) -> list[int]:
    probes = [socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(count)]
    try:
        # All are held until the last one is known, so that they differ.
        for probe in probes:
            probe.bind((HOST, 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()
