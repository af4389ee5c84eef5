"""Writes the markers of this broker's transaction coordinators to the leaders, until all are in.

What goes where and when is `ottla_cluster.transactions.marker_planner`'s. Here are the calls: to
other brokers over connections that no work of clients can take, for every reader of committed
records waits for them; to this broker without any.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

import structlog

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.critical_task import CriticalTask, stop_all
from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.peer_client import PeerClient, PeerUnavailableError, Purpose
from ottla_broker.drivers.peer_messages import (
    MarkersWritten,
    PartitionMarkers,
    TransactionMarker,
    WriteMarkers,
    encode,
)
from ottla_broker.drivers.racing import Unless
from ottla_broker.telemetry import METRICS
from ottla_cluster.controller.image import BrokerState
from ottla_cluster.transactions.marker_planner import (
    CoordinatorEpoch,
    Leadership,
    Marker,
    MarkerCall,
    MarkerPlanner,
)
from ottla_cluster.transactions.marker_work import MarkersToWrite
from ottla_cluster.transactions.records import TransactionPartition
from ottla_protocol import routes
from ottla_protocol.errors import (
    OttlaError,
    Outcome,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
)

MARKERS_TIMEOUT_MS = 2_000
"""How long a leader may take to have the markers of one call committed."""

FORWARD_GRACE_MS = 500
"""How much longer the writer waits for its answer."""

LOOK_INTERVAL_MS = 50
"""How often, while markers are missing, it looks for retries that are due and new leaders."""

REPORT_INTERVAL_MS = 10_000
"""How often it is told, while it lasts, that a partition does not take its markers."""

FAILURES_TO_REPORT = 8
"""From how many in a row on."""

Written = Mapping[TransactionPartition, tuple[Marker, ...]]

log = structlog.get_logger()


class MarkerWriter:
    """The markers of every coordinator here.

    Args:
        node_id: this broker.
        metadata: who leads what.
        peers: the way to the others.
        write_here: has markers written to partitions that are led here.
        catch_up: brings the metadata up to what the controller has; False if it cannot.
        written: told, per coordinator, which markers are in.
        on_failure: a defect ended the writer; the process must stop.
    """

    def __init__(
        self,
        *,
        node_id: int,
        metadata: MetadataCache,
        peers: PeerClient,
        write_here: Callable[[WriteMarkers], Awaitable[MarkersWritten]],
        catch_up: Callable[[], Awaitable[bool]],
        written: Callable[[Written], None],
        on_failure: Callable[[OttlaError], None],
    ) -> None:
        self._node_id = node_id
        self._metadata = metadata
        self._peers = peers
        self._write_here = write_here
        self._catch_up = catch_up
        self._written = written
        self._on_failure = on_failure
        self._planner = MarkerPlanner()
        self._changed = asyncio.Event()
        self._calls: set[CriticalTask] = set()
        self._task: CriticalTask | None = None
        self._report_after_ms = 0

    def start(self) -> None:
        """Begin to write."""
        self._task = CriticalTask(self._run(), name="marker-writer", on_failure=self._on_failure)

    async def stop(self) -> None:
        """Write no more; the next coordinators write all that is missing."""
        if self._task is not None:
            await self._task.stop()
        await stop_all(tuple(self._calls))

    @property
    def missing(self) -> int:
        """How many markers are not known to be written."""
        return self._planner.count

    @property
    def overdue(self) -> int:
        """How many of them are for partitions that did not take theirs when they were last sent."""
        return self._planner.overdue_count

    def decided(self, coordinator: CoordinatorEpoch, decisions: Iterable[MarkersToWrite]) -> None:
        """Decisions are durable: their markers leave at once."""
        for decision in decisions:
            self._planner.decided(coordinator, decision)
        self._changed.set()

    def resigned(self, coordinator: CoordinatorEpoch) -> None:
        """Its markers are the next coordinator's business."""
        self._planner.resigned(coordinator)

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            for call in self._planner.plan(self._leadership_of, monotonic_ms()):
                self._start(call)
            if self._planner.is_idle:
                await self._changed.wait()
                continue
            self._report()
            try:
                async with asyncio.timeout(LOOK_INTERVAL_MS / 1000):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _leadership_of(self, partition: TransactionPartition) -> Leadership | None:
        try:
            state = self._metadata.image.partition_by_id(partition.topic_id, partition.partition)
        except (UnknownTopicIdError, UnknownTopicOrPartitionError):
            return None
        return Leadership(state.leader, state.leader_epoch)

    # --- calls ------------------------------------------------------------------------------

    def _start(self, call: MarkerCall) -> None:
        task = CriticalTask(
            self._carry_out(call, lambda: self._calls.discard(task)),
            name="marker-call",
            on_failure=self._on_failure,
        )
        self._calls.add(task)

    async def _carry_out(self, call: MarkerCall, ended: Callable[[], None]) -> None:
        try:
            try:
                written = await self._send(call)
            except OttlaError as error:
                written = {}
                lost = sum(len(markers) for markers in call.markers.values())
                METRICS.marker_failures.labels(error.code).inc(lost)
            self._planner.finished(call, written, monotonic_ms())
            if written:
                self._written(written)
            self._changed.set()
        finally:
            ended()

    async def _send(self, call: MarkerCall) -> Written:
        """The markers of a call that are in their logs, committed.

        Raises:
            OttlaError: the leader did not answer.
        """
        if call.node_id is None:
            return await self._find_deleted(call)
        message = _message_of(call)
        if call.node_id == self._node_id:
            answer = await self._write_here(message)
        else:
            answer = await self._ask(call.node_id, message)
        return _written_of(call, answer)

    async def _ask(self, node_id: int, message: WriteMarkers) -> MarkersWritten:
        broker = self._metadata.image.brokers.get(node_id)
        if broker is None or broker.state is BrokerState.FENCED:
            raise PeerUnavailableError(
                f"broker {node_id} is not there now", refused=False, outcome=Outcome.NOT_APPLIED
            )
        fenced = PeerUnavailableError(
            f"broker {node_id} was fenced before it answered",
            refused=False,
            outcome=Outcome.UNKNOWN,
        )
        with Unless(self._metadata.replacement_of(node_id, broker.broker_epoch), fenced):
            return await self._peers.call(
                broker.url,
                routes.INTERNAL_MARKERS,
                encode(message),
                timeout_ms=MARKERS_TIMEOUT_MS + FORWARD_GRACE_MS,
                answer=MarkersWritten,
                purpose=Purpose.CLUSTER,
            )

    async def _find_deleted(self, call: MarkerCall) -> Written:
        """Which of the partitions that are unknown here are deleted: nothing is to be ended there.

        They were known to their leaders when they entered the transaction, so what the controller
        does not know now has been deleted since.
        """
        if not await self._catch_up():
            return {}
        topics = self._metadata.image.topics
        return {
            partition: markers
            for partition, markers in call.markers.items()
            if partition.topic_id not in topics
        }

    def _report(self) -> None:
        """Tell of what does not get on, and whoever has to look at it."""
        now_ms = monotonic_ms()
        if now_ms < self._report_after_ms:
            return
        worst = self._planner.worst()
        if worst is not None and worst[1] >= FAILURES_TO_REPORT:
            partition, failures = worst
            self._report_after_ms = now_ms + REPORT_INTERVAL_MS
            log.warning(
                "markers_not_written", partition=f"{partition.topic}-{partition.partition}",
                failures=failures, missing=self._planner.count,
            )  # fmt: skip


def _written_of(call: MarkerCall, answer: MarkersWritten) -> Written:
    """What a leader says it has.

    Raises:
        PeerUnavailableError: its answer is to another call.
    """
    asked = [len(markers) for markers in call.markers.values()]
    if asked != [len(codes) for codes in answer.error_codes]:
        raise PeerUnavailableError(
            f"broker {call.node_id} does not answer for {asked} markers",
            refused=False,
            outcome=Outcome.UNKNOWN,
        )
    written: dict[TransactionPartition, tuple[Marker, ...]] = {}
    for (partition, markers), codes in zip(call.markers.items(), answer.error_codes, strict=True):
        told = list(zip(markers, codes, strict=True))
        written[partition] = tuple(marker for marker, code in told if code is None)
        for code in filter(None, codes):
            METRICS.marker_failures.labels(code).inc()
    return written


def _message_of(call: MarkerCall) -> WriteMarkers:
    return WriteMarkers(
        MARKERS_TIMEOUT_MS,
        tuple(
            PartitionMarkers(
                partition.topic_id,
                partition.partition,
                tuple(
                    TransactionMarker(
                        marker.identity.producer_id,
                        marker.identity.producer_epoch,
                        marker.is_commit,
                        marker.coordinator.leader_epoch,
                    )
                    for marker in markers
                ),
            )
            for partition, markers in call.markers.items()
        ),
    )
