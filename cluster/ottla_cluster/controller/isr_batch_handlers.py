"""The handler for many leaders' proposals at once, from one broker (KIP-497).

A broker that comes back joins the ISRs of thousands of partitions within a second, and each of
their leaders proposes that for itself. Together they are one entry of the metadata log and one
image, instead of thousands of each.
"""

from ottla_cluster.controller.broker_handlers import current_incarnation
from ottla_cluster.controller.commands import (
    AlterPartition,
    AlterPartitions,
    AlterPartitionsResponse,
    IsrChangeResult,
)
from ottla_cluster.controller.image import MetadataImage
from ottla_cluster.controller.limits import MAX_ISR_CHANGES
from ottla_cluster.controller.partition_handlers import alter_partition
from ottla_cluster.controller.records import MetadataRecord
from ottla_cluster.state_machine.result import Result
from ottla_protocol.errors import InvalidRequestError, OttlaError


def alter_partitions(
    image: MetadataImage, command: AlterPartitions
) -> Result[MetadataRecord, AlterPartitionsResponse]:
    """Decides each change as `alter_partition` would decide it alone.

    They are of different partitions, so none sees what another changes. One that is refused does
    not keep the others from being taken; its result has the refusal.

    Raises:
        StaleBrokerEpochError: the proposer is not the registered incarnation.
        InvalidRequestError: more than MAX_ISR_CHANGES are proposed, or one partition twice.
    """
    current_incarnation(image, command.node_id, command.broker_epoch)
    named = {(change.topic_id, change.partition) for change in command.changes}
    if len(command.changes) > MAX_ISR_CHANGES or len(named) < len(command.changes):
        raise InvalidRequestError(
            f"changes must name at most {MAX_ISR_CHANGES} partitions, each once."
        )
    records: list[MetadataRecord] = []
    results: list[IsrChangeResult] = []
    for change in command.changes:
        alone = AlterPartition(
            node_id=command.node_id,
            broker_epoch=command.broker_epoch,
            topic_id=change.topic_id,
            partition=change.partition,
            leader_epoch=change.leader_epoch,
            partition_epoch=change.partition_epoch,
            new_isr=change.new_isr,
        )
        try:
            decided = alter_partition(image, alone)
        except OttlaError as error:
            results.append(
                IsrChangeResult(change.topic_id, change.partition, error=error.problem())
            )
        else:
            records.extend(decided.records)
            results.append(
                IsrChangeResult(change.topic_id, change.partition, decided.response.state)
            )
    return Result(tuple(records), AlterPartitionsResponse(tuple(results)))
