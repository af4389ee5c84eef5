"""Topics that are filled from a backup, at the offsets that their records had (decision 35).

The restore's client begins a topic, appends to each partition at its leader, and finishes the topic
when all of it is there. Until then nobody else gets at the topic. Everything may be sent again:
beginning, appending what is there already, and finishing change nothing the second time.
"""

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.partition import Partition
from ottla_broker.drivers.partition_acks import Appended
from ottla_broker.drivers.purgatory import Purgatory
from ottla_broker.drivers.replica_manager import ReplicaManager
from ottla_broker.services.controller_commands import ControllerCommands
from ottla_broker.services.topics import describe_created
from ottla_cluster.controller.commands import (
    BeginRestore,
    CreateTopicResponse,
    FinishRestore,
    RestoreFinishedResponse,
)
from ottla_cluster.controller.features import RESTORES, require
from ottla_cluster.controller.topic_names import refuse_internal
from ottla_protocol.errors import (
    InvalidRequestError,
    LeaderNotAvailableError,
    OttlaError,
    Outcome,
    RestoreConflictError,
)
from ottla_protocol.models import TopicDescription
from ottla_protocol.models_restores import (
    BeginRestoreRequest,
    FinishedRestore,
    RestoredPosition,
    RestoreRecordsRequest,
)

LEADER_TIMEOUT_MS = 5_000
"""How long an append waits for a leader; the client asks again."""

RETRY_INTERVAL_MS = 50

COMMIT_TIMEOUT_MS = 20_000
"""How long an append may wait until all replicas in sync have it."""


class RestoreService:
    """Serves `…/restore`."""

    def __init__(
        self,
        *,
        metadata: MetadataCache,
        commands: ControllerCommands,
        replicas: ReplicaManager,
        purgatory: Purgatory,
    ) -> None:
        self._metadata = metadata
        self._commands = commands
        self._replicas = replicas
        self._purgatory = purgatory

    async def begin(self, name: str, request: BeginRestoreRequest) -> TopicDescription:
        """Create a topic to restore, or find it where this restore has begun before.

        Raises:
            UnsupportedFeatureLevelError: the cluster does not know restores yet.
            TopicAlreadyExistsError: the name, or its namesake under `.` and `_`, is taken.
            RestoreConflictError: the topic is being restored from another backup.
            InvalidRequestError: a rule is broken; `detail` names it.
            UnavailableError: no controller decided in time.
        """
        self._require_feature(name)
        if not request.first_offsets:
            raise InvalidRequestError(
                "first_offsets must have an entry for each partition",
                field="first_offsets",
                outcome=Outcome.NOT_APPLIED,
            )
        response = await self._commands.change(
            BeginRestore(
                name=name,
                restore_id=request.restore_id,
                first_offsets=tuple(request.first_offsets),
                replication_factor=request.replication_factor,
                configs=dict(request.configs),
            ),
            repeatable=True,
        )
        assert isinstance(response, CreateTopicResponse)
        return describe_created(response)

    async def finish(self, name: str, restore_id: str) -> FinishedRestore:
        """Give a restored topic to everybody.

        Raises:
            UnknownTopicOrPartitionError: there is no such topic.
            RestoreConflictError: it is not being restored, or from another backup.
            UnavailableError: no controller decided in time.
        """
        self._require_feature(name)
        response = await self._commands.change(
            FinishRestore(name=name, restore_id=restore_id), repeatable=True
        )
        assert isinstance(response, RestoreFinishedResponse)
        return FinishedRestore(response.name, response.topic_id)

    def _require_feature(self, name: str) -> None:
        try:
            refuse_internal(name, parameter="topic")
            # An older controller does not know the command.
            require(self._metadata.image, RESTORES)
        except OttlaError as error:
            raise error.with_outcome(Outcome.NOT_APPLIED) from error

    async def append(
        self, topic: str, number: int, request: RestoreRecordsRequest
    ) -> RestoredPosition:
        """Append batches of the backup to a partition that this broker leads, with acks=all.

        Raises:
            RoutingError: another broker leads it; nothing was appended.
            RestoreConflictError: the topic is not being restored from that backup, or what is sent
                leaves a hole, or overlaps; nothing was appended.
            InvalidRequestError: a batch is refused; nothing was appended.
            UnavailableError: it is not committed, now or in time; `outcome` says which.
        """
        partition, appended = await self._append_at_leader(topic, number, request)
        if appended is not None:
            with self._purgatory.parked_ack():
                deadline_ms = monotonic_ms() + COMMIT_TIMEOUT_MS
                await partition.committed(appended, deadline_ms=deadline_ms)
        elif partition.high_watermark < partition.log.next_offset:
            # Sent again before the first attempt is committed.
            raise LeaderNotAvailableError(
                f"the records of {partition.name} are not committed yet", outcome=Outcome.UNKNOWN
            )
        return RestoredPosition(topic, number, partition.high_watermark)

    async def _append_at_leader(
        self, topic: str, number: int, request: RestoreRecordsRequest
    ) -> tuple[Partition, Appended | None]:
        deadline_ms = monotonic_ms() + LEADER_TIMEOUT_MS
        while True:
            try:
                partition = self._replicas.hosted_for_restore(topic, number, request.restore_id)
                partition.leading()
                self._require_no_hole(partition, request.position)
                batches = [bytearray(batch) for batch in request.batches]
                if batches:
                    await partition.begin_with(batches[0])
                return partition, partition.append_restored(batches)
            except OttlaError as error:
                # A topic that has just begun: its logs are being opened.
                waits = isinstance(error, LeaderNotAvailableError)
                if not waits or monotonic_ms() > deadline_ms:
                    raise error.with_outcome(Outcome.NOT_APPLIED) from error
            await self._metadata.wait_for_change(timeout_ms=RETRY_INTERVAL_MS)

    @staticmethod
    def _require_no_hole(partition: Partition, position: int) -> None:
        # Below its first offset it needs nothing, whatever batch that is amid.
        if position > max(partition.log.next_offset, partition.state.first_offset):
            raise RestoreConflictError(
                f"{partition.name} ends at {partition.log.next_offset}; what begins behind "
                f"{position} would leave a hole",
                next_offset=partition.log.next_offset,
            )
