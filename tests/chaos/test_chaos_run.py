"""A short run of chaos in namespaces; `make chaos` and `make soak` do long ones."""

import random
import sys
from types import SimpleNamespace

import pytest

from ottla_ops.local_cluster import LocalClusterError
from tests.chaos import chaos_run
from tests.chaos.chaos_run import Plan, missing, run_plan
from tests.chaos.world import World

FAULTS = ("kill leader", "one way out")
PLAN = Plan(
    seed=random.SystemRandom().getrandbits(32),
    seconds=0,
    faults=FAULTS,
    partitions=2,
    lasts_s=(1.0, 3.0),
    clients={"produce": 1, "read": 1},
    ok_min=20,
)


@pytest.mark.cluster
@pytest.mark.timeout(300)
def test_a_cluster_keeps_its_word_while_a_leader_dies_and_is_cut_off(tmp_path, launch):
    lacks = missing(PLAN)
    if lacks:
        pytest.skip(f"needs {', '.join(lacks)}")
    told = []
    outcome = run_plan(PLAN, tmp_path / "run", tell=told.append, launch=launch)
    assert outcome.is_clean, f"seed {PLAN.seed}, in {tmp_path}: {told}\n{outcome}"


class DamagedReplicas:
    """A client of three brokers; the second one heals only after a while."""

    def __init__(self):
        self.verified = []
        self.unfit = [1, 1, 0]
        self.http = SimpleNamespace(post=self.verify)

    def url(self, node):
        return f"http://{node}"

    def partition(self, _topic, _partition):
        return {"replicas": [1, 2, 3]}

    def verify(self, url, body):
        self.verified.append((url, body["replica"], body["offset"]))
        document = {"next_offset": 40 if body["offset"] == 0 else None}
        return SimpleNamespace(expect=lambda _status: SimpleNamespace(document=document))

    def metric(self, node, name):
        assert name == "ottla_unfit_replicas"
        return self.unfit.pop(0) if node == 2 and self.unfit else 0


def test_every_replica_is_verified_to_its_end_and_healed(tmp_path, monkeypatch):
    world = World(tmp_path, partitions=2)
    world.client = client = DamagedReplicas()
    whole = []
    monkeypatch.setattr(world, "wait_whole", whole.append)
    world.heal_damage(10)
    assert client.verified == [
        (f"http://{node}/v1/topics/orders/partitions/{partition}/segments/verify", node, offset)
        for partition in (0, 1)
        for node in (1, 2, 3)
        for offset in (0, 40)
    ]
    assert client.unfit == []
    assert whole == [10]


def test_ctrl_c_ends_a_run_without_a_traceback(monkeypatch, tmp_path, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(chaos_run, "run_plan", interrupted)
    monkeypatch.setattr(chaos_run, "missing", lambda _: [])
    monkeypatch.setattr(chaos_run.signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["chaos_run", "--seed", "7", "--directory", str(tmp_path)])
    assert chaos_run.main() == 130
    assert f"what there is: {tmp_path / '7'}" in capsys.readouterr().out


def test_a_run_that_is_told_to_end_takes_away_the_fault_that_it_made(tmp_path, monkeypatch):
    """A disk that stays frozen lets neither its broker end nor itself be unmounted."""
    healed = []

    class Frozen:
        lasts_s = None

        def __init__(self, _world, _numbers):
            pass

        def inject(self):
            raise KeyboardInterrupt

        def heal(self):
            healed.append("frozen")
            raise OSError("what was not frozen yet cannot be thawed")

    monkeypatch.setattr(chaos_run, "NEMESES", {"frozen": Frozen})
    world = SimpleNamespace(directory=tmp_path, wait_busy=lambda *_: None)
    plan = Plan(seed=1, seconds=0, faults=("frozen",))
    with pytest.raises(KeyboardInterrupt):
        chaos_run._make_trouble(world, plan, chaos_run.Outcome(), print)
    assert healed == ["frozen"]


class EndsLate:
    """A fault whose broker, 2, ends when it has been taken away; its supervisor starts it again."""

    lasts_s, settles_s, lingers, may_end_brokers, fired = (0.0, 0.0), 0.0, False, True, True

    def __init__(self, world, _numbers):
        self._world = world

    def inject(self):
        return "at 2"

    def heal(self):
        self._world.is_about_to_end = True


class EndingWorld:
    """As `World`; its only broker, 2, ends between two looks."""

    def __init__(self, directory):
        self.directory = directory
        self.is_about_to_end = False
        self.started = []
        broker = SimpleNamespace(node_id=2, exit_code=1, is_running=True, log_tail=lambda _: "")
        broker.start = self._start
        self.cluster = SimpleNamespace(brokers=[broker])

    def _start(self):
        self.cluster.brokers[0].is_running = True
        self.started.append(2)

    def wait_busy(self, *_):
        pass

    def probe(self, _timeout_s):
        self.cluster.brokers[0].is_running = not self.is_about_to_end
        self.is_about_to_end = False
        return 0.1

    def wait_whole(self, _timeout_s):
        if not self.cluster.brokers[0].is_running:
            raise LocalClusterError("broker 2 exited with 1 before ready")

    def dead_clients(self):
        return []


def trouble(monkeypatch, world, nemesis):
    """The outcome of one fault, and what was told."""
    monkeypatch.setattr(chaos_run, "NEMESES", {"late": nemesis})
    outcome, told = chaos_run.Outcome(), []
    plan = Plan(seed=1, seconds=0, faults=("late",))
    chaos_run._make_trouble(world, plan, outcome, told.append)
    return outcome, told


def test_a_broker_that_ends_just_after_its_fault_is_started_again(tmp_path, monkeypatch):
    world = EndingWorld(tmp_path)
    outcome, _ = trouble(monkeypatch, world, EndsLate)
    assert world.started == [2]
    assert outcome.problems == []


def test_a_broker_that_must_not_end_is_a_problem_that_is_told_at_once(tmp_path, monkeypatch):
    class EndsWrongly(EndsLate):
        may_end_brokers = False

    outcome, told = trouble(monkeypatch, EndingWorld(tmp_path), EndsWrongly)
    assert outcome.problems == ["late: broker 2 ended with 1: "]
    assert outcome.problems[0] in told
