"""Has replicas that lack records refilled by those that hold them.

Damage that anybody found in an open log is seen here within HEAL_INTERVAL_MS. A leader with damage
tells the controller, and another member of the ISR leads. A follower cuts its log before the damage
and fetches the rest again, as it fetches everything: so healing needs no protocol of its own, and
what is fetched is checked as always. It costs the transfer of all that lies behind the damage; the
replica leaves the ISR for that time, because the controller is told of it, and a leader lets it in
again. `ReplicaFitness` has the order of these steps, and why.

Telling waits for no cut. A replica that is made the leader while its log is being cut, or while
another's is, says at once that it cannot lead: the partition would be led by nobody until the copy
is done.

A replica that came back short after a restart takes the same way, from the point where the leader
knows how short it is.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.controller_client import ControllerClient
from ottla_broker.drivers.critical_task import CriticalTask, stop_all
from ottla_broker.drivers.partition import Partition
from ottla_broker.drivers.replica_manager import ReplicaManager
from ottla_broker.storage.disk_full import DiskFullError
from ottla_broker.telemetry import METRICS
from ottla_cluster.controller.commands import (
    ReportUnfitReplicas,
    ReportUnfitReplicasResponse,
    UnfitReplica,
)
from ottla_cluster.controller.limits import MAX_UNFIT_REPLICAS
from ottla_protocol.errors import OttlaError, UnavailableError

HEAL_INTERVAL_MS = 100
"""How soon damage that was found is acted on."""

REPORT_TIMEOUT_MS = 2_000
REPORT_RETRY_MS = 1_000
"""Between two reports that changed nothing: the replica is the last member of its ISR."""

log = structlog.get_logger()


class ReplicaHealer:
    """Two tasks that look after the unfit replicas of this broker: one cuts, one tells.

    Args:
        node_id: this broker.
        replicas: the hosted replicas.
        controller: takes the reports.
        broker_epoch: this broker's present epoch.
        on_failure: a log failed; the process must stop.
    """

    def __init__(
        self,
        *,
        node_id: int,
        replicas: ReplicaManager,
        controller: ControllerClient,
        broker_epoch: Callable[[], int],
        on_failure: Callable[[OttlaError], None],
    ) -> None:
        self._node_id = node_id
        self._replicas = replicas
        self._controller = controller
        self._broker_epoch = broker_epoch
        self._on_failure = on_failure
        # Of a replica that was reported in vain how often it had been cut by then, and the
        # monotonic time before which the same is not told again.
        self._told: dict[tuple[str, int], tuple[int, int]] = {}
        # Held while a log is cut: a thread goes on with that, whatever is cancelled.
        self._cutting = asyncio.Lock()
        self._tasks: list[CriticalTask] = []

    def start(self) -> None:
        """Begin to look."""
        self._tasks = [
            CriticalTask(self._every(step), name=name, on_failure=self._on_failure)
            for step, name in ((self.heal, "replica-healer"), (self.report, "replica-reports"))
        ]

    async def stop(self) -> None:
        """End; a log that is being cut is cut first, or has failed."""
        async with self._cutting:
            for task in self._tasks:
                task.cancel()
        await stop_all(self._tasks)

    async def _every(self, step: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(HEAL_INTERVAL_MS / 1000)
            await step()

    async def heal(self) -> None:
        """Cut the logs of the followers that are damaged, one after another.

        Raises:
            StorageError: a log failed while it was cut.
        """
        damaged = [
            hosted
            for hosted in self._unfit()
            if hosted.log.damage.first is not None and not hosted.is_only_replica
        ]
        for hosted in damaged:
            hosted.fitness.damage_found()
        for hosted in damaged:
            await self._cut(hosted)

    async def report(self) -> None:
        """Tell the controller of the replicas of which it has to know."""
        unfit = self._unfit()
        METRICS.unfit_replicas.set(len(unfit))
        await self._report([hosted for hosted in unfit if self._must_report(hosted)])

    def _unfit(self) -> list[Partition]:
        """Replicas that lack something, of those that were noted; the others' notes go."""
        noted = self._replicas.activity.unfit
        unfit = []
        for key in tuple(noted):
            hosted = self._replicas.partitions.get(key)
            if hosted is not None and _is_unfit(hosted):
                unfit.append(hosted)
            else:
                noted.discard(key)
        return unfit

    async def _cut(self, hosted: Partition) -> None:
        try:
            async with self._cutting:
                await self._replicas.cut_at_damage(hosted.key)
        except (UnavailableError, DiskFullError):
            # Closed, being truncated, or no room for the copy: it is looked at next time.
            return

    def _must_report(self, hosted: Partition) -> bool:
        state = hosted.state
        losses, not_before_ms = self._told.get(hosted.key, (-1, 0))
        return (
            not hosted.is_only_replica
            and (losses != hosted.fitness.losses or not_before_ms <= monotonic_ms())
            and hosted.fitness.must_report(state.isr, state.leader)
        )

    async def _report(self, unfit: list[Partition]) -> None:
        self._told = {
            key: told for key, told in self._told.items() if key in self._replicas.partitions
        }
        reported = unfit[:MAX_UNFIT_REPLICAS]
        if not reported:
            return
        losses = {hosted.key: hosted.fitness.losses for hosted in reported}
        command = ReportUnfitReplicas(
            node_id=self._node_id,
            broker_epoch=self._broker_epoch(),
            replicas=tuple(
                UnfitReplica(*hosted.key, lost_tail=hosted.fitness.lost_tail) for hosted in reported
            ),
        )
        for hosted in reported:
            self._told[hosted.key] = losses[hosted.key], monotonic_ms() + REPORT_RETRY_MS
        try:
            response = await self._controller.execute(command, timeout_ms=REPORT_TIMEOUT_MS)
        except OttlaError as error:
            log.info("unfit_replicas_not_reported", code=error.code, detail=error.detail)
            return
        assert isinstance(response, ReportUnfitReplicasResponse)
        for result in response.results:
            key = result.topic_id, result.partition
            partition = self._replicas.partitions.get(key)
            if partition is None:
                continue
            if not result.in_isr:
                self._told.pop(key, None)
                if partition.fitness.left_isr(result.partition_epoch, losses[key]):
                    await self._replicas.refilled(partition)
            log.warning(
                "unfit_replica_reported",
                partition=partition.name,
                in_isr=result.in_isr,
                lost_tail=partition.fitness.lost_tail,
                log_end_offset=partition.log.log_end_offset,
            )


def _is_unfit(hosted: Partition) -> bool:
    return len(hosted.log.damage) > 0 or not hosted.fitness.is_whole
