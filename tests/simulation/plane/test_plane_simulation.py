"""Random runs of the whole plane: every seed derives a cluster, its faults and its clients.

A failure prints the seed, everything derived from it and the last events; `python -m
tests.simulation.plane SEED` plays it again. OTTLA_PLANE_SEEDS asks for more of them, and
OTTLA_SOAK_SECONDS for as many as fit into that time, as `make soak` does.
"""

import os
import time
from collections import Counter

import pytest

from tests.simulation.plane.options import Options
from tests.simulation.plane.world import World

SEEDS_PER_CHUNK = 100
SEED_COUNT = int(os.environ.get("OTTLA_PLANE_SEEDS", "1500"))
SOAK_SECONDS = float(os.environ.get("OTTLA_SOAK_SECONDS", "0"))
SOAK_CHUNKS = 2
"""Chunks of a soak, for as many cores; each begins at seeds of its own."""
SOAK_FIRST_SEED = 1_000_000


def play(seeds):
    events = Counter()
    for seed in seeds:
        world = World(Options.from_seed(seed))
        world.run()
        events.update(world.events)
    return events


@pytest.mark.parametrize("first_seed", range(0, SEED_COUNT, SEEDS_PER_CHUNK))
def test_random_faults_break_neither_safety_nor_liveness(first_seed):
    events = play(range(first_seed, min(first_seed + SEEDS_PER_CHUNK, SEED_COUNT)))
    # Runs in which nothing happens, or whose faults never fire, would prove nothing.
    for event, at_least in {
        "acknowledged": 3 * SEEDS_PER_CHUNK,
        "read": 3 * SEEDS_PER_CHUNK,
        "latest": 2 * SEEDS_PER_CHUNK,
        "controller": SEEDS_PER_CHUNK,
        "catch-up": SEEDS_PER_CHUNK // 5,
        "ISR expanded": SEEDS_PER_CHUNK // 10,
        "truncation": 3,
        "kill": 10,
        "kill leader": 5,
        "power loss": 10,
        "pause": 10,
        "cut": 10,
        "hung disk": 5,
        "full disk": 5,
        "clean restart": 3,
        "clock step": 5,
    }.items():
        assert events[event] >= at_least, (event, events)


@pytest.mark.skipif(not SOAK_SECONDS, reason="only in a soak")
@pytest.mark.timeout(SOAK_SECONDS + 600)
@pytest.mark.parametrize("chunk", range(SOAK_CHUNKS))
def test_soak(chunk):
    end = time.monotonic() + SOAK_SECONDS
    events = Counter()
    seed = SOAK_FIRST_SEED + chunk
    while time.monotonic() < end:
        events.update(play([seed]))
        seed += SOAK_CHUNKS
    print(f"\n{(seed - SOAK_FIRST_SEED) // SOAK_CHUNKS} seeds to {seed}: {dict(events)}")
    assert events["acknowledged"]


def test_a_seed_repeats_its_run():
    runs = []
    for _ in range(2):
        world = World(Options.from_seed(7))
        world.run()
        runs.append((world.event_count, world.now_ms, world.events, list(world.trace)))
    assert runs[0] == runs[1]
