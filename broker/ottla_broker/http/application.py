"""The route table: every path of the API with its handler."""

from aiohttp import web

from ottla_broker.http import binary, health, internal, records, topics
from ottla_broker.http.context import CONTEXT, BrokerContext
from ottla_broker.http.internal import same_cluster
from ottla_broker.http.problems import problems
from ottla_protocol import routes


def build_application(context: BrokerContext) -> web.Application:
    """The aiohttp application of one broker."""
    application = web.Application(
        middlewares=[problems, same_cluster],
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
            web.get(routes.TOPIC, topics.describe_topic),
            web.delete(routes.TOPIC, topics.delete_topic),
            web.post(routes.TOPIC_RECORDS, records.produce),
            web.post(routes.PARTITION_RECORDS, records.produce),
            web.get(routes.PARTITION_RECORDS, records.read),
            web.get(routes.PARTITION_OFFSETS, records.offsets),
            web.post(routes.PRODUCE, binary.produce),
            web.post(routes.FETCH, binary.fetch),
            web.post(routes.INTERNAL_RAFT, internal.raft),
            web.post(routes.INTERNAL_CONTROLLER, internal.controller),
            web.post(routes.INTERNAL_COMMIT_VERSION, internal.commit_version),
            web.post(routes.INTERNAL_UNREACHABLE, internal.unreachable_broker),
            web.post(routes.INTERNAL_FETCH, internal.fetch),
            web.post(routes.INTERNAL_PRODUCE, internal.produce),
            web.post(routes.INTERNAL_IDEMPOTENCY, internal.idempotency),
        ]
    )
    return application
