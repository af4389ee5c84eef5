"""Processes that end, stand still, and run out of file descriptors."""

import signal
import socket
import threading
from contextlib import ExitStack
from pathlib import Path

from ottla_protocol import routes
from tests.chaos.faulty_disks import run
from tests.chaos.nemesis import ANSWER_TIMEOUT_S, EXIT_STORAGE, EXIT_TIMEOUT_S, Nemesis
from tests.chaos.world import PORT, START_TIMEOUT_S

STILL = "T"
"""The state in which the kernel shows a process after SIGSTOP."""
SHORT_STALLS_S = (0.2, 2.0)
LONG_STALLS_S = (3.5, 5.0)
"""Longer than the session of a broker (OTTLA_SESSION_TIMEOUT_MS, 3 s)."""
DESCRIPTORS_LEFT = 2
PROBES = 6
"""Connections at a time that find out whether descriptors are refused: more than are left."""


class Kill(Nemesis):
    """SIGKILL one broker; it is started again at the end."""

    def inject(self):
        self.node = self.whom()
        broker = self.world.broker(self.node)
        broker.kill()
        self.fired = broker.exit_code == -signal.SIGKILL
        return f"broker {self.node}"

    def heal(self):
        self.world.broker(self.node).start()

    def whom(self):
        raise NotImplementedError


class KillLeader(Kill):
    def whom(self):
        return self.some_leader()


class KillFollower(Kill):
    def whom(self):
        return self.some_follower()


class KillController(Kill):
    def whom(self):
        return self.world.controller()


class KillCoordinator(Kill):
    def whom(self):
        return self.world.coordinator()


class KillClient(Nemesis):
    """SIGKILL one process of clients, amid whatever it does."""

    def inject(self):
        name = self.numbers.choice(sorted(self.world.clients))
        process = self.world.clients[name]
        self.world.kill_client(name)
        self.fired = process.returncode == -signal.SIGKILL
        return name


class KillAll(Nemesis):
    """SIGKILL all brokers in one moment."""

    def inject(self):
        self.world.cluster.kill()
        codes = {broker.exit_code for broker in self.world.cluster.brokers}
        self.fired = codes == {-signal.SIGKILL}
        return "all brokers"

    def heal(self):
        for broker in self.world.cluster.brokers:
            broker.start()


class Pause(Nemesis):
    """SIGSTOP, then SIGCONT."""

    lasts_s = (1.0, 60.0)

    def inject(self):
        self.nodes = self.whom()
        for node in self.nodes:
            self.world.broker(node).pause()
        return f"brokers {self.nodes}"

    def is_felt(self):
        return all(stands_still(self.world.broker(node).pid) for node in self.nodes)

    def heal(self):
        for node in self.nodes:
            self.world.broker(node).resume()

    def whom(self):
        raise NotImplementedError


class PauseLeader(Pause):
    def whom(self):
        return [self.some_leader()]


class PauseController(Pause):
    def whom(self):
        return [self.world.controller()]


class PauseMinority(Pause):
    def whom(self):
        return self.numbers.sample(self.world.node_ids, self.world.minority)


class PauseAll(Pause):
    """Nobody is there; and all wake at nearly the same moment."""

    lasts_s = (1.0, 8.0)

    def whom(self):
        return list(self.world.node_ids)


class PauseInShortBursts(Nemesis):
    """One broker that stalls again and again, for less than its session and for more."""

    lasts_s = (6.0, 15.0)

    def inject(self):
        self.node = self.some_leader()
        self._stalls = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._stutter, name="stutter")
        self._thread.start()
        return f"broker {self.node}"

    def _stutter(self):
        broker = self.world.broker(self.node)
        stalls = (SHORT_STALLS_S, LONG_STALLS_S)
        while not self._ended.wait(self.numbers.uniform(0.1, 0.8)):
            broker.pause()
            is_still = stands_still(broker.pid)
            was_cut_short = self._ended.wait(self.numbers.uniform(*stalls[0]))
            broker.resume()
            if is_still and not was_cut_short:
                self._stalls.add(stalls[0])
            stalls = stalls[::-1]

    def is_felt(self):
        return self._stalls == {SHORT_STALLS_S, LONG_STALLS_S}

    def heal(self):
        self._ended.set()
        self._thread.join()


class RollingRestart(Nemesis):
    """SIGTERM and start one broker after the other, each after the last one is in sync again."""

    def inject(self):
        for node in self.world.node_ids:
            exit_code = self.world.broker(node).terminate(EXIT_TIMEOUT_S)
            assert exit_code == 0, f"broker {node} stopped with {exit_code}"
            self.world.broker(node).start()
            self.world.wait_whole(START_TIMEOUT_S)
        self.fired = True
        return "all brokers, one after the other"


class FewDescriptors(Nemesis):
    """One broker may open hardly any file or connection more.

    Its limits were divided by what it was allowed at its start, so it may come upon a segment that
    it cannot open, which stops it like any failure of storage (decision 18).
    """

    may_end_with = frozenset({EXIT_STORAGE})

    def inject(self):
        self.node = self.some_leader()
        self.pid = self.world.broker(self.node).pid
        told = ("--output=SOFT", "--noheadings")
        self._before = run("prlimit", f"--pid={self.pid}", "--nofile", *told).strip()
        self.limit = open_descriptors(self.pid) + DESCRIPTORS_LEFT
        run("prlimit", f"--pid={self.pid}", f"--nofile={self.limit}:")
        return f"{self.limit} at {self.node}"

    def is_felt(self):
        """Whether it has all that it may, and does not answer some of those who come now."""
        if not self.world.broker(self.node).is_running:
            return True
        with ExitStack() as stack:
            address = (self.world.network.address(self.node), PORT)
            probes = [
                stack.enter_context(socket.create_connection(address, ANSWER_TIMEOUT_S))
                for _ in range(PROBES)
            ]
            for probe in probes:
                probe.sendall(
                    f"GET {routes.LIVENESS} HTTP/1.1\r\nHost: {address[0]}\r\n\r\n".encode()
                )
            unanswered = [probe for probe in probes if not is_answered(probe)]
            # One of them comes and goes with each connection that is refused.
            return bool(unanswered) and open_descriptors(self.pid) >= self.limit - 1

    def heal(self):
        if self.world.broker(self.node).is_running:
            run("prlimit", f"--pid={self.pid}", f"--nofile={self._before}:")


def stands_still(pid):
    """Whether the kernel says of a process that it is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == STILL


def open_descriptors(pid):
    """How many files and connections a process has."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def is_answered(connection):
    """Whether anything comes back, before the connection's own time-out."""
    try:
        return bool(connection.recv(1))
    except (ConnectionError, TimeoutError):
        return False
