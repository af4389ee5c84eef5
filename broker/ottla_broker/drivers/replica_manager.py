"""Makes the replicas on this broker what the metadata says they are.

One task takes one image after the other, the newest always: it opens logs, changes roles, moves
followers between fetchers, and removes what the metadata no longer knows. Nothing is hosted before
the broker has caught up with its own registration (`activate`): a restarted process must not act on
metadata that still calls its former self the leader.
"""

import asyncio
from collections.abc import Callable, Container, Mapping, Sequence
from functools import partial

import structlog

from ottla_broker.drivers.critical_task import CriticalTask, stop_all
from ottla_broker.drivers.disk_space import DiskRoom
from ottla_broker.drivers.hosted_replicas import HostedReplicas
from ottla_broker.drivers.leader_fetchers import LeaderFetchers, MakeFetcher
from ottla_broker.drivers.leadership_news import tell_changes
from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.partition import Partition
from ottla_broker.drivers.purgatory import OffsetWaiters
from ottla_broker.drivers.replica_changes import changes_for
from ottla_broker.drivers.replica_logs import ReplicaLogs
from ottla_broker.drivers.replica_openings import (
    OPENING_PATIENCE_MS,
    OPENINGS_AT_ONCE,
    ReplicaOpenings,
)
from ottla_broker.drivers.replica_removals import ReplicaRemovals
from ottla_broker.drivers.replica_roles import ReplicaRoles, draining_brokers, eligible_brokers
from ottla_broker.drivers.witness_keeper import WitnessKeeper
from ottla_broker.storage.counted_writes import Writing, uncounted
from ottla_broker.storage.disk_full import DiskFullError
from ottla_broker.storage.end_witness import EndWitness
from ottla_broker.storage.log_config import LogConfig, RemovedSegments
from ottla_broker.storage.loss_note import forget_loss
from ottla_broker.telemetry import METRICS
from ottla_cluster.controller import topic_names
from ottla_cluster.controller.image import MetadataImage, Topic
from ottla_cluster.controller.image import Partition as PartitionState
from ottla_cluster.replication.leader import IsrProposal
from ottla_protocol.errors import (
    OttlaError,
)

TICK_INTERVAL_MS = 250
"""How often leaders look for followers that lag or have caught up."""

SETTLE_INTERVAL_MS = 10
"""How often a stopping broker looks whether others have all that was appended here."""

REFUSE_APPENDS_MS = 10_000
"""How long a stopping broker appends nothing: for longer than it takes to stop."""

ROLE_STEP = 32
"""After how many changes of roles the event loop has its turn."""

CHECKPOINT_INTERVAL_MS = 5_000
"""How often the high watermarks are written down."""

log = structlog.get_logger()


class ReplicaManager(HostedReplicas):
    """All replicas of this broker.

    Args:
        logs: opens and removes their logs.
        disk: the room for what is appended.
        lease_valid: whether this broker may act as a leader now.
        propose: takes an ISR proposal to the controller.
        broker_epoch: this broker's present epoch.
        make_fetcher: see `LeaderFetchers`.
        on_failure: a log or a loop failed; the process must stop.
        witness: writes down where the logs end.
        writing: entered for as long as that is being written.
    """

    def __init__(
        self,
        *,
        node_id: int,
        metadata: MetadataCache,
        logs: ReplicaLogs,
        disk: DiskRoom,
        replica_lag_time_max_ms: int,
        lease_valid: Callable[[], bool],
        propose: Callable[[Partition, IsrProposal], None],
        broker_epoch: Callable[[], int],
        make_fetcher: MakeFetcher,
        on_failure: Callable[[OttlaError], None],
        witness: EndWitness,
        writing: Writing = uncounted,
    ) -> None:
        super().__init__(node_id=node_id, metadata=metadata, disk=disk, lease_valid=lease_valid)
        self._logs = logs
        self._replica_lag_time_max_ms = replica_lag_time_max_ms
        self._propose = propose
        self._broker_epoch = broker_epoch
        self._on_failure = on_failure
        self._applied: MetadataImage | None = None
        self._applied_waiters = OffsetWaiters()
        self._activated = asyncio.Event()
        self._tasks: list[CriticalTask] = []
        self._witness = WitnessKeeper(
            witness, partition=self.partitions.get, writing=writing, on_failure=on_failure
        )
        # Logs that are slow to open take their roles when they are open.
        self._openings = ReplicaOpenings(on_late=self._opened_late, on_failure=on_failure)
        self._removals = ReplicaRemovals(remove=self._remove_log, on_failure=on_failure)
        self._opening_at_once = asyncio.Semaphore(OPENINGS_AT_ONCE)
        # Held while roles change: by the metadata, or because a log is to be cut, or was.
        self._changing_roles = asyncio.Lock()
        self._fetchers = LeaderFetchers(make_fetcher)
        self._roles = ReplicaRoles(node_id=node_id, fetchers=self._fetchers, witness=self._witness)

    @property
    def applied_version(self) -> int:
        """The metadata version that the replicas here reflect; 0 before activation."""
        return self._applied.version if self._applied else 0

    @property
    def broker_epoch(self) -> int:
        """This broker's present epoch."""
        return self._broker_epoch()

    def start(self) -> None:
        """Begin to follow the metadata; nothing is hosted before `activate`."""
        self._witness.start()
        self._tasks = [
            CriticalTask(work, name=name, on_failure=self._on_failure)
            for name, work in (
                ("replica-manager", self._follow_metadata()),
                ("isr-ticker", self._tick_leaders()),
                ("high-watermark-checkpoint", self._checkpoint()),
            )
        ]

    def activate(self) -> None:
        """The broker has caught up with its own registration: host what the metadata says."""
        self._activated.set()

    async def prepare_handover(self, timeout_ms: int) -> None:
        """Refuse appends to what others in sync can lead, and let them get all that there is.

        Internal topics are left out: what waits there is answered by the next coordinator.
        """
        image = self._metadata.image
        handed = [
            hosted
            for hosted in self.leaders()
            if not topic_names.is_internal(hosted.state.topic)
            and any(n != self._node_id and image.is_active(n) for n in hosted.state.isr)
        ]
        await self.hand_over(handed, REFUSE_APPENDS_MS, timeout_ms=timeout_ms)

    async def hand_over(
        self, partitions: Sequence[Partition], refuse_appends_ms: int, *, timeout_ms: int
    ) -> None:
        """Append nothing to these partitions, and wait until the others have all that there is."""
        for hosted in partitions:
            hosted.begin_handover(refuse_appends_ms)
        await self._wait_until(
            lambda: all(hosted.is_handed_over for hosted in partitions), timeout_ms
        )

    async def settle_acks(self, timeout_ms: int) -> None:
        """Wait until nobody waits for an ack any more: what was led here is committed elsewhere."""
        await self._wait_until(
            lambda: not any(hosted.has_waiting_acks for hosted in self.partitions.values()),
            timeout_ms,
        )

    async def _wait_until(self, condition: Callable[[], bool], timeout_ms: int) -> None:
        for _ in range(timeout_ms // SETTLE_INTERVAL_MS):
            if condition():
                return
            await asyncio.sleep(SETTLE_INTERVAL_MS / 1000)

    async def stop(self) -> None:
        """Stop fetching, answer what waits, flush and close every log."""
        await stop_all(self._tasks)
        await self._openings.stop()
        await self._removals.stop()
        await self._fetchers.stop()
        await self._write_checkpoint()
        await asyncio.gather(*(partition.close() for partition in self.partitions.values()))
        await self._witness.stop()

    async def wait_applied(self, version: int) -> None:
        """Wait until the replicas reflect metadata `version`."""
        if self.applied_version < version:
            await self._applied_waiters.wait_for(version)

    # --- following the metadata -------------------------------------------------------------

    async def _follow_metadata(self) -> None:
        await self._activated.wait()
        while True:
            image = self._metadata.image
            if self._applied is not image:
                async with self._changing_roles:
                    await self._apply(image)
                    self._applied = image
                self._applied_waiters.reached(image.version)
            if self._metadata.image is image:
                await self._metadata.wait_for_change(timeout_ms=60_000)

    async def _apply(self, image: MetadataImage) -> None:
        previous = self._applied
        changes = changes_for(self._node_id, previous, image)
        wanted = changes.wanted
        tell_changes(self._node_id, previous, wanted)
        # One that is being opened goes when it is open.
        hosted = (key for key in changes.unwanted if key in self.partitions)
        for done, key in enumerate([key for key in hosted if key not in self._openings], 1):
            await self._let_go(key)
            if done % ROLE_STEP == 0:
                await asyncio.sleep(0)
        if previous is None:
            await self._logs.prepare(wanted.keys())
        # In the metadata's order, as on every broker: a leader gives its followers' logs only so
        # long before it takes them for lagging.
        opening = dict.fromkeys(key for key in wanted if key not in self.partitions)
        for key in opening:
            if key not in self._openings:
                topic, state = wanted[key]
                place = topic.name, state.partition
                namesakes = self._openings.at(place)
                self._openings.begin(key, place, self._open_after(namesakes, topic, state))
        await self._openings.settled(timeout_ms=None if previous is None else OPENING_PATIENCE_MS)
        await self._assume_roles(wanted, opening, image)
        await self._fetchers.stop_idle()

    async def _assume_roles(
        self,
        wanted: Mapping[tuple[str, int], tuple[Topic, PartitionState]],
        opening: Container[tuple[str, int]],
        image: MetadataImage,
    ) -> None:
        """Give their roles to replicas that are new here, and to those that the image changes.

        What an image does not change it shares with the one before, partition by partition: a
        change of one in a large topic costs the others a comparison. Between ROLE_STEP of them
        others have their turn: a broker that takes up thousands of roles answers and heartbeats
        meanwhile.
        """
        former = {} if self._applied is None else self._applied.topics
        configs: dict[str, LogConfig] = {}
        done = 0
        for key, (topic, state) in wanted.items():
            hosted = self.partitions.get(key)
            if hosted is None:
                continue
            known = former.get(topic.topic_id)
            is_new = known is None or key in opening
            is_same_config = known is not None and known.configs == topic.configs
            if not is_new and (known is topic or (is_same_config and _had(known, state))):
                continue
            if is_new or not is_same_config:
                if topic.topic_id not in configs:
                    configs[topic.topic_id] = self._logs.config_of(topic)
                hosted.log.reconfigure(configs[topic.topic_id])
            await self._roles.assume(hosted, topic, state, image)
            done += 1
            if done % ROLE_STEP == 0:
                await asyncio.sleep(0)

    async def _opened_late(self, key: tuple[str, int]) -> None:
        """Give a replica its role whose log took longer to open than the metadata waits."""
        async with self._changing_roles:
            image, hosted = self._applied, self.partitions.get(key)
            topic = None if image is None else image.topics.get(key[0])
            if image is None or hosted is None:
                return
            if topic is None or self._node_id not in topic.partitions[key[1]].replicas:
                # Nobody wants it any more.
                await self._remove(key)
                return
            state = topic.partitions[key[1]]
            hosted.log.reconfigure(self._logs.config_of(topic))
            # Thousands of new logs come like this, one after the other: each would have its leader
            # told all the others again. The last one need not wait.
            is_urgent = len(self._openings) == 0
            await self._roles.assume(hosted, topic, state, image, is_urgent=is_urgent)

    async def _open_after(
        self, namesakes: Sequence[tuple[str, int]], topic: Topic, state: PartitionState
    ) -> None:
        """Open a log once its place is free of namesakes, and of what it was here before.

        Only this log waits for them: they may have to wait for room, which is perhaps to be made by
        what the metadata says next.
        """
        for key in namesakes:
            await self._openings.ended(key)
            async with self._changing_roles:
                if key in self.partitions:
                    await self._remove(key)
        await self._removals.ended((topic.name, state.partition))
        await self._open(topic, state)

    async def _open(self, topic: Topic, state: PartitionState) -> None:
        key = (state.topic_id, state.partition)
        partition_log = await self._logs.open(
            topic,
            state,
            on_durable=lambda log_end_offset: self._log_end_moved(key, log_end_offset),
            on_held=lambda error: self._commit_held(key, error),
            on_damage=lambda: self.activity.unfit.add(key),
            # A starting broker has nothing yet that it could hold up.
            at_once=None if self._applied is None else self._opening_at_once,
        )
        loss = self._logs.tail_loss(partition_log)
        if loss is not None:
            await self._logs.when_there_is_room(
                f"{topic.name}-{state.partition}",
                lambda error: self._commit_held(key, error),
                partial(self._witness.mark_short, key, loss.expected_end_offset),
            )
        lost_start = self._logs.lost_start(partition_log)
        if lost_start is not None and any(member != self._node_id for member in state.isr):
            # What is left would be taken for all that there is to keep: it is refilled as a whole.
            await self._logs.when_there_is_room(
                f"{topic.name}-{state.partition}",
                lambda error: self._commit_held(key, error),
                partial(partition_log.reset_to, lost_start),
            )
        if loss is not None and len(state.replicas) == 1:
            # Nobody can refill it. What it lost is lost; its offsets are not given again.
            await self._logs.when_there_is_room(
                f"{topic.name}-{state.partition}",
                lambda error: self._commit_held(key, error),
                partial(partition_log.skip_to, loss.expected_end_offset),
            )
            loss = None
        self.partitions[key] = Partition(
            partition_log,
            state,
            node_id=self._node_id,
            high_watermark=self._logs.high_watermark(key),
            disk=self._disk,
            replica_lag_time_max_ms=self._replica_lag_time_max_ms,
            lease_valid=self._lease_valid,
            propose=self._propose,
            lost_tail=loss is not None,
            truncating=self._witness.truncating,
            activity=self.activity,
        )
        # What was found while the log was opened is looked at once.
        self.activity.unfit.add(key)
        self.activity.log_start_moved.add(key)
        self.activity.watermarks_moved = True
        if partition_log.recovery.damaged_from is not None:
            await asyncio.to_thread(forget_loss, partition_log.directory)
        self._witness.moved(key)

    async def remove_expired(self, hosted: Partition) -> RemovedSegments:
        """As `LogCleanup.remove_expired`, of what the witness knows to be meant."""
        if hosted.log.cleanup.has_expired:
            await self._witness.before_removal(hosted)
            # The start may move on meanwhile, and more go than was meant.
            self._witness.moved(hosted.key)
        return await hosted.log.cleanup.remove_expired()

    def _log_end_moved(self, key: tuple[str, int], log_end_offset: int) -> None:
        hosted = self.partitions.get(key)
        if hosted is not None:
            hosted.log_end_moved(log_end_offset)
            self._witness.moved(key)

    def _commit_held(self, key: tuple[str, int], error: DiskFullError) -> None:
        METRICS.held_commits.inc()
        self._disk.found_full()
        self._openings.waits_for_room(key)
        hosted = self.partitions.get(key)
        if hosted is not None:
            log.error("commit_held", partition=hosted.name, detail=error.detail)
            hosted.commit_held()

    async def refilled(self, hosted: Partition) -> None:
        """See `ReplicaRoles.refilled`."""
        await self._roles.refilled(hosted)

    async def cut_at_damage(self, key: tuple[str, int]) -> None:
        """Cut a follower's log before its damage, and fetch it again from there.

        A replica that leads, or that has no leader to fetch from, stays as it is. Up to a segment
        is copied, and only this replica waits for that: the metadata goes on to be applied.

        Raises:
            UnavailableError: the log is closed.
            DiskFullError: there is no room for the copy; the replica has no role then.
            StorageError: the files failed; so has the log.
        """
        async with self._changing_roles:
            hosted = self.partitions.get(key)
            if hosted is None or hosted.state.leader in (None, self._node_id):
                return
            await self._fetchers.stop_following(hosted)
            hosted.begin_cut()
            is_cut = self._roles.cutting[key] = asyncio.Event()
        before = hosted.log.log_end_offset
        try:
            await self._witness.mark_short(key, before)
            await hosted.cut_at_damage()
        finally:
            del self._roles.cutting[key]
            is_cut.set()
        log.warning(
            "replica_cut_at_damage",
            partition=hosted.name,
            before=before,
            after=hosted.log.log_end_offset,
            leader=hosted.state.leader,
        )
        async with self._changing_roles:
            image = self._applied
            if image is not None and self.partitions.get(key) is hosted:
                topic = image.topics[key[0]]
                await self._roles.assume(hosted, topic, topic.partitions[key[1]], image)

    async def _remove(self, key: tuple[str, int]) -> None:
        await self._remove_log(await self._withdrawn(key))

    async def _let_go(self, key: tuple[str, int]) -> None:
        """End a replica's part; its log goes when its turn comes."""
        hosted = await self._withdrawn(key)
        self._removals.begin((hosted.state.topic, key[1]), hosted)

    async def _withdrawn(self, key: tuple[str, int]) -> Partition:
        """A replica that is hosted no longer, and has no role."""
        hosted = self.partitions[key]
        await self._fetchers.stop_following(hosted)
        if key in self._roles.cutting:
            await self._roles.cutting[key].wait()
        del self.partitions[key]
        # The checkpoint must not keep its high watermark: the partition may come back, empty.
        self.activity.watermarks_moved = True
        hosted.withdraw()
        return hosted

    async def _remove_log(self, hosted: Partition) -> None:
        await hosted.close()
        await self._witness.forget(hosted.key)
        await self._logs.delete(hosted.log)

    # --- time -------------------------------------------------------------------------------

    async def _tick_leaders(self) -> None:
        while True:
            await asyncio.sleep(TICK_INTERVAL_MS / 1000)
            image = self._metadata.image
            eligible, draining = eligible_brokers(image), draining_brokers(image)
            for key in tuple(self.activity.restless):
                hosted = self.partitions.get(key)
                if hosted is None or not hosted.tick(eligible, draining):
                    self.activity.restless.discard(key)

    async def _checkpoint(self) -> None:
        while True:
            await asyncio.sleep(CHECKPOINT_INTERVAL_MS / 1000)
            await self._write_checkpoint()

    async def _write_checkpoint(self) -> None:
        if not self.activity.watermarks_moved:
            return
        self.activity.watermarks_moved = False
        try:
            await self._logs.write_high_watermarks(
                {key: hosted.high_watermark for key, hosted in self.partitions.items()}
            )
        except DiskFullError:
            # A hint that may be old: the one on disk stays, and the next time comes.
            self.activity.watermarks_moved = True
            self._disk.found_full()


def _had(known: Topic | None, state: PartitionState) -> bool:
    """Whether a topic had the partition just as it is now."""
    return (
        known is not None
        and state.partition < len(known.partitions)
        and known.partitions[state.partition] is state
    )
