"""Topics, brokers and groups as resources of the REST Proxy API: pure functions, no IO."""

from collections.abc import Sequence
from typing import TypeVar
from urllib.parse import urlsplit

from ottla_broker.http.rest_v3.links import Links
from ottla_cluster.controller.topic_configs import OPERATORS_CONFIGS
from ottla_cluster.controller.topic_names import is_internal
from ottla_cluster.groups.commands import GroupListing
from ottla_protocol import models_rest_v3 as rest
from ottla_protocol.errors import NotFoundError, OffsetNotAvailableError
from ottla_protocol.models import (
    BrokerDescription,
    OngoingReassignment,
    PartitionDescription,
    TopicConfigs,
    TopicDescription,
)
from ottla_protocol.models_groups import GroupDescription, GroupMemberDescription, PartitionLag

ResourceT = TypeVar("ResourceT")

CLIENT_ID = ""
"""Members of Ottla's groups have no client id."""

_STATES: dict[str, rest.GroupState] = {
    "empty": "EMPTY",
    "stable": "STABLE",
    "reconciling": "PREPARING_REBALANCE",
}


def listed(
    kind: str, links: Links, path: Sequence[str | int], data: list[ResourceT]
) -> rest.ResourceList[ResourceT]:
    """A list of resources of one kind."""
    return rest.ResourceList(f"{kind}List", links.collection(*path), data)


# --- cluster --------------------------------------------------------------------------------


def cluster(links: Links, controller: int | None) -> rest.KafkaCluster:
    """The cluster."""
    return rest.KafkaCluster(
        metadata=links.metadata(),
        cluster_id=links.cluster_id,
        controller=None if controller is None else links.related("brokers", controller),
        acls=links.related("acls"),
        brokers=links.related("brokers"),
        broker_configs=links.related("broker-configs"),
        consumer_groups=links.related("consumer-groups"),
        topics=links.related("topics"),
        partition_reassignments=links.related("topics", "-", "partitions", "-", "reassignment"),
    )


def broker(links: Links, found: BrokerDescription) -> rest.KafkaBroker:
    """One broker."""
    address = urlsplit(found.url)
    path = ("brokers", found.id)
    return rest.KafkaBroker(
        metadata=links.metadata(*path),
        cluster_id=links.cluster_id,
        broker_id=found.id,
        host=address.hostname,
        port=address.port,
        rack=found.rack or None,
        configs=links.related(*path, "configs"),
        partition_replicas=links.related(*path, "partition-replicas"),
    )


# --- topics ---------------------------------------------------------------------------------


def topic(links: Links, found: TopicDescription) -> rest.KafkaTopic:
    """One topic."""
    path = ("topics", found.name)
    return rest.KafkaTopic(
        metadata=links.metadata(*path),
        cluster_id=links.cluster_id,
        topic_name=found.name,
        is_internal=is_internal(found.name),
        replication_factor=len(found.partitions[0].replicas) if found.partitions else 0,
        partitions_count=len(found.partitions),
        partitions=links.related(*path, "partitions"),
        configs=links.related(*path, "configs"),
        partition_reassignments=links.related(*path, "partitions", "-", "reassignment"),
    )


def topic_configs(links: Links, found: TopicConfigs) -> list[rest.KafkaTopicConfig]:
    """Every config of a topic, by name."""
    configs = []
    for name, config in found.configs.items():
        is_default = config.source == "default"
        value = _config_text(config.value)
        source = "DEFAULT_CONFIG" if is_default else "DYNAMIC_TOPIC_CONFIG"
        configs.append(
            rest.KafkaTopicConfig(
                metadata=links.metadata("topics", found.topic, "configs", name),
                cluster_id=links.cluster_id,
                topic_name=found.topic,
                name=name,
                value=value,
                is_default=is_default,
                is_read_only=is_internal(found.topic) and name not in OPERATORS_CONFIGS,
                is_sensitive=False,
                source="DEFAULT_CONFIG" if is_default else "DYNAMIC_TOPIC_CONFIG",
                synonyms=[rest.ConfigSynonym(name, value, source)],
            )
        )
    return configs


def _config_text(value: str | float) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def partition(links: Links, topic_name: str, found: PartitionDescription) -> rest.KafkaPartition:
    """One partition."""
    path = ("topics", topic_name, "partitions", found.partition)
    leader = found.leader
    return rest.KafkaPartition(
        metadata=links.metadata(*path),
        cluster_id=links.cluster_id,
        topic_name=topic_name,
        partition_id=found.partition,
        leader=None if leader is None else links.related(*path, "replicas", leader),
        replicas=links.related(*path, "replicas"),
        reassignment=links.related(*path, "reassignment"),
    )


def replicas(links: Links, topic_name: str, found: PartitionDescription) -> list[rest.KafkaReplica]:
    """The replicas of a partition, preferred leader first."""
    return [
        rest.KafkaReplica(
            metadata=links.metadata(
                "topics", topic_name, "partitions", found.partition, "replicas", node_id
            ),
            cluster_id=links.cluster_id,
            topic_name=topic_name,
            partition_id=found.partition,
            broker_id=node_id,
            is_leader=node_id == found.leader,
            is_in_sync=node_id in found.isr,
            broker=links.related("brokers", node_id),
        )
        for node_id in found.replicas
    ]


def reassignment(links: Links, found: OngoingReassignment) -> rest.KafkaReassignment:
    """One reassignment that is under way."""
    path = ("topics", found.topic, "partitions", found.partition)
    return rest.KafkaReassignment(
        metadata=links.metadata(*path, "reassignment"),
        cluster_id=links.cluster_id,
        topic_name=found.topic,
        partition_id=found.partition,
        adding_replicas=found.adding_replicas,
        removing_replicas=found.removing_replicas,
        replicas=links.related(*path, "replicas"),
    )


# --- consumer groups ------------------------------------------------------------------------


def group(
    links: Links, found: GroupListing | GroupDescription, coordinator: int | None
) -> rest.KafkaConsumerGroup:
    """One group."""
    path = ("consumer-groups", found.group)
    return rest.KafkaConsumerGroup(
        metadata=links.metadata(*path),
        cluster_id=links.cluster_id,
        consumer_group_id=found.group,
        # Its generation rises with its first member.
        is_simple=found.generation == 0,
        partition_assignor=found.assignor,
        state=_STATES.get(found.state, "UNKNOWN"),
        coordinator=None if coordinator is None else links.related("brokers", coordinator),
        consumers=links.related(*path, "consumers"),
        lag_summary=links.related(*path, "lag-summary"),
    )


def consumer(links: Links, group_name: str, member: GroupMemberDescription) -> rest.KafkaConsumer:
    """One member of a group."""
    path = ("consumer-groups", group_name, "consumers", member.member_id)
    return rest.KafkaConsumer(
        metadata=links.metadata(*path),
        cluster_id=links.cluster_id,
        consumer_group_id=group_name,
        consumer_id=member.member_id,
        instance_id=member.instance_id,
        client_id=CLIENT_ID,
        assignments=links.related(*path, "assignments"),
    )


def assignments(
    links: Links, group_name: str, member: GroupMemberDescription
) -> list[rest.KafkaConsumerAssignment]:
    """The partitions that a member may read."""
    above = ("consumer-groups", group_name)
    return [
        rest.KafkaConsumerAssignment(
            metadata=links.metadata(
                *above, "consumers", member.member_id,
                "assignments", assigned.topic, "partitions", number,
            ),
            cluster_id=links.cluster_id,
            consumer_group_id=group_name,
            consumer_id=member.member_id,
            topic_name=assigned.topic,
            partition_id=number,
            partition=links.related("topics", assigned.topic, "partitions", number),
            lag=links.related(*above, "lags", assigned.topic, "partitions", number),
        )
        for assigned in member.assignment
        for number in assigned.partitions
    ]  # fmt: skip


def lags(links: Links, found: GroupDescription) -> list[rest.KafkaConsumerLag]:
    """How far the group is on each partition that it has committed.

    Raises:
        OffsetNotAvailableError: a partition's leader does not tell its end now; without it the
            group would seem to be further than it is.
    """
    instances = {member.member_id: member.instance_id for member in found.members}
    return [
        _lag(links, found.group, each, each.committed, instances)
        for each in found.offsets
        if each.committed is not None
    ]


def _lag(
    links: Links,
    group_name: str,
    found: PartitionLag,
    committed: int,
    instances: dict[str, str | None],
) -> rest.KafkaConsumerLag:
    if found.end is None or found.lag is None:
        raise OffsetNotAvailableError(
            f"the leader of {found.topic}-{found.partition} does not tell its end at this moment"
        )
    path = ("consumer-groups", group_name, "lags", found.topic, "partitions", found.partition)
    return rest.KafkaConsumerLag(
        metadata=links.metadata(*path),
        cluster_id=links.cluster_id,
        consumer_group_id=group_name,
        topic_name=found.topic,
        partition_id=found.partition,
        current_offset=committed,
        log_end_offset=found.end,
        lag=found.lag,
        consumer_id=found.member_id or "",
        instance_id=instances.get(found.member_id or ""),
        client_id=CLIENT_ID,
    )


def lag_summary(
    links: Links, group_name: str, found: Sequence[rest.KafkaConsumerLag]
) -> rest.KafkaConsumerGroupLagSummary:
    """The largest lag, the first of several, and the sum.

    Raises:
        NotFoundError: the group has committed nothing, so there is no partition to name.
    """
    if not found:
        raise NotFoundError(f"the group {group_name!r} has committed nothing yet")
    largest = max(found, key=lambda each: each.lag)
    path = ("consumer-groups", group_name)
    # A partition that no member reads leads to the members that there are.
    reader = ("consumers", largest.consumer_id) if largest.consumer_id else ("consumers",)
    return rest.KafkaConsumerGroupLagSummary(
        metadata=links.metadata(*path, "lag-summary"),
        cluster_id=links.cluster_id,
        consumer_group_id=group_name,
        max_lag_consumer_id=largest.consumer_id,
        max_lag_instance_id=largest.instance_id,
        max_lag_client_id=largest.client_id,
        max_lag_topic_name=largest.topic_name,
        max_lag_partition_id=largest.partition_id,
        max_lag=largest.lag,
        total_lag=sum(each.lag for each in found),
        max_lag_consumer=links.related(*path, *reader),
        max_lag_partition=links.related(
            "topics", largest.topic_name, "partitions", largest.partition_id
        ),
    )
