"""A short run of chaos in namespaces; `make chaos` and `make soak` do long ones."""

import random
import sys
from types import SimpleNamespace

import pytest

from ottla_ops.local_cluster import LocalClusterError
from tests.chaos import chaos_run
from tests.chaos.chaos_run import Plan, missing, run_plan
from tests.chaos.checker import check
from tests.chaos.evidence import Evidence
from tests.chaos.nemesis import Nemesis
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

    class Frozen(Nemesis):
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


class EndsLate(Nemesis):
    """A fault whose broker, 2, ends when it has been taken away; its supervisor starts it again."""

    lasts_s = (0.0, 0.0)
    may_end_with = frozenset({1})

    def inject(self):
        self.fired = True
        return "at 2"

    def heal(self):
        self.world.is_about_to_end = True


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
    monkeypatch.setattr(chaos_run, "FELT_S", 0.0)
    outcome, told = chaos_run.Outcome(), []
    plan = Plan(seed=1, seconds=0, faults=("late",))
    chaos_run._make_trouble(world, plan, outcome, told.append)
    return outcome, told


def test_a_broker_that_ends_just_after_its_fault_is_started_again(tmp_path, monkeypatch):
    world = EndingWorld(tmp_path)
    outcome, _ = trouble(monkeypatch, world, EndsLate)
    assert world.started == [2]
    assert outcome.problems == []


@pytest.mark.parametrize("may_end_with", [frozenset(), frozenset({74})])
def test_a_broker_that_must_not_end_so_is_a_problem_that_is_told_at_once(
    tmp_path, monkeypatch, may_end_with
):
    class EndsWrongly(EndsLate):
        pass

    EndsWrongly.may_end_with = may_end_with

    outcome, told = trouble(monkeypatch, EndingWorld(tmp_path), EndsWrongly)
    assert outcome.problems == ["late: broker 2 ended with 1: "]
    assert outcome.problems[0] in told


class Unseen(Nemesis):
    """A fault that is made as it should be, and has no effect."""

    lasts_s = (0.0, 0.0)
    felt_within_s = 0.05
    turns = 0

    def inject(self):
        Unseen.turns += 1
        return "nothing"

    def is_felt(self):
        raise OSError("nobody there to ask")


def test_a_fault_whose_effect_is_never_seen_has_another_turn_and_fails_the_run(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(Unseen, "turns", 0)
    outcome, told = trouble(monkeypatch, EndingWorld(tmp_path), Unseen)
    assert Unseen.turns == chaos_run.TURNS_MAX
    assert all("its effect was NOT seen" in line for line in told)
    # It had its turn: that is what makes it wanted.
    assert dict(outcome.fired) == {"late": 0}
    verdict = check(Evidence([]), faults=outcome.fired, wanted=tuple(outcome.fired))
    assert "late never fired" in verdict.trivial


def test_a_fault_that_is_seen_late_stays_until_then_and_has_one_turn(tmp_path, monkeypatch):
    class SeenLate(Unseen):
        felt_within_s = 10.0
        looks = 0

        def is_felt(self):
            SeenLate.looks += 1
            return SeenLate.looks == 3

    monkeypatch.setattr(Unseen, "turns", 0)
    outcome, told = trouble(monkeypatch, EndingWorld(tmp_path), SeenLate)
    assert (Unseen.turns, SeenLate.looks, outcome.fired["late"]) == (1, 3, 1)
    assert "NOT seen" not in told[0]


class EndlessWorld:
    """As `World`; what is asked of it in the end raises."""

    def __init__(self, directory, **_):
        self.directory, self.node_ids, self.histories = directory, (), directory / "histories"
        disk = directory / "disk"
        disk.mkdir()
        (disk / "log").write_text("what is left")
        self.disks, self.client = {1: SimpleNamespace(path=disk)}, None
        self.histories.mkdir()
        self.cluster = SimpleNamespace(stop=lambda: {1: 0})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def stop_clients(self):
        return []

    def count_snapshots(self):
        return {chaos_run.SNAPSHOTS_MADE: 1}

    def has_groups(self):
        return False


class Unread:
    """As `FinalReads`; nobody can be read."""

    def __init__(self, *_):
        self.problems = []

    def read(self):
        raise TimeoutError("nobody answers")

    def evidence(self, operations=()):
        return Evidence(list(operations))


def no_trouble(world, _plan, outcome, _tell):
    (world.directory / chaos_run.SCHEDULE).touch()
    outcome.fired["a"] += 1


def broken(*_):
    raise TimeoutError("nobody answers")


def test_a_run_whose_final_reads_fail_has_a_verdict_and_keeps_what_there_is(tmp_path, monkeypatch):
    monkeypatch.setattr(chaos_run, "World", EndlessWorld)
    monkeypatch.setattr(chaos_run, "_make_trouble", no_trouble)
    monkeypatch.setattr(chaos_run, "FinalReads", Unread)
    monkeypatch.setattr(Plan, "needs", frozenset())
    outcome = run_plan(Plan(seed=1, seconds=0, faults=("a",)), tmp_path / "run")
    assert outcome.problems == ["a topic cannot be read in the end: TimeoutError('nobody answers')"]
    assert "nothing was read in the end" in outcome.verdict.trivial
    assert "nobody answers" in (tmp_path / "run" / "outcome.txt").read_text()
    assert (tmp_path / "run" / "broker-1.kept" / "log").read_text() == "what is left"


def test_a_run_that_breaks_off_keeps_what_there_is(tmp_path, monkeypatch):
    monkeypatch.setattr(chaos_run, "World", EndlessWorld)
    monkeypatch.setattr(chaos_run, "_make_trouble", broken)
    outcome = run_plan(PLAN, tmp_path / "run")
    assert not outcome.is_clean
    assert "the run broke off" in (tmp_path / "run" / "outcome.txt").read_text()
    assert (tmp_path / "run" / "broker-1.kept" / "log").exists()


def test_a_run_in_which_too_few_faults_had_their_turn_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(chaos_run, "World", EndlessWorld)
    monkeypatch.setattr(chaos_run, "FinalReads", Unread)
    monkeypatch.setattr(Unread, "read", lambda _: None)
    monkeypatch.setattr(chaos_run, "_make_trouble", no_trouble)
    monkeypatch.setattr(Plan, "needs", frozenset())
    plan = Plan(seed=1, seconds=0, faults=("a", "b"), turns_min=2)
    outcome = run_plan(plan, tmp_path / "run", tell=print)
    assert outcome.problems == ["only 1 faults had their turn, of 2 at least"]
