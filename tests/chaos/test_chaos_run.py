"""A short run of chaos in namespaces; `make chaos` and `make soak` do long ones."""

import random

import pytest

from tests.chaos.chaos_run import Plan, missing, run_plan

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
