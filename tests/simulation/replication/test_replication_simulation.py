"""Thousands of seeded runs of one replicated partition under faults.

`OTTLA_SIMULATION_SEEDS` sets how many runs of three brokers there are (a sixth as many of five),
`OTTLA_SIMULATION_FIRST_SEED` where they begin. A failure names its seed; to see it again:
`World(seed, broker_count=3).run()`.
"""

import os
from collections import Counter

import pytest

from tests.simulation.replication.world import World

SEEDS = int(os.environ.get("OTTLA_SIMULATION_SEEDS", "2400"))
"""The rarest of the planted bugs that seeds find (test_mutants) takes 28 of them."""

FIRST_SEED = int(os.environ.get("OTTLA_SIMULATION_FIRST_SEED", "0"))
SHARDS = 6


def run(seed, broker_count):
    world = World(seed, broker_count=broker_count)
    try:
        world.run()
    except Exception as error:
        error.add_note(f"World({seed}, broker_count={broker_count}).run()")
        raise
    return world


@pytest.mark.parametrize("broker_count", [3, 5])
@pytest.mark.parametrize("shard", range(SHARDS))
def test_nothing_committed_is_lost_moved_or_hidden(shard, broker_count):
    """Every rule of `World.check` and its neighbours holds at every step, and all heals after."""
    seeds = SEEDS if broker_count == 3 else SEEDS // 6
    events = Counter()
    acknowledged = 0
    for seed in range(FIRST_SEED + shard, FIRST_SEED + seeds, SHARDS):
        world = run(seed, broker_count)
        events += world.events
        acknowledged += len(world.acknowledged)
    print(f"first seed {FIRST_SEED + shard}, every {SHARDS}th of {seeds}: {acknowledged=} {events}")
    assert acknowledged >= seeds // SHARDS


def test_the_runs_exercise_what_they_are_for():
    """A simulation whose faults never strike proves nothing."""
    events = Counter()
    leaderships = 0
    for seed in range(250):
        world = run(seed, 3)
        events += world.events
        leaderships += len(world.leader_of_epoch)
    assert leaderships > 400
    for event in (
        "ISR expanded",
        "ISR shrunk",
        "ISR refused",
        "truncation",
        "latest read",
        "partition",
        "pause",
        "power loss",
        "total power loss",
        "clean restart",
        "leader move",
        "replaced disk",
    ):
        assert events[event] >= 5, (event, events)


def test_a_seed_is_a_run():
    """The same seed gives the same run, to the last message."""

    def trace(seed):
        world = World(seed)
        messages = []
        send = world.send
        world.send = lambda *message: (messages.append(repr(message)), send(*message))
        world.run()
        return messages, world.committed, world.now_ms

    assert trace(77) == trace(77)
    assert trace(77) != trace(78)
