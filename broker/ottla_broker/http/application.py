"""The route table: every path of the API with its handler."""

from aiohttp import web

from ottla_broker.http import (
    brokers,
    cluster_health,
    features,
    group_poll,
    groups,
    health,
    metadata_tree,
    producer_ids,
    quorum,
    reassignments,
    records,
    segments,
    topics,
)
from ottla_broker.http.admission import at_broker
from ottla_broker.http.bodies import read_body
from ottla_broker.http.context import CONTEXT, BrokerContext, context_of
from ottla_broker.http.post import Post, PostRoute
from ottla_broker.http.post_routes import POST_ROUTES
from ottla_broker.http.problems import Handler, problems, web_response
from ottla_protocol import routes
from ottla_protocol.errors import OttlaError, Outcome


def build_application(context: BrokerContext) -> web.Application:
    """The aiohttp application of one broker."""
    application = web.Application(
        middlewares=[problems],
        client_max_size=0,  # Bodies are bounded per route in `bodies`.
    )
    application[CONTEXT] = context
    application.router.add_routes(
        [
            web.get(routes.LIVENESS, health.liveness),
            web.get(routes.READINESS, health.readiness),
            web.get(routes.VERSION, health.version),
            web.get(routes.METRICS, health.metrics),
            web.get(routes.CLUSTER, topics.cluster),
            web.get(routes.CLUSTER_FEATURES, features.describe),
            web.post(routes.CLUSTER_FEATURES, features.upgrade),
            web.get(routes.CLUSTER_HEALTH, cluster_health.cluster_health),
            web.get(routes.CLUSTER_QUORUM, quorum.describe),
            web.post(routes.CLUSTER_QUORUM_VOTERS, quorum.add_voter),
            web.delete(routes.CLUSTER_QUORUM_VOTER, quorum.remove_voter),
            web.post(routes.CLUSTER_QUORUM_TRANSFER, quorum.transfer),
            web.get(routes.BROKERS, topics.brokers),
            web.delete(routes.BROKER, brokers.unregister),
            web.get(routes.BROKER_DRAIN, brokers.drain_progress),
            web.post(routes.BROKER_DRAIN, brokers.drain),
            web.delete(routes.BROKER_DRAIN, brokers.cancel_drain),
            web.get(routes.METADATA, topics.metadata),
            web.get(routes.METADATA_TREE, metadata_tree.look),
            web.get(routes.METADATA_TREE_PATH, metadata_tree.look),
            web.get(routes.TOPICS, topics.list_topics),
            web.post(routes.TOPICS, topics.create_topic),
            web.get(routes.PARTITION_RECORDS, at_broker(records.read)),
            web.get(routes.PARTITION_OFFSETS, at_broker(records.offsets)),
            web.get(routes.PARTITION_SEGMENTS, at_broker(segments.list_segments)),
            web.post(routes.PARTITION_SEGMENTS_VERIFY, at_broker(segments.verify)),
            web.get(routes.TOPIC, topics.describe_topic),
            web.patch(routes.TOPIC, topics.add_partitions),
            web.delete(routes.TOPIC, topics.delete_topic),
            web.get(routes.TOPIC_CONFIGS, topics.describe_configs),
            web.patch(routes.TOPIC_CONFIGS, topics.alter_configs),
            web.post(routes.ELECTIONS, reassignments.elect),
            web.get(routes.REASSIGNMENTS, reassignments.list_reassignments),
            web.post(routes.REASSIGNMENTS, reassignments.alter_reassignments),
            web.post(routes.PRODUCER_IDS, at_broker(producer_ids.allocate_producer_id)),
            web.get(routes.GROUPS, at_broker(groups.list_groups)),
            web.get(routes.GROUP, at_broker(groups.describe)),
            web.delete(routes.GROUP, at_broker(groups.delete)),
            web.post(routes.GROUP_MEMBERS, at_broker(groups.join)),
            web.delete(routes.GROUP_MEMBER, at_broker(groups.leave)),
            web.get(routes.GROUP_OFFSETS, at_broker(groups.committed)),
            web.post(routes.GROUP_SEEK, at_broker(groups.seek)),
            web.post(routes.GROUP_POLL, at_broker(group_poll.poll)),
        ]
    )
    for route in POST_ROUTES:
        application.router.add_post(route.path, _served(route))
    return application


def _served(route: PostRoute) -> Handler:
    """A handler, for aiohttp, of a POST that did not take the short way: see `connection`."""

    async def serve(request: web.Request) -> web.StreamResponse:
        context = context_of(request)
        try:
            route.admit(context, request.headers)
            limit_bytes = route.limit_bytes(context.settings)
            if not route.counts_inflight:
                body = await read_body(request, limit_bytes)
                return web_response(await route.handler(context, _post(request, body)))
            with context.inflight.hold() as held:
                body = await read_body(request, limit_bytes, held.grow)
                return web_response(await route.handler(context, _post(request, body)))
        except OttlaError as error:
            # Errors after an append say so themselves.
            raise error.with_outcome(Outcome.NOT_APPLIED) if route.is_write else error from None

    return serve


def _post(request: web.Request, body: bytes | bytearray) -> Post:
    return Post(request.match_info, list(request.query.items()), request.headers, body)
