"""Every planted bug is caught, or the simulation could not be trusted to find an unplanned one.

Caught means that the rule is broken which the bug is about, so that a schedule whose set-up fails,
or that cannot even run, catches nothing.
"""

import re

import pytest

from tests.simulation.controller.mutants import MUTANTS as CONTROLLER_MUTANTS
from tests.simulation.plane.mutants import NAMES, planted
from tests.simulation.plane.options import Options
from tests.simulation.plane.schedules import SCHEDULES
from tests.simulation.plane.world import SimulationFailedError, World
from tests.simulation.raft.membership_mutants import MEMBERSHIP_MUTANTS
from tests.simulation.raft.mutants import MUTANTS as RAFT_MUTANTS
from tests.simulation.raft.observers import OBSERVER_MUTANTS
from tests.simulation.raft.snapshot_mutants import SNAPSHOT_MUTANTS

# The schedule, and how the complaint begins: the name of a rule, or what an assertion of the
# machines themselves is about.
CAUGHT_BY_SCHEDULE = {
    "a lost log is a short one": ("whoever_has_a_log_leads", "an empty log leads"),
    "a reassignment asks nobody whether he has heard": (
        "removed_leader_hides_who_leads",
        "latest covers what was acknowledged",
    ),
    "a reassignment ends under a leader that is removed": (
        "removed_leader_hides_who_leads",
        "latest covers what was acknowledged",
    ),
    "a reassignment ends with one target replica in sync": (
        "failover_amid_a_reassignment",
        "it is under way",
    ),
    "a restart keeps its leadership": ("expansion_races_a_restart", "BrokerRegistration"),
    "acknowledged before fsync": (
        "whole_cluster_loses_power",
        "committed on min.insync.replicas disks",
    ),
    "acknowledges at append": ("kip_101_data_loss", "acknowledged at its own offset"),
    "acknowledges before persisting": (
        "metadata_is_acknowledged_before_it_is_written",
        "a topic is made on one disk",
    ),
    "acts for its former self": ("expansion_races_a_restart", "one leader per epoch"),
    "added replicas count as in sync": (
        "failover_amid_a_reassignment",
        "the ISR holds all that is committed",
    ),
    "advances below min isr": ("kip_279_fast_elections", "committed on min.insync.replicas disks"),
    "altering ignores eligibility": (
        "expansion_races_a_restart",
        "the ISR holds all that is committed",
    ),
    "altering ignores the leader epoch": (
        "late_proposal_after_the_partition_changed",
        "the ISR holds all that is committed",
    ),
    "altering ignores the partition epoch": (
        "late_proposal_after_the_partition_changed",
        "the ISR holds all that is committed",
    ),
    "an unclean election asks no topic": (
        "no_topic_is_asked_to_lose_anything",
        "an unclean election is allowed",
    ),
    "an unclean election is not told as one": (
        "the_longest_log_leads",
        "the ISR holds all that is committed",
    ),
    "an unclean election takes whoever is registered": (
        "whoever_has_a_log_leads",
        "no fenced leader",
    ),
    "an unfenced broker leads what it is not in sync with": (
        "last_member_returns_with_a_lost_end",
        "somebody else counts as in sync",
    ),
    "announces once": ("observers_hold_what_no_majority_does", "liveness"),
    "another directory is as good": (
        "last_member_returns_without_its_directory",
        "the ISR holds all that is committed",
    ),
    "answers with the version of before": (
        "full_disk_hides_who_leads",
        "what was acknowledged is there",
    ),
    "answers without a read round": (
        "deposed_controller_renews_no_lease",
        "latest covers what was acknowledged",
    ),
    "appends while it hands over": ("leader_stops_in_order", "nobody knows"),
    "applies a configuration at its commit": ("voter_is_replaced", "nobody is added"),
    "asks nobody for its log": ("the_longest_log_leads", "a shorter log leads"),
    "assumes followers are equal": (
        "fetch_of_a_leadership_long_past",
        "committed on min.insync.replicas disks",
    ),
    "begins before its no-op": ("controller_dies_before_anybody_hears", "TopicCreated"),
    "changes two at once": ("two_changes_at_once", "a minority makes a topic"),
    "commits old terms": ("figure_8", "leader completeness"),
    "commits on a minority": ("figure_8", "leader completeness"),
    "commits past agreement": ("figure_8", "one applied sequence"),
    "commits release everybody": (
        "deposed_controller_renews_no_lease",
        "answers wait for their commit",
    ),
    "commits with observers": ("observers_hold_what_no_majority_does", "one voter makes a topic"),
    "compacts above the applied index": (
        "snapshot_install_races_appends",
        "the log is cut below what is committed",
    ),
    "counts acknowledgements of any directory": (
        "voter_loses_its_directory",
        "the new directory gets no vote",
    ),
    "counts fetches of other epochs": (
        "fetch_of_a_leadership_long_past",
        "committed on min.insync.replicas disks",
    ),
    "denies what it has": ("look_up_at_the_next_leader", "what was acknowledged is there"),
    "does not wait for its followers": (
        "leader_stops_in_order",
        "it leaves before the others have everything",
    ),
    "elects anybody": ("pause_kill_resume_pause", "leader completeness"),
    "expands any incarnation": (
        "offsets_of_a_former_incarnation",
        "the ISR holds all that is committed",
    ),
    "expands before the epoch start": (
        "expansion_before_the_epoch_start",
        "the ISR holds all that is committed",
    ),
    "fails acks at once": ("ack_comes_from_the_next_leader", "nobody knows"),
    "fencing elects an unclean leader": (
        "deposed_controller_renews_no_lease",
        "a record is refused",
    ),
    "fencing empties the isr": ("last_member_returns_with_a_lost_end", "Partition"),
    "fencing leaves followers in sync": ("pause_kill_resume_pause", "c stays in sync"),
    "followers keep no producers": ("retry_after_a_failover", "a value is stored once"),
    "forgets sequences": ("retry_after_a_failover", "a value is stored once"),
    "forgets term and vote": ("double_vote_after_power_loss", "one vote per term"),
    "forgets the snapshot's term": (
        "snapshot_install_races_appends",
        "the controller does not answer",
    ),
    "forgets to name the epoch": ("kip_279_fast_elections", "one log"),
    "forgets unanswered proposals": (
        "late_copy_of_an_unanswered_proposal",
        "the ISR holds all that is committed",
    ),
    "handlers see only what is committed": (
        "deposed_controller_renews_no_lease",
        "BrokerRegistered",
    ),
    "hears observers": ("observers_hold_what_no_majority_does", "it leads without a quorum"),
    "heartbeats while its disk hangs": ("hung_disk_gives_up", "it keeps its leadership"),
    "ignores the proposed isr": (
        "commit_while_a_member_is_proposed",
        "the ISR holds all that is committed",
    ),
    "ignores the witness": (
        "last_member_returns_with_a_lost_end",
        "the ISR holds all that is committed",
    ),
    "keeps a stale tail": ("figure_8", "log matching"),
    "keeps acks of what was cut": ("ack_of_a_former_leadership", "acknowledged at its own offset"),
    "keeps its first rate": ("throttled_copy", "copies wait only where there is a rate"),
    "keeps its lease when it asks to be relieved": (
        "shutdown_hides_who_leads",
        "what was acknowledged is there",
    ),
    "trusts its image when it asks to be relieved": (
        "shutdown_hides_who_leads_a_new_topic",
        "what was acknowledged is there",
    ),
    "keeps producers of what was cut": ("retry_of_what_was_cut", "the retry is not answered"),
    "leads the quorum while its disk hangs": ("hung_disk_of_the_controller", "it leads the quorum"),
    "lease before the metadata": (
        "leader_hears_answers_but_no_metadata",
        "latest covers what was acknowledged",
    ),
    "lease from receipt": ("heartbeat_is_answered_late", "latest covers what was acknowledged"),
    "lease never ends": ("leader_wakes_after_a_pause", "latest covers what was acknowledged"),
    "never reconciles": ("kip_101_divergence", "the ISR holds all that is committed"),
    "never steps down": ("observers_hold_what_no_majority_does", "it leads without a quorum"),
    "overwrites in place": ("figure_8", "log matching"),
    "pays for no copy": ("throttled_copy", "copies keep to the rate"),
    "reads with observers": ("deposed_controller_hears_observers", "linearizable reads"),
    "reads without a round": ("deposed_controller_renews_no_lease", "linearizable reads"),
    "removes who is needed": ("voter_that_is_needed_stays", "nothing is decided any more"),
    "resends nothing": ("leader_wakes_after_a_pause", "liveness"),
    "sends before persisting": ("double_vote_after_power_loss", "one vote per term"),
    "skips pre-vote": ("voter_is_replaced", "a broker without a vote is fenced"),
    "stands aside for ever": ("its_log_is_the_partition", "it does not lead"),
    "stays in the isr": (
        "last_member_returns_with_a_lost_end",
        "the ISR holds all that is committed",
    ),
    "takes any fetch of a session": ("stale_copy_of_a_fetch", "one record per epoch and offset"),
    "the newest directory is the awaited one": (
        "last_member_returns_without_its_directory",
        "it does not lead with its log",
    ),
    "throttles members of the isr": ("throttled_copy", "those in sync wait for a copy"),
    "transfers for ever": ("controller_is_handed_over", "nothing is decided any more"),
    "transfers too early": ("controller_is_handed_over", "it does not lead"),
    "truncates blindly": (
        "controller_dies_before_anybody_hears",
        "what is committed is never truncated",
    ),
    "truncates to the high watermark": ("kip_101_data_loss", "the ISR holds all that is committed"),
    "trusts every start": (
        "voter_loses_its_directory",
        "a topic is made by one voter and a directory that nobody named",
    ),
    "votes before persisting": ("double_vote_after_power_loss", "one vote per term"),
    "votes twice": ("double_vote_after_power_loss", "one vote per term"),
}

CAUGHT_BY_SEEDS = {
    "a directory that is back is awaited on": "liveness",
    "acknowledged before fsync": "committed on min.insync.replicas disks",
    "acknowledges at append": "acknowledged at its own offset",
    "another directory is as good": "the ISR holds all that is committed",
    "denies what it has": "what was acknowledged is there",
    "followers keep no producers": "a value is stored once",
    "forgets producers at the start": "a value is stored once",
    "forgets sequences": "a value is stored once",
    "leads with a short log": "liveness",
    "never reconciles": "the ISR holds all that is committed",
}
SEEDS_MAX = 400

# Seeds so far behind the first ones that nobody looks for them each time.
CAUGHT_BY_SEED = {
    "lease from receipt": (2331, "what was acknowledged is there"),
    "lease never ends": (409, "what was acknowledged is there"),
}

# What the plane hides is left to the parts' own simulations, where all of it is caught.
LEFT_TO_THE_PARTS = {
    "a block of producer ids begins within the last one",
    "a new target keeps what the former one added",
    "a stale view is unfenced",
    "acknowledges a snapshot before persisting",
    "answers rounds of older terms",
    "applies before persisting",
    "campaigns as an observer",
    "changes before its own commit",
    "counts votes of any directory",
    "disbelieves a refused leader",
    "drops entries behind the snapshot",
    "elects the longest log",
    "forgets its vote",
    "ignores the live leader",
    "keeps changes that are cut off",
    "mixes the parts of two snapshots",
    # It takes the next step a moment later, for the active controller looks for steps, too.
    "only its own command ends a reassignment",
    "reads before its own commit",
    "reads on old answers",
    "refusals do not wait",
    "resends no part",
    "sends votes of a transfer before persisting",
    "takes an older snapshot",
    "takes parts as they come",
    "trusts later starts",
    "trusts directories that nobody named",
    "trusts observers",
    "trusts shorter logs",
}


def test_every_mutant_is_looked_for():
    caught = CAUGHT_BY_SCHEDULE.keys() | CAUGHT_BY_SEEDS.keys()
    assert set(NAMES) == caught | LEFT_TO_THE_PARTS
    assert len(NAMES) == len(set(NAMES))
    assert not caught & LEFT_TO_THE_PARTS


def test_the_plane_s_own_mutants_are_left_to_nobody():
    parts = {plant.__name__.replace("_", " ") for plant in CONTROLLER_MUTANTS}
    for mutants in (RAFT_MUTANTS, SNAPSHOT_MUTANTS, MEMBERSHIP_MUTANTS, OBSERVER_MUTANTS):
        parts |= mutants.keys()
    assert parts >= LEFT_TO_THE_PARTS


@pytest.mark.parametrize("name", CAUGHT_BY_SCHEDULE)
def test_a_schedule_catches_the_mutant(name):
    schedule, rule = CAUGHT_BY_SCHEDULE[name]
    with planted(name) as classes, pytest.raises(AssertionError, match=f"^{re.escape(rule)}"):
        SCHEDULES[schedule](*classes)


def first_failure(process_class, voter_class):
    for seed in range(SEEDS_MAX):
        try:
            World(Options.from_seed(seed), process_class, voter_class).run()
        except SimulationFailedError as error:
            return error
    return None


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", CAUGHT_BY_SEEDS)
def test_random_runs_catch_the_mutant(name):
    with planted(name) as classes:
        failure = first_failure(*classes)
    assert failure is not None, f"{SEEDS_MAX} seeds do not catch it"
    assert "seed=" in str(failure)
    assert isinstance(failure.__cause__, AssertionError)
    assert str(failure.__cause__).startswith(CAUGHT_BY_SEEDS[name])


@pytest.mark.parametrize("name", CAUGHT_BY_SEED)
def test_a_rare_run_catches_the_mutant(name):
    seed, rule = CAUGHT_BY_SEED[name]
    with planted(name) as classes, pytest.raises(SimulationFailedError, match=f": {rule}"):
        World(Options.from_seed(seed), *classes).run()
