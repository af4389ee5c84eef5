"""The correct node goes through every named schedule unharmed."""

import pytest

from tests.simulation.raft.host import Host
from tests.simulation.raft.schedules import SCHEDULES


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_schedule(schedule):
    schedule(Host)
