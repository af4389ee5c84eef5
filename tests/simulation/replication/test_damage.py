"""Disks that lose what they had synced, one at a time: nothing committed is lost by it.

Also that random seeds find each planted bug. A failure names its seed: `DamagedWorld(seed).run()`.
"""

import os
from collections import Counter

import pytest

from ottla_protocol.errors import CorruptMessageError
from tests.simulation.replication.damage import MUTANTS, DamagedWorld
from tests.simulation.replication.world import InvariantViolationError

SEEDS = int(os.environ.get("OTTLA_SIMULATION_SEEDS", "6000")) // 12
FIRST_SEED = int(os.environ.get("OTTLA_SIMULATION_FIRST_SEED", "0"))
MUTANT_SEEDS_MAX = 1_500


def test_whoever_lost_something_knows_and_is_refilled():
    events = Counter()
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS):
        world = DamagedWorld(seed)
        try:
            world.run()
        except Exception as error:
            error.add_note(f"DamagedWorld({seed}).run()")
            raise
        events += world.events
    print(events)
    for event in ("damage", "lost tail", "reported", "refilled", "total power loss"):
        assert events[event] >= 5, (event, events)
    # What only an operator can decide is the exception.
    assert events["left to an operator"] * 3 < events["refilled"], events


def is_caught(mutant, seed):
    try:
        DamagedWorld(seed, broker_class=MUTANTS[mutant]).run()
    except InvariantViolationError:
        return True
    except (CorruptMessageError, AssertionError):
        return False  # A machine noticed by itself; the rules are to be seen broken from outside.
    return False


@pytest.mark.parametrize("mutant", MUTANTS)
def test_random_seeds_find_it(mutant):
    assert any(is_caught(mutant, seed) for seed in range(MUTANT_SEEDS_MAX))
