"""Observers under random faults and in named schedules, and the planted bugs that these catch."""

import os

import pytest

from tests.simulation.raft.checker import InvariantViolatedError
from tests.simulation.raft.host import Host
from tests.simulation.raft.mutants import running
from tests.simulation.raft.observers import OBSERVER_MUTANTS, OBSERVER_SCHEDULES, ObserverWorld
from tests.simulation.raft.world import Options, SimulationFailedError

SEEDS_PER_CHUNK = 150
"""The rarest of the planted bugs that seeds find takes fewer."""
SEED_COUNT = int(os.environ.get("OTTLA_SIMULATION_SEEDS", "750")) // 5
FIRST_SEED = int(os.environ.get("OTTLA_SIMULATION_FIRST_SEED", "0"))
CHUNKS = range(FIRST_SEED, FIRST_SEED + SEED_COUNT, SEEDS_PER_CHUNK)

CAUGHT_BY_SCHEDULE = {
    "commits with observers": (
        "observers_hold_what_no_majority_does",
        InvariantViolatedError,
        "leader completeness",
    ),
    "reads with observers": ("replaced_leader_reads", InvariantViolatedError, "linearizable reads"),
    "hears observers": ("isolated_leader_hears_observers", AssertionError, None),
    "announces once": ("leader_changes", (AssertionError, ValueError), None),
    "trusts observers": ("observer_loses_its_log", AssertionError, None),
    "campaigns as an observer": (
        "leader_changes",
        InvariantViolatedError,
        "an observer never campaigns",
    ),
}

CAUGHT_BY_SEEDS = (
    "commits with observers",
    "announces once",
    "trusts observers",
    "campaigns as an observer",
)


def world(seed, host_class=Host):
    return ObserverWorld(Options.from_seed(seed), 1 + seed % 2, host_class)


@pytest.mark.parametrize("schedule", OBSERVER_SCHEDULES.values(), ids=OBSERVER_SCHEDULES)
def test_schedule(schedule):
    schedule(Host)


@pytest.mark.parametrize("first_seed", CHUNKS)
def test_random_faults_break_neither_safety_nor_liveness(first_seed):
    """Every observer too has applied a proposal of the healed phase in the end."""
    installed_count = 0
    for seed in range(first_seed, first_seed + SEEDS_PER_CHUNK):
        run = world(seed)
        run.run()
        installed_count += run.checker.installed_count
    assert installed_count > SEEDS_PER_CHUNK / 2


def test_every_mutant_has_its_schedule():
    assert set(CAUGHT_BY_SCHEDULE) == set(OBSERVER_MUTANTS)


@pytest.mark.parametrize("name", CAUGHT_BY_SCHEDULE)
def test_a_schedule_catches_the_mutant(name):
    schedule, error, rule = CAUGHT_BY_SCHEDULE[name]
    with running(**OBSERVER_MUTANTS[name]) as host_class, pytest.raises(error, match=rule):
        OBSERVER_SCHEDULES[schedule](host_class)


def run_seeds(host_class):
    for seed in range(SEEDS_PER_CHUNK):
        world(seed, host_class).run()


@pytest.mark.parametrize("name", CAUGHT_BY_SEEDS)
def test_random_runs_catch_the_mutant(name):
    with (
        running(**OBSERVER_MUTANTS[name]) as host_class,
        pytest.raises(SimulationFailedError, match="seed="),
    ):
        run_seeds(host_class)
