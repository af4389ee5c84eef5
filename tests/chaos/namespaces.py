"""A network for brokers that can be broken: one network namespace for each, on a bridge.

Clients stay where the test runs and reach the brokers over the bridge. Only iproute2 and the
kernel's own means are used:

- What one side sends to another is dropped by giving the sender a wrong link-layer address for it:
  packets leave, and nobody takes them. That is silent, as a real partition is, and goes one way.
- Loss is a class of an HTB queue that has no room, chosen at random by a classic BPF filter.
- A slow link is a token bucket.
- Connections are reset in their middle by `ss --kill`.

Names hold the pid of the test process, so that whatever a killed run left behind is known as such
and is removed by the next one. Addresses are of 198.18.0.0/15, the range for benchmarks of networks
(RFC 2544); a lock for each subnet keeps two runs apart.
"""

import ctypes
import fcntl
import ipaddress
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from tests.chaos.faulty_disks import run

PROGRAMS = ("ip", "tc", "ss", "nsenter")
RANGE = ipaddress.ip_network("198.18.0.0/15")
SUBNET_BITS = 27
BRIDGE_HOST = 30
"""The bridge's number in its subnet; brokers have their node ids."""
LOCKS = Path(tempfile.gettempdir()) / f"ottla-networks-{os.getuid()}"
NOBODY = "02:00:00:00:00:01"
"""A link-layer address that no interface of ours has."""
DEVICE = "eth0"
NAMESPACES = Path("/run/netns")

LOSS_WORD = 0xFFFFF000 + 56
"""Where classic BPF finds a random number: SKF_AD_OFF + SKF_AD_RANDOM."""
DROPPED_CLASS = 0x10002
CUT_TIMEOUT_S = 5.0
ARRIVES_WITHIN_S = 0.3
CLONE_NEWNET = 0x40000000

_numbers = itertools.count(1)


TRIAL = """
set -e
mount -t tmpfs none /run && ip netns add trial
ip link add trial-bridge type bridge
ip link add trial-1 type veth peer name trial-2
tc qdisc add dev trial-1 root handle 1: htb default 1
tc filter add dev trial-1 parent 1: protocol all prio 1 bpf bytecode "1,6 0 0 0" classid 1:2
tc qdisc replace dev trial-2 root tbf rate 1mbit burst 16kb latency 400ms
"""
"""What all of this takes, tried in namespaces of its own that are gone at once."""


@lru_cache
def lacks():
    """What is missing for namespaces on this machine; empty where nothing is."""
    missing = [program for program in (*PROGRAMS, "unshare") if shutil.which(program) is None]
    if os.geteuid() != 0:
        missing.append("root")
    if not missing:
        trial = subprocess.run(
            ["unshare", "--net", "--mount", "sh", "-c", TRIAL], capture_output=True, text=True
        )
        if trial.returncode != 0:
            missing.append(f"namespaces ({' '.join(trial.stderr.split())[:200]})")
    return missing


class Network:
    """The network of one cluster; use it as a context manager.

    Args:
        nodes: number of brokers; they are numbered from 1.
    """

    def __init__(self, nodes):
        assert 0 < nodes < BRIDGE_HOST
        self.node_ids = tuple(range(1, nodes + 1))
        self._tag = f"{os.getpid()}-{next(_numbers)}"
        self.bridge = f"ob{self._tag}"
        self._subnet, self._lock = None, None
        self._addresses_of_links = {}

    def __enter__(self):
        remove_leftovers()
        self._subnet, self._lock = _claim_subnet()
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exception):
        for node in self.node_ids:
            if self.path(node).exists():
                run("ip", "netns", "del", self.namespace(node))
        if _link_exists(self.bridge):
            run("ip", "link", "del", self.bridge)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def address(self, node):
        """The broker's IP address."""
        return str(self._subnet.network_address + node)

    def namespace(self, node):
        """The name of the broker's namespace."""
        return f"ottla-{self._tag}-{node}"

    def path(self, node):
        """The file that stands for the broker's namespace."""
        return NAMESPACES / self.namespace(node)

    def within(self, node, *command):
        """The command that runs another one in the broker's namespace, as the same process."""
        # `ip netns exec` would give it mounts of its own, which a remounted disk does not reach.
        return ("nsenter", f"--net={self.path(node)}", *command)

    # --- faults ---------------------------------------------------------------------------------

    def drop(self, sender, receiver):
        """Have nothing arrive that one broker sends to another one; 0 is the clients' side."""
        self._neighbour(sender, receiver, NOBODY)

    def pass_on(self, sender, receiver):
        """Undo `drop`."""
        self._neighbour(sender, receiver, self._addresses_of_links[receiver])

    def partition(self, one_side, other_side):
        """Separate two sets of nodes, both ways."""
        for one, other in itertools.product(one_side, other_side):
            self.drop(one, other)
            self.drop(other, one)

    def heal(self):
        """Have everything arrive everywhere, and links be what they were."""
        ends = (0, *self.node_ids)
        for sender, receiver in itertools.permutations(ends, 2):
            self.pass_on(sender, receiver)
        for node in self.node_ids:
            self.repair_link(node)

    def lose(self, node, share):
        """Lose that share of the packets from and to a broker."""
        for device in self._both_ends(node):
            threshold = int(share * 0xFFFFFFFF)
            # Loads a random number; above the threshold: no class, else the one without room.
            program = f"4,32 0 0 {LOSS_WORD},37 1 0 {threshold},6 0 0 {DROPPED_CLASS},6 0 0 0"
            device("qdisc replace", "root handle 1: htb default 1")
            for number in (1, 2):
                device("class add", f"parent 1: classid 1:{number} htb rate 10gbit quantum 60000")
            device("qdisc add", "parent 1:2 handle 2: pfifo limit 0")
            bpf = "parent 1: protocol all prio 1 bpf bytecode"
            device("filter add", bpf, program, "classid", "1:2")

    def lost_packets(self, node):
        """How many packets `lose` has lost at this broker since it was told to."""
        return self._count(node, "pfifo", "drops")

    def delayed_packets(self, node):
        """How often packets had to wait, or were lost, since `slow_down` was told to."""
        return self._count(node, "tbf", "overlimits")

    def _count(self, node, kind, what):
        shown = [
            queue
            for device in self._both_ends(node)
            for queue in json.loads(device("-s -j qdisc show"))
        ]
        return sum(queue[what] for queue in shown if queue["kind"] == kind)

    def slow_down(self, node, rate="1mbit"):
        """Let no more than that pass from and to a broker."""
        for device in self._both_ends(node):
            device("qdisc replace", f"root tbf rate {rate} burst 16kb latency 400ms")

    def repair_link(self, node):
        """Undo `lose` and `slow_down`."""
        for device in self._both_ends(node):
            with suppress(AssertionError):  # There may be nothing to undo.
                device("qdisc del", "root")

    def reset_connections(self, node, port):
        """Reset every connection that this broker has; returns for each how many bytes were in it.

        That is what was received and not read yet, or sent and not acknowledged.
        """
        cut = []
        for side in ("sport", "dport"):
            command = f"ss --kill --no-header --tcp state established {side} = :{port}".split()
            done = subprocess.run(
                self.within(node, *command),
                capture_output=True,
                text=True,
                timeout=CUT_TIMEOUT_S,
                check=False,
            )
            # It complains of sockets that went away before it came to them.
            queues = [line.split()[:2] for line in done.stdout.splitlines()]
            cut += [sum(map(int, received_and_sent)) for received_and_sent in queues]
        return cut

    # --- what can be seen of them -----------------------------------------------------------------

    def passes(self, sender, receiver):
        """Whether a datagram arrives that one broker sends to another one; 0 is the clients' side.

        Nothing that breaks the network is asked for that, nor any program of a broker.
        """
        with self._datagram_socket(receiver) as receiving, self._datagram_socket(sender) as sending:
            receiving.bind((self.address(receiver or BRIDGE_HOST), 0))
            receiving.settimeout(ARRIVES_WITHIN_S)
            sending.sendto(b"arrived", receiving.getsockname())
            try:
                return receiving.recv(100) == b"arrived"
            except TimeoutError:
                return False

    def _datagram_socket(self, node):
        if node == 0:
            return socket.socket(type=socket.SOCK_DGRAM)
        # A thread of its own, which ends: a socket stays where it was made.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(_socket_within, self.path(node)).result()

    # --- how it is made ---------------------------------------------------------------------------

    def _build(self):
        prefix = self._subnet.prefixlen
        run("ip", "link", "add", self.bridge, "type", "bridge")
        run("ip", "address", "add", f"{self.address(BRIDGE_HOST)}/{prefix}", "dev", self.bridge)
        run("ip", "link", "set", self.bridge, "up")
        for node in self.node_ids:
            name = self.namespace(node)
            run("ip", "netns", "add", name)
            peer = ("peer", "name", DEVICE, "netns", name)
            run("ip", "link", "add", self._link(node), "type", "veth", *peer)
            run("ip", "link", "set", self._link(node), "master", self.bridge, "up")
            address = f"{self.address(node)}/{prefix}"
            run("ip", "-n", name, "address", "add", address, "dev", DEVICE)
            run("ip", "-n", name, "link", "set", DEVICE, "up")
            run("ip", "-n", name, "link", "set", "lo", "up")
        for node in (0, *self.node_ids):
            shown = json.loads(
                run(*self._ip(node), "-j", "link", "show", "dev", self._device(node))
            )
            self._addresses_of_links[node] = shown[0]["address"]
        # Nobody has to ask who has an address: the answer could be lost, and be wrong for long.
        self.heal()

    def _neighbour(self, sender, receiver, link_address):
        address = self.address(receiver or BRIDGE_HOST)
        run(
            *(*self._ip(sender), "neighbour", "replace", address, "lladdr", link_address),
            *("dev", self._device(sender), "nud", "permanent"),
        )

    def _ip(self, node):
        return ("ip", "-n", self.namespace(node)) if node else ("ip",)

    def _device(self, node):
        return DEVICE if node else self.bridge

    def _link(self, node):
        return f"ov{self._tag}-{node}"

    def _both_ends(self, node):
        return (
            _Queue(("tc", "-n", self.namespace(node)), DEVICE),
            _Queue(("tc",), self._link(node)),
        )


class _Queue:
    """What tc says and does about one end of a link."""

    def __init__(self, command, link):
        self._command = command
        self._link = link

    def __call__(self, verb, options="", *more):
        """Run tc; its output."""
        return run(*self._command, *verb.split(), "dev", self._link, *options.split(), *more)


def remove_leftovers():
    """Remove what runs left behind that were killed: processes, namespaces, bridges."""
    for path in NAMESPACES.glob("ottla-*") if NAMESPACES.exists() else ():
        match = re.fullmatch(r"ottla-(\d+)-\d+-\d+", path.name)
        if match and not _is_alive(int(match[1])):
            # Another run may be removing it too.
            for pid in _try("ip", "netns", "pids", path.name).split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            _try("ip", "netns", "del", path.name)
    for link in json.loads(run("ip", "-j", "link", "show", "type", "bridge") or "[]"):
        match = re.fullmatch(r"ob(\d+)-\d+", link.get("ifname", ""))
        if match and not _is_alive(int(match[1])):
            _try("ip", "link", "del", link["ifname"])


def _is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _claim_subnet():
    """A subnet that nobody else has while this process lives, and the lock that says so."""
    LOCKS.mkdir(exist_ok=True)
    subnets = list(RANGE.subnets(new_prefix=SUBNET_BITS))
    routes = {route["dst"] for route in json.loads(run("ip", "-j", "route", "show"))}
    first = (os.getpid() * 7) % len(subnets)
    for subnet in subnets[first:] + subnets[:first]:
        lock = os.open(LOCKS / str(subnet.network_address), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            continue
        if str(subnet) not in routes:
            return subnet, lock
        os.close(lock)
    raise AssertionError("all subnets are taken")


def _socket_within(namespace):
    """Enter a network namespace with this thread, and make a datagram socket there."""
    descriptor = os.open(namespace, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
    finally:
        os.close(descriptor)
    return socket.socket(type=socket.SOCK_DGRAM)


def _link_exists(name):
    return Path(f"/sys/class/net/{name}").exists()


def _try(*command):
    """Run what may have nothing to do; its output."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout
