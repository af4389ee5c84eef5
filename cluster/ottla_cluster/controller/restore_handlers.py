"""Handlers for topics that are filled from a backup (decision 35).

Such a topic has its name and its partitions from the beginning, so that nobody else takes the name,
and each partition's log begins where it began in the backup. Until the restore is finished only
the restore itself may append, and nobody may read.
"""

from typing import TYPE_CHECKING

from ottla_cluster.controller.commands import (
    BeginRestore,
    CreateTopic,
    CreateTopicResponse,
    FinishRestore,
    PartitionState,
    RestoreFinishedResponse,
)
from ottla_cluster.controller.features import RESTORES, require
from ottla_cluster.controller.image import MetadataImage, Topic
from ottla_cluster.controller.records import (
    MetadataRecord,
    TopicRestoreBegun,
    TopicRestoreFinished,
)
from ottla_cluster.controller.topic_configs import effective_configs
from ottla_cluster.controller.topic_handlers import create_topic, state_of
from ottla_cluster.controller.topic_names import refuse_internal, validate_topic_name
from ottla_cluster.state_machine.result import Result
from ottla_protocol.errors import InvalidRequestError, RestoreConflictError

if TYPE_CHECKING:
    from random import Random

    from ottla_cluster.controller.config import ControllerConfig


def begin_restore(
    image: MetadataImage, command: BeginRestore, config: "ControllerConfig", random: "Random"
) -> Result[MetadataRecord, CreateTopicResponse]:
    """Creates the topic, or finds it where the same restore has begun before.

    Raises:
        UnsupportedFeatureLevelError: the cluster is at a lower level.
        RestoreConflictError: it is being restored from another backup, or with other partitions.
        InvalidRequestError: an offset below 0, or no restore id.
        OttlaError: as `create_topic`: TopicAlreadyExistsError where the topic is a whole one.
    """
    require(image, RESTORES)
    if not command.restore_id:
        raise InvalidRequestError("restore_id must not be empty", field="restore_id")
    if any(offset < 0 for offset in command.first_offsets):
        raise InvalidRequestError("first_offsets must be 0 or more", field="first_offsets")
    # Not left to `create_topic`: there the name is a field of the body, and here of the path.
    validate_topic_name(command.name, parameter="topic")
    refuse_internal(command.name, parameter="topic")
    topic_id = image.topic_ids.get(command.name)
    if topic_id is not None and image.topics[topic_id].restore_id is not None:
        return Result((), _as_begun(image.topics[topic_id], command))
    created = create_topic(
        image,
        CreateTopic(
            name=command.name,
            partitions=len(command.first_offsets),
            replication_factor=command.replication_factor,
            configs=command.configs,
        ),
        config,
        random,
    )
    response = created.response
    assert response.topic_id is not None
    begun = TopicRestoreBegun(response.topic_id, command.restore_id, command.first_offsets)
    return Result((*created.records, begun), response)


def _as_begun(topic: Topic, command: BeginRestore) -> CreateTopicResponse:
    _require_same(topic, command.restore_id)
    first_offsets = tuple(partition.first_offset for partition in topic.partitions)
    if first_offsets != command.first_offsets:
        raise RestoreConflictError(
            f"The restore of the topic {topic.name!r} began with other partitions."
        )
    states: tuple[PartitionState, ...] = tuple(map(state_of, topic.partitions))
    return CreateTopicResponse(
        name=topic.name,
        topic_id=topic.topic_id,
        partitions=states,
        configs=effective_configs(topic.configs),
        warnings=(),
    )


def finish_restore(
    image: MetadataImage, command: FinishRestore
) -> Result[MetadataRecord, RestoreFinishedResponse]:
    """Gives the topic to everybody; finished again by the same restore, nothing changes.

    Raises:
        UnknownTopicOrPartitionError: there is no such topic.
        RestoreConflictError: it is not being restored, or from another backup.
    """
    topic = image.topic(command.name)
    response = RestoreFinishedResponse(topic.name, topic.topic_id)
    if topic.restore_id is None and topic.restored_from == command.restore_id:
        return Result((), response)
    _require_same(topic, command.restore_id)
    return Result((TopicRestoreFinished(topic.topic_id),), response)


def _require_same(topic: Topic, restore_id: str) -> None:
    if topic.restore_id is None:
        raise RestoreConflictError(f"The topic {topic.name!r} is not being restored.")
    if topic.restore_id != restore_id:
        raise RestoreConflictError(
            f"The topic {topic.name!r} is being restored from another backup; delete it to begin "
            "anew."
        )
