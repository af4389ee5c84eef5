"""Handlers that change partitions: a leader's ISR proposal, preferred-leader election."""

from collections.abc import Iterator, Sequence
from typing import Any

from ottla_cluster.controller.broker_handlers import current_incarnation
from ottla_cluster.controller.commands import (
    AlterPartition,
    AlterPartitionResponse,
    ElectionResult,
    ElectPreferredResponse,
    PartitionState,
    TopicPartition,
)
from ottla_cluster.controller.elections import preferred_leader_returns
from ottla_cluster.controller.image import BrokerState, MetadataImage, Partition, Topic
from ottla_cluster.controller.records import MetadataRecord, PartitionChanged
from ottla_cluster.state_machine.result import Result
from ottla_protocol.errors import (
    FencedLeaderEpochError,
    IneligibleReplicaError,
    InvalidRequestError,
    InvalidUpdateVersionError,
    NotControllerError,
    PreferredLeaderNotAvailableError,
    UnknownTopicOrPartitionError,
)


def alter_partition(
    image: MetadataImage, command: AlterPartition
) -> Result[MetadataRecord, AlterPartitionResponse]:
    """Takes a leader's ISR if the leader still knows the partition as it is.

    The partition epoch rises, the leader epoch does not. It rises for an ISR that the partition has
    already, too: a leader that never heard what became of a proposal proposes the committed ISR to
    rule the other one out, and only a newer partition epoch does. Errors of the compare carry the
    current state as members.

    Raises:
        StaleBrokerEpochError: the proposer is not the registered incarnation.
        UnknownTopicIdError, UnknownTopicOrPartitionError: no such partition, or no longer.
        FencedLeaderEpochError: the proposer does not lead (any more).
        InvalidUpdateVersionError: the partition has changed since.
        NotControllerError: the proposer knows more than this controller.
        IneligibleReplicaError: a member is fenced or of another incarnation, or a new one is
            draining or has no room on its disk.
        InvalidRequestError: the ISR lacks the leader, repeats a member or names a non-replica.
    """
    current_incarnation(image, command.node_id, command.broker_epoch)
    partition = image.partition_by_id(command.topic_id, command.partition)
    _check_epochs(partition, command)
    isr = _proposed_isr(partition, command)
    _check_eligible(image, partition, command)
    changed = PartitionChanged(
        topic_id=partition.topic_id,
        partition=partition.partition,
        isr=isr,
        leader=partition.leader,
        leader_epoch=partition.leader_epoch,
        partition_epoch=partition.partition_epoch + 1,
    )
    return Result(
        (changed,), AlterPartitionResponse(command.topic_id, partition_state(partition, changed))
    )


def elect_preferred(
    image: MetadataImage, wanted: Sequence[TopicPartition] | None = None
) -> Result[MetadataRecord, ElectPreferredResponse]:
    """Gives leadership back to preferred leaders that are active and in sync.

    Args:
        image: what is decided on.
        wanted: the partitions; None for every one that its preferred replica does not lead.
    """
    records: list[MetadataRecord] = []
    results: list[ElectionResult] = []
    for topic, partition in _to_elect(image) if wanted is None else _named(image, wanted, results):
        preferred = partition.replicas[0]
        returned = preferred_leader_returns(image, partition)
        records.extend(returned)
        error = None
        if not returned and partition.leader != preferred:
            error = PreferredLeaderNotAvailableError(
                f"Broker {preferred}, the preferred leader of {topic.name}-{partition.partition}, "
                f"{_why_it_stays_away(partition)}."
            ).problem()
        results.append(
            ElectionResult(
                topic=topic.name,
                partition=partition.partition,
                leader=preferred if returned else partition.leader,
                elected=bool(returned),
                error=error,
            )
        )
    return Result(tuple(records), ElectPreferredResponse(len(records), tuple(results)))


def _why_it_stays_away(partition: Partition) -> str:
    """What keeps the preferred replica from being given the leadership."""
    preferred = partition.replicas[0]
    if preferred in partition.removing_replicas:
        return "is taken away by a reassignment that is under way"
    if partition.leader is None and preferred in partition.isr:
        return (
            "is not active, or is without its log or the end of it; where it can, it leads as soon "
            "as it is back"
        )
    return "is not active, not in sync or has no room on its disk"


def _to_elect(image: MetadataImage) -> Iterator[tuple[Topic, Partition]]:
    for topic, partition in image.all_partitions():
        if partition.leader != partition.replicas[0]:
            yield topic, partition


def _named(
    image: MetadataImage, wanted: Sequence[TopicPartition], results: list[ElectionResult]
) -> Iterator[tuple[Topic, Partition]]:
    """Each named partition once; those that do not exist go to the results at once."""
    for name in dict.fromkeys(wanted):
        try:
            topic = image.topic(name.topic)
            partition = image.partition(name.topic, name.partition)
        except UnknownTopicOrPartitionError as error:
            results.append(
                ElectionResult(
                    name.topic, name.partition, None, elected=False, error=error.problem()
                )
            )
        else:
            yield topic, partition


def partition_state(partition: Partition, changed: PartitionChanged) -> PartitionState:
    """The partition for a response, after a change that is still to be replayed."""
    return PartitionState(
        partition=partition.partition,
        replicas=partition.replicas,
        isr=changed.isr,
        leader=changed.leader,
        leader_epoch=changed.leader_epoch,
        partition_epoch=changed.partition_epoch,
    )


def _check_epochs(partition: Partition, command: AlterPartition) -> None:
    """The compare of compare-and-set."""
    where = f"Partition {partition.topic}-{partition.partition}"
    current: dict[str, Any] = {
        "leader": partition.leader,
        "leader_epoch": partition.leader_epoch,
        "partition_epoch": partition.partition_epoch,
        "isr": list(partition.isr),
    }
    if (
        command.leader_epoch > partition.leader_epoch
        or command.partition_epoch > partition.partition_epoch
    ):
        raise NotControllerError(
            f"{where} has epochs that this controller does not know: another one is active."
        )
    if command.leader_epoch < partition.leader_epoch:
        raise FencedLeaderEpochError(
            f"{where} is at leader epoch {partition.leader_epoch}, not {command.leader_epoch}.",
            **current,
        )
    if command.node_id != partition.leader:
        raise FencedLeaderEpochError(f"{where} is not led by broker {command.node_id}.", **current)
    if command.partition_epoch < partition.partition_epoch:
        raise InvalidUpdateVersionError(
            f"{where} is at partition epoch {partition.partition_epoch}, "
            f"not {command.partition_epoch}.",
            **current,
        )


def _proposed_isr(partition: Partition, command: AlterPartition) -> tuple[int, ...]:
    """The proposed ISR in replica order."""
    members = [member.node_id for member in command.new_isr]
    if command.node_id not in members:
        raise InvalidRequestError("new_isr must contain the leader.")
    isr = tuple(node_id for node_id in partition.replicas if node_id in members)
    if len(isr) != len(members):
        raise InvalidRequestError(
            f"new_isr must name distinct replicas out of {list(partition.replicas)}, not {members}."
        )
    return isr


def _check_eligible(image: MetadataImage, partition: Partition, command: AlterPartition) -> None:
    """Every member must be the unfenced current incarnation, and a new one not on its way out."""
    for member in command.new_isr:
        broker = image.brokers.get(member.node_id)
        if broker is None or broker.broker_epoch != member.broker_epoch:
            raise IneligibleReplicaError(
                f"Broker {member.node_id} is not registered with epoch {member.broker_epoch}."
            )
        joins = member.node_id not in partition.isr
        if broker.state is BrokerState.FENCED or (joins and broker.state is BrokerState.DRAINING):
            raise IneligibleReplicaError(f"Broker {member.node_id} is {broker.state.value}.")
        if joins and broker.is_full:
            raise IneligibleReplicaError(f"Broker {member.node_id} has no room on its disk.")
