"""The handler that moves the beginning of a partition (KIP-107, decision 51).

Where a log begins is otherwise its replicas' own knowledge. What somebody asked to be gone must not
come back, whoever leads next and whatever happens to a log: so it is a fact of the metadata, which
binds every replica, also one that was away, and a leader from outside the ISR.
"""

from ottla_cluster.controller.commands import PartitionTrimmedResponse, TrimPartition
from ottla_cluster.controller.features import TRIMS, require
from ottla_cluster.controller.image import MetadataImage, Topic
from ottla_cluster.controller.records import MetadataRecord, PartitionTrimmed
from ottla_cluster.controller.topic_configs import CLEANUP_POLICY, DELETE, cleanup_policies
from ottla_cluster.controller.topic_names import refuse_internal
from ottla_cluster.state_machine.result import Result
from ottla_protocol.errors import (
    FencedLeaderEpochError,
    InvalidRequestError,
    PolicyViolationError,
    TopicBeingRestoredError,
)


def trim_partition(
    image: MetadataImage, command: TrimPartition
) -> Result[MetadataRecord, PartitionTrimmedResponse]:
    """Lets nobody read below an offset any more; done before, nothing changes.

    Raises:
        UnsupportedFeatureLevelError: a process of the cluster may not know of trims.
        UnknownTopicIdError, UnknownTopicOrPartitionError: no such partition, or no longer.
        InvalidTopicError, PolicyViolationError, TopicBeingRestoredError: see `require_trimmable`.
        FencedLeaderEpochError: the partition is in another leader epoch: what the sender knew to be
            committed may be gone.
        InvalidRequestError: the offset is negative.
    """
    require(image, TRIMS)
    partition = image.partition_by_id(command.topic_id, command.partition)
    topic = image.topics[command.topic_id]
    require_trimmable(topic)
    if command.first_offset < 0:
        raise InvalidRequestError(f"An offset is not negative: {command.first_offset}.")
    if command.leader_epoch != partition.leader_epoch:
        raise FencedLeaderEpochError(
            f"{topic.name}-{command.partition} is in leader epoch {partition.leader_epoch}, "
            f"not {command.leader_epoch}.",
            leader_epoch=partition.leader_epoch,
        )
    first_offset = max(command.first_offset, partition.first_offset)
    response = PartitionTrimmedResponse(topic.topic_id, command.partition, first_offset)
    if first_offset == partition.first_offset:
        return Result((), response)
    return Result((PartitionTrimmed(topic.topic_id, command.partition, first_offset),), response)


def require_trimmable(topic: Topic) -> None:
    """Refuses to trim a topic whose records are not to go by age or size.

    Raises:
        InvalidTopicError: the topic is the brokers' own.
        TopicBeingRestoredError: it is not whole yet.
        PolicyViolationError: its `cleanup.policy` keeps the newest record of each key, and lacks
            `delete`.
    """
    refuse_internal(topic.name, parameter="topic")
    if topic.restore_id is not None:
        raise TopicBeingRestoredError(f"The topic {topic.name!r} is being restored from a backup.")
    policies = cleanup_policies(topic.configs)
    if DELETE not in policies:
        raise PolicyViolationError(
            f"The topic {topic.name!r} has {CLEANUP_POLICY}={','.join(sorted(policies))}: only one "
            f"that has `{DELETE}` among its policies is trimmed.",
            config=CLEANUP_POLICY,
        )
