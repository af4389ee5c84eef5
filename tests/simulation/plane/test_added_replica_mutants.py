"""Bugs around replicas that are being added; each is caught by a schedule of its own."""

import pytest

from ottla_cluster.controller import drain_planning, unclean_election_handlers
from tests.simulation.plane.invariants import InvariantViolatedError
from tests.simulation.plane.schedules import SCHEDULES


def what_is_being_copied_is_as_good(monkeypatch):
    monkeypatch.setattr(unclean_election_handlers, "_is_being_copied", lambda *_: False)


def a_drain_moves_what_nobody_leads(monkeypatch):
    monkeypatch.setattr(drain_planning, "_has_a_source", lambda _: True)


MUTANTS = {
    what_is_being_copied_is_as_good: (
        "nobody_elects_what_is_being_copied",
        "an empty log leads",
    ),
    a_drain_moves_what_nobody_leads: (
        "a_drain_leaves_what_nobody_leads",
        "there is nothing to copy",
    ),
}


@pytest.mark.parametrize("plant", MUTANTS, ids=lambda plant: plant.__name__)
def test_a_schedule_catches_the_mutant(monkeypatch, plant):
    plant(monkeypatch)
    schedule, rule = MUTANTS[plant]
    with pytest.raises(InvariantViolatedError, match=f"^{rule}"):
        SCHEDULES[schedule]()
