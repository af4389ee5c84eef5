"""The scripted schedules: the real machines come through, and each planted bug is caught."""

import pytest

from tests.simulation.replication.mutants import MUTANTS
from tests.simulation.replication.schedules import SCHEDULES, Options, Script
from tests.simulation.replication.world import InvariantViolationError

CAUGHT_BY = [
    ("truncates_to_high_watermark", "kip_101_data_loss"),
    ("never_reconciles", "kip_101_divergence"),
    ("acknowledges_before_fsync", "kip_101_divergence"),
    ("never_reconciles", "kip_279_fast_elections"),
    ("forgets_to_name_the_epoch", "kip_279_fast_elections"),
    ("accepts_any_broker_epoch", "expansion_races_a_restart"),
    ("expands_any_incarnation", "offsets_of_a_former_incarnation"),
    ("expands_before_the_epoch_start", "expansion_before_the_epoch_start"),
    ("ignores_the_proposed_isr", "commit_while_a_member_is_proposed"),
    ("forgets_unanswered_proposals", "late_copy_of_an_unanswered_proposal"),
    ("ignores_the_partition_epoch", "late_proposal_after_the_partition_changed"),
    ("counts_fetches_of_other_epochs", "fetch_of_a_leadership_long_past"),
    ("assumes_followers_are_equal", "fetch_of_a_leadership_long_past"),
    ("lease_never_ends", "leader_wakes_after_a_pause"),
    ("lease_from_receipt", "leader_whose_heartbeats_are_answered_late"),
    ("fences_the_last_member", "last_member_is_fenced"),
    ("advances_below_min_isr", "last_member_is_fenced"),
]


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_real_machines_come_through(name):
    script = Script()
    SCHEDULES[name](script)
    script.heal()


def test_no_acknowledgement_rests_on_the_lease():
    """A woken leader that never looks at its lease appends, and commits nothing."""
    script = Script(options=Options(enforce_lease=False))
    SCHEDULES["leader_wakes_after_a_pause"](script)
    script.heal()


@pytest.mark.parametrize(("mutant", "name"), CAUGHT_BY)
def test_a_planted_bug_is_caught(mutant, name):
    planted = MUTANTS[mutant]
    script = Script(broker_class=planted.broker_class, controller_class=planted.controller_class)

    def run_and_heal():
        SCHEDULES[name](script)
        script.heal()

    with pytest.raises(InvariantViolationError):
        run_and_heal()
