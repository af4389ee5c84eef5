"""Ends transactions that hang in the logs that are led here; see `ottla_cluster` on which do.

What `find-hanging` shows to an operator after the same time, and what he would do. Offsets that
wait for the end of a transaction hang likewise, where a partition of `__consumer_offsets` has lost
the marker: nobody could read them as stable, or commit any with the producer's next transaction.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import structlog

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.critical_task import CriticalTask
from ottla_broker.drivers.partition import Partition
from ottla_broker.drivers.peer_messages import TransactionMarker
from ottla_broker.drivers.replica_manager import ReplicaManager
from ottla_broker.services.open_transactions import (
    NO_COORDINATOR_EPOCH,
    KnownTransactions,
    Markers,
)
from ottla_broker.telemetry import METRICS
from ottla_cluster.transactions.hanging import (
    OpenForLong,
    OpenInPartition,
    by_producer_id,
    missing_end,
)
from ottla_cluster.transactions.records import ProducerIdentity
from ottla_protocol.errors import OttlaError

INTERVAL_MS: Final = 60_000
"""How often the logs are looked at."""

log = structlog.get_logger()


class PendingTransactions(Protocol):
    """The group coordinators of this broker."""

    def pending_transactions(self) -> Iterator[tuple[Partition, ProducerIdentity]]:
        """The transactions with offsets that wait there for their end, and the partition."""


class HangingTransactions:
    """Looks now and then, for as long as this broker leads partitions.

    Args:
        replicas: the logs.
        groups: the offsets that wait.
        known: the coordinators.
        markers: writes what ends them.
        hanging_after_ms: for how long something must be open; longer than any transaction may be.
    """

    def __init__(
        self,
        *,
        replicas: ReplicaManager,
        groups: PendingTransactions,
        known: KnownTransactions,
        markers: Markers,
        hanging_after_ms: int,
    ) -> None:
        self._replicas = replicas
        self._groups = groups
        self._known = known
        self._markers = markers
        self._open = OpenForLong(hanging_after_ms)
        self._task: CriticalTask | None = None

    def start(self, on_failure: Callable[[OttlaError], None]) -> None:
        """Begin to look; `on_failure` is told of a defect, which must stop the process."""
        self._task = CriticalTask(self._run(), name="hanging-transactions", on_failure=on_failure)

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            await self._task.stop()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_MS / 1000)
            await self.look(monotonic_ms())

    async def look(self, now_ms: int) -> None:
        """One round at that time of the monotonic clock; what fails is due again at the next.

        Save for a marker that was not committed in time: it is in the log, so nothing is open there
        any more. Where it is lost with its leader, the next leader finds the transaction open.
        """
        due = self._open.follow(self._open_here(), now_ms)
        if not due:
            return
        try:
            # After the logs: see `missing_end`.
            known = by_producer_id(await self._known.all_transactions())
        except OttlaError as error:
            log.info("hanging_transactions_unknown", code=error.code, count=len(due))
            return
        for each in due:
            is_commit = missing_end(each.identity, known.get(each.identity.producer_id))
            if is_commit is not None:
                await self._end(each, is_commit=is_commit)

    def _open_here(self) -> Iterator[OpenInPartition]:
        for hosted in self._replicas.leaders():
            for each in hosted.log.open_transactions():
                yield OpenInPartition(
                    hosted.state.topic_id,
                    hosted.state.partition,
                    ProducerIdentity(each.producer_id, each.producer_epoch),
                    each.first_offset,
                )
        for hosted, identity in self._groups.pending_transactions():
            yield OpenInPartition(hosted.state.topic_id, hosted.state.partition, identity, None)

    async def _end(self, hanging: OpenInPartition, *, is_commit: bool) -> None:
        identity = hanging.identity
        marker = TransactionMarker(
            identity.producer_id,
            identity.producer_epoch + 1,
            is_commit=is_commit,
            coordinator_epoch=NO_COORDINATOR_EPOCH,
        )
        try:
            was_ended = await self._markers.write_one(hanging.topic_id, hanging.partition, marker)
        except OttlaError as error:
            outcome = error.code
        else:
            # Else a marker came after the look at the log, perhaps one of the other kind.
            outcome = "ended_already"
            if was_ended:
                outcome = "committed" if is_commit else "aborted"
                METRICS.hanging_transactions_ended.labels(outcome).inc()
        log.warning(
            "hanging_transaction",
            topic_id=hanging.topic_id,
            partition=hanging.partition,
            producer_id=identity.producer_id,
            producer_epoch=identity.producer_epoch,
            first_offset=hanging.first_offset,
            outcome=outcome,
        )
