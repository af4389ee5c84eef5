"""Who leads and who replicates which partition, as an operator changes it."""

from ottla_broker.drivers.metadata import MetadataCache
from ottla_broker.services.controller_commands import ControllerCommands
from ottla_cluster.controller.commands import (
    AlterReassignments,
    AlterReassignmentsResponse,
    ElectPreferred,
    ElectPreferredResponse,
    ElectUnclean,
    ElectUncleanResponse,
    Reassignment,
    TopicPartition,
    UncleanElection,
)
from ottla_cluster.controller.unclean_election_handlers import may_be_elected_uncleanly
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
)


class ReassignmentService:
    """Elects leaders; begins, lists and calls off reassignments."""

    def __init__(self, *, metadata: MetadataCache, commands: ControllerCommands) -> None:
        self._metadata = metadata
        self._commands = commands

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
            command = ElectUnclean(self._unclean_elections(wanted))
        elif wanted is None:
            command = ElectPreferred()
        else:
            command = ElectPreferred(tuple(TopicPartition(n.topic, n.partition) for n in wanted))
        response = await self._commands.change(command, repeatable=True)
        assert isinstance(response, ElectPreferredResponse | ElectUncleanResponse)
        return ElectionResponse(
            [
                ElectedPartition(
                    topic=result.topic,
                    partition=result.partition,
                    leader=result.leader,
                    elected=result.elected,
                    error=result.error,
                )
                for result in response.results
            ]
        )

    def _unclean_elections(self, wanted: list[PartitionName] | None) -> tuple[UncleanElection, ...]:
        if wanted is not None:
            return tuple(UncleanElection(name.topic, name.partition) for name in wanted)
        offline = may_be_elected_uncleanly(self._metadata.image)
        return tuple(UncleanElection(each.topic, each.partition) for each in offline)

    async def reassign(self, request: ReassignmentRequest) -> ReassignmentResponse:
        """Begin, replace or call off reassignments; each has its own result.

        Raises:
            InvalidRequestError: there are too many, or two of one partition.
            UnavailableError: no controller decided in time.
        """
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
        # What is called off twice was not under way the second time.
        repeatable = all(each.replicas is not None for each in request.reassignments)
        response = await self._commands.change(command, repeatable=repeatable)
        assert isinstance(response, AlterReassignmentsResponse)
        return ReassignmentResponse(
            [
                ReassignedPartition(result.topic, result.partition, result.error)
                for result in response.results
            ]
        )

    def reassignments(self) -> ReassignmentList:
        """The reassignments under way, by topic and partition."""
        ongoing = [
            OngoingReassignment(
                topic=topic.name,
                partition=partition.partition,
                replicas=list(partition.replicas),
                target_replicas=list(partition.target_replicas),
                adding_replicas=list(partition.adding_replicas),
                removing_replicas=list(partition.removing_replicas),
                isr=list(partition.isr),
            )
            for topic, partition in self._metadata.image.all_partitions()
            if partition.is_reassigning
        ]
        return ReassignmentList(sorted(ongoing, key=lambda each: (each.topic, each.partition)))
