"""The transaction coordinators of this broker: one for each partition of `__transaction_state`.

Once a tick, and before each command, they are made to follow the roles that the replicas have.
Their markers have one writer, so that one call to a leader carries those of all.
"""

import asyncio
from collections.abc import Awaitable, Callable

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.critical_task import CriticalTask
from ottla_broker.drivers.led_coordinators import LedCoordinators
from ottla_broker.drivers.marker_writer import MarkerWriter, Written
from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.partition import Partition
from ottla_broker.drivers.peer_client import PeerClient
from ottla_broker.drivers.peer_messages import MarkersWritten, WriteMarkers
from ottla_broker.drivers.replica_manager import ReplicaManager
from ottla_broker.drivers.transaction_coordinator import (
    TransactionCoordinatorDriver,
    WrittenMarker,
)
from ottla_broker.telemetry import METRICS
from ottla_cluster.transactions.commands import Command, Response
from ottla_cluster.transactions.config import TransactionConfig
from ottla_cluster.transactions.marker_planner import CoordinatorEpoch
from ottla_protocol.errors import (
    CoordinatorNotAvailableError,
    NotCoordinatorError,
    OttlaError,
    Outcome,
)

TRANSACTION_STATE_TOPIC = "__transaction_state"
"""The internal topic that holds what the coordinators decided."""

TICK_INTERVAL_MS = 100

REPORT_INTERVAL_MS = 1_000
"""How often the gauges are set."""


class TransactionCoordinators:
    """Every transaction coordinator on this broker.

    Args:
        node_id: this broker.
        config: defaults and bounds.
        metadata: topics and their partitions.
        replicas: the hosted partitions, with their roles.
        peers: the way to the leaders of other partitions.
        write_here: has markers written to partitions that are led here.
        catch_up: brings the metadata up to what the controller has; False if it cannot.
        next_producer_id: gives an id that nobody has; may raise an OttlaError.
        on_failure: a defect ended a coordinator or the clock; the process must stop.
    """

    def __init__(
        self,
        *,
        node_id: int,
        config: TransactionConfig,
        metadata: MetadataCache,
        replicas: ReplicaManager,
        peers: PeerClient,
        write_here: Callable[[WriteMarkers], Awaitable[MarkersWritten]],
        catch_up: Callable[[], Awaitable[bool]],
        next_producer_id: Callable[[], Awaitable[int]],
        on_failure: Callable[[OttlaError], None],
    ) -> None:
        self._config = config
        self._next_producer_id = next_producer_id
        self._on_failure = on_failure
        self._markers = MarkerWriter(
            node_id=node_id,
            metadata=metadata,
            peers=peers,
            write_here=write_here,
            catch_up=catch_up,
            written=self._written,
            on_failure=on_failure,
        )
        self._coordinators: LedCoordinators[TransactionCoordinatorDriver] = LedCoordinators(
            topic=TRANSACTION_STATE_TOPIC,
            metadata=metadata,
            replicas=replicas,
            coordinate=self._coordinate,
        )
        self._ticker: CriticalTask | None = None

    def start(self) -> None:
        """Begin to coordinate what this broker leads."""
        self._markers.start()
        self._ticker = CriticalTask(
            self._tick(), name="transaction-coordinators", on_failure=self._on_failure
        )

    async def stop(self) -> None:
        """End every coordinator; whoever waits for an answer learns that its outcome is unknown."""
        ticker, self._ticker = self._ticker, None
        if ticker is not None:
            await ticker.stop()
        await self._coordinators.stop()
        await self._markers.stop()

    async def execute(self, partition: int, command: Command, *, deadline_ms: int) -> Response:
        """Have the coordinator on one partition of `__transaction_state` decide a command.

        Raises:
            NotCoordinatorError: this broker does not lead the partition.
            CoordinatorNotAvailableError: this broker is starting or stopping.
            OttlaError: as `TransactionCoordinatorDriver.execute`.
        """
        if self._ticker is None:
            raise CoordinatorNotAvailableError(
                "this broker is starting or stopping", outcome=Outcome.NOT_APPLIED
            )
        driver = self._coordinators.find(partition)
        if driver is None:
            raise NotCoordinatorError(
                f"this broker does not coordinate the transactions of "
                f"{TRANSACTION_STATE_TOPIC}-{partition}",
                outcome=Outcome.NOT_APPLIED,
            )
        return await driver.execute(command, deadline_ms=deadline_ms)

    def _coordinate(self, hosted: Partition, leader_epoch: int) -> TransactionCoordinatorDriver:
        return TransactionCoordinatorDriver(
            hosted,
            leader_epoch,
            config=self._config,
            markers=self._markers,
            next_producer_id=self._next_producer_id,
            on_failure=self._on_failure,
        )

    def _written(self, written: Written) -> None:
        """Tell each coordinator which of its markers are in."""
        by_coordinator: dict[CoordinatorEpoch, list[WrittenMarker]] = {}
        for partition, markers in written.items():
            for marker in markers:
                by_coordinator.setdefault(marker.coordinator, []).append(
                    WrittenMarker(marker.transactional_id, marker.identity, partition)
                )
        for driver in self._coordinators:
            told = by_coordinator.get(driver.epoch)
            if told is not None:
                driver.markers_written(told)

    async def _tick(self) -> None:
        reported_ms = monotonic_ms()
        while True:
            now_ms = monotonic_ms()
            self._coordinators.follow_roles()
            for driver in self._coordinators:
                driver.tick(now_ms)
            if now_ms - reported_ms >= REPORT_INTERVAL_MS:
                reported_ms = now_ms
                self._report()
            await asyncio.sleep(TICK_INTERVAL_MS / 1000)

    def _report(self) -> None:
        """Set the gauges of what is coordinated here."""
        for state, count in self._coordinators.states().items():
            METRICS.transaction_coordinators.labels(state).set(count)
        METRICS.open_transactions.set(sum(each.open_count() for each in self._coordinators))
        METRICS.overdue_markers.set(self._markers.overdue)
