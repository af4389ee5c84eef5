"""Has replicas that lack records refilled by those that hold them.

Damage that anybody found in an open log is seen here within HEAL_INTERVAL_MS. A leader with damage
tells the controller, and another member of the ISR leads. A follower cuts its log before the damage
and fetches the rest again, as it fetches everything: so healing needs no protocol of its own, and
what is fetched is checked as always. It costs the transfer of all that lies behind the damage; the
replica leaves the ISR for that time, because the controller is told of it, and a leader lets it in
again. `ReplicaFitness` has the order of these steps, and why.

A replica that came back short after a restart takes the same way, from the point where the leader
knows how short it is.
"""

import asyncio
from collections.abc import Callable

import structlog

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.controller_client import ControllerClient
from ottla_broker.drivers.critical_task import CriticalTask
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
    """One task that looks after the unfit replicas of this broker.

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
        # Monotonic time before which a replica that was reported in vain is not reported again.
        self._not_before_ms: dict[tuple[str, int], int] = {}
        # Held while a log is cut: a thread goes on with that, whatever is cancelled.
        self._cutting = asyncio.Lock()
        self._task: CriticalTask | None = None

    def start(self) -> None:
        """Begin to look."""
        self._task = CriticalTask(self._run(), name="replica-healer", on_failure=self._on_failure)

    async def stop(self) -> None:
        """End; a log that is being cut is cut first, or has failed."""
        async with self._cutting:
            if self._task is not None:
                self._task.cancel()
        if self._task is not None:
            await self._task.stop()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(HEAL_INTERVAL_MS / 1000)
            await self.heal()

    async def heal(self) -> None:
        """Do the next step for every replica that lacks something.

        Raises:
            StorageError: a log failed while it was cut.
        """
        unfit = self._unfit()
        METRICS.unfit_replicas.set(len(unfit))
        for hosted in unfit:
            if hosted.log.damage.first is not None:
                await self._cut(hosted)
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
        if hosted.is_only_replica:
            return
        hosted.fitness.damage_found()
        try:
            async with self._cutting:
                await self._replicas.cut_at_damage(hosted.key)
        except (UnavailableError, DiskFullError):
            # Closed, being truncated, or no room for the copy: it is looked at next time.
            return
        if hosted.fitness.lost_tail:
            # What was told before is not what there is to tell now.
            self._not_before_ms.pop(hosted.key, None)

    def _must_report(self, hosted: Partition) -> bool:
        state = hosted.state
        return (
            not hosted.is_only_replica
            and self._not_before_ms.get(hosted.key, 0) <= monotonic_ms()
            and hosted.fitness.must_report(state.isr, state.leader)
        )

    async def _report(self, unfit: list[Partition]) -> None:
        self._not_before_ms = {
            key: time_ms
            for key, time_ms in self._not_before_ms.items()
            if key in self._replicas.partitions
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
            self._not_before_ms[hosted.key] = monotonic_ms() + REPORT_RETRY_MS
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
                del self._not_before_ms[key]
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
