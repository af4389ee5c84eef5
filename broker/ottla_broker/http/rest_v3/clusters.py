"""`/v3/clusters` and its brokers."""

from aiohttp import web

from ottla_broker.http.context import context_of
from ottla_broker.http.query import parse_integer
from ottla_broker.http.rest_v3 import resources
from ottla_broker.http.rest_v3.requests import begun, rendered
from ottla_protocol import models_rest_v3 as rest
from ottla_protocol.errors import NotFoundError
from ottla_protocol.models import BrokerDescription


async def list_clusters(request: web.Request) -> web.Response:
    """`GET /v3/clusters`: the one that there is."""
    links, _ = begun(request)
    found = resources.cluster(links, context_of(request).topics.cluster().controller)
    itself = rest.CollectionMetadata(f"{links.base_url}/v3/clusters")
    return rendered(rest.ResourceList("KafkaClusterList", itself, [found]))


async def describe_cluster(request: web.Request) -> web.Response:
    """`GET /v3/clusters/{cluster}`."""
    links, _ = begun(request)
    return rendered(resources.cluster(links, context_of(request).topics.cluster().controller))


async def list_brokers(request: web.Request) -> web.Response:
    """`GET …/brokers`."""
    links, _ = begun(request)
    brokers = [resources.broker(links, each) for each in context_of(request).topics.brokers()]
    return rendered(resources.listed("KafkaBroker", links, ("brokers",), brokers))


async def describe_broker(request: web.Request) -> web.Response:
    """`GET …/brokers/{broker}`."""
    links, _ = begun(request)
    return rendered(resources.broker(links, _broker(request)))


async def list_broker_replicas(request: web.Request) -> web.Response:
    """`GET …/brokers/{broker}/partition-replicas`: every replica that the broker has."""
    links, _ = begun(request)
    node_id = _broker(request).id
    found = [
        replica
        for topic in context_of(request).topics.list_topics()
        for partition in topic.partitions
        if node_id in partition.replicas
        for replica in resources.replicas(links, topic.name, partition)
        if replica.broker_id == node_id
    ]
    path = ("brokers", node_id, "partition-replicas")
    return rendered(resources.listed("KafkaReplica", links, path, found))


async def list_broker_configs(request: web.Request) -> web.Response:
    """`GET …/brokers/{broker}/configs`: those that can be changed while it runs are none."""
    links, _ = begun(request)
    none: list[rest.KafkaBrokerConfig] = []
    path = ("brokers", _broker(request).id, "configs")
    return rendered(resources.listed("KafkaBrokerConfig", links, path, none))


async def list_cluster_configs(request: web.Request) -> web.Response:
    """`GET …/broker-configs`: as those of one broker."""
    links, _ = begun(request)
    none: list[rest.KafkaClusterConfig] = []
    return rendered(resources.listed("KafkaClusterConfig", links, ("broker-configs",), none))


async def list_acls(request: web.Request) -> web.Response:
    """`GET …/acls`: nobody is refused anything by name, so there are none."""
    links, _ = begun(request)
    none: list[rest.KafkaAcl] = []
    return rendered(resources.listed("KafkaAcl", links, ("acls",), none))


def _broker(request: web.Request) -> BrokerDescription:
    wanted = parse_integer(request.match_info["broker"])
    for broker in context_of(request).topics.brokers():
        if broker.id == wanted:
            return broker
    raise NotFoundError(f"there is no broker {request.match_info['broker']!r}")
