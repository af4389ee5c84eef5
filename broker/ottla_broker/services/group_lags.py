"""Measures the lag of the groups that are coordinated here.

The coordinator knows what was committed; where partitions end is asked of their leaders, one call
to each for all groups. Clients name groups, so there are bounds on how many are measured.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from ottla_broker.drivers.critical_task import CriticalTask
from ottla_broker.drivers.group_coordinators import GroupCoordinators
from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.peer_messages import PartitionName
from ottla_broker.services.partition_bounds import PartitionBoundsService
from ottla_broker.telemetry import METRICS
from ottla_cluster.groups.lag import group_lag, groups_to_measure
from ottla_protocol.errors import OttlaError

LAG_INTERVAL_MS: Final = 5_000
"""How often lags are measured; Prometheus looks no more often."""

GROUPS_MEASURED_MAX: Final = 256
"""Groups of one broker that have series."""

PARTITIONS_MEASURED_MAX: Final = 4_096
"""Partitions of all of them together, so that a round's calls stay small."""


class GroupLags:
    """Measures now and then, for as long as this broker coordinates groups."""

    def __init__(
        self,
        *,
        coordinators: GroupCoordinators,
        metadata: MetadataCache,
        bounds: PartitionBoundsService,
    ) -> None:
        self._coordinators = coordinators
        self._metadata = metadata
        self._bounds = bounds
        self._task: CriticalTask | None = None

    def start(self, on_failure: Callable[[OttlaError], None]) -> None:
        """Begin to measure; `on_failure` is told of a defect, which must stop the process."""
        self._task = CriticalTask(self._run(), name="group-lags", on_failure=on_failure)

    async def stop(self) -> None:
        """Measure no more."""
        if self._task is not None:
            await self._task.stop()

    async def _run(self) -> None:
        while True:
            await self.measure()
            await asyncio.sleep(LAG_INTERVAL_MS / 1000)

    async def measure(self) -> None:
        """One round. A group that reads from a leader who does not answer is left out of it."""
        wanted = groups_to_measure(
            self._coordinators.groups(),
            self._metadata.image.topics.keys(),
            groups_max=GROUPS_MEASURED_MAX,
            partitions_max=PARTITIONS_MEASURED_MAX,
        )
        names = {
            PartitionName(committed.topic_id, committed.partition)
            for _, offsets in wanted.groups
            for committed in offsets
        }
        bounds = await self._bounds.look_up(names) if names else {}
        ends = {
            (name.topic_id, name.partition): known.high_watermark for name, known in bounds.items()
        }
        measured = [group_lag(group_id, offsets, ends) for group_id, offsets in wanted.groups]
        lags = [lag for lag in measured if lag is not None]
        METRICS.group_lags.tell(lags, wanted.left_out + len(measured) - len(lags))
