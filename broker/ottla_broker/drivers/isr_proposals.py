"""Takes leaders' ISR proposals to the controller, and its verdicts back."""

import asyncio
from collections.abc import Callable

import structlog

from ottla_broker.drivers.controller_client import ControllerClient
from ottla_broker.drivers.partition import Partition
from ottla_broker.telemetry import METRICS
from ottla_cluster.controller.commands import AlterPartition, AlterPartitionResponse, IsrMember
from ottla_cluster.replication.leader import IsrProposal
from ottla_protocol.errors import ConflictError, OttlaError

PROPOSAL_TIMEOUT_MS = 2_000

log = structlog.get_logger()


class IsrProposals:
    """At most one proposal of a partition is in flight: its leader machine sees to that.

    Args:
        in_flight_max: how many of all partitions are on their way at a time.
    """

    def __init__(
        self,
        *,
        node_id: int,
        controller: ControllerClient,
        broker_epoch: Callable[[], int],
        in_flight_max: int,
    ) -> None:
        self._node_id = node_id
        self._controller = controller
        self._broker_epoch = broker_epoch
        self._in_flight = asyncio.Semaphore(in_flight_max)
        self._tasks: set[asyncio.Task[None]] = set()

    def propose(self, partition: Partition, proposal: IsrProposal) -> None:
        """Send the proposal; the partition hears the verdict."""
        task = asyncio.create_task(self._propose(partition, proposal))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Drop what is in flight: the next leader proposes for itself."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _propose(self, partition: Partition, proposal: IsrProposal) -> None:
        isr_before = partition.state.isr
        command = AlterPartition(
            node_id=self._node_id,
            broker_epoch=self._broker_epoch(),
            topic_id=partition.state.topic_id,
            partition=partition.state.partition,
            leader_epoch=proposal.leader_epoch,
            partition_epoch=proposal.partition_epoch,
            new_isr=tuple(
                IsrMember(member.replica_id, member.broker_epoch) for member in proposal.isr
            ),
        )
        try:
            async with self._in_flight:
                response = await self._controller.execute(command, timeout_ms=PROPOSAL_TIMEOUT_MS)
        except OttlaError as error:
            log.debug("isr_proposal_refused", partition=partition.name, code=error.code)
            # Only the active controller's own verdict rules the proposal out for good.
            partition.proposal_failed(proposal, refused=isinstance(error, ConflictError))
            return
        assert isinstance(response, AlterPartitionResponse)
        partition.proposal_accepted(proposal, response.state.partition_epoch)
        grew = len(response.state.isr) > len(isr_before)
        METRICS.isr_changes.labels("expand" if grew else "shrink").inc()
        log.info("isr_changed", partition=partition.name, isr=list(response.state.isr))
