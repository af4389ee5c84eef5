"""This broker's life in the cluster: register, heartbeat, hold the lease, drain.

    starting ──registered──▶ fenced ──caught up──▶ active ──SIGTERM──▶ draining ──▶ gone
                               ▲                     │
                               └──── session lost ───┘

The incarnation id is new in every process, so the controller never takes a restarted process for
its former self. The lease counts from the sending of a heartbeat, and is confirmed only when the
replicas here reflect the metadata that the controller had when it answered.
"""

import asyncio
import uuid
from collections.abc import Callable
from contextlib import suppress

import msgspec
import structlog

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.controller_client import ControllerClient
from ottla_broker.drivers.critical_task import CriticalTask
from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.replica_manager import ReplicaManager
from ottla_cluster.controller.commands import (
    Heartbeat,
    HeartbeatResponse,
    RegisterBroker,
    RegisterBrokerResponse,
)
from ottla_cluster.controller.elections import may_be_relieved
from ottla_cluster.controller.features import (
    BROKER_DIRECTORIES,
    LATEST_FEATURE_LEVEL,
    is_enabled,
)
from ottla_cluster.replication.lease import BrokerLease
from ottla_protocol.errors import (
    DuplicateBrokerRegistrationError,
    InvalidRequestError,
    OttlaError,
    StaleBrokerEpochError,
    UnsupportedFeatureLevelError,
)

HEARTBEATS_PER_SESSION = 6
RETRY_INTERVAL_MS = 50
"""Between attempts while there is no controller, and between heartbeats while fenced."""

DRAIN_TIMEOUT_MS = 1_000
"""How long a stopping broker waits for others to take its leaderships."""

HANDOVER_TIMEOUT_MS = 300
"""How long followers have, before that, to get what is appended here already."""

NO_BROKER_EPOCH = -1

log = structlog.get_logger()


class BrokerLifecycle:
    """Keeps this broker registered.

    Args:
        directory_id: of the data directory that the replicas' logs are in.
        is_full: whether this broker's disk has no room.
        gives_up: whether this broker may not act at all, because its disk hangs.
        on_fatal: told the error that this process cannot live with (another cluster, a second
            process with the same node id); the process must stop.
    """

    def __init__(
        self,
        *,
        node_id: int,
        url: str,
        rack: str,
        cluster_id: str,
        directory_id: Callable[[], str],
        session_timeout_ms: int,
        controller: ControllerClient,
        metadata: MetadataCache,
        replicas: Callable[[], ReplicaManager],
        is_full: Callable[[], bool],
        gives_up: Callable[[], bool],
        on_fatal: Callable[[OttlaError], None],
    ) -> None:
        self.broker_epoch = NO_BROKER_EPOCH
        self.lease = BrokerLease(session_timeout_ms)
        self.fenced = True
        self._node_id = node_id
        self._url = url
        self._rack = rack
        self._cluster_id = cluster_id
        self._directory_id = directory_id
        self._session_timeout_ms = session_timeout_ms
        self._interval_ms = session_timeout_ms // HEARTBEATS_PER_SESSION
        self._controller = controller
        self._metadata = metadata
        self._replicas = replicas
        self._is_full = is_full
        self._gives_up = gives_up
        # A heartbeat that was sent before then confirms nothing.
        self._lease_from_ms = 0
        self._on_fatal = on_fatal
        self._incarnation_id = uuid.uuid4().hex
        self._draining = False
        # Whether the replicas here reflect what came of a heartbeat that told of a full disk.
        self._was_told_full = False
        self._may_shut_down = asyncio.Event()
        self._hurry = asyncio.Event()
        self._task: CriticalTask | None = None

    def start(self) -> None:
        """Begin to register."""
        self._task = CriticalTask(self._run(), name="broker-lifecycle", on_failure=self._on_fatal)

    async def stop(self) -> None:
        """Stop heartbeating; the session ends by itself."""
        if self._task is not None:
            await self._task.stop()

    @property
    def lease_is_valid(self) -> bool:
        """Whether this broker may act as a leader now."""
        return not self._gives_up() and self.lease.valid(monotonic_ms())

    async def drain(self) -> None:
        """Hand over every leadership within DRAIN_TIMEOUT_MS; skipped when nobody could take it."""
        if self.broker_epoch == NO_BROKER_EPOCH or self._gives_up() or not self._others_live():
            return
        await self._replicas().prepare_handover(HANDOVER_TIMEOUT_MS)
        self._draining = True
        self._hurry.set()
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT_MS / 1000):
                await self._may_shut_down.wait()
        except TimeoutError:
            log.warning("drain_timed_out", timeout_ms=DRAIN_TIMEOUT_MS)

    def hurry(self) -> None:
        """There is news for the controller: heartbeat now."""
        self._hurry.set()

    def give_up_changed(self, lease_after_ms: int) -> None:
        """This broker gives up its part in the cluster, or may have it again, as a fenced one.

        Args:
            lease_after_ms: how long no heartbeat confirms the lease: a call that fences this broker
                may still be on its way.
        """
        self.lease.revoked()
        self._lease_from_ms = monotonic_ms() + lease_after_ms
        self.fenced = True
        self._hurry.set()

    def _others_live(self) -> bool:
        return any(
            broker.node_id != self._node_id for broker in self._metadata.image.active_brokers()
        )

    async def _run(self) -> None:
        await self._register()
        await self._activate_replicas()
        while True:
            await self._tell_directory()
            await self._beat()

    def _registration(self) -> RegisterBroker:
        return RegisterBroker(
            node_id=self._node_id,
            incarnation_id=self._incarnation_id,
            url=self._url,
            rack=self._rack,
            cluster_id=self._cluster_id,
        )

    def _telling_more(self, command: RegisterBroker) -> RegisterBroker | None:
        """The registration with the next thing that a controller may want; None where all is told.

        An older controller refuses a field that it does not know. So each is told only to one that
        has refused a registration without it, or for want of it.
        """
        if command.latest_feature_level != LATEST_FEATURE_LEVEL:
            return msgspec.structs.replace(command, latest_feature_level=LATEST_FEATURE_LEVEL)
        if not command.directory_id:
            return msgspec.structs.replace(command, directory_id=self._directory_id())
        return None

    async def _register(self) -> None:
        command = self._registration()
        while True:
            try:
                response = await self._controller.execute(
                    command, timeout_ms=self._session_timeout_ms
                )
            except InvalidRequestError:
                raise
            except UnsupportedFeatureLevelError:
                more = self._telling_more(command)
                if more is None:
                    raise
                command = more
            except DuplicateBrokerRegistrationError as error:
                log.warning("registration_refused", detail=error.detail)
                await asyncio.sleep(self._interval_ms / 1000)
            except OttlaError:
                await asyncio.sleep(RETRY_INTERVAL_MS / 1000)
            else:
                assert isinstance(response, RegisterBrokerResponse)
                self.broker_epoch = response.broker_epoch
                log.info("registered", broker_epoch=self.broker_epoch)
                if response.former_directory_id:
                    log.critical(
                        "data_directory_replaced",
                        former_directory_id=response.former_directory_id,
                        directory_id=command.directory_id,
                    )
                return

    async def _tell_directory(self) -> None:
        """Tell the directory once the feature level wants it: registered before, it did not."""
        image = self._metadata.image
        own = image.brokers.get(self._node_id)
        if (
            own is None
            or own.directory_id
            or own.broker_epoch != self.broker_epoch
            or not is_enabled(image, BROKER_DIRECTORIES)
        ):
            return
        command = msgspec.structs.replace(
            self._registration(),
            latest_feature_level=LATEST_FEATURE_LEVEL,
            directory_id=self._directory_id(),
        )
        with suppress(OttlaError):
            # Told again with the next heartbeat, until the metadata has it.
            await self._controller.execute(command, timeout_ms=self._interval_ms)

    async def _activate_replicas(self) -> None:
        """Host replicas only from the point on where the metadata knows this incarnation."""
        while True:
            own = self._metadata.image.brokers.get(self._node_id)
            if own is not None and own.broker_epoch >= self.broker_epoch:
                self._replicas().activate()
                return
            await self._metadata.wait_for_change(timeout_ms=self._interval_ms)

    async def _beat(self) -> None:
        self._hurry.clear()
        if self._gives_up():
            await self._pause(self._interval_ms)
            return
        is_full = self._is_full()
        image = self._metadata.image
        self._was_told_full = self._was_told_full and is_full
        if may_be_relieved(
            image,
            self._node_id,
            is_draining=self._draining,
            is_full=is_full,
            was_told_full=self._was_told_full,
        ):
            # Others may lead before the answer is here, without this broker in their ISR. The
            # answer's version has what they got, so nothing is led here before it is known.
            self.lease.revoked()
        sent_at_ms = monotonic_ms()
        try:
            response = await self._controller.execute(
                Heartbeat(
                    node_id=self._node_id,
                    broker_epoch=self.broker_epoch,
                    applied_version=self._replicas().applied_version,
                    draining=self._draining,
                    is_full=is_full,
                ),
                timeout_ms=self._session_timeout_ms,
            )
        except StaleBrokerEpochError:
            raise
        except OttlaError:
            await asyncio.sleep(RETRY_INTERVAL_MS / 1000)
            return
        assert isinstance(response, HeartbeatResponse)
        if self._gives_up() or sent_at_ms <= self._lease_from_ms:
            await self._pause(RETRY_INTERVAL_MS)
            return
        if response.may_shut_down:
            self._may_shut_down.set()
        if self.fenced != response.fenced:
            log.info("fenced" if response.fenced else "unfenced", broker_epoch=self.broker_epoch)
        self.fenced = response.fenced
        if response.fenced:
            self.lease.revoked()
        elif await self._reflects(response.version) and sent_at_ms > self._lease_from_ms:
            self.lease.confirmed(sent_at_ms)
            self._was_told_full = is_full
        pause_ms = RETRY_INTERVAL_MS if response.fenced or self._draining else self._interval_ms
        await self._pause(pause_ms - (monotonic_ms() - sent_at_ms))

    async def _reflects(self, version: int) -> bool:
        try:
            async with asyncio.timeout(self._interval_ms / 1000):
                await self._replicas().wait_applied(version)
        except TimeoutError:
            return False
        return True

    async def _pause(self, pause_ms: int) -> None:
        if pause_ms <= 0:
            return
        try:
            async with asyncio.timeout(pause_ms / 1000):
                await self._hurry.wait()
        except TimeoutError:
            return
