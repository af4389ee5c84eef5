"""The route table: every path of the API with its handler."""

from aiohttp import web

from ottla_broker.http import binary, health, internal, records, topics
from ottla_broker.http.context import CONTEXT, BrokerContext
from ottla_broker.http.problems import problems
from ottla_protocol import routes


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
            web.get(routes.BROKERS, topics.brokers),
            web.get(routes.METADATA, topics.metadata),
            web.get(routes.TOPICS, topics.list_topics),
            web.post(routes.TOPICS, topics.create_topic),
            # Paths with a name in them are tried in this order: the busy ones first.
            web.post(routes.TOPIC_RECORDS, records.produce),
            web.post(routes.PARTITION_RECORDS, records.produce),
            web.get(routes.PARTITION_RECORDS, records.read),
            web.get(routes.PARTITION_OFFSETS, records.offsets),
            web.get(routes.TOPIC, topics.describe_topic),
            web.delete(routes.TOPIC, topics.delete_topic),
            web.post(routes.PRODUCE, binary.produce),
            web.post(routes.FETCH, binary.fetch),
        ]
    )
    for path, handler in (
        (routes.INTERNAL_RAFT, internal.raft),
        (routes.INTERNAL_CONTROLLER, internal.controller),
        (routes.INTERNAL_COMMIT_VERSION, internal.commit_version),
        (routes.INTERNAL_UNREACHABLE, internal.unreachable_broker),
        (routes.INTERNAL_FETCH, internal.fetch),
        (routes.INTERNAL_PRODUCE, internal.produce),
        (routes.INTERNAL_IDEMPOTENCY, internal.idempotency),
    ):
        application.router.add_post(path, internal.of_same_cluster(handler))
    return application
