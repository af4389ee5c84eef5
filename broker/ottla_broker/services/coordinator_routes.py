"""The way to the coordinators that live in the partitions of one internal topic.

A coordinator is the leader of its partition. The topic is created when it is first needed; a call
goes to the leader, here or at another broker, and is sent again through a failover while it was
certainly not applied. What is asked, and which partition it belongs to, is the caller's business.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.controller_client import ControllerClient
from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.peer_client import PeerClient, PeerUnavailableError, Purpose
from ottla_broker.drivers.peer_messages import CoordinatorCall, encode
from ottla_broker.drivers.racing import Unless
from ottla_broker.services.controller_commands import ControllerCommands
from ottla_broker.telemetry import METRICS
from ottla_cluster.controller.commands import CreateTopic
from ottla_cluster.controller.image import BrokerRegistration, BrokerState, Topic
from ottla_cluster.controller.topic_configs import ConfigValue
from ottla_protocol.errors import (
    CoordinatorNotAvailableError,
    NotEnoughReplicasError,
    OttlaError,
    Outcome,
    OverloadedError,
    TopicAlreadyExistsError,
    UnavailableError,
)

AnswerT = TypeVar("AnswerT")

FORWARD_GRACE_MS = 1_000
"""How much longer than the coordinator a forwarder waits, so that its own timeout arrives."""

RETRY_INTERVAL_MS = 50

LASTING_ERRORS: tuple[type[OttlaError], ...] = (NotEnoughReplicasError, OverloadedError)
"""What lasts longer than a caller wants to wait."""


@dataclass(frozen=True, slots=True)
class CoordinatorTopic:
    """An internal topic whose leaders coordinate something."""

    name: str
    partitions: int
    """How many it is created with."""
    path: str
    """The internal route at which its leaders are called."""
    kind: str
    """What its calls are called in metrics."""
    configs: Mapping[str, ConfigValue] = field(default_factory=dict)
    """What it is created with, beside what all internal topics have."""
    lasting_errors: tuple[type[OttlaError], ...] = LASTING_ERRORS
    """Refusals that are retriable, and that a call is not repeated for here."""


class CoordinatorRoutes:
    """Finds the coordinators of one topic, and calls them.

    Args:
        node_id: this broker.
        topic: theirs.
    """

    def __init__(
        self,
        *,
        node_id: int,
        topic: CoordinatorTopic,
        metadata: MetadataCache,
        controller: ControllerClient,
        commands: ControllerCommands,
        peers: PeerClient,
    ) -> None:
        self._node_id = node_id
        self._topic = topic
        self._metadata = metadata
        self._controller = controller
        self._commands = commands
        self._peers = peers

    # --- the topic --------------------------------------------------------------------------

    def known_topic(self) -> Topic | None:
        """The topic as this broker knows it; None if it does not."""
        image = self._metadata.image
        return image.topic(self._topic.name) if self._topic.name in image.topic_ids else None

    async def find_topic(self) -> Topic | None:
        """The topic, or None where nobody has needed it yet.

        Raises:
            CoordinatorNotAvailableError: it is unknown here, and no controller can be asked.
        """
        if self.known_topic() is None and not await self._controller.catch_up():
            raise CoordinatorNotAvailableError(
                f"no controller can be asked whether there is {self._topic.name}",
                outcome=Outcome.NOT_APPLIED,
            )
        return self.known_topic()

    async def make_topic(self) -> Topic:
        """The topic, created if there is none yet.

        Raises:
            UnavailableError: it cannot be created now.
        """
        topic = self.known_topic()
        if topic is not None:
            return topic
        await self._create_topic()
        topic = self.known_topic()
        if topic is None:
            raise CoordinatorNotAvailableError(
                f"{self._topic.name} is not known here yet", outcome=Outcome.NOT_APPLIED
            )
        return topic

    async def _create_topic(self) -> None:
        try:
            await self._commands.change(
                CreateTopic(
                    name=self._topic.name,
                    partitions=self._topic.partitions,
                    configs=dict(self._topic.configs),
                    internal=True,
                ),
                # Whoever finds it made already has what it wants.
                repeatable=True,
            )
        except TopicAlreadyExistsError:
            await self._controller.catch_up()
        except OttlaError as error:
            if isinstance(error, UnavailableError):
                raise
            # The broker asked for it, so it is not the caller's fault.
            raise CoordinatorNotAvailableError(
                f"{self._topic.name} cannot be created: {error.detail}",
                outcome=Outcome.NOT_APPLIED,
            ) from error

    # --- calls ------------------------------------------------------------------------------

    async def call(
        self,
        topic_id: str,
        partition: int,
        ask: Callable[[int], Awaitable[AnswerT]],
        *,
        deadline_ms: int,
        repeatable: bool,
    ) -> tuple[AnswerT, int]:
        """What the coordinator on a partition answers, and its node id.

        What was certainly not applied is sent again until the deadline, so that a caller waits
        through a failover.

        Args:
            topic_id: the topic's.
            partition: the coordinator's.
            ask: called with the leader's node id, for each attempt.
            deadline_ms: on the monotonic clock.
            repeatable: deciding it twice does no harm, so a lost answer is asked for again too.

        Raises:
            OttlaError: the coordinator's refusal.
            UnavailableError: no coordinator decided in time.
        """
        may_be_applied = False
        while True:
            try:
                leader = self._leader_of(topic_id, partition)
                return await ask(leader), leader
            except OttlaError as error:
                is_not_applied = error.outcome is Outcome.NOT_APPLIED
                if may_be_applied:
                    # The last attempt was not; one before it may have been.
                    error.outcome = Outcome.UNKNOWN
                may_be_applied |= error.outcome is Outcome.UNKNOWN
                certain = repeatable or is_not_applied
                lasts = isinstance(error, self._topic.lasting_errors)
                if not error.retriable or not certain or lasts:
                    raise
                if monotonic_ms() + RETRY_INTERVAL_MS >= deadline_ms:
                    raise
            await self._metadata.wait_for_change(timeout_ms=RETRY_INTERVAL_MS)

    def _leader_of(self, topic_id: str, partition: int) -> int:
        state = self._metadata.image.partition_by_id(topic_id, partition)
        if state.leader is None:
            raise CoordinatorNotAvailableError(
                f"{state.topic}-{state.partition} has no leader at this moment",
                outcome=Outcome.NOT_APPLIED,
            )
        return state.leader

    def other_broker(self, node_id: int) -> BrokerRegistration | None:
        """Where the broker is that leads; None if it is this one.

        Raises:
            CoordinatorNotAvailableError: it is not there now.
        """
        if node_id == self._node_id:
            return None
        registration = self._metadata.image.brokers.get(node_id)
        if registration is None or registration.state is BrokerState.FENCED:
            raise CoordinatorNotAvailableError(
                f"broker {node_id} is not there now", outcome=Outcome.NOT_APPLIED
            )
        return registration

    async def forward(
        self,
        coordinator: BrokerRegistration,
        partition: int,
        command: bytes,
        deadline_ms: int,
        purpose: Purpose = Purpose.CLIENT,
    ) -> bytes | bytearray:
        """The response of a coordinator at another broker, as it was sent.

        Args:
            coordinator: the broker.
            partition: the coordinator's.
            command: in MessagePack.
            deadline_ms: on the monotonic clock.
            purpose: whose connections it takes.

        Raises:
            CoordinatorNotAvailableError: that broker did not answer.
            OttlaError: the coordinator's refusal.
        """
        leader, kind = coordinator.node_id, self._topic.kind
        remaining_ms = max(1, deadline_ms - monotonic_ms())
        call = CoordinatorCall(partition, remaining_ms, msgspec.Raw(command))
        timed = "parked" if purpose is Purpose.PARKED else kind
        try:
            with (
                METRICS.forward_seconds.labels(timed).time(),
                Unless(
                    self._metadata.replacement_of(leader, coordinator.broker_epoch),
                    PeerUnavailableError(
                        f"broker {leader} was fenced before it answered",
                        refused=False,
                        outcome=Outcome.UNKNOWN,
                    ),
                ),
            ):
                body = await self._peers.post(
                    coordinator.url,
                    self._topic.path,
                    encode(call),
                    timeout_ms=remaining_ms + FORWARD_GRACE_MS,
                    purpose=purpose,
                )
        except PeerUnavailableError as error:
            METRICS.forwarded_requests.labels(kind, error.outcome).inc()
            raise CoordinatorNotAvailableError(
                f"the coordinator on broker {leader} did not answer: {error.detail}",
                outcome=error.outcome,
            ) from error
        METRICS.forwarded_requests.labels(kind, "ok").inc()
        return body
