"""The composition root: the one module that knows every concrete class of a broker.

Start: lock the data directory, listen, join the quorum, register, host replicas. The listener opens
before the quorum forms, because voters reach one another through it; `/readyz` tells when clients
may come. Stop: stop being ready, hand leadership over, wake the polls, commit, exit; within 4
seconds, because honcho kills after 5.
"""

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from random import Random, SystemRandom
from typing import NoReturn

import structlog
from aiohttp import web

from ottla_broker.descriptor_budget import DescriptorBudget
from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.controller_client import ControllerClient
from ottla_broker.drivers.controller_driver import ControllerDriver
from ottla_broker.drivers.controller_tenure import ControllerTenure
from ottla_broker.drivers.critical_task import CriticalTask, stop_all
from ottla_broker.drivers.disk_space import DiskRoom
from ottla_broker.drivers.disk_watch import DiskWatch
from ottla_broker.drivers.event_loop_lag import EventLoopLag
from ottla_broker.drivers.group_coordinators import GroupCoordinators
from ottla_broker.drivers.health_gauges import HealthGauges
from ottla_broker.drivers.hung_disk import HungDisk
from ottla_broker.drivers.isr_proposals import IsrProposals
from ottla_broker.drivers.leadership_returns import LeadershipReturns
from ottla_broker.drivers.lifecycle import BrokerLifecycle
from ottla_broker.drivers.log_compaction import LogCompactionTask
from ottla_broker.drivers.log_end_survey import LogEndSurvey
from ottla_broker.drivers.log_retention import LogRetention
from ottla_broker.drivers.log_scrubber import LogScrubber
from ottla_broker.drivers.marker_appends import MarkerAppends
from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.metadata_state_machine import MetadataStateMachine
from ottla_broker.drivers.peer_client import PeerClient
from ottla_broker.drivers.purgatory import Purgatory
from ottla_broker.drivers.raft_driver import RaftDriver
from ottla_broker.drivers.raft_store import RaftStore
from ottla_broker.drivers.replica_fetcher import ReplicaFetcher
from ottla_broker.drivers.replica_healer import ReplicaHealer
from ottla_broker.drivers.replica_logs import ReplicaLogs
from ottla_broker.drivers.replica_manager import ReplicaManager
from ottla_broker.drivers.transaction_coordinators import TransactionCoordinators
from ottla_broker.drivers.trusted_time import TrustedTime
from ottla_broker.http.aiohttp_connection import AiohttpConnections
from ottla_broker.http.application import build_application
from ottla_broker.http.listener import Listener
from ottla_broker.limit_wiring import watch_limits
from ottla_broker.services.controller_commands import ControllerCommands
from ottla_broker.services.producer_ids import ProducerIds
from ottla_broker.services_wiring import Drivers, wire_services
from ottla_broker.settings import Settings, SettingsError, split_address
from ottla_broker.storage.disk_full import is_disk_failure
from ottla_broker.storage.end_witness import WITNESS_FILE, EndWitness, read_boot_id
from ottla_broker.storage.handles import HandlePool
from ottla_broker.storage.log_compactor import CompactionLimits
from ottla_broker.storage.log_config import LogConfig
from ottla_broker.storage.log_directory import LogDirectory
from ottla_broker.storage.sqlite_version import sqlite_in_use
from ottla_broker.storage.tail_cache import TailCache
from ottla_broker.telemetry import METRICS
from ottla_cluster.controller.config import ControllerConfig
from ottla_cluster.controller.features import (
    ISR_BATCHES,
    VOTER_CHANGES,
    FeatureLevelTooHighError,
    is_enabled,
)
from ottla_cluster.controller.image import MetadataImage
from ottla_cluster.groups.config import GroupConfig
from ottla_cluster.raft.config import RaftConfig
from ottla_cluster.raft.messages import Entry
from ottla_cluster.raft.snapshot_schedule import SnapshotSchedule
from ottla_protocol.errors import (
    InternalError,
    OttlaError,
    StorageError,
    UnsupportedFeatureLevelError,
)
from ottla_protocol.models import Readiness

MAX_DEFAULT_REPLICATION_FACTOR = 3
SETTLE_TIMEOUT_MS = 700
"""How long, after the drain, the next leaders have to commit what was appended here."""

CLOSE_TIMEOUT_SECONDS = 1.5
"""How long open requests may still answer after the drain."""

RETAINED_DIVISOR = 10
"""Of the entries between two snapshots of the metadata, this part stays behind the newer one: a
voter that is no further behind gets entries, which are less than a snapshot."""

HAND_OVER_TIMEOUT_MS = 300
"""How long a stopping controller waits for another voter to take over."""

LOOP_LAG_INTERVAL_MS = 100

EXIT_FAILURE = 1
EXIT_USAGE = 2
"""Another start would end alike: the supervisor leaves it at that."""
EXIT_STORAGE = 74
"""A disk failed (EX_IOERR of sysexits.h): the supervisor takes its time before the next start."""

log = structlog.get_logger()


class Broker:
    """One broker process, from its settings to its exit."""

    def __init__(
        self, settings: Settings, directory: LogDirectory, budget: DescriptorBudget
    ) -> None:
        self._settings = settings
        self._budget = budget
        self._directory = directory
        self._stopping = asyncio.Event()
        self._ready = False
        self._has_started = False
        self._tasks: list[CriticalTask] = []
        random = Random(SystemRandom().getrandbits(64))
        secret = settings.cluster_secret
        self._peers = PeerClient(
            node_id=settings.node_id,
            cluster_id=settings.cluster_id,
            cluster_secret=secret.get_secret_value() if secret else None,
            cluster_calls_per_peer=budget.cluster_connections_per_peer,
            connections_max=budget.peer_connections,
            forwarded_produces_max=budget.forwarded_produces,
            parked_calls_max=budget.parked_calls,
            streamed_reads_max=budget.streamed_reads,
        )
        self._metadata = MetadataCache(MetadataImage())
        self._state_machine = MetadataStateMachine(self._metadata)
        self._tenure = ControllerTenure()
        self._purgatory = Purgatory(settings.max_parked_requests)
        self._disk_watch = DiskWatch(
            hang_timeout_ms=settings.disk_hang_timeout_ms,
            on_change=self._disk_hangs,
            on_failure=self._fail,
        )
        self._raft = RaftDriver(
            config=RaftConfig(
                node_id=settings.node_id,
                voters=tuple(sorted(settings.voter_urls)),
                url=settings.url,
                election_timeout_min_ms=settings.election_timeout_ms,
                election_timeout_max_ms=2 * settings.election_timeout_ms,
                retained_entries=settings.metadata_snapshot_entries // RETAINED_DIVISOR,
                retained_bytes=settings.metadata_snapshot_bytes // RETAINED_DIVISOR,
            ),
            store=RaftStore(directory.path / "raft.sqlite"),
            peers=self._peers,
            voter_urls=settings.voter_urls,
            broker_url=self._broker_url,
            directory_id=directory.directory_id,
            renew_directory=directory.renew_id,
            writes_configurations=lambda: is_enabled(self._metadata.image, VOTER_CHANGES),
            random=random,
            state_machine=self._state_machine,
            snapshot_schedule=SnapshotSchedule(
                max_entries=settings.metadata_snapshot_entries,
                max_bytes=settings.metadata_snapshot_bytes,
            ),
            on_committed=self._committed,
            on_leadership=self._leadership_changed,
            on_refused=self._peer_refused,
            on_failure=self._fail,
            writing=self._disk_watch.writing,
        )
        self._controller = ControllerDriver(
            config=ControllerConfig(
                cluster_id=settings.cluster_id,
                default_partitions=settings.num_partitions,
                default_replication_factor=settings.default_replication_factor
                or _default_replication_factor(settings),
                default_min_insync_replicas=settings.min_insync_replicas,
                default_topic_configs=settings.default_topic_configs,
                initial_feature_level=settings.initial_feature_level,
                session_timeout_ms=settings.session_timeout_ms,
            ),
            raft=self._raft,
            metadata=self._metadata,
            random=random,
            survey=LogEndSurvey(self._metadata, self._peers),
            on_failure=self._fail,
        )
        self._controller_client = ControllerClient(
            node_id=settings.node_id,
            raft=self._raft,
            controller=self._controller,
            metadata=self._metadata,
            peers=self._peers,
        )
        self._lifecycle = BrokerLifecycle(
            node_id=settings.node_id,
            url=settings.url,
            rack=settings.rack,
            cluster_id=settings.cluster_id,
            directory_id=lambda: directory.directory_id,
            session_timeout_ms=settings.session_timeout_ms,
            controller=self._controller_client,
            metadata=self._metadata,
            replicas=lambda: self._replicas,
            is_full=lambda: self._disk.is_full,
            gives_up=lambda: self._hung_disk.gives_up,
            on_fatal=self._fail,
        )
        self._hung_disk = HungDisk(
            node_id=settings.node_id,
            voter=self._raft,
            controller=self._controller_client,
            broker_epoch=lambda: self._lifecycle.broker_epoch,
            metadata=self._metadata,
            on_change=self._lifecycle.give_up_changed,
            on_failure=self._fail,
        )
        self._disk = DiskRoom(
            directory.path,
            reserve_bytes=settings.disk_reserve_bytes,
            pending_bytes=lambda: self._replicas.pending_bytes,
            on_change=self._lifecycle.hurry,
            on_failure=self._fail,
        )
        self._isr_proposals = IsrProposals(
            node_id=settings.node_id,
            controller=self._controller_client,
            broker_epoch=lambda: self._lifecycle.broker_epoch,
            in_flight_max=budget.isr_proposals,
            batches=lambda: is_enabled(self._metadata.image, ISR_BATCHES),
        )
        handles = HandlePool(budget.open_segments, on_failure=self._fail)
        witness = EndWitness(directory.path / WITNESS_FILE, boot_id=read_boot_id())
        self._replicas = ReplicaManager(
            node_id=settings.node_id,
            metadata=self._metadata,
            logs=ReplicaLogs(
                directory=directory,
                handles=handles,
                tail_cache=TailCache(settings.tail_cache_bytes),
                defaults=LogConfig(
                    producer_id_expiration_ms=settings.producer_id_expiration_ms,
                    idempotency_window_ms=settings.idempotency_window_ms,
                    idempotency_entries_max=settings.idempotency_entries_max,
                ),
                witness=witness,
                writing=self._disk_watch.writing,
                on_failure=self._fail,
            ),
            disk=self._disk,
            replica_lag_time_max_ms=settings.replica_lag_time_max_ms,
            lease_valid=lambda: self._lifecycle.lease_is_valid,
            propose=self._isr_proposals.propose,
            broker_epoch=lambda: self._lifecycle.broker_epoch,
            make_fetcher=self._make_fetcher,
            on_failure=self._fail,
            witness=witness,
            writing=self._disk_watch.writing,
        )
        self._healer = ReplicaHealer(
            node_id=settings.node_id,
            replicas=self._replicas,
            controller=self._controller_client,
            broker_epoch=lambda: self._lifecycle.broker_epoch,
            on_failure=self._fail,
        )
        self._leadership_returns = LeadershipReturns(
            metadata=self._metadata,
            replicas=self._replicas,
            controller=self._controller_client,
            on_failure=self._fail,
        )
        self._scrubber = LogScrubber(
            replicas=self._replicas,
            interval_ms=settings.scrub_interval_ms,
            bytes_per_second=settings.scrub_bytes_per_second,
            on_failure=self._fail,
        )
        self._trusted_time = TrustedTime(directory=directory, on_failure=self._fail)
        self._compaction = LogCompactionTask(
            replicas=self._replicas,
            trusted_ms=self._trusted_time.read,
            interval_ms=settings.compaction_check_interval_ms,
            limits=CompactionLimits(
                settings.compaction_map_bytes,
                settings.compaction_max_bytes_per_s,
                self._disk.has_room_to_replace,
            ),
            on_failure=self._fail,
        )
        self._retention = LogRetention(
            replicas=self._replicas,
            trusted_ms=self._trusted_time.read,
            interval_ms=settings.retention_check_interval_ms,
            on_failure=self._fail,
        )
        self._health_gauges = HealthGauges(self._metadata)
        METRICS.hosted_partitions.watch(self._replicas.partitions)
        METRICS.follower_lags.watch(
            lambda: itertools.chain.from_iterable(
                hosted.follower_lags() for hosted in self._replicas.leaders()
            )
        )
        self._controller_commands = ControllerCommands(
            metadata=self._metadata, controller=self._controller_client
        )
        self._producer_ids = ProducerIds(
            node_id=settings.node_id,
            commands=self._controller_commands,
            broker_epoch=lambda: self._lifecycle.broker_epoch,
        )
        self._coordinators = GroupCoordinators(
            config=GroupConfig(offsets_retention_ms=settings.offsets_retention_ms),
            metadata=self._metadata,
            replicas=self._replicas,
            random=random,
            on_failure=self._fail,
        )
        marker_appends = MarkerAppends(replicas=self._replicas, groups=self._coordinators)
        self._transactions = TransactionCoordinators(
            node_id=settings.node_id,
            config=settings.transaction_config,
            metadata=self._metadata,
            replicas=self._replicas,
            peers=self._peers,
            write_here=marker_appends.write,
            catch_up=self._controller_client.catch_up,
            next_producer_id=self._producer_ids.next_id,
            on_failure=self._fail,
        )
        context = wire_services(
            settings,
            Drivers(
                metadata=self._metadata,
                peers=self._peers,
                raft=self._raft,
                controller=self._controller,
                controller_client=self._controller_client,
                commands=self._controller_commands,
                replicas=self._replicas,
                coordinators=self._coordinators,
                transactions=self._transactions,
                marker_appends=marker_appends,
                purgatory=self._purgatory,
                producer_ids=self._producer_ids,
                tenure=self._tenure,
                readiness=self._readiness,
                has_started=lambda: self._has_started,
                measure_gauges=self._measure_gauges,
                lease_confirmed_at_ms=lambda: self._lifecycle.lease.confirmed_at_ms,
            ),
        )
        self._group_polls = context.group_polls
        self._group_lags = context.group_lags
        self._hanging_transactions = context.hanging_transactions
        self._rest_consumers = context.rest_consumers
        self._runner = web.AppRunner(
            build_application(context),
            handler_cancellation=True,
            shutdown_timeout=CLOSE_TIMEOUT_SECONDS,
        )
        self._aiohttp = AiohttpConnections(self._runner, context.unsent, str(settings.node_id))
        self._listener = Listener(
            context,
            self._aiohttp.make,
            successors_count=self._aiohttp.__len__,
            check_successors=self._aiohttp.check_deadlines,
            connections_max=budget.connections,
            reserved_connections=budget.reserved_connections,
            cluster_connections=budget.cluster_connections,
        )

        watch_limits(
            METRICS.limits,
            context=context,
            listener=self._listener,
            handles=handles,
            peers=self._peers,
            raft=self._raft,
            replicas=self._replicas,
        )

    # --- life -------------------------------------------------------------------------------

    async def run(self) -> int:
        """Serve until told to stop; the exit code.

        Raises:
            SettingsError: the address cannot be listened on.
        """
        try:
            return await self._serve()
        except SettingsError:
            raise
        except OttlaError as error:
            # Left to the interpreter, it would wait for the threads of open connections.
            self._fail(error)
        except Exception as error:
            log.exception("broker_failed")
            kind = StorageError if is_disk_failure(error) else InternalError
            self._fail(kind(f"{type(error).__name__}: {error}"))

    async def _serve(self) -> int:
        self._handle_signals()
        await self._peers.start()
        await self._runner.setup()
        await self._listen()
        sqlite = sqlite_in_use()
        log.info(
            "listening", url=self._settings.url, data=str(self._directory.path),
            sqlite=sqlite.version, sqlite_driver=sqlite.driver,
        )  # fmt: skip
        if sqlite.is_affected:
            log.warning("affected_sqlite", sqlite=sqlite.version, sqlite_driver=sqlite.driver)
        log.info("descriptors_divided", **asdict(self._budget))
        await self._disk.start()
        self._disk_watch.start()
        await self._raft.start()
        if self._settings.is_broker:
            self._start_hosting()
        self._ready = self._has_started = True
        self._tasks = [
            CriticalTask(self._measure_lag(), name="measurements", on_failure=self._fail)
        ]
        await self._stopping.wait()
        await self._stop()
        return 0

    def _start_hosting(self) -> None:
        """Register as a broker and host replicas, which a dedicated controller never does."""
        self._replicas.start()
        self._trusted_time.start()
        self._retention.start()
        self._compaction.start()
        self._healer.start()
        self._scrubber.start()
        self._coordinators.start()
        self._transactions.start()
        self._group_lags.start(self._fail)
        self._hanging_transactions.start(self._fail)
        self._leadership_returns.start()
        self._lifecycle.start()

    async def _stop_hosting(self) -> None:
        """Close the replicas; a dedicated controller leaves alone what an earlier role left."""
        if self._settings.is_broker:
            await self._replicas.stop()

    async def _listen(self) -> None:
        host, port = split_address(self._settings.listen)
        try:
            await self._listener.start(host, port)
        except OSError as error:
            await self._runner.cleanup()
            await self._peers.close()
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
            raise SettingsError(
                f"OTTLA_LISTEN (--listen): cannot listen on {self._settings.listen}: {reason}"
            ) from error

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stopping.set)
        loop.add_signal_handler(signal.SIGINT, self._interrupted)

    def _interrupted(self) -> None:
        """The first SIGINT stops in order, as SIGTERM does; a second one stops at once."""
        if self._stopping.is_set():
            self._exit_now(130)
        self._stopping.set()

    async def _stop(self) -> None:
        started_ms = monotonic_ms()
        self._ready = False
        self._purgatory.release()
        self._listener.send_clients_away()
        await self._leadership_returns.stop()
        await self._lifecycle.drain()
        await self._replicas.settle_acks(SETTLE_TIMEOUT_MS)
        await self._raft.hand_over(timeout_ms=HAND_OVER_TIMEOUT_MS)
        await self._lifecycle.stop()
        await self._disk_watch.stop()
        await self._hung_disk.stop()
        await stop_all(self._tasks)
        await self._group_lags.stop()
        await self._hanging_transactions.stop()
        await self._group_polls.stop()
        await self._rest_consumers.stop()
        await self._transactions.stop()
        await self._coordinators.stop()
        await self._compaction.stop()
        await self._retention.stop()
        await self._trusted_time.stop()
        await self._disk.stop()
        await self._scrubber.stop()
        await self._healer.stop()
        # Closing the replicas fails every waiting ack, so that the listener finds its requests
        # answered.
        replicas_closed = asyncio.create_task(self._stop_hosting())
        await asyncio.gather(
            self._listener.stop(timeout_s=CLOSE_TIMEOUT_SECONDS), self._runner.cleanup()
        )
        await replicas_closed
        await self._producer_ids.stop()
        await self._isr_proposals.stop()
        await self._controller.stop()
        await self._raft.stop()
        await self._peers.close()
        self._directory.close()
        log.info("stopped", after_ms=monotonic_ms() - started_ms)

    def _readiness(self) -> Readiness:
        reasons = []
        if not self._ready:
            reasons.append("the broker is starting or stopping")
        warnings = self._raft.describe_rejections()
        if self._raft.leader_id is None:
            reasons += ["no controller is elected", *warnings, *self._raft.describe_silence()]
            warnings = []
        # A dedicated controller is never registered: nothing fences it.
        if self._settings.is_broker and self._lifecycle.fenced:
            reasons.append("the broker is fenced: it has not caught up with the metadata yet")
        elif self._settings.is_broker and not self._lifecycle.lease_is_valid:
            reasons.append("the broker has not confirmed its session with the controller")
        if self._disk_watch.is_hung:
            reasons.append(
                f"the disk of {self._directory.path} hangs: a write has been under way for "
                f"{self._disk_watch.oldest_write_ms} ms"
            )
        if self._disk.is_full:
            warnings.append(
                f"the disk of {self._directory.path} has no room: {self._disk.available_bytes} "
                f"bytes are free, {self._settings.disk_reserve_bytes} are kept in reserve"
            )
        return Readiness(not reasons, reasons, warnings)

    def _fail(self, error: OttlaError) -> NoReturn:
        """Fail-stop: whatever the disk did not take must not be told as done by anybody.

        Not sys.exit: it would wait for the threads of open connections, and one of them may hang.
        """
        log.critical("fail_stop", code=error.code, detail=error.detail)
        self._exit_now(_exit_code(error))

    def _exit_now(self, code: int) -> NoReturn:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    # --- wiring -----------------------------------------------------------------------------

    def _committed(self, entries: Sequence[Entry]) -> None:
        self._state_machine.apply(entries)
        self._controller.applied(entries)

    def _leadership_changed(self, term: int, leader_id: int | None, is_leader: bool) -> None:  # noqa: FBT001  the Raft driver's callback
        self._tenure.changed(term, leader_id)
        self._controller.leadership_changed(term, leader_id, is_leader)
        self._controller_client.leadership_changed()

    def _disk_hangs(self, is_hung: bool) -> None:  # noqa: FBT001  the disk watch's callback
        self._hung_disk.changed(is_hung)

    def _broker_url(self, node_id: int) -> str | None:
        broker = self._metadata.image.brokers.get(node_id)
        return broker.url if broker else None

    def _make_fetcher(self, leader_id: int) -> ReplicaFetcher:
        return ReplicaFetcher(
            node_id=self._settings.node_id,
            leader_id=leader_id,
            peers=self._peers,
            leader_url=lambda: self._broker_url(leader_id),
            broker_epoch=lambda: self._lifecycle.broker_epoch,
            disk=self._disk,
            on_refused=self._controller_client.peer_refused,
            on_failure=self._fail,
        )

    def _peer_refused(self, peer_id: int) -> None:
        self._controller_client.peer_refused(peer_id)

    async def _measure_lag(self) -> None:
        """How late the event loop is, for as long as it turns."""
        lag = EventLoopLag()
        while True:
            lag.begin(LOOP_LAG_INTERVAL_MS)
            await asyncio.sleep(LOOP_LAG_INTERVAL_MS / 1000)
            lag.end()

    def _measure_gauges(self) -> None:
        """Set the gauges that are cheaper to sample than to keep.

        For each who asks: one who was just told that the cluster is healthy is told no other thing.
        """
        METRICS.parked_requests.set(self._purgatory.parked)
        led = list(self._replicas.leaders())
        METRICS.partitions.labels("leader").set(len(led))
        METRICS.partitions.labels("follower").set(len(self._replicas.partitions) - len(led))
        self._health_gauges.measure(is_controller=self._controller.is_active)


def _exit_code(error: OttlaError) -> int:
    """What the supervisor is to make of a failure."""
    if isinstance(error, StorageError):
        return EXIT_STORAGE
    if isinstance(error, FeatureLevelTooHighError | UnsupportedFeatureLevelError):
        return EXIT_USAGE
    return EXIT_FAILURE


def _default_replication_factor(settings: Settings) -> int:
    """Dedicated controllers tell nothing of how many brokers there are going to be."""
    if not settings.is_broker:
        return MAX_DEFAULT_REPLICATION_FACTOR
    return min(MAX_DEFAULT_REPLICATION_FACTOR, len(settings.voter_urls))
