"""`GET /`, `/brokers` and `/topics`: the cluster as REST proxies tell it."""

from aiohttp import web

from ottla_broker.drivers.peer_messages import PartitionName
from ottla_broker.http.context import context_of
from ottla_broker.http.negotiation import accept_of
from ottla_broker.http.query import parse_integer
from ottla_broker.http.rest_v2.errors import (
    LeaderlessError,
    PartitionNotFoundError,
    UnknownInstanceOrPartitionError,
    proxy_response,
)
from ottla_broker.http.rest_v2.media_types import answer_type
from ottla_broker.services.partition_bounds import SETTLING_WAIT_MS
from ottla_broker.services.topics import describe
from ottla_cluster.controller.image import Topic
from ottla_cluster.controller.topic_names import is_internal
from ottla_protocol import models_rest_v2 as models
from ottla_protocol.errors import UnknownTopicOrPartitionError
from ottla_protocol.models import PartitionDescription

NO_LEADER = -1


def answered(request: web.Request, document: object) -> web.Response:
    """A document under the media type that the client takes.

    Raises:
        NotAcceptableError: it takes none of the API's.
    """
    media_type = answer_type(accept_of(request.headers.getall("Accept", ())))
    return proxy_response(document, media_type=media_type)


async def root(request: web.Request) -> web.Response:
    """`GET /`: that there is somebody."""
    return answered(request, {})


async def brokers(request: web.Request) -> web.Response:
    """`GET /brokers`."""
    found = context_of(request).topics.brokers()
    active = [each.id for each in found if each.state != "fenced"]
    return answered(request, models.Brokers(active))


async def list_topics(request: web.Request) -> web.Response:
    """`GET /topics`: names, without those of internal topics."""
    topics = context_of(request).metadata.image.topic_ids
    return answered(request, sorted(name for name in topics if not is_internal(name)))


async def describe_topic(request: web.Request) -> web.Response:
    """`GET /topics/{topic}`."""
    described = describe(await _topic(request))
    return answered(
        request,
        models.Topic(
            described.name,
            {name: _text(value) for name, value in described.configs.items()},
            [_partition(each) for each in described.partitions],
        ),
    )


async def list_partitions(request: web.Request) -> web.Response:
    """`GET /topics/{topic}/partitions`."""
    partitions = describe(await _topic(request)).partitions
    return answered(request, [_partition(each) for each in partitions])


async def describe_partition(request: web.Request) -> web.Response:
    """`GET /topics/{topic}/partitions/{partition}`."""
    topic = await _topic(request)
    number = _partition_number(request, topic)
    return answered(request, _partition(describe(topic).partitions[number]))


async def partition_offsets(request: web.Request) -> web.Response:
    """`GET /topics/{topic}/partitions/{partition}/offsets`."""
    topic = await _topic(request)
    name = PartitionName(topic.topic_id, _partition_number(request, topic))
    service = context_of(request).partition_bounds
    found = (await service.look_up([name], wait_ms=SETTLING_WAIT_MS)).get(name)
    if found is None:
        raise LeaderlessError(f"The leader of {topic.name}-{name.partition} does not answer now.")
    return answered(request, models.PartitionOffsets(found.log_start_offset, found.high_watermark))


async def _topic(request: web.Request) -> Topic:
    name = request.match_info["topic"]
    try:
        return await context_of(request).topics.find(name)
    except UnknownTopicOrPartitionError as error:
        raise UnknownInstanceOrPartitionError(
            "This server does not host this topic-partition."
        ) from error


def _partition_number(request: web.Request, topic: Topic) -> int:
    text = request.match_info["partition"]
    number = parse_integer(text)
    if number is None or not 0 <= number < len(topic.partitions):
        raise PartitionNotFoundError(f"Partition {text} of {topic.name} not found.")
    return number


def _partition(described: PartitionDescription) -> models.Partition:
    return models.Partition(
        described.partition,
        NO_LEADER if described.leader is None else described.leader,
        [
            models.Replica(broker, broker == described.leader, broker in described.isr)
            for broker in described.replicas
        ],
    )


def _text(value: object) -> str:
    """A config's value as Kafka's tools print it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
