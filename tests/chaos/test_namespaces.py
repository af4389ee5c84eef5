"""The network that chaos breaks is broken as it says, and whole again afterwards."""

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.chaos.namespaces import NAMESPACES, Network, lacks, remove_leftovers
from tests.cluster.awaiting import eventually

PORT = 7101
TIMEOUT_S = 0.4
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], {port}), {timeout})"
SERVE = """
import socket, sys
server = socket.create_server((sys.argv[1], {port}))
print("listening", flush=True)
held = [server.accept() for _ in range(1_000)]
"""


class Pair:
    """Two nodes that listen, and whether one reaches the other."""

    def __init__(self, stack):
        self.network = stack.enter_context(Network(2))
        for node in self.network.node_ids:
            code = SERVE.format(port=PORT)
            server = subprocess.Popen(
                self.python(node, code, self.network.address(node)), stdout=subprocess.PIPE
            )
            stack.callback(server.wait)
            stack.callback(server.kill)
            stack.callback(server.stdout.close)
            assert server.stdout.readline() == b"listening\n"

    def python(self, node, code, *arguments):
        command = (sys.executable, "-c", code, *arguments)
        return self.network.within(node, *command) if node else command

    def reaches(self, one, other, timeout_s=TIMEOUT_S):
        code = CONNECT.format(port=PORT, timeout=timeout_s)
        done = subprocess.run(
            self.python(one, code, self.network.address(other)), stderr=subprocess.PIPE
        )
        assert done.returncode == 0 or b"TimeoutError" in done.stderr, done.stderr
        return done.returncode == 0


@pytest.fixture(scope="module", autouse=True)
def needs_namespaces():
    """Tried only where a test of these runs: it takes a moment."""
    if lacks():
        pytest.skip(f"needs {', '.join(lacks())}")


@pytest.fixture(scope="module")
def pair(needs_namespaces):
    with ExitStack() as stack:
        yield Pair(stack)


def test_a_partition_separates_two_sides_and_nobody_else(pair):
    assert eventually(lambda: pair.reaches(1, 2))
    pair.network.partition([1], [2])
    assert not pair.reaches(1, 2)
    assert pair.reaches(0, 1, 10)
    pair.network.heal()
    assert pair.reaches(1, 2, 10)


def test_what_is_dropped_one_way_still_comes_the_other_way(pair):
    receive = (
        "import socket, sys; s = socket.socket(type=socket.SOCK_DGRAM); s.settimeout({timeout});"
        "s.bind((sys.argv[1], 9)); print('bound', flush=True); print(s.recv(9))"
    )
    send = (
        "import socket, sys; s = socket.socket(type=socket.SOCK_DGRAM);"
        "s.sendto(b'x', (sys.argv[1], 9))"
    )

    def arrives(sender, receiver, timeout_s):
        address = pair.network.address(receiver)
        receiving = subprocess.Popen(
            pair.python(receiver, receive.format(timeout=timeout_s), address),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        with receiving:
            assert receiving.stdout.readline() == b"bound\n"
            subprocess.run(pair.python(sender, send, address), check=True)
            return receiving.stdout.readline() == b"b'x'\n"

    pair.network.drop(1, 2)
    assert not arrives(1, 2, TIMEOUT_S)
    assert arrives(2, 1, 10)
    assert not pair.network.passes(1, 2)
    assert pair.network.passes(2, 1)
    pair.network.pass_on(1, 2)
    assert arrives(1, 2, 10)


def test_what_passes_is_told_for_clients_too(pair):
    ends = (0, 1, 2)
    assert all(
        eventually(lambda a=a, b=b: pair.network.passes(a, b)) for a in ends for b in ends if a != b
    )
    pair.network.partition([0], [2])
    assert not pair.network.passes(0, 2)
    assert not pair.network.passes(2, 0)
    assert pair.network.passes(0, 1)
    pair.network.heal()


def test_packets_that_wait_at_a_slow_link_are_counted(pair):
    assert pair.network.delayed_packets(1) == 0
    pair.network.slow_down(1)
    assert pair.network.delayed_packets(1) == 0
    many = (
        "import socket, sys; s = socket.socket(type=socket.SOCK_DGRAM);"
        "[s.sendto(bytes(1_000), (sys.argv[1], 9)) for _ in range(50)]"
    )
    subprocess.run(pair.python(0, many, pair.network.address(1)), check=True)
    assert pair.network.delayed_packets(1) > 0
    pair.network.repair_link(1)
    assert pair.network.delayed_packets(1) == 0


def test_packets_are_lost_and_counted(pair):
    pair.network.lose(1, 0.9)
    for _ in range(3):
        pair.reaches(0, 1)
    assert pair.network.lost_packets(1) > 0
    pair.network.repair_link(1)
    assert pair.reaches(0, 1, 10)


def test_connections_are_reset_in_their_middle(pair):
    hold = CONNECT.format(port=PORT, timeout=10) + ".recv(1)"
    with subprocess.Popen(
        pair.python(0, hold, pair.network.address(2)), stderr=subprocess.PIPE
    ) as holding:
        eventually(lambda: pair.network.reset_connections(2, PORT))
        assert b"ConnectionResetError" in holding.stderr.read()


def test_what_was_under_way_in_a_connection_that_is_cut_is_told(pair):
    fill = (
        "import socket, sys; s = socket.create_connection((sys.argv[1], {port}), 10);"
        "s.setblocking(False); s.send(bytes(1 << 16)); print('sent', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        pair.python(0, fill.format(port=PORT), pair.network.address(2)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as filling:
        assert filling.stdout.readline() == b"sent\n"
        # Nobody reads there: it lies with the receiver.
        assert max(eventually(lambda: pair.network.reset_connections(2, PORT))) >= 1 << 15
        filling.stdin.close()


def test_what_a_killed_run_left_behind_is_removed(tmp_path):
    code = (
        "import os, subprocess, sys; from tests.chaos.namespaces import Network;"
        "network = Network(1).__enter__();"
        "inside = ('sh', '-c', 'echo inside; exec sleep 300');"
        "left = subprocess.Popen(network.within(1, *inside),"
        "stdout=subprocess.PIPE, stderr=subprocess.DEVNULL); left.stdout.readline();"
        "print(network.namespace(1), network.bridge, left.pid, flush=True); os._exit(0)"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    namespace, bridge, pid = killed.stdout.split()
    remove_leftovers()
    assert not (NAMESPACES / namespace).exists()
    assert not Path(f"/sys/class/net/{bridge}").exists()
    eventually(lambda: ended(int(pid)))


def ended(pid):
    """Whether a process that is nobody's child has gone, or waits to be collected."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
