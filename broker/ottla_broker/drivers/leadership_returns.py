"""Gives leaderships back to preferred leaders, with nothing left behind.

The controller can move a leadership at any time, and what the former leader has appended and nobody
has fetched yet is cut then: its outcome is unknown to whoever waits. A leader that sees that its
partition's first replica is in sync again can do better: it appends nothing for a moment, waits
until the others have everything, and asks the controller to elect. What it refuses meanwhile was
not applied, and is sent again to the next leader.

A preferred replica that does not fetch gets nothing, though it be in the ISR: a former leader whose
log is being cut at damage is in it, too, and could not lead.

The controller does it by itself, later, where a leader does not.
"""

import asyncio
from collections.abc import Callable

import structlog

from ottla_broker.drivers.controller_client import ControllerClient
from ottla_broker.drivers.critical_task import CriticalTask
from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.replica_manager import ReplicaManager
from ottla_cluster.controller.commands import ElectPreferred, TopicPartition
from ottla_cluster.controller.elections import preferred_leader_returns
from ottla_protocol.errors import OttlaError

RETURN_INTERVAL_MS = 3_000
"""How often a broker looks for leaderships that belong to others."""

MAX_RETURNS = 200
"""Leaderships that are given back in one turn."""

REFUSE_APPENDS_MS = 1_000
"""How long appends wait at most for the next leader; ends with the election."""

HANDOVER_TIMEOUT_MS = 300
ELECTION_TIMEOUT_MS = 1_000

log = structlog.get_logger()


class LeadershipReturns:
    """One task that asks for elections of preferred leaders.

    Args:
        metadata: says who is in sync, active and has room.
        replicas: what this broker leads.
        controller: decides.
        on_failure: the task failed; the process must stop.
    """

    def __init__(
        self,
        *,
        metadata: MetadataCache,
        replicas: ReplicaManager,
        controller: ControllerClient,
        on_failure: Callable[[OttlaError], None],
    ) -> None:
        self._metadata = metadata
        self._replicas = replicas
        self._controller = controller
        self._on_failure = on_failure
        self._task: CriticalTask | None = None

    def start(self) -> None:
        """Begin to look."""
        self._task = CriticalTask(
            self._run(), name="leadership-returns", on_failure=self._on_failure
        )

    async def stop(self) -> None:
        """End; leaderships stay where they are."""
        if self._task is not None:
            await self._task.stop()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(RETURN_INTERVAL_MS / 1000)
            await self.give_back()

    async def give_back(self) -> None:
        """Have preferred leaders elected for what this broker leads in their place."""
        image = self._metadata.image
        owed = [
            hosted
            for hosted in self._replicas.leaders()
            if hosted.state.replicas[0] != hosted.state.leader
            and preferred_leader_returns(image, hosted.state)
            and hosted.is_followed_by(hosted.state.replicas[0])
        ][:MAX_RETURNS]
        if not owed:
            return
        await self._replicas.hand_over(owed, REFUSE_APPENDS_MS, timeout_ms=HANDOVER_TIMEOUT_MS)
        names = tuple(TopicPartition(each.state.topic, each.state.partition) for each in owed)
        try:
            await self._controller.execute(ElectPreferred(names), timeout_ms=ELECTION_TIMEOUT_MS)
        except OttlaError as error:
            log.info("leaderships_not_given_back", code=error.code, detail=error.detail)
