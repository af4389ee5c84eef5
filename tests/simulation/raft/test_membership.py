"""The voters change under faults and directories are lost: safe at every step, live afterwards."""

import os

import pytest

from tests.simulation.raft.host import Host
from tests.simulation.raft.membership import MembershipWorld
from tests.simulation.raft.membership_mutants import MEMBERSHIP_MUTANTS
from tests.simulation.raft.membership_schedules import MEMBERSHIP_SCHEDULES
from tests.simulation.raft.mutants import running
from tests.simulation.raft.world import Options

SEEDS_PER_CHUNK = 30
"""Of so many, some put a directory back."""
SEED_COUNT = int(os.environ.get("OTTLA_SIMULATION_SEEDS", "30"))
FIRST_SEED = int(os.environ.get("OTTLA_SIMULATION_FIRST_SEED", "0"))
CHUNKS = range(FIRST_SEED, FIRST_SEED + SEED_COUNT, SEEDS_PER_CHUNK)


@pytest.mark.parametrize("schedule", MEMBERSHIP_SCHEDULES.values(), ids=MEMBERSHIP_SCHEDULES)
def test_schedule(schedule):
    schedule(Host)


@pytest.mark.parametrize("first_seed", CHUNKS)
def test_random_changes_break_neither_safety_nor_liveness(first_seed):
    rolled_back_count = 0
    for seed in range(first_seed, first_seed + SEEDS_PER_CHUNK):
        run = MembershipWorld(Options.from_seed(seed))
        run.run()
        rolled_back_count += run.rolled_back_count
    assert rolled_back_count > 0


# The schedule, and the rule that it breaks; none where the schedule asserts it itself.
CAUGHT_BY_SCHEDULE = {
    "changes two at once": "two_changes_at_once",
    "changes before its own commit": "change_before_own_commit",
    "applies a configuration at its commit": "new_configuration_is_not_committed_yet",
    "keeps changes that are cut off": "cut_off_change_is_forgotten",
    "counts votes of any directory": "lost_directory_votes",
    "counts acknowledgements of any directory": "lost_directory_acknowledges",
    "trusts directories that nobody named": "lost_directory_before_it_is_named",
    "trusts every start": "rolled_back_voter_votes_again",
    "trusts later starts": "rolled_back_voter_starts_twice_unheard",
    "trusts shorter logs": "rolled_back_within_one_start",
    "sends votes of a transfer before persisting": "transfer_of_a_vote_that_is_not_persisted",
    "transfers for ever": "transfer_fails",
    "transfers too early": "leadership_is_transferred",
}


def test_every_mutant_has_its_schedule():
    assert set(CAUGHT_BY_SCHEDULE) == set(MEMBERSHIP_MUTANTS)


@pytest.mark.parametrize("name", CAUGHT_BY_SCHEDULE)
def test_a_schedule_catches_the_mutant(name):
    schedule = MEMBERSHIP_SCHEDULES[CAUGHT_BY_SCHEDULE[name]]
    with running(**MEMBERSHIP_MUTANTS[name]) as host_class, pytest.raises(AssertionError):
        schedule(host_class)
