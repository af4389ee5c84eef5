"""Takes leaders' ISR proposals to the controller, and its verdicts back.

A broker that comes back joins the ISRs of thousands of partitions. From the feature level on that
knows batches, what a broker's leaders propose goes in one command at a time (KIP-497): what is
proposed while one is under way waits for the next. Before, each proposal is a command of its own.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from ottla_broker.drivers.controller_client import ControllerClient
from ottla_broker.drivers.partition import Partition
from ottla_broker.telemetry import METRICS
from ottla_cluster.controller.commands import (
    AlterPartition,
    AlterPartitionResponse,
    AlterPartitions,
    AlterPartitionsResponse,
    IsrChange,
    IsrMember,
    PartitionState,
)
from ottla_cluster.controller.limits import MAX_ISR_CHANGES
from ottla_cluster.replication.leader import IsrProposal
from ottla_protocol.errors import ConflictError, InternalError, OttlaError, error_from_problem

PROPOSAL_TIMEOUT_MS = 2_000

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Proposed:
    partition: Partition
    proposal: IsrProposal
    change: IsrChange
    isr_before: tuple[int, ...]


class IsrProposals:
    """At most one proposal of a partition is in flight: its leader machine sees to that.

    Args:
        in_flight_max: how many commands are on their way at a time, where each has one proposal.
        batches: whether the controller takes several in one command.
    """

    def __init__(
        self,
        *,
        node_id: int,
        controller: ControllerClient,
        broker_epoch: Callable[[], int],
        in_flight_max: int,
        batches: Callable[[], bool],
    ) -> None:
        self._node_id = node_id
        self._controller = controller
        self._broker_epoch = broker_epoch
        self._in_flight = asyncio.Semaphore(in_flight_max)
        self._batches = batches
        # What waits for the next batch; at most one for each partition that is led here.
        self._waiting: list[_Proposed] = []
        self._batching: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def propose(self, partition: Partition, proposal: IsrProposal) -> None:
        """Send the proposal; the partition hears the verdict."""
        state = partition.state
        change = IsrChange(
            topic_id=state.topic_id,
            partition=state.partition,
            leader_epoch=proposal.leader_epoch,
            partition_epoch=proposal.partition_epoch,
            new_isr=tuple(
                IsrMember(member.replica_id, member.broker_epoch) for member in proposal.isr
            ),
        )
        proposed = _Proposed(partition, proposal, change, state.isr)
        if not self._batches():
            self._start(self._propose_alone(proposed))
            return
        self._waiting.append(proposed)
        if self._batching is None or self._batching.done():
            self._batching = self._start(self._propose_together())

    async def stop(self) -> None:
        """Drop what is in flight: the next leader proposes for itself."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _propose_alone(self, proposed: _Proposed) -> None:
        change = proposed.change
        command = AlterPartition(
            node_id=self._node_id,
            broker_epoch=self._broker_epoch(),
            topic_id=change.topic_id,
            partition=change.partition,
            leader_epoch=change.leader_epoch,
            partition_epoch=change.partition_epoch,
            new_isr=change.new_isr,
        )
        try:
            async with self._in_flight:
                response = await self._controller.execute(command, timeout_ms=PROPOSAL_TIMEOUT_MS)
        except OttlaError as error:
            _failed(proposed, error)
            return
        assert isinstance(response, AlterPartitionResponse)
        _accepted(proposed, response.state)

    async def _propose_together(self) -> None:
        while self._waiting:
            batch = self._next_batch()
            command = AlterPartitions(
                node_id=self._node_id,
                broker_epoch=self._broker_epoch(),
                changes=tuple(proposed.change for proposed in batch),
            )
            try:
                response = await self._controller.execute(command, timeout_ms=PROPOSAL_TIMEOUT_MS)
            except OttlaError as error:
                for proposed in batch:
                    _failed(proposed, error)
                continue
            assert isinstance(response, AlterPartitionsResponse)
            _conclude(batch, response)

    def _next_batch(self) -> list[_Proposed]:
        """What is proposed next; of a partition that has given a proposal up, the newest alone."""
        newest = {
            (proposed.change.topic_id, proposed.change.partition): proposed
            for proposed in self._waiting
        }
        waiting = list(newest.values())
        self._waiting = waiting[MAX_ISR_CHANGES:]
        return waiting[:MAX_ISR_CHANGES]


def _conclude(batch: Sequence[_Proposed], response: AlterPartitionsResponse) -> None:
    results = {(result.topic_id, result.partition): result for result in response.results}
    for proposed in batch:
        result = results.get((proposed.change.topic_id, proposed.change.partition))
        if result is not None and result.state is not None:
            _accepted(proposed, result.state)
        elif result is not None and result.error is not None:
            _failed(proposed, error_from_problem(result.error))
        else:
            _failed(proposed, InternalError("the controller told nothing of this partition"))


def _accepted(proposed: _Proposed, state: PartitionState) -> None:
    proposed.partition.proposal_accepted(proposed.proposal, state.partition_epoch)
    grew = len(state.isr) > len(proposed.isr_before)
    METRICS.isr_changes.labels("expand" if grew else "shrink").inc()


def _failed(proposed: _Proposed, error: OttlaError) -> None:
    log.debug("isr_proposal_refused", partition=proposed.partition.name, code=error.code)
    # Only the active controller's own verdict rules the proposal out for good.
    proposed.partition.proposal_failed(proposed.proposal, refused=isinstance(error, ConflictError))
