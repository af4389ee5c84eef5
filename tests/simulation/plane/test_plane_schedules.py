"""The correct machines go through every named schedule unharmed."""

import pytest

from tests.simulation.plane.cluster_schedules import SCHEDULES as CLUSTER_SCHEDULES
from tests.simulation.plane.partition_schedules import SCHEDULES as PARTITION_SCHEDULES

ALL = PARTITION_SCHEDULES | CLUSTER_SCHEDULES


@pytest.mark.parametrize("schedule", ALL.values(), ids=ALL)
def test_schedule(schedule):
    schedule()
