"""Handlers that move partitions to other replicas (KIP-455).

A reassignment adds the target replicas behind the present ones and then waits: the added ones fetch
like any follower, and the leader proposes them for the ISR. Once every target replica is in the
ISR, a target replica leads, and the partition switches to the target list in one step: the others
leave replicas and ISR. Whoever is no replica any more drops its log; at that moment every target
replica holds all that is committed.

A leader that is to go hands over first, and stays in the ISR with the others until they have heard
who leads (`reassignment_schedule` says when): its lease holds, and what others acknowledged without
it would be more than it tells of where the partition ends.

Until the switch nothing is lost by calling it off: the former replicas are all still there. But an
added replica that leads for them would lose leadership and ISR at once. So whoever has handed over
to one is let go on: it ends within a session.
"""

from ottla_cluster.controller.commands import (
    AlterReassignments,
    AlterReassignmentsResponse,
    FinishReassignments,
    Reassignment,
    ReassignmentResult,
    ReassignmentsFinishedResponse,
)
from ottla_cluster.controller.elections import changed
from ottla_cluster.controller.image import MetadataImage, Partition
from ottla_cluster.controller.limits import MAX_REASSIGNMENTS
from ottla_cluster.controller.records import (
    MetadataRecord,
    PartitionChanged,
    PartitionReassigned,
    UncleanLeaderElected,
)
from ottla_cluster.controller.replay import replay
from ottla_cluster.state_machine.result import ResponseT, Result
from ottla_protocol.errors import (
    InvalidReplicaAssignmentError,
    InvalidRequestError,
    NoReassignmentInProgressError,
    OttlaError,
)


def alter_reassignments(
    image: MetadataImage, command: AlterReassignments
) -> Result[MetadataRecord, AlterReassignmentsResponse]:
    """Begins, replaces or calls off reassignments; one that is refused does not stop the others.

    Raises:
        InvalidRequestError: more than MAX_REASSIGNMENTS, or two of one partition.
    """
    reassignments = command.reassignments
    if len(reassignments) > MAX_REASSIGNMENTS:
        raise InvalidRequestError(
            f"reassignments has {len(reassignments)} members, at most {MAX_REASSIGNMENTS} may be "
            "altered at once.",
            field="reassignments",
        )
    if len({(each.topic, each.partition) for each in reassignments}) < len(reassignments):
        raise InvalidRequestError("reassignments names a partition twice.", field="reassignments")
    records: list[MetadataRecord] = []
    results: list[ReassignmentResult] = []
    for each in reassignments:
        error = None
        try:
            records.extend(_alter(image, each))
        except OttlaError as refusal:
            error = refusal.problem()
        results.append(ReassignmentResult(each.topic, each.partition, error))
    return Result(tuple(records), AlterReassignmentsResponse(tuple(results)))


def finish_reassignments(
    image: MetadataImage, result: Result[MetadataRecord, ResponseT]
) -> Result[MetadataRecord, ResponseT]:
    """A handler's result, with the steps of reassignments that it makes possible.

    A step is a record of its own behind the change that allowed it: a leader that learns of its
    accepted proposal first knows an older partition epoch than the metadata's, and so takes over
    what the metadata says when that arrives.

    Args:
        image: what the handler decided on.
        result: what it decided.
    """
    touched = dict.fromkeys(
        (record.topic_id, record.partition)
        for record in result.records
        if (isinstance(record, PartitionReassigned) and record.target_replicas)
        or (
            isinstance(record, PartitionChanged | UncleanLeaderElected)
            and image.partition_by_id(record.topic_id, record.partition).is_reassigning
        )
    )
    if not touched:
        return result
    after = replay(image, result.records, image.version + 1)
    ends = tuple(end for key in touched for end in _end(after, after.partition_by_id(*key)))
    return Result((*result.records, *ends), result.response)


def _alter(image: MetadataImage, wanted: Reassignment) -> tuple[PartitionReassigned, ...]:
    partition = image.partition(wanted.topic, wanted.partition)
    former = partition.former_replicas
    if wanted.replicas is None:
        if not partition.is_reassigning:
            raise NoReassignmentInProgressError(f"{_name(partition)} is not being reassigned.")
        return (call_off_reassignment(image, partition),)
    _check_target(image, partition, wanted.replicas)
    if wanted.replicas == former:
        if not partition.is_reassigning:
            return ()
        return (call_off_reassignment(image, partition),)
    return (begin_reassignment(image, partition, wanted.replicas),)


def begin_reassignment(
    image: MetadataImage, partition: Partition, target: tuple[int, ...]
) -> PartitionReassigned:
    """The record by which the partition begins to move to other replicas than its former ones.

    Raises:
        InvalidReplicaAssignmentError: what an earlier target added is all that is in sync, or
            leads already and is about to be all that there is.
    """
    former = partition.former_replicas
    adding = tuple(node_id for node_id in target if node_id not in former)
    replicas = *former, *adding
    _check_leader_stays(partition, replicas)
    return _reassigned(image, partition, replicas, adding=adding, target=target)


def call_off_reassignment(image: MetadataImage, partition: Partition) -> PartitionReassigned:
    """The record by which the partition returns to its former replicas.

    Raises:
        InvalidReplicaAssignmentError: none of them is in sync, or none of those could lead, or a
            replica leads already that was added and is about to be one of those that are left.
    """
    _check_leader_stays(partition, partition.former_replicas)
    return _reassigned(image, partition, partition.former_replicas, adding=(), target=())


def finish_handed_over(
    image: MetadataImage, command: FinishReassignments
) -> Result[MetadataRecord, ReassignmentsFinishedResponse]:
    """Takes the next step of reassignments whose partitions are as they were when it was due.

    That is the end, for everybody was found to know who leads, or the hand-over that comes before.
    """
    records: list[MetadataRecord] = []
    for each in command.partitions:
        topic = image.topics.get(each.topic_id)
        partition = None if topic is None else topic.partitions[each.partition]
        if partition is None or partition.partition_epoch != each.partition_epoch:
            continue
        if is_handed_over(partition):
            records.append(_switched(image, partition))
        else:
            records.extend(_end(image, partition))
    return Result(tuple(records), ReassignmentsFinishedResponse(len(records)))


def is_handed_over(partition: Partition) -> bool:
    """Whether all that a reassignment waits for is that those who leave the ISR know who leads."""
    target = partition.target_replicas
    return partition.leader in target and set(target) <= set(partition.isr)


def is_to_hand_over(partition: Partition) -> bool:
    """Whether the target replicas are all in sync and one that is to go leads."""
    target = partition.target_replicas
    leader = partition.leader
    return (
        bool(target)
        and leader is not None
        and leader not in target
        and set(target) <= set(partition.isr)
    )


def _end(image: MetadataImage, partition: Partition) -> tuple[MetadataRecord, ...]:
    """The next step, if the target replicas are all in sync: the last one, or that one leads."""
    if is_handed_over(partition):
        leaves_nobody = set(partition.isr) <= set(partition.target_replicas)
        return (_switched(image, partition),) if leaves_nobody else ()
    heir = heir_of(image, partition) if is_to_hand_over(partition) else None
    return () if heir is None else (changed(partition, isr=partition.isr, leader=heir),)


def heir_of(image: MetadataImage, partition: Partition) -> int | None:
    """The target replica that is to lead in place of one that is to go; None for none as yet."""
    able = [node_id for node_id in partition.target_replicas if image.is_active(node_id)]
    with_room = [node_id for node_id in able if image.takes_appends(node_id)]
    assert partition.leader is not None, partition
    if not with_room and image.takes_appends(partition.leader):
        # Whoever is full would be relieved of it at once.
        return None
    return next(iter(with_room or able), None)


def _switched(image: MetadataImage, partition: Partition) -> PartitionReassigned:
    return _reassigned(image, partition, partition.target_replicas, adding=(), target=())


def _reassigned(
    image: MetadataImage,
    partition: Partition,
    replicas: tuple[int, ...],
    *,
    adding: tuple[int, ...],
    target: tuple[int, ...],
) -> PartitionReassigned:
    """The record that gives the partition these replicas, its ISR and leader cut down to them.

    Taking a replica away begins a leader epoch, as in Kafka. The broker forgets its log, and may be
    added again before its leader has looked: what that leader knows of the log, and a fetch that is
    on its way, must not count for the empty one.

    Raises:
        InvalidReplicaAssignmentError: none of them is in sync, or none of those could lead.
    """
    isr = tuple(node_id for node_id in replicas if node_id in partition.isr)
    takes_away = not set(partition.replicas) <= set(replicas)
    leader = partition.leader
    if leader is not None and leader not in isr:
        leader = next((n for n in replicas if n in isr and image.is_active(n)), None)
    if not isr or (leader is None and partition.leader is not None):
        raise InvalidReplicaAssignmentError(
            f"None of the replicas {list(replicas)} of {_name(partition)} is active and in sync: "
            "what is committed would be lost."
        )
    return PartitionReassigned(
        topic_id=partition.topic_id,
        partition=partition.partition,
        replicas=replicas,
        adding_replicas=adding,
        target_replicas=target,
        isr=isr,
        leader=leader,
        leader_epoch=partition.leader_epoch + (takes_away or leader != partition.leader),
        partition_epoch=partition.partition_epoch + 1,
    )


def _check_leader_stays(partition: Partition, replicas: tuple[int, ...]) -> None:
    """Refuses to take a leader away to which another one has just handed over.

    It would leave the ISR in the same moment, and its lease holds: it would tell of an end of the
    partition below what others acknowledge. Where a target replica has left the ISR, so that the
    reassignment would not end, the leader is taken away all the same.
    """
    if is_handed_over(partition) and partition.leader not in replicas:
        raise InvalidReplicaAssignmentError(
            f"Broker {partition.leader}, which the reassignment of {_name(partition)} adds, leads "
            "already: it ends in a few seconds and cannot be called off any more. Reassign the "
            "partition again then."
        )


def _check_target(image: MetadataImage, partition: Partition, target: tuple[int, ...]) -> None:
    if not target:
        raise InvalidReplicaAssignmentError(
            f"{_name(partition)} must keep at least one replica (null calls a reassignment off)."
        )
    if len(set(target)) < len(target):
        raise InvalidReplicaAssignmentError(
            f"The replicas {list(target)} of {_name(partition)} repeat a broker."
        )
    for node_id in target:
        if node_id not in image.brokers:
            raise InvalidReplicaAssignmentError(
                f"Broker {node_id}, wanted as a replica of {_name(partition)}, is not registered."
            )
        if node_id not in partition.replicas and not image.is_active(node_id):
            raise InvalidReplicaAssignmentError(
                f"Broker {node_id}, wanted as a replica of {_name(partition)}, is "
                f"{image.brokers[node_id].state.value}."
            )
        if node_id not in partition.replicas and node_id in image.drains:
            raise InvalidReplicaAssignmentError(
                f"Broker {node_id}, wanted as a replica of {_name(partition)}, is being drained."
            )


def _name(partition: Partition) -> str:
    return f"{partition.topic}-{partition.partition}"
