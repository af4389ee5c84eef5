"""The handler for unclean elections: a leader from outside the ISR, where the topic allows it.

Only the ISR is known to hold what was acknowledged. While none of its members can lead, the
partition is offline, and that is the default: they may come back. A topic that sets
`unclean.leader.election.enable` would rather go on with what another replica has. What may be lost
then is what that replica lacks, and nothing else: it begins a leader epoch, so every other replica
cuts its log to where the two agree.

Among those that are there, the replica with the longest log leads: the greatest leader epoch of a
last record first, then the end, the order of Raft's votes (Raft section 5.4.1). That is what the
brokers were asked for before (the idea of KIP-966's unclean recovery); one that did not answer
comes behind all that did.

A last ISR member that lost its log's end (`unfit_replica_handlers`) is one of them: it may still
have more than all others. One that came back with another data directory (`directory_handlers`)
comes behind all of them, and leads only where an operator asks for it and no other is there.

One that a reassignment adds has what it has copied so far, which may be nothing. It leads before a
former replica only where that one told of a shorter log, and by itself the controller elects it
only where a former replica is there, too: to lose all that there is takes an operator's word.
"""

from collections.abc import Iterator

from ottla_cluster.controller.commands import (
    ElectionResult,
    ElectUnclean,
    ElectUncleanResponse,
    ReplicaEnd,
    UncleanElection,
)
from ottla_cluster.controller.features import UNCLEAN_ELECTIONS, is_enabled, require
from ottla_cluster.controller.image import MetadataImage, Partition, Topic
from ottla_cluster.controller.limits import MAX_UNCLEAN_ELECTIONS
from ottla_cluster.controller.records import MetadataRecord, UncleanLeaderElected
from ottla_cluster.controller.topic_configs import UNCLEAN_LEADER_ELECTION_ENABLE, boolean_config
from ottla_cluster.state_machine.result import Result
from ottla_protocol.errors import (
    EligibleLeadersNotAvailableError,
    InvalidRequestError,
    OttlaError,
    PolicyViolationError,
)


def elect_unclean(
    image: MetadataImage, command: ElectUnclean
) -> Result[MetadataRecord, ElectUncleanResponse]:
    """Elects a leader for each named partition that has none; each is decided on its own.

    Raises:
        InvalidRequestError: more than MAX_UNCLEAN_ELECTIONS are named, or one of them twice.
        UnsupportedFeatureLevelError: the cluster's feature level is below that of these elections.
    """
    require(image, UNCLEAN_ELECTIONS)
    named = {(each.topic, each.partition) for each in command.partitions}
    if len(command.partitions) > MAX_UNCLEAN_ELECTIONS or len(named) < len(command.partitions):
        raise InvalidRequestError(
            f"partitions must name at most {MAX_UNCLEAN_ELECTIONS} partitions, each once.",
            field="partitions",
        )
    records: list[MetadataRecord] = []
    results: list[ElectionResult] = []
    for wanted in command.partitions:
        try:
            elected = _elect(image, wanted, by_controller=command.by_controller)
        except OttlaError as refusal:
            results.append(
                ElectionResult(
                    wanted.topic, wanted.partition, None, elected=False, error=refusal.problem()
                )
            )
            continue
        if elected is not None:
            records.append(elected)
        leader = elected or image.partition(wanted.topic, wanted.partition)
        results.append(
            ElectionResult(
                wanted.topic, wanted.partition, leader.leader, elected=elected is not None
            )
        )
    return Result(tuple(records), ElectUncleanResponse(tuple(results)))


def may_be_elected_uncleanly(image: MetadataImage) -> Iterator[Partition]:
    """The partitions without a leader whose topic allows any replica, and that have one there.

    Not where only replicas are there that an operator has to name (`_is_by_name`).
    """
    if not is_enabled(image, UNCLEAN_ELECTIONS):
        return
    for topic, partition in image.all_partitions():
        if (
            partition.leader is None
            and _allows(topic)
            and any(
                not _is_by_name(partition, node_id) for node_id in _candidates(image, partition)
            )
        ):
            yield partition


def only_by_name(image: MetadataImage, partition: Partition) -> tuple[int, ...]:
    """The replicas that are there to be elected, where an operator has to ask for it by name."""
    candidates = tuple(_candidates(image, partition))
    if all(_is_by_name(partition, node_id) for node_id in candidates):
        return candidates
    return ()


def _elect(
    image: MetadataImage, wanted: UncleanElection, *, by_controller: bool
) -> UncleanLeaderElected | None:
    """The election; None where the partition has a leader.

    Raises:
        UnknownTopicOrPartitionError: there is no such partition.
        PolicyViolationError: the topic does not allow it.
        EligibleLeadersNotAvailableError: no replica is active, or none that the controller may
            elect by itself.
    """
    topic = image.topic(wanted.topic)
    partition = image.partition(wanted.topic, wanted.partition)
    if partition.leader is not None:
        return None
    name = f"{topic.name}-{partition.partition}"
    if not _allows(topic):
        raise PolicyViolationError(
            f"{UNCLEAN_LEADER_ELECTION_ENABLE} is false for the topic {topic.name!r}: {name} waits "
            f"for one of its in-sync replicas {list(partition.isr)}, since any other may lack "
            "acknowledged records."
        )
    candidates = list(_candidates(image, partition))
    if not candidates:
        raise EligibleLeadersNotAvailableError(
            f"None of the replicas {list(partition.replicas)} of {name} is active."
        )
    # Who was there when the election was called for may have gone while the brokers were asked.
    if by_controller and only_by_name(image, partition):
        raise EligibleLeadersNotAvailableError(
            f"Of the replicas of {name} only {candidates} are active, which a reassignment adds "
            "or whose logs are known to be gone: an operator may elect one of them by naming the "
            "partition."
        )
    return UncleanLeaderElected(
        topic_id=partition.topic_id,
        partition=partition.partition,
        leader=_longest(image, partition, candidates, wanted.log_ends),
        leader_epoch=partition.leader_epoch + 1,
        partition_epoch=partition.partition_epoch + 1,
    )


def _allows(topic: Topic) -> bool:
    return boolean_config(topic.configs, UNCLEAN_LEADER_ELECTION_ENABLE)


def _candidates(image: MetadataImage, partition: Partition) -> Iterator[int]:
    return (node_id for node_id in partition.replicas if image.is_active(node_id))


def _is_without_its_log(partition: Partition, node_id: int) -> bool:
    return partition.awaited_directory_id is not None and node_id in partition.isr


def _is_being_copied(partition: Partition, node_id: int) -> bool:
    """Whether the replica is being added and is not in sync: how much it has is chance.

    It may have been in sync and have left the ISR; the metadata does not tell.
    """
    return node_id in partition.adding_replicas and node_id not in partition.isr


def _is_by_name(partition: Partition, node_id: int) -> bool:
    """Whether the replica is elected only where an operator names the partition."""
    return _is_without_its_log(partition, node_id) or _is_being_copied(partition, node_id)


def _longest(
    image: MetadataImage,
    partition: Partition,
    candidates: list[int],
    log_ends: tuple[ReplicaEnd, ...],
) -> int:
    """The candidate with the longest log; among equals one with room, then in replica order.

    A log that is being copied is held against others only where one of those was told.
    """
    known = {
        end.node_id: (end.last_epoch, end.log_end_offset)
        for end in log_ends
        # Another incarnation may have lost what this one told of.
        if end.node_id in candidates and image.brokers[end.node_id].broker_epoch == end.broker_epoch
    }
    compares = any(not _is_by_name(partition, node_id) for node_id in known)
    return max(
        candidates,
        key=lambda node_id: (
            not _is_without_its_log(partition, node_id),
            compares or not _is_being_copied(partition, node_id),
            node_id in known,
            known.get(node_id, (-1, 0)),
            node_id not in partition.adding_replicas,
            image.takes_appends(node_id),
            -partition.replicas.index(node_id),
        ),
    )
