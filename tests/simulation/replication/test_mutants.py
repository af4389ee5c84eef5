"""Random seeds find the planted bugs, too: this is what tells that the simulation can find bugs.

The bugs that need a rarer interleaving than these many seeds give have a schedule instead.
"""

import pytest

from ottla_protocol.errors import CorruptMessageError
from tests.simulation.replication.mutants import MUTANTS
from tests.simulation.replication.test_schedules import CAUGHT_BY
from tests.simulation.replication.world import InvariantViolationError, World

SEEDS_MAX = 1500
FOUND_AT_RANDOM = [
    "truncates_to_high_watermark",
    "never_reconciles",
    "forgets_to_name_the_epoch",
    "acknowledges_before_fsync",
    "forgets_to_fail_what_is_cut",
    "assumes_followers_are_equal",
    "ignores_the_proposed_isr",
    "expands_before_the_epoch_start",
    "advances_below_min_isr",
    "denies_what_it_has",
    "trusts_an_image_of_another_incarnation",
    "fences_the_last_member",
    "elects_uncleanly",
    "lets_new_incarnations_lead",
]


def is_caught(mutant, seed):
    planted = MUTANTS[mutant]
    world = World(
        seed, broker_class=planted.broker_class, controller_class=planted.controller_class
    )
    try:
        world.run()
    except InvariantViolationError:
        return True
    except CorruptMessageError:
        return False  # A log noticed by itself; the rules are to be seen broken from outside.
    return False


@pytest.mark.parametrize("mutant", FOUND_AT_RANDOM)
def test_random_seeds_find_it(mutant):
    assert any(is_caught(mutant, seed) for seed in range(SEEDS_MAX))


def test_every_planted_bug_is_looked_for():
    assert set(MUTANTS) == {*FOUND_AT_RANDOM, *(mutant for mutant, _ in CAUGHT_BY)}
