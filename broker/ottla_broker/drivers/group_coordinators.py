"""The group coordinators of this broker: one for each partition of `__consumer_offsets` it leads.

Once a tick, and before each command, they are made to follow the roles that the replicas have: a
new leader epoch gets a new coordinator, which loads, and a former one ends. Timers live in the
coordinators' machines; this is the clock that asks them.
"""

import asyncio
import itertools
from collections.abc import Callable, Iterator
from random import Random

import structlog

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.coordinator_driver import CoordinatorDriver
from ottla_broker.drivers.critical_task import CriticalTask
from ottla_broker.drivers.led_coordinators import LedCoordinators
from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.partition import Partition
from ottla_broker.drivers.replica_manager import ReplicaManager
from ottla_broker.telemetry import METRICS
from ottla_cluster.groups.active_coordinator import ActiveCoordinator
from ottla_cluster.groups.census import GROUP_STATES
from ottla_cluster.groups.cluster_view import ClusterView
from ottla_cluster.groups.commands import Command, Heartbeat, Join, Response
from ottla_cluster.groups.config import GroupConfig
from ottla_cluster.groups.image import Group, GroupsImage
from ottla_cluster.groups.instance_commands import SubscribeInstance
from ottla_cluster.groups.transaction_commands import CommitTransactionOffsets
from ottla_cluster.transactions.records import ProducerIdentity
from ottla_protocol.errors import (
    CoordinatorNotAvailableError,
    NotCoordinatorError,
    OttlaError,
    Outcome,
)

OFFSETS_TOPIC = "__consumer_offsets"
"""The internal topic that holds what the coordinators decided."""

TICK_INTERVAL_MS = 100

REPORT_INTERVAL_MS = 1_000
"""How often the gauges are set."""

STOOD_STILL_MS = 500
"""A tick this late means that the process itself was paused: half the shortest session."""

log = structlog.get_logger()


class GroupCoordinators:
    """Every coordinator on this broker.

    Args:
        config: defaults and bounds.
        metadata: topics and their partitions.
        replicas: the hosted partitions, with their roles.
        random: for member ids.
        on_failure: a defect ended a coordinator or the clock; the process must stop.
    """

    def __init__(
        self,
        *,
        config: GroupConfig,
        metadata: MetadataCache,
        replicas: ReplicaManager,
        random: Random,
        on_failure: Callable[[OttlaError], None],
    ) -> None:
        self._config = config
        self._metadata = metadata
        self._random = random
        self._on_failure = on_failure
        self._coordinators: LedCoordinators[CoordinatorDriver] = LedCoordinators(
            topic=OFFSETS_TOPIC,
            metadata=metadata,
            replicas=replicas,
            coordinate=self._coordinate,
        )
        self._view = ClusterView()
        self._ticker: CriticalTask | None = None

    def start(self) -> None:
        """Begin to coordinate what this broker leads."""
        self._ticker = CriticalTask(
            self._tick(), name="group-coordinators", on_failure=self._on_failure
        )

    async def stop(self) -> None:
        """End every coordinator; whoever waits for an answer learns that its outcome is unknown."""
        ticker, self._ticker = self._ticker, None
        if ticker is not None:
            await ticker.stop()
        await self._coordinators.stop()

    async def execute(self, partition: int, command: Command, *, deadline_ms: int) -> Response:
        """Have the coordinator on one partition of `__consumer_offsets` decide a command.

        Raises:
            NotCoordinatorError: this broker does not lead the partition.
            InvalidPatternError: the pattern of a join does not parse.
            CoordinatorNotAvailableError: this broker is starting or stopping.
            OttlaError: as `CoordinatorDriver.execute`.
        """
        driver = self._driver(partition)
        if isinstance(command, Join | SubscribeInstance) and command.pattern is not None:
            index = self._current_view().index
            if not index.knows(command.pattern):
                await asyncio.to_thread(index.matching, command.pattern)
        if isinstance(command, Heartbeat):
            return await driver.heartbeat(command, self._current_view, deadline_ms=deadline_ms)
        return await driver.execute(command, self._current_view(), deadline_ms=deadline_ms)

    def is_in_transaction(self, partition: int, command: CommitTransactionOffsets) -> bool:
        """Whether the marker of the command's transaction is sure to come to the partition.

        Raises:
            OttlaError: as `execute`.
        """
        return self._driver(partition).is_in_transaction(command, self._current_view())

    def _driver(self, partition: int) -> CoordinatorDriver:
        if self._ticker is None:
            raise CoordinatorNotAvailableError(
                "this broker is starting or stopping", outcome=Outcome.NOT_APPLIED
            )
        driver = self._coordinators.find(partition)
        if driver is None:
            raise NotCoordinatorError(
                f"this broker does not coordinate the groups of {OFFSETS_TOPIC}-{partition}",
                outcome=Outcome.NOT_APPLIED,
            )
        return driver

    def groups(self) -> Iterator[Group]:
        """Every group that is coordinated here, as it is committed."""
        return itertools.chain.from_iterable(driver.groups() for driver in self._coordinators)

    def pending_transactions(self) -> Iterator[tuple[Partition, ProducerIdentity]]:
        """The transactions with offsets that wait here for their end, and the partition it is."""
        for driver in self._coordinators:
            for identity in driver.pending_transactions():
                yield driver.partition, identity

    def _report(self) -> None:
        """Set the gauges of what is coordinated here."""
        groups = dict.fromkeys(GROUP_STATES, 0)
        members = pending_transactions = 0
        for driver in self._coordinators:
            counts = driver.counts()
            if counts is not None:
                members += counts.members
                pending_transactions += counts.pending_transactions
                for state, count in counts.groups.items():
                    groups[state] += count
        METRICS.group_members.set(members)
        METRICS.group_pending_transactions.set(pending_transactions)
        for state, count in self._coordinators.states().items():
            METRICS.group_coordinators.labels(state).set(count)
        for state, count in groups.items():
            METRICS.groups.labels(state).set(count)

    # --- making them ---------------------------------------------------------------------------

    def _current_view(self) -> ClusterView:
        self._view = self._view.updated(self._metadata.image)
        return self._view

    def _activate(self, image: GroupsImage) -> ActiveCoordinator:
        return ActiveCoordinator(image, self._config, self._random, monotonic_ms())

    def _coordinate(self, hosted: Partition, leader_epoch: int) -> CoordinatorDriver:
        return CoordinatorDriver(
            hosted,
            leader_epoch,
            activate=self._activate,
            on_failure=self._on_failure,
            prepare=self._match_patterns,
        )

    def _match_patterns(self, image: GroupsImage) -> None:
        """Remember which topics the groups' patterns match; see `TopicIndex`."""
        index = self._view.index
        for group in image.groups.values():
            for member in group.members.values():
                if member.pattern is not None:
                    index.matching(member.pattern)

    # --- time -------------------------------------------------------------------------------

    async def _tick(self) -> None:
        reported_ms = last_tick_ms = monotonic_ms()
        while True:
            now_ms = monotonic_ms()
            stood_still = now_ms - last_tick_ms > STOOD_STILL_MS
            last_tick_ms = now_ms
            self._coordinators.follow_roles()
            view = self._current_view()
            for driver in self._coordinators:
                if stood_still:
                    # The silence may have been this process's own.
                    driver.restart_sessions(now_ms)
                driver.tick(view, now_ms)
            if now_ms - reported_ms >= REPORT_INTERVAL_MS:
                reported_ms = now_ms
                self._report()
            await asyncio.sleep(TICK_INTERVAL_MS / 1000)
