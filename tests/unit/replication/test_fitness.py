"""When a replica that lost records counts again."""

import pytest

from ottla_cluster.replication.fitness import ReplicaFitness

ME, OTHER = 1, 2
BOTH = (ME, OTHER)


def test_a_whole_replica_has_nothing_to_report():
    fitness = ReplicaFitness(ME, lost_tail=False)
    assert fitness.is_whole
    assert not fitness.must_report(BOTH, ME)
    assert not fitness.observe(BOTH, 1)


def test_a_replica_that_came_back_short_is_whole_once_it_was_let_into_the_isr_again():
    fitness = ReplicaFitness(ME, lost_tail=True)
    assert not fitness.observe(BOTH, 5)  # From before the restart: nobody knew.
    assert fitness.must_report(BOTH, OTHER)
    fitness.left_isr(6, fitness.losses)
    assert not fitness.must_report((OTHER,), OTHER)
    assert not fitness.observe((OTHER,), 6)
    assert not fitness.observe((OTHER,), 7)
    assert fitness.lost_tail
    assert fitness.observe(BOTH, 8)
    assert fitness.is_whole


def test_the_isr_as_it_was_when_the_replica_was_reported_proves_nothing():
    fitness = ReplicaFitness(ME, lost_tail=True)
    fitness.left_isr(6, fitness.losses)
    assert not fitness.observe(BOTH, 6)
    assert not fitness.observe(BOTH, 5)


def test_a_leader_with_damage_reports_it_while_somebody_else_may_lead():
    fitness = ReplicaFitness(ME, lost_tail=False)
    assert fitness.damage_found()
    assert not fitness.damage_found()
    assert fitness.must_report(BOTH, ME)
    assert not fitness.must_report((ME,), ME)
    assert not fitness.lost_tail


def test_a_follower_cuts_before_it_reports_and_its_leader_must_know():
    fitness = ReplicaFitness(ME, lost_tail=False)
    fitness.damage_found()
    assert not fitness.must_report(BOTH, OTHER)
    fitness.cut()
    assert fitness.lost_tail
    assert not fitness.must_report(BOTH, OTHER)
    # The leader may still take it for a replica that ends higher, and let it in.
    fitness.left_isr(6, fitness.losses)
    assert not fitness.observe(BOTH, 7)
    fitness.leader_answered()
    assert fitness.must_report(BOTH, OTHER)
    fitness.left_isr(8, fitness.losses)
    assert fitness.observe(BOTH, 9)


@pytest.mark.parametrize("reported", [True, False])
def test_damage_that_is_found_while_a_replica_is_refilled_begins_it_all_again(reported):
    fitness = ReplicaFitness(ME, lost_tail=True)
    if reported:
        fitness.left_isr(3, fitness.losses)
    fitness.damage_found()
    assert not fitness.observe(BOTH, 4)
    fitness.left_isr(4, fitness.losses)
    fitness.cut()
    assert not fitness.observe(BOTH, 5)
    fitness.leader_answered()
    fitness.left_isr(6, fitness.losses)
    assert fitness.observe(BOTH, 7)


def test_an_answer_to_what_was_told_before_the_last_cut_counts_for_nothing():
    fitness = ReplicaFitness(ME, lost_tail=True)
    told = fitness.losses
    fitness.damage_found()
    fitness.cut()
    fitness.leader_answered()
    fitness.left_isr(6, told)
    assert not fitness.observe(BOTH, 7)


def test_a_short_replica_that_is_made_the_leader_says_so_whatever_its_leader_knew():
    fitness = ReplicaFitness(ME, lost_tail=False)
    fitness.damage_found()
    fitness.cut()
    assert fitness.must_report(BOTH, ME)


@pytest.mark.parametrize("isr", [(OTHER,), BOTH])
def test_the_metadata_may_show_the_isr_before_the_controllers_answer_is_heard(isr):
    fitness = ReplicaFitness(ME, lost_tail=True)
    assert not fitness.observe(isr, 11)
    assert fitness.left_isr(10, fitness.losses) == (ME in isr)
    assert fitness.is_whole == (ME in isr)


def test_what_the_metadata_showed_before_a_cut_proves_nothing_after_it():
    fitness = ReplicaFitness(ME, lost_tail=True)
    told = fitness.losses
    assert not fitness.observe(BOTH, 11)
    fitness.damage_found()
    fitness.cut()
    fitness.leader_answered()
    assert not fitness.left_isr(10, told)
    assert not fitness.left_isr(12, fitness.losses)
    assert fitness.observe(BOTH, 13)


def test_a_short_replica_that_is_elected_says_so_again_whatever_it_was_answered():
    fitness = ReplicaFitness(ME, lost_tail=True)
    fitness.observe(BOTH, 9)
    fitness.left_isr(10, fitness.losses)
    # The metadata is older than the answer: it still names the leader of before.
    assert not fitness.must_report(BOTH, ME)
    fitness.damage_found()
    fitness.observe(BOTH, 12)
    assert fitness.must_report(BOTH, ME)


def test_what_an_unclean_election_has_accepted_is_whole():
    fitness = ReplicaFitness(ME, lost_tail=True)
    fitness.leader_answered()
    fitness.left_isr(6, fitness.losses)
    fitness.accepted_as_it_is()
    assert fitness.is_whole
    assert not fitness.must_report(BOTH, ME)
    assert not fitness.observe(BOTH, 9)
