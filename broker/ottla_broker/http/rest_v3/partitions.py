"""`/v3/clusters/{cluster}/topics/{topic}/partitions`: replicas, offsets and reassignments too."""

from aiohttp import web
from msgspec import UNSET

from ottla_broker.drivers.peer_messages import PartitionName
from ottla_broker.http.context import context_of
from ottla_broker.http.query import parse_integer, partition_number
from ottla_broker.http.rest_v3 import resources
from ottla_broker.http.rest_v3.requests import begun, rendered
from ottla_broker.services.partition_bounds import SETTLING_WAIT_MS
from ottla_broker.services.topics import describe
from ottla_protocol import models_rest_v3 as rest
from ottla_protocol.errors import (
    NotFoundError,
    OffsetNotAvailableError,
)
from ottla_protocol.missing_partitions import missing_partition
from ottla_protocol.models import PartitionDescription, TopicDescription

BOTH = "both"
OFFSET_TYPES = ("earliest", "latest", BOTH)


async def _topic(request: web.Request) -> TopicDescription:
    return describe(await context_of(request).topics.find(request.match_info["topic"]))


async def _partition(request: web.Request) -> tuple[TopicDescription, PartitionDescription]:
    number = partition_number(request.match_info["partition"])
    topic = await _topic(request)
    if number >= len(topic.partitions):
        raise missing_partition(topic.name, number, len(topic.partitions))
    return topic, topic.partitions[number]


async def list_partitions(request: web.Request) -> web.Response:
    """`GET …/partitions`."""
    links, _ = begun(request)
    topic = await _topic(request)
    partitions = [resources.partition(links, topic.name, each) for each in topic.partitions]
    path = ("topics", topic.name, "partitions")
    return rendered(resources.listed("KafkaPartition", links, path, partitions))


async def describe_partition(request: web.Request) -> web.Response:
    """`GET …/partitions/{partition}`."""
    links, _ = begun(request)
    topic, partition = await _partition(request)
    return rendered(resources.partition(links, topic.name, partition))


async def list_replicas(request: web.Request) -> web.Response:
    """`GET …/partitions/{partition}/replicas`."""
    links, _ = begun(request)
    topic, partition = await _partition(request)
    found = resources.replicas(links, topic.name, partition)
    path = ("topics", topic.name, "partitions", partition.partition, "replicas")
    return rendered(resources.listed("KafkaReplica", links, path, found))


async def describe_replica(request: web.Request) -> web.Response:
    """`GET …/partitions/{partition}/replicas/{broker}`."""
    links, _ = begun(request)
    topic, partition = await _partition(request)
    wanted = parse_integer(request.match_info["broker"])
    for replica in resources.replicas(links, topic.name, partition):
        if replica.broker_id == wanted:
            return rendered(replica)
    raise NotFoundError(
        f"{topic.name}-{partition.partition} has no replica on broker "
        f"{request.match_info['broker']!r}"
    )


async def partition_offset(request: web.Request) -> web.Response:
    """`GET …/partitions/{partition}/offset?offset_type=earliest|latest|both`."""
    links, query = begun(request, "offset_type")
    wanted = query.choice("offset_type", BOTH, OFFSET_TYPES)
    topic, partition = await _partition(request)
    name = PartitionName(topic.topic_id, partition.partition)
    service = context_of(request).partition_bounds
    bounds = (await service.look_up([name], wait_ms=SETTLING_WAIT_MS)).get(name)
    if bounds is None:
        raise OffsetNotAvailableError(
            f"the leader of {topic.name}-{partition.partition} does not tell at this moment"
        )
    path = ("topics", topic.name, "partitions", partition.partition)
    return rendered(
        rest.KafkaPartitionWithOffsets(
            metadata=links.metadata(*path, "offset"),
            cluster_id=links.cluster_id,
            topic_name=topic.name,
            partition_id=partition.partition,
            earliest_offset=bounds.log_start_offset if wanted != "latest" else UNSET,
            latest_offset=bounds.high_watermark if wanted != "earliest" else UNSET,
        )
    )


async def describe_reassignment(request: web.Request) -> web.Response:
    """`GET …/partitions/{partition}/reassignment`: 404 where there is none."""
    links, _ = begun(request)
    topic, partition = await _partition(request)
    for each in (await context_of(request).reassignments.reassignments()).reassignments:
        if (each.topic, each.partition) == (topic.name, partition.partition):
            return rendered(resources.reassignment(links, each))
    raise NotFoundError(f"{topic.name}-{partition.partition} is not being reassigned")


async def list_topic_reassignments(request: web.Request) -> web.Response:
    """`GET …/topics/{topic}/partitions/-/reassignment`."""
    begun(request)
    return await _list_reassignments(request, (await _topic(request)).name)


async def list_reassignments(request: web.Request) -> web.Response:
    """`GET …/topics/-/partitions/-/reassignment`: every one under way."""
    begun(request)
    return await _list_reassignments(request, None)


async def _list_reassignments(request: web.Request, topic: str | None) -> web.Response:
    links, _ = begun(request)
    ongoing = (await context_of(request).reassignments.reassignments()).reassignments
    found = [resources.reassignment(links, each) for each in ongoing if topic in (None, each.topic)]
    path = ("topics", topic or "-", "partitions", "-", "reassignment")
    return rendered(resources.listed("KafkaReassignment", links, path, found))
