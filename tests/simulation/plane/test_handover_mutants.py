"""Whoever takes a leadership away too early, or gives it back, is found out."""

import pytest

from ottla_cluster.controller import unfit_replica_handlers
from ottla_cluster.controller.elections import changed, elect_leader, without
from ottla_cluster.replication.leader import PartitionLeader
from tests.simulation.plane.handover_schedules import (
    damaged_leader_hides_who_leads,
    preferred_leader_is_cut_slowly,
)
from tests.simulation.plane.invariants import InvariantViolatedError
from tests.simulation.plane.process import Process


def out_at_once(image, partition, node_id, _replica):
    """Whoever reports itself leaves leadership and ISR in one step."""
    remaining = without(partition.isr, node_id)
    leader = elect_leader(image, partition, remaining, excluding=node_id)
    return changed(partition, isr=remaining, leader=leader)


def test_a_damaged_leader_that_leaves_the_isr_at_once(monkeypatch):
    monkeypatch.setattr(unfit_replica_handlers, "_without_unfit", out_at_once)
    with pytest.raises(InvariantViolatedError, match="latest covers what was acknowledged"):
        damaged_leader_hides_who_leads()


def test_a_leader_that_gives_back_to_whoever_is_in_sync(monkeypatch):
    monkeypatch.setattr(PartitionLeader, "is_followed_by", lambda *_: True)
    with pytest.raises(InvariantViolatedError, match="a leads in the middle of its cut"):
        preferred_leader_is_cut_slowly()


class TellsWhenItIsCut(Process):
    """Nothing is reported while a log is being cut."""

    def _report_unfit(self, now_ms):
        if all(replica.log._cutting is None for replica in self.replicas.values()):
            super()._report_unfit(now_ms)


def test_a_broker_that_tells_only_after_its_cut():
    with pytest.raises(InvariantViolatedError, match="nobody leads until a is cut"):
        preferred_leader_is_cut_slowly(TellsWhenItIsCut)
