"""The handler for replicas whose broker found that they lost records that they had acknowledged.

A leader sees how far its followers fetch, not what became of their disks, and the controller sees
neither: only the broker itself can know that a log came back shorter than it was, or cannot be read
any more. It says so here, and leaves the ISR before anybody counts on it. What is decided is what
fencing would decide, for one partition: another member leads, and the last one stays.
"""

from ottla_cluster.controller.broker_handlers import current_incarnation
from ottla_cluster.controller.commands import (
    ReportUnfitReplicas,
    ReportUnfitReplicasResponse,
    UnfitReplica,
    UnfitReplicaResult,
)
from ottla_cluster.controller.elections import changed, elect_leader, without
from ottla_cluster.controller.image import MetadataImage, Partition
from ottla_cluster.controller.limits import MAX_UNFIT_REPLICAS
from ottla_cluster.controller.records import MetadataRecord, PartitionChanged
from ottla_cluster.state_machine.result import Result
from ottla_protocol.errors import InvalidRequestError


def report_unfit_replicas(
    image: MetadataImage, command: ReportUnfitReplicas
) -> Result[MetadataRecord, ReportUnfitReplicasResponse]:
    """Takes each replica out of the ISR, where another member remains, and off the leadership.

    The partition epoch rises for a replica that is in no ISR, too: a proposal to let it in that is
    under way was made before its leader knew how much it lost, and must not be accepted after this.

    A replica that is the last member stays one, for nobody else is known to hold what was
    acknowledged; where it lost its log's end it leads no more. A replica that is the only one is
    left alone: it leads with what it has. Partitions that are gone, or not this broker's, are not
    in the answer.

    Raises:
        StaleBrokerEpochError: the node id is not registered, or to another incarnation.
        InvalidRequestError: more than MAX_UNFIT_REPLICAS are named, or one of them twice.
    """
    broker = current_incarnation(image, command.node_id, command.broker_epoch)
    named = {(replica.topic_id, replica.partition) for replica in command.replicas}
    if len(command.replicas) > MAX_UNFIT_REPLICAS or len(named) < len(command.replicas):
        raise InvalidRequestError(
            f"replicas must name at most {MAX_UNFIT_REPLICAS} replicas, each once."
        )
    records: list[MetadataRecord] = []
    results: list[UnfitReplicaResult] = []
    for replica in command.replicas:
        topic = image.topics.get(replica.topic_id)
        if topic is None or not 0 <= replica.partition < len(topic.partitions):
            continue
        partition = topic.partitions[replica.partition]
        if broker.node_id not in partition.replicas or len(partition.replicas) == 1:
            continue
        change = _without_unfit(image, partition, broker.node_id, replica)
        if change is not None:
            records.append(change)
        now = partition if change is None else change
        results.append(
            UnfitReplicaResult(
                topic_id=replica.topic_id,
                partition=replica.partition,
                in_isr=broker.node_id in now.isr,
                partition_epoch=now.partition_epoch,
            )
        )
    return Result(tuple(records), ReportUnfitReplicasResponse(tuple(results)))


def _without_unfit(
    image: MetadataImage, partition: Partition, node_id: int, replica: UnfitReplica
) -> PartitionChanged | None:
    """What the partition becomes; None where it stays as it is."""
    isr, leader = partition.isr, partition.leader
    remaining = without(isr, node_id)
    if remaining:
        isr = remaining
        if leader == node_id:
            leader = elect_leader(image, partition, remaining, excluding=node_id)
            if leader is None and not replica.lost_tail:
                # The others are about to stop: better a leader with a hole than none.
                return None
    elif leader != node_id or not replica.lost_tail:
        return None
    else:
        leader = None
    return changed(partition, isr=isr, leader=leader)
