"""The correct machines go through every named schedule unharmed."""

import pytest

from tests.simulation.plane.schedules import SCHEDULES


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_schedule(schedule):
    schedule()
