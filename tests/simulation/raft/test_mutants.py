"""Every planted bug is caught, or the simulation could not be trusted to find an unplanned one."""

import pytest

from ottla_cluster.raft import RaftStateCorruptError
from tests.simulation.raft.checker import InvariantViolatedError
from tests.simulation.raft.mutants import MUTANTS, running
from tests.simulation.raft.schedules import SCHEDULES
from tests.simulation.raft.snapshot_mutants import SNAPSHOT_MUTANTS
from tests.simulation.raft.snapshot_schedules import SNAPSHOT_SCHEDULES
from tests.simulation.raft.world import Options, SimulationFailedError, World

ALL_MUTANTS = MUTANTS | SNAPSHOT_MUTANTS
ALL_SCHEDULES = SCHEDULES | SNAPSHOT_SCHEDULES

# The schedule, and the rule of the checker that it breaks; none where the schedule itself asserts
# what the cluster failed to do.
CAUGHT_BY_SCHEDULE = {
    "sends before persisting": ("double_vote_after_power_loss", "one vote per term"),
    "votes before persisting": ("double_vote_after_power_loss", "one vote per term"),
    "acknowledges before persisting": ("acknowledged_then_power_loss", "leader completeness"),
    "applies before persisting": ("applied_before_persisting", ""),
    "forgets its vote": ("double_vote_after_power_loss", "one vote per term"),
    "forgets term and vote": ("double_vote_after_power_loss", "one vote per term"),
    "votes twice": ("double_vote_after_power_loss", "one vote per term"),
    "commits past agreement": ("stale_tail_meets_commit_news", "one applied sequence"),
    "keeps a stale tail": ("longer_log_of_an_older_term_campaigns", "log matching"),
    "skips pre-vote": ("isolated_follower_returns", ""),
    "ignores the live leader": ("follower_cannot_hear", ""),
    "disbelieves a refused leader": ("crashed_leader_refuses", ""),
    "commits old terms": ("figure_8", "leader completeness"),
    "commits on a minority": ("stale_tail_meets_commit_news", "leader completeness"),
    "reads without a round": ("isolated_leader_reads", "linearizable reads"),
    "reads before its own commit": ("new_leader_reads_at_once", "linearizable reads"),
    "reads on old answers": ("old_answers_reach_a_replaced_leader", "linearizable reads"),
    "answers rounds of older terms": (
        "late_requests_of_a_former_leadership",
        "linearizable reads",
    ),
    "never steps down": ("leader_cannot_hear", ""),
    "elects anybody": ("shorter_log_campaigns", "leader completeness"),
    "elects the longest log": ("longer_log_of_an_older_term_campaigns", "leader completeness"),
    "truncates blindly": ("delayed_append_is_repeated", "what is committed is never truncated"),
    "overwrites in place": ("figure_8", "log matching"),
    "resends nothing": ("append_is_lost", ""),
    "forgets the snapshot's term": ("lagging_voter_gets_the_snapshot", ""),
    "acknowledges a snapshot before persisting": ("snapshot_then_power_loss", ""),
    "takes an older snapshot": (
        "snapshot_reaches_a_voter_that_is_further",
        "the commit index never falls",
    ),
    "drops entries behind the snapshot": (
        "snapshot_reaches_a_voter_that_holds_more",
        "leader completeness",
    ),
    "compacts above the applied index": (
        "compacted_with_uncommitted_entries",
        "the log is cut below what is committed",
    ),
    "takes parts as they come": ("parts_are_lost", ""),
    "mixes the parts of two snapshots": ("parts_of_two_leaders", ""),
    "resends no part": ("parts_are_lost", ""),
}

CAUGHT_BY_SEEDS = (
    "sends before persisting",
    "acknowledges before persisting",
    "applies before persisting",
    "forgets term and vote",
    "votes twice",
    "commits past agreement",
    "keeps a stale tail",
    "commits on a minority",
    "reads without a round",
    "reads before its own commit",
    "elects anybody",
    "elects the longest log",
    "truncates blindly",
    "overwrites in place",
    "resends nothing",
    "forgets the snapshot's term",
    "drops entries behind the snapshot",
    "compacts above the applied index",
    "mixes the parts of two snapshots",
)
SEEDS_MAX = 600


def test_every_mutant_has_its_schedule():
    assert set(CAUGHT_BY_SCHEDULE) == set(ALL_MUTANTS)


@pytest.mark.parametrize("name", CAUGHT_BY_SCHEDULE)
def test_a_schedule_catches_the_mutant(name):
    schedule, rule = CAUGHT_BY_SCHEDULE[name]
    expected = InvariantViolatedError if rule else AssertionError
    # A schedule may also end in the error of a machine that cannot go on.
    errors = (expected, ValueError, RaftStateCorruptError) if not rule else expected
    with running(**ALL_MUTANTS[name]) as host_class, pytest.raises(errors, match=rule or None):
        ALL_SCHEDULES[schedule](host_class)


def first_failure(host_class):
    for seed in range(SEEDS_MAX):
        try:
            World(Options.from_seed(seed), host_class).run()
        except SimulationFailedError as error:
            return seed, str(error)
    return None, f"{SEEDS_MAX} seeds do not catch it"


@pytest.mark.parametrize("name", CAUGHT_BY_SEEDS)
def test_random_runs_catch_the_mutant(name):
    with running(**ALL_MUTANTS[name]) as host_class:
        seed, report = first_failure(host_class)
    assert f"seed={seed}, voter_count=" in report
