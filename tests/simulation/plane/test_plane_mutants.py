"""Every planted bug is caught, or the simulation could not be trusted to find an unplanned one."""

import pytest

from tests.simulation.plane.mutants import planted
from tests.simulation.plane.options import Options
from tests.simulation.plane.schedules import SCHEDULES
from tests.simulation.plane.world import SimulationFailedError, World

CAUGHT_BY_SCHEDULE = {
    "a reassignment ends under a leader that is removed": "failover_amid_a_reassignment",
    "a reassignment ends with one target replica in sync": "failover_amid_a_reassignment",
    "a restart keeps its leadership": "expansion_races_a_restart",
    "a lost log is a short one": "whoever_has_a_log_leads",
    "acknowledged before fsync": "whole_cluster_loses_power",
    "acknowledges at append": "kip_101_data_loss",
    "acknowledges before persisting": "metadata_is_acknowledged_before_it_is_written",
    "acts for its former self": "expansion_races_a_restart",
    "added replicas count as in sync": "failover_amid_a_reassignment",
    "advances below min isr": "kip_279_fast_elections",
    "altering ignores eligibility": "expansion_races_a_restart",
    "answers with the version of before": "full_disk_hides_who_leads",
    "another directory is as good": "last_member_returns_without_its_directory",
    "altering ignores the leader epoch": "late_proposal_after_the_partition_changed",
    "altering ignores the partition epoch": "late_proposal_after_the_partition_changed",
    "an unclean election asks no topic": "no_topic_is_asked_to_lose_anything",
    "an unfenced broker leads what it is not in sync with": "last_member_returns_with_a_lost_end",
    "announces once": "observers_hold_what_no_majority_does",
    "answers without a read round": "deposed_controller_renews_no_lease",
    "appends while it hands over": "leader_stops_in_order",
    "asks nobody for its log": "the_longest_log_leads",
    "assumes followers are equal": "fetch_of_a_leadership_long_past",
    "begins before its no-op": "controller_dies_before_anybody_hears",
    "changes two at once": "two_changes_at_once",
    "commits old terms": "figure_8",
    "commits release everybody": "deposed_controller_renews_no_lease",
    "commits with observers": "observers_hold_what_no_majority_does",
    "counts acknowledgements of any directory": "voter_loses_its_directory",
    "counts fetches of other epochs": "fetch_of_a_leadership_long_past",
    "denies what it has": "look_up_at_the_next_leader",
    "does not wait for its followers": "leader_stops_in_order",
    "elects anybody": "pause_kill_resume_pause",
    "expands any incarnation": "offsets_of_a_former_incarnation",
    "expands before the epoch start": "expansion_before_the_epoch_start",
    "fails acks at once": "ack_comes_from_the_next_leader",
    "fencing elects an unclean leader": "deposed_controller_renews_no_lease",
    "fencing empties the isr": "last_member_returns_with_a_lost_end",
    "fencing leaves followers in sync": "pause_kill_resume_pause",
    "followers keep no producers": "retry_after_a_failover",
    "forgets sequences": "retry_after_a_failover",
    "forgets term and vote": "double_vote_after_power_loss",
    "forgets to name the epoch": "kip_279_fast_elections",
    "forgets unanswered proposals": "late_copy_of_an_unanswered_proposal",
    "handlers see only what is committed": "deposed_controller_renews_no_lease",
    "hears observers": "observers_hold_what_no_majority_does",
    "heartbeats while its disk hangs": "hung_disk_gives_up",
    "ignores the proposed isr": "commit_while_a_member_is_proposed",
    "ignores the witness": "last_member_returns_with_a_lost_end",
    "keeps a stale tail": "figure_8",
    "keeps acks of what was cut": "ack_of_a_former_leadership",
    "keeps its first rate": "throttled_copy",
    "keeps its lease when it asks to be relieved": "shutdown_hides_who_leads",
    "keeps producers of what was cut": "retry_of_what_was_cut",
    "leads the quorum while its disk hangs": "hung_disk_of_the_controller",
    "lease before the metadata": "leader_hears_answers_but_no_metadata",
    "lease from receipt": "heartbeat_is_answered_late",
    "lease never ends": "leader_wakes_after_a_pause",
    "never reconciles": "kip_101_divergence",
    "only its own command ends a reassignment": "failover_amid_a_reassignment",
    "overwrites in place": "figure_8",
    "pays for no copy": "throttled_copy",
    "reads with observers": "deposed_controller_hears_observers",
    "reads without a round": "deposed_controller_renews_no_lease",
    "removes who is needed": "voter_that_is_needed_stays",
    "sends before persisting": "double_vote_after_power_loss",
    "stands aside for ever": "its_log_is_the_partition",
    "stays in the isr": "last_member_returns_with_a_lost_end",
    "takes any fetch of a session": "stale_copy_of_a_fetch",
    "throttles members of the isr": "throttled_copy",
    "transfers for ever": "controller_is_handed_over",
    "transfers too early": "controller_is_handed_over",
    "truncates blindly": "controller_dies_before_anybody_hears",
    "truncates to the high watermark": "kip_101_data_loss",
    "votes before persisting": "double_vote_after_power_loss",
    "votes twice": "double_vote_after_power_loss",
}

# Not every bug of the parts can be seen here; those that the plane hides are left to the parts' own
# simulations, where all of them are caught.
CAUGHT_BY_SEEDS = (
    "acknowledged before fsync",
    "acknowledges at append",
    "another directory is as good",
    "denies what it has",
    "followers keep no producers",
    "forgets producers at the start",
    "forgets sequences",
    "leads with a short log",
    "never reconciles",
)
SEEDS_MAX = 400


@pytest.mark.parametrize("name", CAUGHT_BY_SCHEDULE)
def test_a_schedule_catches_the_mutant(name):
    with planted(name) as classes, pytest.raises(Exception, match=r".") as caught:
        SCHEDULES[CAUGHT_BY_SCHEDULE[name]](*classes)
    assert not isinstance(caught.value, TypeError | AttributeError | NameError | KeyError)


def first_failure(process_class, voter_class):
    for seed in range(SEEDS_MAX):
        try:
            World(Options.from_seed(seed), process_class, voter_class).run()
        except SimulationFailedError as error:
            return str(error)
    return f"{SEEDS_MAX} seeds do not catch it"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", CAUGHT_BY_SEEDS)
def test_random_runs_catch_the_mutant(name):
    with planted(name) as classes:
        report = first_failure(*classes)
    assert "seed=" in report
