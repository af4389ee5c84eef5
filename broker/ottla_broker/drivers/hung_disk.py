"""What a broker does whose disk hangs: it gives up what others can take.

Its process lives, its connections are answered, its heartbeats would go on: without this it would
keep leaderships that it cannot exercise for as long as the disk hangs. So it

1. holds no lease and sends no heartbeats, so that it acts as nobody's leader;
2. gives up the leadership of the metadata quorum, and does not campaign;
3. has the controller fence it, by a call to the other voters: it may be the controller itself, and
   a voter whose disk hangs does not hear who is. If nobody takes the call its session ends anyway.

Leaderships then move to in-sync replicas and it leaves the ISRs. When the disk works again it
heartbeats, is told that it is fenced, catches up with the metadata and is taken back. A write that
ends late is harmless: an acknowledgement with acks=all rests on the leader epoch and on what the
ISR holds, one with acks=1 is answered only under a lease.

A broker without other active ones gives up nothing: there is nobody to take it.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog

from ottla_broker.drivers.controller_client import ControllerClient
from ottla_broker.drivers.critical_task import CriticalTask
from ottla_broker.drivers.metadata import MetadataCache
from ottla_cluster.controller.commands import FenceBroker
from ottla_protocol.errors import OttlaError, StaleBrokerEpochError

SURRENDER_TIMEOUT_MS = 1_000
"""How long one voter may take to answer."""

RETRY_INTERVAL_MS = 200
"""Between attempts while no voter is the controller: an election is under way, perhaps for this."""

log = structlog.get_logger()


class Voter(Protocol):
    """This node's part in the metadata quorum."""

    def stand_aside(self, *, stands_aside: bool) -> None:
        """Neither lead nor campaign, or do again."""


class HungDisk:
    """Gives up leaderships while the disk hangs.

    Args:
        node_id: this broker.
        voter: this node's voter.
        controller: the way to the other voters.
        broker_epoch: this broker's present epoch.
        metadata: tells whether another broker is active, as far as this one knows.
        on_change: told when this broker gives up its part, and when it may have it again; and for
            how many milliseconds from then on it may not rely on being unfenced.
        on_failure: the task failed; the process must stop.
    """

    def __init__(
        self,
        *,
        node_id: int,
        voter: Voter,
        controller: ControllerClient,
        broker_epoch: Callable[[], int],
        metadata: MetadataCache,
        on_change: Callable[[int], None],
        on_failure: Callable[[OttlaError], None],
    ) -> None:
        self.gives_up = False
        """Whether this broker may not act as a member of the cluster."""
        self._node_id = node_id
        self._voter = voter
        self._controller = controller
        self._broker_epoch = broker_epoch
        self._metadata = metadata
        self._on_change = on_change
        self._on_failure = on_failure
        # Whether a controller has decided that this broker is fenced, since it gave up.
        self._is_fenced = False
        self._task: CriticalTask | None = None

    def changed(self, is_hung: bool) -> None:  # noqa: FBT001  the disk watch's callback
        """The disk hangs, or works again."""
        if is_hung:
            self._task = CriticalTask(
                self._surrender(), name="hung-disk", on_failure=self._on_failure
            )
            return
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._voter.stand_aside(stands_aside=False)
        if self.gives_up:
            self.gives_up = False
            # What was asked and not answered may be decided yet.
            self._on_change(0 if self._is_fenced else SURRENDER_TIMEOUT_MS)

    async def stop(self) -> None:
        """End what is under way."""
        if self._task is not None:
            await self._task.stop()

    def _others_live(self) -> bool:
        return any(
            broker.node_id != self._node_id for broker in self._metadata.image.active_brokers()
        )

    async def _surrender(self) -> None:
        while not self._others_live():
            await self._metadata.wait_for_change(timeout_ms=SURRENDER_TIMEOUT_MS)
        self.gives_up = True
        self._is_fenced = False
        self._on_change(0)
        self._voter.stand_aside(stands_aside=True)
        command = FenceBroker(self._node_id, self._broker_epoch(), "its disk hangs")
        while True:
            try:
                await self._controller.execute_elsewhere(command, timeout_ms=SURRENDER_TIMEOUT_MS)
            except StaleBrokerEpochError:
                # Another incarnation is registered; heartbeats will be told the same.
                return
            except OttlaError:
                await asyncio.sleep(RETRY_INTERVAL_MS / 1000)
            else:
                self._is_fenced = True
                log.warning("leaderships_given_up", broker_epoch=self._broker_epoch())
                return
