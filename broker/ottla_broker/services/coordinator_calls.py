"""Finds the coordinator of a consumer group and has it decide, here or at another broker.

A group belongs to one partition of `__consumer_offsets`, chosen by murmur2 of its name; the leader
of that partition is its coordinator. The topic is created when the first group needs it; until then
this broker answers for a coordinator without groups.
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import msgspec

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.controller_client import ControllerClient
from ottla_broker.drivers.group_coordinators import OFFSETS_TOPIC, GroupCoordinators
from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.peer_client import PeerClient, PeerUnavailableError, Purpose
from ottla_broker.drivers.peer_messages import CoordinatorCall, encode
from ottla_broker.drivers.purgatory import Purgatory
from ottla_broker.drivers.racing import Unless
from ottla_broker.services.controller_commands import ControllerCommands
from ottla_broker.telemetry import METRICS
from ottla_cluster.controller.commands import CreateTopic
from ottla_cluster.controller.image import BrokerRegistration, BrokerState, Topic
from ottla_cluster.controller.topic_configs import MAX_MESSAGE_BYTES
from ottla_cluster.groups.commands import (
    ClientCommand,
    CommitOffsets,
    FetchedOffset,
    FetchOffsets,
    FetchOffsetsResponse,
    Heartbeat,
    HeartbeatResponse,
    Join,
    Leave,
    ListGroups,
    ListGroupsResponse,
    OffsetToSeek,
    Response,
    SeekOffsets,
    SeekOffsetsResponse,
    SoughtOffset,
    decode_command,
    decode_response,
    encode_message,
)
from ottla_cluster.groups.instance_commands import (
    AssignInstance,
    CommitInstance,
    CreateInstance,
    InstanceCommand,
    TopicPartitionName,
)
from ottla_cluster.groups.limits import MAX_DECISION_BYTES
from ottla_cluster.groups.messages import OffsetToCommit
from ottla_cluster.groups.validation import validate_group_id
from ottla_protocol import routes
from ottla_protocol.errors import (
    CoordinatorNotAvailableError,
    GroupIdNotFoundError,
    GroupMaxSizeReachedError,
    InvalidGroupIdError,
    NotCoordinatorError,
    NotEnoughReplicasError,
    NotFoundError,
    OttlaError,
    Outcome,
    OverloadedError,
    TopicAlreadyExistsError,
    UnavailableError,
    UnknownMemberIdError,
)
from ottla_protocol.models_groups import MAX_HEARTBEAT_WAIT_MS
from ottla_protocol.partitioning import partition_for_key

CALL_TIMEOUT_MS = 10_000
"""How long a call on a group may take, its coordinator's failover included."""

FORWARD_GRACE_MS = 1_000
"""How much longer than the coordinator a forwarder waits, so that its own timeout arrives."""

RETRY_INTERVAL_MS = 50

ASK_AGAIN_INTERVAL_MS = 1_000
"""How often a waiting heartbeat is repeated that could not wait at its coordinator."""

NamedPartition = OffsetToCommit | OffsetToSeek | TopicPartitionName

LASTING_ERRORS = (NotEnoughReplicasError, OverloadedError, GroupMaxSizeReachedError)
"""What lasts longer than a caller wants to wait."""


class CoordinatorCalls:
    """The way to the coordinator of every group.

    Args:
        node_id: this broker.
        offsets_partitions: how many partitions `__consumer_offsets` is created with.
        purgatory: bounds the heartbeats that wait here.
    """

    def __init__(
        self,
        *,
        node_id: int,
        offsets_partitions: int,
        metadata: MetadataCache,
        controller: ControllerClient,
        commands: ControllerCommands,
        coordinators: GroupCoordinators,
        peers: PeerClient,
        purgatory: Purgatory,
    ) -> None:
        self._node_id = node_id
        self._offsets_partitions = offsets_partitions
        self._metadata = metadata
        self._controller = controller
        self._commands = commands
        self._coordinators = coordinators
        self._peers = peers
        self._purgatory = purgatory

    async def decide(
        self, group: str, command: ClientCommand, *, repeatable: bool
    ) -> tuple[Response, int]:
        """The coordinator's answer to a command on `group`, and the coordinator's node id.

        What was certainly not applied is sent again until CALL_TIMEOUT_MS have passed, so that a
        caller waits through a failover.

        Args:
            group: its name.
            command: what to decide.
            repeatable: deciding it twice does no harm, so a lost answer is asked for again too.

        Raises:
            OttlaError: the coordinator's refusal.
            UnavailableError: no coordinator decided in time.
        """
        topic = await self._offsets_topic(command)
        if topic is None:
            return _of_no_group(command), self._node_id
        partition = partition_for_key(_group_key(group), len(topic.partitions))
        if not isinstance(command, Heartbeat) or not command.max_wait_ms:
            return await self._decide_at(topic.topic_id, partition, command, repeatable=repeatable)
        with self._place_to_wait(command) as heartbeat:
            try:
                with self._purgatory.unless_released():
                    return await self._decide_at(
                        topic.topic_id, partition, heartbeat, repeatable=repeatable
                    )
            except UnavailableError as error:
                # This broker stops; the heartbeat may have been taken.
                raise error.with_outcome(Outcome.UNKNOWN) from error

    async def ask_all(self, command: ClientCommand) -> list[tuple[Response, int]]:
        """The answers of all coordinators to a question, each with its node id.

        There are none before there is a group.
        """
        if not await self._there_are_groups():
            return []
        topic = self._metadata.image.topic(OFFSETS_TOPIC)
        return await asyncio.gather(
            *(
                self._decide_at(topic.topic_id, partition, command, repeatable=True)
                for partition in range(len(topic.partitions))
            )
        )

    async def decide_here(self, call: CoordinatorCall) -> Response:
        """The answer of the coordinator that another broker takes this one for.

        Raises:
            NotCoordinatorError: this broker does not lead the partition, or the group belongs to
                another one.
            OttlaError: as `CoordinatorDriver.execute`.
        """
        command = decode_command(bytes(call.command))
        self._check_partition(call.partition, command)
        timeout_ms = max(1, min(call.timeout_ms, CALL_TIMEOUT_MS + _wait_ms(command)))
        deadline_ms = monotonic_ms() + timeout_ms
        if not isinstance(command, Heartbeat) or not command.max_wait_ms:
            return await self._execute(call.partition, command, deadline_ms)
        with self._place_to_wait(command) as heartbeat:
            return await self._execute(call.partition, heartbeat, deadline_ms)

    def _check_partition(self, partition: int, command: ClientCommand) -> None:
        """Refuse what a broker sent that knows the topic otherwise than this one does.

        A group in two partitions would have two coordinators.
        """
        if isinstance(command, ListGroups):
            return
        image = self._metadata.image
        if OFFSETS_TOPIC in image.topic_ids:
            count = len(image.topic(OFFSETS_TOPIC).partitions)
            if partition == partition_for_key(_group_key(command.group), count):
                return
        raise NotCoordinatorError(
            f"the group {command.group!r} does not belong to {OFFSETS_TOPIC}-{partition} here",
            outcome=Outcome.NOT_APPLIED,
        )

    @contextmanager
    def _place_to_wait(self, command: Heartbeat) -> Iterator[Heartbeat]:
        """Hold a place among the waiting requests; without one the heartbeat does not wait.

        It is decided all the same: a member must not be lost because many wait.
        """
        if self._purgatory.parked >= self._purgatory.limit:
            yield msgspec.structs.replace(command, max_wait_ms=0)
            return
        with self._purgatory.parked_request():
            yield command

    async def _execute(self, partition: int, command: ClientCommand, deadline_ms: int) -> Response:
        named = _named_partitions(command)
        if named:
            await self._look_for(named)
        return await self._coordinators.execute(partition, command, deadline_ms=deadline_ms)

    async def _look_for(self, partitions: Iterable[NamedPartition]) -> None:
        """Catch up with the controller where a command names what is unknown here."""
        image = self._metadata.image

        def is_known(topic: str, partition: int) -> bool:
            topic_id = image.topic_ids.get(topic)
            return topic_id is not None and partition < len(image.topics[topic_id].partitions)

        if all(is_known(each.topic, each.partition) for each in partitions):
            return
        if not await self._controller.catch_up():
            raise CoordinatorNotAvailableError(
                "a topic is unknown here, and no controller can be asked whether it exists",
                outcome=Outcome.NOT_APPLIED,
            )

    # --- finding the coordinator ------------------------------------------------------------

    async def _offsets_topic(self, command: ClientCommand) -> Topic | None:
        """`__consumer_offsets`, created if there is none yet and the command may make a group."""
        if OFFSETS_TOPIC not in self._metadata.image.topic_ids:
            if _may_make_a_group(command):
                await self._create_offsets_topic()
            elif not await self._there_are_groups():
                return None
        return self._metadata.image.topic(OFFSETS_TOPIC)

    async def _there_are_groups(self) -> bool:
        """Whether `__consumer_offsets` exists.

        Raises:
            CoordinatorNotAvailableError: it is unknown here, and no controller can be asked.
        """
        if OFFSETS_TOPIC in self._metadata.image.topic_ids:
            return True
        if not await self._controller.catch_up():
            raise CoordinatorNotAvailableError(
                "no controller can be asked whether there are groups", outcome=Outcome.NOT_APPLIED
            )
        return OFFSETS_TOPIC in self._metadata.image.topic_ids

    async def _create_offsets_topic(self) -> None:
        try:
            await self._commands.change(
                CreateTopic(
                    name=OFFSETS_TOPIC,
                    partitions=self._offsets_partitions,
                    # A decision about a very large group is one batch all the same.
                    configs={MAX_MESSAGE_BYTES: MAX_DECISION_BYTES},
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
                f"{OFFSETS_TOPIC} cannot be created: {error.detail}", outcome=Outcome.NOT_APPLIED
            ) from error
        if OFFSETS_TOPIC not in self._metadata.image.topic_ids:
            raise CoordinatorNotAvailableError(
                f"{OFFSETS_TOPIC} is not known here yet", outcome=Outcome.NOT_APPLIED
            )

    async def _decide_at(
        self, topic_id: str, partition: int, command: ClientCommand, *, repeatable: bool
    ) -> tuple[Response, int]:
        wait_end_ms = monotonic_ms() + _wait_ms(command)
        deadline_ms = wait_end_ms + CALL_TIMEOUT_MS
        may_be_applied = False
        while True:
            if isinstance(command, Heartbeat):
                # A part of the wait may have passed at a coordinator that is none any more.
                remaining_ms = min(_wait_ms(command), wait_end_ms - monotonic_ms())
                command = msgspec.structs.replace(command, max_wait_ms=max(0, remaining_ms))
            try:
                leader = self._leader_of(topic_id, partition)
                response = await self._decide_once(leader, partition, command, deadline_ms)
            except OttlaError as error:
                is_not_applied = error.outcome is Outcome.NOT_APPLIED
                if may_be_applied:
                    # The last attempt was not; one before it may have been.
                    error.outcome = Outcome.UNKNOWN
                may_be_applied |= error.outcome is Outcome.UNKNOWN
                certain = repeatable or is_not_applied
                if not error.retriable or not certain or isinstance(error, LASTING_ERRORS):
                    raise
                if monotonic_ms() + RETRY_INTERVAL_MS >= deadline_ms:
                    raise
            else:
                return response, leader
            await self._metadata.wait_for_change(timeout_ms=RETRY_INTERVAL_MS)

    def _leader_of(self, topic_id: str, partition: int) -> int:
        state = self._metadata.image.partition_by_id(topic_id, partition)
        if state.leader is None:
            raise CoordinatorNotAvailableError(
                f"{state.topic}-{partition} has no leader at this moment",
                outcome=Outcome.NOT_APPLIED,
            )
        return state.leader

    async def _decide_once(
        self, leader: int, partition: int, command: ClientCommand, deadline_ms: int
    ) -> Response:
        if leader == self._node_id:
            return await self._execute(partition, command, deadline_ms)
        registration = self._metadata.image.brokers.get(leader)
        if registration is None or registration.state is BrokerState.FENCED:
            raise CoordinatorNotAvailableError(
                f"broker {leader} is not there now", outcome=Outcome.NOT_APPLIED
            )
        if isinstance(command, Heartbeat) and command.max_wait_ms:
            return await self._forward_heartbeat(registration, partition, command, deadline_ms)
        return await self._forward(registration, partition, command, deadline_ms)

    async def _forward_heartbeat(
        self,
        coordinator: BrokerRegistration,
        partition: int,
        command: Heartbeat,
        deadline_ms: int,
    ) -> Response:
        """Forward a heartbeat that may wait; where no more of them may, ask again and again."""
        wait_end_ms = monotonic_ms() + command.max_wait_ms
        while True:
            if self._peers.may_park(coordinator.url):
                return await self._forward(
                    coordinator, partition, command, deadline_ms, Purpose.PARKED
                )
            now = msgspec.structs.replace(command, max_wait_ms=0)
            response = await self._forward(coordinator, partition, now, deadline_ms)
            assert isinstance(response, HeartbeatResponse)
            remaining_ms = wait_end_ms - monotonic_ms()
            if response.assignment is not None or remaining_ms <= 0:
                return response
            await asyncio.sleep(min(remaining_ms, ASK_AGAIN_INTERVAL_MS) / 1000)
            remaining_ms = max(0, wait_end_ms - monotonic_ms())
            command = msgspec.structs.replace(command, max_wait_ms=remaining_ms)

    async def _forward(
        self,
        coordinator: BrokerRegistration,
        partition: int,
        command: ClientCommand,
        deadline_ms: int,
        purpose: Purpose = Purpose.CLIENT,
    ) -> Response:
        leader = coordinator.node_id
        remaining_ms = max(1, deadline_ms - monotonic_ms())
        call = CoordinatorCall(partition, remaining_ms, msgspec.Raw(encode_message(command)))
        kind = "parked" if purpose is Purpose.PARKED else "group"
        try:
            with (
                METRICS.forward_seconds.labels(kind).time(),
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
                    routes.INTERNAL_GROUPS,
                    encode(call),
                    timeout_ms=remaining_ms + FORWARD_GRACE_MS,
                    purpose=purpose,
                )
        except PeerUnavailableError as error:
            METRICS.forwarded_requests.labels("group", error.outcome).inc()
            raise CoordinatorNotAvailableError(
                f"the coordinator on broker {leader} did not answer: {error.detail}",
                outcome=error.outcome,
            ) from error
        METRICS.forwarded_requests.labels("group", "ok").inc()
        return decode_response(body)


def _named_partitions(command: ClientCommand) -> Sequence[NamedPartition]:
    """The partitions that a command names, and that have to exist."""
    match command:
        case CommitOffsets() | SeekOffsets():
            return command.offsets
        case CommitInstance():
            return command.offsets or ()
        case AssignInstance():
            return command.partitions
    return ()


def _may_make_a_group(command: ClientCommand) -> bool:
    """Whether there may be a group afterwards that there was not before."""
    match command:
        case Join() | CreateInstance():
            return True
        case CommitOffsets():
            return command.member_id is None
        case SeekOffsets():
            return not command.dry_run
    return False


def _of_no_group(command: ClientCommand) -> Response:
    """What a coordinator without any group answers, given that the command makes none.

    Raises:
        GroupIdNotFoundError: it is about a group.
        UnknownMemberIdError: it comes from a member.
        InvalidGroupIdError: no group can have that name.
    """
    if isinstance(command, ListGroups):
        return ListGroupsResponse(())
    validate_group_id(command.group)
    match command:
        case FetchOffsets():
            return FetchOffsetsResponse(
                tuple(
                    FetchedOffset(wanted.topic, partition, None)
                    for wanted in command.partitions or ()
                    for partition in wanted.partitions
                )
            )
        case SeekOffsets():
            return SeekOffsetsResponse(
                command.dry_run,
                tuple(
                    SoughtOffset(each.topic, each.partition, None, each.offset)
                    for each in command.offsets
                ),
            )
        case Heartbeat() | Leave() | CommitOffsets():
            raise UnknownMemberIdError(
                f"The group {command.group!r} has no member {command.member_id!r}.",
                outcome=Outcome.NOT_APPLIED,
            )
    if isinstance(command, InstanceCommand):
        raise NotFoundError(
            f"The group {command.group!r} has no consumer instance {command.member_id!r}.",
            outcome=Outcome.NOT_APPLIED,
        )
    raise GroupIdNotFoundError(f"There is no group {command.group!r}.", outcome=Outcome.NOT_APPLIED)


def _wait_ms(command: ClientCommand) -> int:
    """How long an answer may wait for news; the coordinator refuses what is longer."""
    if not isinstance(command, Heartbeat):
        return 0
    return min(command.max_wait_ms, MAX_HEARTBEAT_WAIT_MS)


def _group_key(group: str) -> bytes:
    try:
        return group.encode()
    except UnicodeEncodeError as error:
        raise InvalidGroupIdError(
            "the group id is not valid Unicode", outcome=Outcome.NOT_APPLIED
        ) from error
