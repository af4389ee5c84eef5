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
from ottla_broker.drivers.peer_client import PeerClient, Purpose
from ottla_broker.drivers.peer_messages import CoordinatorCall
from ottla_broker.drivers.purgatory import Purgatory
from ottla_broker.services.controller_commands import ControllerCommands
from ottla_broker.services.coordinator_routes import (
    LASTING_ERRORS,
    CoordinatorRoutes,
    CoordinatorTopic,
)
from ottla_broker.services.transaction_offsets import TransactionOffsets
from ottla_cluster.controller.features import TRANSACTIONS, is_enabled
from ottla_cluster.controller.image import BrokerRegistration, Topic
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
from ottla_cluster.groups.transaction_commands import CommitTransactionOffsets
from ottla_cluster.groups.validation import validate_group_id
from ottla_cluster.state_machine.messages import encode_message
from ottla_protocol import routes
from ottla_protocol.errors import (
    CoordinatorNotAvailableError,
    GroupIdNotFoundError,
    GroupMaxSizeReachedError,
    InvalidGroupIdError,
    NotCoordinatorError,
    NotFoundError,
    OttlaError,
    Outcome,
    UnavailableError,
    UnknownMemberIdError,
    UnstableOffsetCommitError,
)
from ottla_protocol.models_groups import MAX_HEARTBEAT_WAIT_MS
from ottla_protocol.partitioning import partition_for_key

CALL_TIMEOUT_MS = 10_000
"""How long a call on a group may take, its coordinator's failover included."""

ASK_AGAIN_INTERVAL_MS = 1_000
"""How often a waiting heartbeat is repeated that could not wait at its coordinator."""

NamedPartition = OffsetToCommit | OffsetToSeek | TopicPartitionName


class CoordinatorCalls:
    """The way to the coordinator of every group.

    Args:
        node_id: this broker.
        offsets_partitions: how many partitions `__consumer_offsets` is created with.
        purgatory: bounds the heartbeats that wait here.
        transaction_offsets: asked before offsets of a transaction are taken here.
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
        transaction_offsets: TransactionOffsets,
    ) -> None:
        self._transaction_offsets = transaction_offsets
        self._node_id = node_id
        self._metadata = metadata
        self._controller = controller
        self._coordinators = coordinators
        self._peers = peers
        self._purgatory = purgatory
        self._routes = CoordinatorRoutes(
            node_id=node_id,
            topic=CoordinatorTopic(
                OFFSETS_TOPIC,
                offsets_partitions,
                routes.INTERNAL_GROUPS,
                "group",
                # A decision about a very large group is one batch all the same.
                configs={MAX_MESSAGE_BYTES: MAX_DECISION_BYTES},
                lasting_errors=(
                    *LASTING_ERRORS,
                    GroupMaxSizeReachedError,
                    UnstableOffsetCommitError,
                ),
            ),
            metadata=metadata,
            controller=controller,
            commands=commands,
            peers=peers,
        )

    async def decide(
        self,
        group: str,
        command: ClientCommand,
        *,
        repeatable: bool,
        timeout_ms: int | None = None,
    ) -> tuple[Response, int]:
        """The coordinator's answer to a command on `group`, and the coordinator's node id.

        What was certainly not applied is sent again until the time is up, so that a caller waits
        through a failover.

        Args:
            group: its name.
            command: what to decide.
            repeatable: deciding it twice does no harm, so a lost answer is asked for again too.
            timeout_ms: how long that may take, beside what a heartbeat waits; CALL_TIMEOUT_MS
                without.

        Raises:
            OttlaError: the coordinator's refusal.
            UnavailableError: no coordinator decided in time.
        """
        if isinstance(command, FetchOffsets) and command.require_stable:
            # Below that level nothing is pending, and a coordinator may not know the field.
            is_asked = is_enabled(self._metadata.image, TRANSACTIONS)
            command = msgspec.structs.replace(command, require_stable=is_asked)
        topic = await self._offsets_topic(command)
        if topic is None:
            return _of_no_group(command), self._node_id
        partition = partition_for_key(_group_key(group), len(topic.partitions))
        if not isinstance(command, Heartbeat) or not command.max_wait_ms:
            return await self._decide_at(
                topic.topic_id, partition, command, repeatable=repeatable, timeout_ms=timeout_ms
            )
        with self._place_to_wait(command) as heartbeat:
            try:
                with self._purgatory.unless_released():
                    return await self._decide_at(
                        topic.topic_id,
                        partition,
                        heartbeat,
                        repeatable=repeatable,
                        timeout_ms=timeout_ms,
                    )
            except UnavailableError as error:
                # This broker stops; the heartbeat may have been taken.
                raise error.with_outcome(Outcome.UNKNOWN) from error

    async def ask_all(self, command: ClientCommand) -> list[tuple[Response, int]]:
        """The answers of all coordinators to a question, each with its node id.

        There are none before there is a group.
        """
        topic = await self._routes.find_topic()
        if topic is None:
            return []
        return await asyncio.gather(
            *(
                self._decide_at(topic.topic_id, partition, command, repeatable=True)
                for partition in range(len(topic.partitions))
            )
        )

    async def ask_each(
        self, command: ClientCommand, *, timeout_ms: int
    ) -> dict[int, Response | OttlaError]:
        """As `ask_all`, by partition, and with the failure of each that does not answer in time.

        Raises:
            CoordinatorNotAvailableError: nobody can be asked whether there is a group at all.
        """
        topic = await self._routes.find_topic()
        if topic is None:
            return {}

        async def ask(partition: int) -> Response | OttlaError:
            try:
                answer, _ = await self._decide_at(
                    topic.topic_id, partition, command, repeatable=True, timeout_ms=timeout_ms
                )
            except OttlaError as error:
                return error
            return answer

        partitions = range(len(topic.partitions))
        answers = await asyncio.gather(*(ask(partition) for partition in partitions))
        return dict(zip(partitions, answers, strict=True))

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
        topic = self._routes.known_topic()
        if topic is not None:
            count = len(topic.partitions)
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
        if isinstance(command, CommitTransactionOffsets):
            await self._transaction_offsets.have_added(partition, command, deadline_ms=deadline_ms)
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
        known = self._routes.known_topic()
        if known is not None:
            return known
        if _may_make_a_group(command):
            return await self._routes.make_topic()
        return await self._routes.find_topic()

    async def _decide_at(
        self,
        topic_id: str,
        partition: int,
        command: ClientCommand,
        *,
        repeatable: bool,
        timeout_ms: int | None = None,
    ) -> tuple[Response, int]:
        wait_end_ms = monotonic_ms() + _wait_ms(command)
        deadline_ms = wait_end_ms + (CALL_TIMEOUT_MS if timeout_ms is None else timeout_ms)

        is_first = True

        async def ask(leader: int) -> Response:
            nonlocal is_first
            asked = command
            # The first is sent as it came: the coordinator judges the wait that was asked for.
            if isinstance(asked, Heartbeat) and not is_first:
                # A part of the wait may have passed at a coordinator that is none any more.
                remaining_ms = min(_wait_ms(asked), wait_end_ms - monotonic_ms())
                asked = msgspec.structs.replace(asked, max_wait_ms=max(0, remaining_ms))
            is_first = False
            return await self._decide_once(leader, partition, asked, deadline_ms)

        return await self._routes.call(
            topic_id, partition, ask, deadline_ms=deadline_ms, repeatable=repeatable
        )

    async def _decide_once(
        self, leader: int, partition: int, command: ClientCommand, deadline_ms: int
    ) -> Response:
        registration = self._routes.other_broker(leader)
        if registration is None:
            return await self._execute(partition, command, deadline_ms)
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
        body = await self._routes.forward(
            coordinator, partition, encode_message(command), deadline_ms, purpose
        )
        return decode_response(body)


def _named_partitions(command: ClientCommand) -> Sequence[NamedPartition]:
    """The partitions that a command names, and that have to exist."""
    match command:
        case CommitOffsets() | CommitTransactionOffsets() | SeekOffsets():
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
        case CommitOffsets() | CommitTransactionOffsets():
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
        case Heartbeat() | Leave() | CommitOffsets() | CommitTransactionOffsets():
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
