"""Handlers that create, configure and remove topics."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ottla_cluster.controller.commands import (
    AddPartitions,
    AddPartitionsResponse,
    AlterTopicConfigs,
    AlterTopicConfigsResponse,
    CreateTopic,
    CreateTopicResponse,
    DeleteTopic,
    DeleteTopicResponse,
    PartitionState,
)
from ottla_cluster.controller.image import MetadataImage, Partition
from ottla_cluster.controller.limits import MAX_PARTITIONS, MAX_PARTITIONS_PER_TOPIC, MAX_TOPICS
from ottla_cluster.controller.placement import broker_load, load_of, place_partitions
from ottla_cluster.controller.records import (
    MetadataRecord,
    PartitionCreated,
    TopicConfigsChanged,
    TopicCreated,
    TopicRemoved,
)
from ottla_cluster.controller.topic_configs import (
    INTERNAL_TOPIC_CONFIGS,
    MIN_INSYNC_REPLICAS,
    ConfigValue,
    definition,
    effective_configs,
    parse_configs,
    refuse_brokers_configs,
    require_consistent,
)
from ottla_cluster.controller.topic_names import (
    collides,
    is_internal,
    refuse_internal,
    validate_topic_name,
    warnings_for,
)
from ottla_cluster.state_machine.result import Result
from ottla_protocol.counted_nouns import counted
from ottla_protocol.errors import (
    InvalidPartitionsError,
    InvalidReplicationFactorError,
    Outcome,
    TopicAlreadyExistsError,
    TopicBeingRestoredError,
    UnavailableError,
    UnknownTopicIdError,
)

if TYPE_CHECKING:
    from random import Random

    from ottla_cluster.controller.config import ControllerConfig


def create_topic(
    image: MetadataImage, command: CreateTopic, config: "ControllerConfig", random: "Random"
) -> Result[MetadataRecord, CreateTopicResponse]:
    """Creates a topic and places its partitions on active brokers.

    Raises:
        InvalidTopicError: the name breaks a rule, or is the brokers' own.
        TopicAlreadyExistsError: the name, or one that differs only in `.` and `_`, is taken.
        InvalidPartitionsError: too few or too many partitions.
        InvalidReplicationFactorError: below one, or above the active brokers.
        InvalidConfigError: an unknown config or a value out of range.
        UnavailableError: no broker is active.
    """
    _check_new_name(image, command)
    configs = parse_configs(command.configs)
    configs.setdefault(MIN_INSYNC_REPLICAS, config.default_min_insync_replicas)
    # What the brokers write for themselves is not for time to take.
    defaults = INTERNAL_TOPIC_CONFIGS if command.internal else config.default_topic_configs
    for name, value in defaults.items():
        configs.setdefault(name, value)
    require_consistent(configs)
    partitions = _partition_count(image, command, config)
    replication_factor = _replication_factor(image, command.replication_factor, config)
    placed = place_partitions(
        image.brokers_for_replicas(), partitions, replication_factor, broker_load(image), random
    )
    states = _new_partition_states(placed, first=0)
    topic_id = None if command.validate_only else _new_topic_id(image, random)
    response = CreateTopicResponse(
        name=command.name,
        topic_id=topic_id,
        partitions=states,
        configs=effective_configs(configs),
        warnings=warnings_for(command.name),
    )
    if topic_id is None:
        return Result((), response)
    created = TopicCreated(topic_id, command.name, configs)
    return Result((created, *(_partition_created(topic_id, state) for state in states)), response)


def alter_topic_configs(
    image: MetadataImage, command: AlterTopicConfigs, config: "ControllerConfig"
) -> Result[MetadataRecord, AlterTopicConfigsResponse]:
    """Sets or resets some of a topic's configs; the others stay.

    Raises:
        UnknownTopicOrPartitionError: there is no such topic.
        InvalidConfigError: an unknown config or a value out of range.
        InvalidTopicError: the topic is the brokers' own, and a config is none that operators set.
    """
    topic = image.topic(command.name)
    refuse_brokers_configs(topic.name, command.configs)
    # What a topic is made with, it has again once that is reset: see `create_topic`.
    defaults: Mapping[str, ConfigValue] = config.default_topic_configs
    if is_internal(topic.name):
        defaults = {}
    configs: dict[str, ConfigValue] = dict(topic.configs)
    for name in sorted(command.configs):
        value = command.configs[name]
        known = definition(name)
        if value is not None:
            configs[name] = known.parse(value)
        elif name == MIN_INSYNC_REPLICAS:
            configs[name] = config.default_min_insync_replicas
        elif name in defaults:
            configs[name] = defaults[name]
        else:
            configs.pop(name, None)
    require_consistent(configs)
    response = AlterTopicConfigsResponse(topic.name, topic.topic_id, effective_configs(configs))
    if configs == topic.configs:
        return Result((), response)
    return Result((TopicConfigsChanged(topic.topic_id, configs),), response)


def add_partitions(
    image: MetadataImage, command: AddPartitions, config: "ControllerConfig", random: "Random"
) -> Result[MetadataRecord, AddPartitionsResponse]:
    """Gives a topic more partitions, placed as those of a new one.

    Raises:
        InvalidTopicError: the topic is the brokers' own.
        UnknownTopicOrPartitionError: there is no such topic.
        TopicBeingRestoredError: it is not whole yet.
        InvalidPartitionsError: not more than there are, or too many.
        InvalidReplicationFactorError: fewer brokers are active than the topic has replicas.
        UnavailableError: no broker is active.
    """
    refuse_internal(command.name, parameter="topic")
    topic = image.topic(command.name)
    if topic.restore_id is not None:
        raise TopicBeingRestoredError(f"The topic {topic.name!r} is being restored from a backup.")
    count = len(topic.partitions)
    if command.partitions <= count:
        raise InvalidPartitionsError(
            f"The topic {topic.name!r} has {counted(count, 'partition')}; they can only become "
            f"more, not {command.partitions}."
        )
    _check_partition_limits(image, command.partitions, command.partitions - count)
    placed = place_partitions(
        image.brokers_for_replicas(),
        command.partitions - count,
        _replication_factor(image, topic.replication_factor, config),
        broker_load(image),
        random,
        of_topic=load_of(topic.partitions),
    )
    added = _new_partition_states(placed, first=count)
    response = AddPartitionsResponse(
        name=topic.name,
        topic_id=topic.topic_id,
        partitions=(*(state_of(partition) for partition in topic.partitions), *added),
        configs=effective_configs(topic.configs),
    )
    return Result(tuple(_partition_created(topic.topic_id, state) for state in added), response)


def delete_topic(
    image: MetadataImage, command: DeleteTopic
) -> Result[MetadataRecord, DeleteTopicResponse]:
    """Removes a topic.

    Raises:
        InvalidTopicError: the topic is the brokers' own.
        UnknownTopicOrPartitionError: there is no such topic.
        UnknownTopicIdError: another topic has the name now.
    """
    refuse_internal(command.name, parameter="topic")
    topic = image.topic(command.name)
    if command.topic_id and command.topic_id != topic.topic_id:
        raise UnknownTopicIdError(
            f"The topic {topic.name!r} that is to be deleted is gone; another one has its name.",
            outcome=Outcome.NOT_APPLIED,
        )
    return Result((TopicRemoved(topic.topic_id),), DeleteTopicResponse(topic.name, topic.topic_id))


def _check_new_name(image: MetadataImage, command: CreateTopic) -> None:
    validate_topic_name(command.name, field="name")
    if not command.internal:
        refuse_internal(command.name, field="name")
    if command.name in image.topic_ids:
        raise TopicAlreadyExistsError(f"The topic {command.name!r} exists already.")
    other = collides(command.name, image.topic_ids)
    if other is not None:
        raise TopicAlreadyExistsError(
            f"The topic {command.name!r} equals the existing {other!r} after swapping '.' and '_'."
        )


def _partition_count(image: MetadataImage, command: CreateTopic, config: "ControllerConfig") -> int:
    if len(image.topics) >= MAX_TOPICS:
        raise InvalidPartitionsError(f"The cluster has its maximum of {MAX_TOPICS} topics.")
    partitions = config.default_partitions if command.partitions is None else command.partitions
    _check_partition_limits(image, partitions, partitions)
    return partitions


def _check_partition_limits(image: MetadataImage, partitions: int, added: int) -> None:
    """Checks the partitions that a topic is to have, and those that are new, against the limits."""
    if not 1 <= partitions <= MAX_PARTITIONS_PER_TOPIC:
        raise InvalidPartitionsError(
            f"A topic has 1..{MAX_PARTITIONS_PER_TOPIC} partitions, not {partitions}."
        )
    existing = sum(len(topic.partitions) for topic in image.topics.values())
    if existing + added > MAX_PARTITIONS:
        raise InvalidPartitionsError(
            f"{added} partitions more than the existing {existing} would exceed the "
            f"cluster's maximum of {MAX_PARTITIONS}."
        )


def _replication_factor(
    image: MetadataImage, wanted: int | None, config: "ControllerConfig"
) -> int:
    """The wanted or default number of replicas.

    A default above the active brokers is refused like any other: while brokers are missing, a topic
    must not be made less durable than the cluster promises without anybody having said so.
    """
    active = len(image.brokers_for_replicas())
    if active == 0:
        raise UnavailableError("No broker is active, so there is nowhere to place partitions.")
    if wanted is None:
        wanted = config.default_replication_factor
    if not 1 <= wanted <= active:
        raise InvalidReplicationFactorError(
            f"The replication factor must lie within 1..{active}, the number of active brokers "
            f"(those that are drained not counted), not {wanted}."
            if image.drains
            else f"The replication factor must lie within 1..{active}, the number of active "
            f"brokers, not {wanted}."
        )
    return wanted


def _new_topic_id(image: MetadataImage, random: "Random") -> str:
    """32 lower-case hex digits: usable in a folder's name on any file system."""
    topic_id = f"{random.getrandbits(128):032x}"
    assert topic_id not in image.topics
    return topic_id


def _new_partition_states(
    placed: Sequence[tuple[int, ...]], *, first: int
) -> tuple[PartitionState, ...]:
    """New partitions on these replicas, numbered from `first` on."""
    return tuple(
        PartitionState(
            partition=partition,
            replicas=replicas,
            isr=replicas,
            leader=replicas[0],
            leader_epoch=0,
            partition_epoch=0,
        )
        for partition, replicas in enumerate(placed, first)
    )


def state_of(partition: Partition) -> PartitionState:
    """A partition as responses tell it."""
    return PartitionState(
        partition=partition.partition,
        replicas=partition.replicas,
        isr=partition.isr,
        leader=partition.leader,
        leader_epoch=partition.leader_epoch,
        partition_epoch=partition.partition_epoch,
    )


def _partition_created(topic_id: str, state: PartitionState) -> PartitionCreated:
    return PartitionCreated(
        topic_id=topic_id,
        partition=state.partition,
        replicas=state.replicas,
        isr=state.isr,
        leader=state.leader,
        leader_epoch=state.leader_epoch,
        partition_epoch=state.partition_epoch,
    )
