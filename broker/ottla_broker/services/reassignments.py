"""Who leads and who replicates which partition, as an operator changes it.

How far a reassignment has come is its leader's to tell: it sees the fetches of those who are being
added. So a list asks every leader of a partition under way, each for a moment at most.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable

import msgspec

from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.drivers.peer_client import PeerClient, Purpose
from ottla_broker.drivers.peer_messages import ReplicaCopyReport, ReplicaCopyReports
from ottla_broker.drivers.replica_copies import ReplicaCopies
from ottla_broker.services.controller_commands import ControllerCommands
from ottla_cluster.controller.commands import (
    AlterReassignments,
    AlterReassignmentsResponse,
    AlterReplicationThrottle,
    ElectionResult,
    ElectPreferred,
    ElectPreferredResponse,
    ElectUnclean,
    ElectUncleanResponse,
    Reassignment,
    TopicPartition,
    UncleanElection,
)
from ottla_cluster.controller.image import MetadataImage
from ottla_cluster.controller.reassignment_handlers import alter_reassignments
from ottla_cluster.controller.throttle_handlers import alter_replication_throttle
from ottla_cluster.controller.unclean_election_handlers import may_be_elected_uncleanly
from ottla_protocol import routes
from ottla_protocol.errors import InvalidRequestError, OttlaError, Outcome
from ottla_protocol.models import (
    ElectedPartition,
    ElectionRequest,
    ElectionResponse,
    OngoingReassignment,
    PartitionName,
    ReassignedPartition,
    ReassignmentList,
    ReassignmentRequest,
    ReassignmentResponse,
    ReplicaCopyProgress,
)

PROGRESS_TIMEOUT_MS = 1_000
"""How long a leader may take to tell how far the copies from it are."""


class ReassignmentService:
    """Elects leaders; begins, lists and calls off reassignments."""

    def __init__(
        self,
        *,
        node_id: int,
        metadata: MetadataCache,
        commands: ControllerCommands,
        copies: ReplicaCopies,
        peers: PeerClient,
    ) -> None:
        self._node_id = node_id
        self._metadata = metadata
        self._commands = commands
        self._copies = copies
        self._peers = peers

    async def elect(self, request: ElectionRequest) -> ElectionResponse:
        """Elect leaders: preferred ones, or any replica where the topic allows it.

        Each partition has its own result.

        Raises:
            InvalidRequestError: too many unclean elections, or two of one partition.
            UnavailableError: no controller decided in time.
        """
        wanted = request.partitions
        command: ElectPreferred | ElectUnclean
        if request.type == "unclean":
            command = ElectUnclean(await self._unclean_elections(wanted))
        elif wanted is None:
            command = ElectPreferred()
        else:
            command = ElectPreferred(tuple(TopicPartition(n.topic, n.partition) for n in wanted))
        before = self._metadata.image
        response = await self._commands.change(command, repeatable=True)
        assert isinstance(response, ElectPreferredResponse | ElectUncleanResponse)
        return ElectionResponse(
            [
                ElectedPartition(
                    topic=result.topic,
                    partition=result.partition,
                    leader=result.leader,
                    elected=result.elected or _is_elected_since(before, result),
                    error=result.error,
                )
                for result in response.results
            ]
        )

    async def _unclean_elections(
        self, wanted: list[PartitionName] | None
    ) -> tuple[UncleanElection, ...]:
        if wanted is not None:
            return tuple(UncleanElection(name.topic, name.partition) for name in wanted)
        await self._commands.catch_up(outcome=Outcome.NOT_APPLIED)
        offline = may_be_elected_uncleanly(self._metadata.image)
        return tuple(UncleanElection(each.topic, each.partition) for each in offline)

    async def reassign(self, request: ReassignmentRequest) -> ReassignmentResponse:
        """Set the throttle, then begin, replace or call off reassignments; each has its own result.

        Where none of the reassignments is taken, the throttle stays as it was.

        Raises:
            InvalidRequestError: nothing is asked for, the rate is out of range, there are too many
                reassignments, or two of one partition.
            UnsupportedFeatureLevelError: the cluster is too old for throttles.
            UnavailableError: no controller decided in time.
        """
        rate = request.throttle_bytes_per_second
        if not request.reassignments:
            if isinstance(rate, msgspec.UnsetType):
                raise InvalidRequestError(
                    "reassignments must not be empty where throttle_bytes_per_second is left out.",
                    field="reassignments",
                    outcome=Outcome.NOT_APPLIED,
                )
            await self._set_rate(rate)
            return ReassignmentResponse([])
        command = AlterReassignments(
            tuple(
                Reassignment(
                    each.topic,
                    each.partition,
                    None if each.replicas is None else tuple(each.replicas),
                )
                for each in request.reassignments
            )
        )
        if isinstance(rate, msgspec.UnsetType):
            response = await self._alter(command)
        else:
            response = await self._alter_at(command, rate)
        return ReassignmentResponse(
            [
                ReassignedPartition(result.topic, result.partition, result.error)
                for result in response.results
            ]
        )

    async def _alter_at(
        self, command: AlterReassignments, rate: int | None
    ) -> AlterReassignmentsResponse:
        """Alter reassignments, which begin at this rate; the rate stays if none is taken.

        Raises:
            OttlaError: the rate or the whole command is refused, or nobody decided in time.
        """
        image = self._metadata.image
        former = image.replication_throttle_bytes_per_second
        # As the controller is going to decide, so that the rate of what nobody takes limits nothing
        # that runs. Its own answer may be another one: it knows more.
        alter_replication_throttle(image, AlterReplicationThrottle(rate))
        is_foreseen = _takes_any(alter_reassignments(image, command).response)
        if is_foreseen:
            # First, for what begins without a throttle takes all that the network gives.
            await self._set_rate(rate)
        is_taken = False
        try:
            response = await self._alter(command)
            is_taken = _takes_any(response)
            if is_taken and not is_foreseen:
                await self._set_rate(rate)
            elif is_foreseen and not is_taken and self._rate == rate:
                await self._set_rate(former)
        except OttlaError as error:
            if is_foreseen or is_taken:
                # Of both together: one of them is done.
                error.outcome = Outcome.UNKNOWN
            raise
        return response

    @property
    def _rate(self) -> int | None:
        return self._metadata.image.replication_throttle_bytes_per_second

    async def _set_rate(self, rate: int | None) -> None:
        await self._commands.change(AlterReplicationThrottle(rate), repeatable=True)

    async def _alter(self, command: AlterReassignments) -> AlterReassignmentsResponse:
        # What is called off twice was not under way the second time.
        repeatable = all(each.replicas is not None for each in command.reassignments)
        response = await self._commands.change(command, repeatable=repeatable)
        assert isinstance(response, AlterReassignmentsResponse)
        return response

    def copies_here(self) -> ReplicaCopyReports:
        """How far the replicas are that are being added to partitions led here."""
        return ReplicaCopyReports(
            [
                ReplicaCopyReport(
                    *partition.key,
                    replica_id,
                    copied_bytes=progress.copied_bytes,
                    copied_offsets=progress.copied_offsets,
                    remaining_bytes=progress.remaining_bytes,
                    remaining_offsets=progress.remaining_offsets,
                    bytes_per_second=progress.bytes_per_second,
                    remaining_seconds=progress.remaining_seconds,
                )
                for partition, replica_id, progress in self._copies.progress()
            ]
        )

    async def reassignments(self) -> ReassignmentList:
        """The reassignments under way, by topic and partition, with their progress.

        Raises:
            ControllerNotAvailableError: what this broker knows may be old, and nobody can be asked.
        """
        await self._commands.catch_up()
        image = self._metadata.image
        under_way = [
            (topic, partition)
            for topic, partition in image.all_partitions()
            if partition.is_reassigning
        ]
        progress = await self._progress(
            {partition.leader for _, partition in under_way if partition.leader is not None}
        )
        ongoing = [
            OngoingReassignment(
                topic=topic.name,
                partition=partition.partition,
                replicas=list(partition.replicas),
                target_replicas=list(partition.target_replicas),
                adding_replicas=list(partition.adding_replicas),
                removing_replicas=list(partition.removing_replicas),
                isr=list(partition.isr),
                progress=progress[partition.topic_id, partition.partition],
            )
            for topic, partition in under_way
        ]
        return ReassignmentList(
            sorted(ongoing, key=lambda each: (each.topic, each.partition)),
            image.replication_throttle_bytes_per_second,
        )

    async def _progress(
        self, leaders: Iterable[int]
    ) -> defaultdict[tuple[str, int], list[ReplicaCopyProgress]]:
        found: defaultdict[tuple[str, int], list[ReplicaCopyProgress]] = defaultdict(list)
        for reports in await asyncio.gather(*map(self._ask, sorted(leaders))):
            for each in reports.copies:
                found[each.topic_id, each.partition].append(
                    ReplicaCopyProgress(
                        replica=each.replica_id,
                        copied_bytes=each.copied_bytes,
                        copied_offsets=each.copied_offsets,
                        remaining_bytes=each.remaining_bytes,
                        remaining_offsets=each.remaining_offsets,
                        bytes_per_second=each.bytes_per_second,
                        remaining_seconds=each.remaining_seconds,
                    )
                )
        return found

    async def _ask(self, leader: int) -> ReplicaCopyReports:
        """What one leader says; nothing where it cannot be asked now."""
        if leader == self._node_id:
            return self.copies_here()
        try:
            return await self._peers.call(
                self._metadata.image.brokers[leader].url,
                routes.INTERNAL_REPLICA_COPIES,
                b"",
                timeout_ms=PROGRESS_TIMEOUT_MS,
                answer=ReplicaCopyReports,
                purpose=Purpose.CLIENT,
            )
        except OttlaError:
            # Progress is news, not state: the list is right without it, and says that it lacks it.
            return ReplicaCopyReports([])


def _is_elected_since(before: MetadataImage, result: ElectionResult) -> bool:
    """Whether a leader from outside the ISR is newer than an image.

    A command whose answer was lost is sent again, and then finds what it has done itself.
    """
    if result.error is not None or result.topic not in before.topic_ids:
        return False
    partitions = before.topic(result.topic).partitions
    if result.partition >= len(partitions):
        return False
    former = partitions[result.partition]
    return former.leader is None and result.leader not in (None, *former.isr)


def _takes_any(response: AlterReassignmentsResponse) -> bool:
    return any(result.error is None for result in response.results)
