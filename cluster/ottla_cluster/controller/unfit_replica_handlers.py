"""The handler for replicas whose broker found that they lost records that they had acknowledged.

A leader sees how far its followers fetch, not what became of their disks, and the controller sees
neither: only the broker itself can know that a log came back shorter than it was, or cannot be read
any more. It says so here, and leaves the ISR before anybody counts on it. What is decided is what
fencing would decide, for one partition: another member leads, and the last one stays.

Unlike a fenced broker a leader with damage may still hold its lease, and hear of this late. So it
stays in the ISR that it leads no more, as in a planned move: then nothing is acknowledged without
it before it has heard. It leaves when it has cut its log, for which it has to follow.
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
    """Takes each replica that lost its end out of the ISR, where another member remains.

    It leads no more either, and so does one that only cannot read all of its log: as a follower it
    cuts that, and comes again for the end that it has lost by then.

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
    leads = partition.leader == node_id
    remaining = without(partition.isr, node_id)
    successor = partition.leader
    if leads:
        successor = elect_leader(image, partition, remaining, excluding=node_id)
    if replica.lost_tail:
        if not remaining and not leads:
            return None
        return changed(partition, isr=remaining or partition.isr, leader=successor)
    if not leads or successor is None:
        # The others are about to stop: better a leader with a hole than none.
        return None
    return changed(partition, isr=partition.isr, leader=successor)
