"""Seeded lives of a controller keep the invariants, and planted bugs are caught."""

from collections import Counter

import pytest

from tests.simulation.controller.controller_simulation import ControllerSimulation
from tests.simulation.controller.mutants import MUTANTS

SEEDS = 150
STEPS = 200


def first_failing_seed(seeds=SEEDS):
    for seed in range(seeds):
        try:
            ControllerSimulation(seed).run(STEPS)
        except AssertionError:
            return seed
    return None


def test_random_lives_keep_the_invariants():
    total = Counter()
    for seed in range(SEEDS):
        simulation = ControllerSimulation(seed)
        try:
            simulation.run(STEPS)
        except AssertionError as failure:
            raise AssertionError(f"seed {seed}: {failure}") from failure
        total.update(simulation.counts)
    # A simulation in which nothing happens proves nothing.
    assert total["accepted"] > 20 * SEEDS
    assert total["refused"] > 10 * SEEDS
    assert total["altered"] > 8 * SEEDS
    assert total["elected"] > 4 * SEEDS
    assert total["leaderships"] > 2 * SEEDS
    assert total["reassigning"] > 2 * SEEDS
    assert total["reassigned"] > SEEDS
    assert total["called_off"] > SEEDS // 5
    assert total["grown"] > SEEDS // 10
    assert total["blocks"] > SEEDS // 2
    assert total["unclean"] > SEEDS // 20


def test_a_seed_is_a_life():
    first, second = ControllerSimulation(42), ControllerSimulation(42)
    first.run(STEPS)
    second.run(STEPS)
    assert first.log == second.log
    assert first.replica == second.replica


@pytest.mark.parametrize("plant", MUTANTS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_caught(monkeypatch, plant):
    plant(monkeypatch)
    assert first_failing_seed() is not None
