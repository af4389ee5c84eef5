"""Every planted bug is caught, or the simulation could not be trusted to find an unplanned one."""

import pytest

from tests.simulation.plane.mutants import planted
from tests.simulation.plane.options import Options
from tests.simulation.plane.world import SimulationFailedError, World

SEEDS_MAX = 400

CAUGHT_BY_SEEDS = (
    "truncates to the high watermark",
    "acknowledged before fsync",
    "never reconciles",
    "forgets sequences",
    "followers keep no producers",
    "forgets producers at the start",
    "acknowledges at append",
    "leads with a short log",
)


def first_failure(process_class, voter_class):
    for seed in range(SEEDS_MAX):
        try:
            World(Options.from_seed(seed), process_class, voter_class).run()
        except SimulationFailedError as error:
            return str(error)
    return f"{SEEDS_MAX} seeds do not catch it"


@pytest.mark.parametrize("name", CAUGHT_BY_SEEDS)
def test_random_runs_catch_the_mutant(name):
    with planted(name) as (process_class, voter_class):
        report = first_failure(process_class, voter_class)
    assert "seed=" in report
