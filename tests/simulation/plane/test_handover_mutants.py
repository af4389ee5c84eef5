"""A controller that takes a leader out of the ISR while it holds its lease is found out."""

import pytest

from ottla_cluster.controller import unfit_replica_handlers
from ottla_cluster.controller.elections import changed, elect_leader, without
from tests.simulation.plane.handover_schedules import damaged_leader_hides_who_leads
from tests.simulation.plane.invariants import InvariantViolatedError


def out_at_once(image, partition, node_id, _replica):
    """Whoever reports itself leaves leadership and ISR in one step."""
    remaining = without(partition.isr, node_id)
    leader = elect_leader(image, partition, remaining, excluding=node_id)
    return changed(partition, isr=remaining, leader=leader)


def test_a_damaged_leader_that_leaves_the_isr_at_once(monkeypatch):
    monkeypatch.setattr(unfit_replica_handlers, "_without_unfit", out_at_once)
    with pytest.raises(InvariantViolatedError, match="latest covers what was acknowledged"):
        damaged_leader_hides_who_leads()
