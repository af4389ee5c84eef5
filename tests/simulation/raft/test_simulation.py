"""Random runs: every seed derives a cluster, its faults and its clients, and must stay correct.

A failure prints the seed, everything derived from it and the last events; `World(Options.from_seed(
seed)).run()` plays it again. OTTLA_SIMULATION_SEEDS asks for more and
OTTLA_SIMULATION_FIRST_SEED for others, as `make soak` does.
"""

import os

import pytest

from tests.simulation.raft.world import Options, World

SEEDS_PER_CHUNK = 200
SEED_COUNT = int(os.environ.get("OTTLA_SIMULATION_SEEDS", "800"))
"""The rarest of the planted bugs that seeds find (test_mutants) takes 107 of them."""

FIRST_SEED = int(os.environ.get("OTTLA_SIMULATION_FIRST_SEED", "0"))
END_SEED = FIRST_SEED + SEED_COUNT
CHUNKS = range(FIRST_SEED, END_SEED, SEEDS_PER_CHUNK)


@pytest.mark.parametrize("first_seed", CHUNKS)
def test_random_faults_break_neither_safety_nor_liveness(first_seed):
    committed_count = read_count = contested_count = 0
    seeds = range(first_seed, min(first_seed + SEEDS_PER_CHUNK, END_SEED))
    for seed in seeds:
        world = World(Options.from_seed(seed))
        world.run()
        committed_count += len(world.checker.committed)
        read_count += world.checker.confirmed_read_count
        contested_count += len(world.checker.leader_of_term) > 1
    # Runs in which nothing happens would prove nothing.
    assert committed_count > 5 * len(seeds)
    assert read_count > 3 * len(seeds)
    assert contested_count > len(seeds) / 4


def test_a_seed_repeats_its_run():
    runs = []
    for _ in range(2):
        world = World(Options.from_seed(4))
        world.run()
        runs.append((world.event_count, world.now_ms, world.checker.committed, list(world.trace)))
    assert runs[0] == runs[1]
