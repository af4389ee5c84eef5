"""The correct node goes through every named schedule unharmed."""

import pytest

from tests.simulation.raft.host import Host
from tests.simulation.raft.schedules import SCHEDULES
from tests.simulation.raft.snapshot_schedules import SNAPSHOT_SCHEDULES

ALL = SCHEDULES | SNAPSHOT_SCHEDULES


@pytest.mark.parametrize("schedule", ALL.values(), ids=ALL)
def test_schedule(schedule):
    schedule(Host)
