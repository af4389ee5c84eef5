"""A fault counts only when its effect is seen: each look is shown a fault that had none."""

import random
import socket
from contextlib import ExitStack
from email.utils import formatdate
from types import SimpleNamespace

import pytest

from ottla_protocol import routes
from tests.chaos import clock_faults, disk_faults, network_faults, process_faults, soak
from tests.chaos.nemeses import NEMESES
from tests.cluster.http_client import Answer

NOW_S = 1_700_000_000


class Answers:
    """Brokers' answers by path: documents, metrics, and clocks that are wrong by `shift_s`."""

    def __init__(self):
        self.leader = 1
        self.isr = [1, 2, 3]
        self.metrics = {}
        self.shift_s = {}
        self.controller = 1

    def get(self, url, **_):
        node, path = int(url[7]), url[8:]
        headers = {"Date": formatdate(NOW_S + self.shift_s.get(node, 0), usegmt=True)}
        state = {"partition": 0, "leader": self.leader, "isr": self.isr, "replicas": [1, 2, 3]}
        body = {
            routes.LIVENESS: "{}",
            routes.METRICS: "".join(f"{name} {value}\n" for name, value in self.metrics.items()),
            routes.CLUSTER: f'{{"controller": {self.controller}}}',
        }.get(path, str({"partitions": [state]}).replace("'", '"'))
        return Answer(200, headers, body.encode())


class Broker:
    is_running = True

    def __init__(self, log_path):
        self.log_path = log_path


class World:
    """As `World`, of three brokers of which 1 leads the only partition."""

    def __init__(self, directory):
        self.directory = directory
        self.node_ids = (1, 2, 3)
        self.partitions, self.replication_factor, self.minority = 1, 3, 1
        self.answers = Answers()
        self.client = SimpleNamespace(http=self.answers, url=lambda node: f"http://{node}")
        self.network = Links()
        self.brokers = {node: Broker(directory / f"{node}.log") for node in self.node_ids}
        self.disks = {node: Disk(directory / f"disk-{node}") for node in self.node_ids}
        for broker in self.brokers.values():
            broker.log_path.write_text("before\n")

    def leader(self, _partition):
        return 1

    def controller(self):
        return 1

    def others(self, *nodes):
        return [node for node in self.node_ids if node not in nodes]

    def clock(self, node):
        return self.directory / f"clock-{node}"

    def broker(self, node):
        return self.brokers[node]


class Links:
    """A network, of which what is told to be dropped may pass all the same."""

    def __init__(self):
        self.dropped = set()
        self.is_broken = True
        self.delayed = 0
        self.lost = {}

    def drop(self, *pair):
        self.dropped.add(pair)

    def passes(self, *pair):
        return not self.is_broken or pair not in self.dropped

    def slow_down(self, *_):
        pass

    def lose(self, *_):
        pass

    def delayed_packets(self, _node):
        return self.delayed

    def lost_packets(self, node):
        return self.lost.get(node, 0)


class Disk:
    """A disk that forgets what is not synced, if it does."""

    def __init__(self, path):
        self.path = path
        self.forgets = True
        path.mkdir()

    def cut_power(self):
        pass

    def restore_power(self):
        if self.forgets:
            (self.path / disk_faults.UNSYNCED).write_text("")


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setattr(clock_faults.time, "time", lambda: NOW_S + 0.3)
    return World(tmp_path)


def injected(kind, world, seed=1):
    nemesis = kind(world, random.Random(seed))
    nemesis.inject()
    return nemesis


@pytest.mark.parametrize("seed", range(8))
def test_a_clock_is_seen_to_be_wrong_by_what_its_broker_tells(world, seed):
    nemesis = injected(clock_faults.ClockJump, world, seed)
    assert not nemesis.is_felt()
    world.answers.shift_s[1] = nemesis.shift_s * 2
    assert not nemesis.is_felt()
    world.answers.shift_s[1] = nemesis.shift_s
    assert nemesis.is_felt()


def test_retention_must_have_looked_at_a_clock_that_is_a_month_ahead(world):
    with world.brokers[1].log_path.open("a") as log:
        log.write('{"event": "wall_clock_jumped_ahead"}\n')
    nemesis = injected(clock_faults.ClockMonthAhead, world)
    world.answers.shift_s[1] = clock_faults.MONTH_S
    assert not nemesis.is_felt(), "that was an earlier one"
    with world.brokers[1].log_path.open("a") as log:
        log.write('{"event": "wall_clock_jumped_ahead"}\n')
    assert nemesis.is_felt()
    world.answers.shift_s.clear()
    assert not nemesis.is_felt()


def test_clocks_that_drift_are_seen_to_be_wrong_each_its_own_way(world):
    nemesis = injected(clock_faults.ClockDrift, world)
    try:
        assert not nemesis.is_felt()
        world.answers.shift_s = {1: 4, 2: 4, 3: 4}
        assert not nemesis.is_felt()
        world.answers.shift_s = {1: 4, 2: -4, 3: 4}
        assert nemesis.is_felt()
    finally:
        nemesis.heal()


def test_a_disk_that_hangs_is_told_by_its_broker_and_moves_what_it_led(world, monkeypatch):
    monkeypatch.setattr(disk_faults, "run", lambda *_: "")
    nemesis = injected(disk_faults.HungDisk, world)
    world.answers.metrics["ottla_disk_hung"] = 0.0
    world.answers.leader = 2
    assert not nemesis.is_felt()
    world.answers.metrics["ottla_disk_hung"] = 1.0
    assert nemesis.is_felt()
    world.answers.leader = 1
    assert not nemesis.is_felt()


def test_a_full_disk_is_told_by_its_broker(world, monkeypatch):
    monkeypatch.setattr(disk_faults, "fill_up", lambda path: path / "ballast")
    nemesis = injected(disk_faults.FullDisk, world)
    world.answers.metrics["ottla_disk_full"] = 0.0
    assert not nemesis.is_felt()
    world.answers.metrics["ottla_disk_full"] = 1.0
    assert nemesis.is_felt()


def test_power_that_was_lost_without_any_loss_was_none(world):
    for broker in world.brokers.values():
        broker.pause = broker.kill = broker.start = lambda: None
    nemesis = injected(disk_faults.PowerLossOfAll, world)
    nemesis.heal()
    assert nemesis.fired
    world.disks[2].forgets = False
    nemesis = injected(disk_faults.PowerLossOfAll, world)
    nemesis.heal()
    assert not nemesis.fired
    assert not list(world.directory.glob(f"disk-*/{disk_faults.UNSYNCED}"))


def test_a_segment_with_a_turned_bit_is_found_damaged_and_a_whole_one_not(tmp_path, monkeypatch):
    found = []
    path = tmp_path / "0.sqlite"
    path.touch()
    monkeypatch.setattr(disk_faults, "find_replicas", lambda _: [Replica(())])
    monkeypatch.setattr(disk_faults, "verify_replica", lambda _: found)
    monkeypatch.setattr(disk_faults, "replace", lambda replica, **_: replica)
    assert not disk_faults.is_damaged(path)
    found.append(SimpleNamespace(findings=["a batch"]))
    assert disk_faults.is_damaged(path)
    found.clear()
    path.unlink()
    assert disk_faults.is_damaged(path), "its broker was quicker"


class Replica(SimpleNamespace):
    def __init__(self, segments):
        super().__init__(segments=segments)


PARTITIONS = (
    "partition minority",
    "partition controller",
    "one way out",
    "one way in",
    "leader without followers",
)


@pytest.mark.parametrize("name", PARTITIONS)
def test_a_partition_is_seen_in_the_network_and_in_the_cluster(world, name):
    world.controller = lambda: 3 if name == "leader without followers" else 1
    nemesis = injected(NEMESES[name], world)
    assert not nemesis.is_felt(), "nobody made anything of it"
    world.answers.leader, world.answers.controller = 2, 2
    assert nemesis.is_felt()
    world.network.is_broken = False
    assert not nemesis.is_felt(), "all passes"


def test_one_way_is_not_both(world):
    nemesis = injected(network_faults.OneWayOut, world)
    world.answers.leader = 2
    assert nemesis.is_felt()
    world.network.dropped |= {(other, one) for one, other in nemesis.silent}
    assert not nemesis.is_felt()


def test_a_bridge_is_seen_where_a_leader_and_a_follower_are_parted(world):
    nemesis = next(
        each
        for seed in range(20)
        if (each := injected(network_faults.Bridge, world, seed)).middle != 1
    )
    world.network.dropped = set(nemesis.silent)
    assert not nemesis.is_felt()
    world.answers.isr = [1, nemesis.middle]
    assert nemesis.is_felt()


def test_clients_that_reach_a_broker_are_not_cut_off(world):
    nemesis = injected(network_faults.ClientsCutOff, world)
    world.client.answers_quickly = lambda _node: True
    assert not nemesis.is_felt()
    world.client.answers_quickly = lambda _node: False
    assert nemesis.is_felt()


def test_packets_must_have_been_lost_at_each_broker_and_waited_at_a_slow_link(world):
    loss = injected(network_faults.PacketLoss, world)
    assert not loss.is_felt()
    world.network.lost = dict.fromkeys(loss.nodes, 1)
    assert loss.is_felt()
    slow = injected(network_faults.SlowLink, world)
    assert not slow.is_felt()
    world.network.delayed = 1
    assert slow.is_felt()


def test_a_cut_between_bodies_is_none_in_a_body(world):
    nemesis = network_faults.CutSlowConnections(world, random.Random(1))
    nemesis.cut = [0, 0]
    assert not nemesis.is_felt()
    nemesis.cut.append(900)
    assert nemesis.is_felt()


def test_a_broker_that_answers_all_has_descriptors_left(world, monkeypatch):
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        monkeypatch.setattr(process_faults, "PORT", server.getsockname()[1])
        monkeypatch.setattr(process_faults, "ANSWER_TIMEOUT_S", 0.1)
        held = []
        monkeypatch.setattr(process_faults, "open_descriptors", lambda _: 100)
        answers = []
        monkeypatch.setattr(process_faults, "is_answered", lambda _: answers.pop())
        world.network.address = lambda _: "127.0.0.1"
        nemesis = process_faults.FewDescriptors(world, random.Random(1))
        nemesis.node, nemesis.pid, nemesis.limit = 1, 0, 100
        answers[:] = [True] * process_faults.PROBES
        assert not nemesis.is_felt()
        answers[:] = [True, False] * process_faults.PROBES
        assert nemesis.is_felt()
        nemesis.limit = 110
        answers[:] = [True, False] * process_faults.PROBES
        assert not nemesis.is_felt(), "it is slow, and might open more"
        assert not held


def test_a_connection_that_is_closed_or_silent_is_not_answered():
    one, other = socket.socketpair()
    with one, other:
        one.settimeout(0.05)
        assert not process_faults.is_answered(one)
        other.sendall(b"HTTP/1.1")
        assert process_faults.is_answered(one)
        one.recv(100)
        other.close()
        assert not process_faults.is_answered(one)


def test_a_stutter_counts_once_it_was_short_and_long(world):
    nemesis = process_faults.PauseInShortBursts(world, random.Random(1))
    nemesis._stalls = {process_faults.SHORT_STALLS_S}
    assert not nemesis.is_felt()
    nemesis._stalls.add(process_faults.LONG_STALLS_S)
    assert nemesis.is_felt()


def test_those_that_lag_leave_enough_to_acknowledge_without_them(world):
    world.node_ids, world.minority = (1, 2, 3, 4, 5), 2
    state = {"leader": 1, "replicas": [1, 2, 3]}
    for seed in range(20):
        nemesis = disk_faults.PowerLossAmongTheLagging(world, random.Random(seed))
        lagging = nemesis._choose_lagging(state)
        assert len(lagging) == 2
        assert len({2, 3} & set(lagging)) <= 1


def test_a_soak_tells_what_it_never_tried_on_one_size(tmp_path):
    report = tmp_path / "rounds.jsonl"
    every = ", ".join(f'"{name}": 1' for name in NEMESES)
    report.write_text(
        f'{{"brokers": 3, "faults": {{{every}}}}}\n'
        f'{{"brokers": 5, "faults": {{{every.replace(": 1", ": 0", 1)}}}}}\n'
    )
    first = next(iter(NEMESES))
    assert list(soak.untried(report)) == [f"on 5 brokers never: {first}"]
    with report.open("a") as file:
        file.write(f'{{"brokers": 5, "faults": {{"{first}": 1}}}}\n')
    assert list(soak.untried(report)) == []
