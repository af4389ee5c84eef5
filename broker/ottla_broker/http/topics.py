"""`/v1/topics`, `/v1/cluster`, `/v1/brokers` and `/v1/metadata`."""

from typing import TypeVar

import msgspec
from aiohttp import web

from ottla_broker.http.bodies import read_body
from ottla_broker.http.context import context_of
from ottla_broker.http.json_bodies import parse_json
from ottla_broker.http.query import Query
from ottla_broker.services.topics import describe
from ottla_protocol import routes
from ottla_protocol.errors import InvalidRequestError, OttlaError, Outcome
from ottla_protocol.models import (
    AddPartitionsRequest,
    AlterTopicConfigsRequest,
    BrokerList,
    CreateTopicRequest,
    TopicList,
)

MAX_ADMIN_BODY_BYTES = 1 << 20
MAX_METADATA_TOPICS = 1_000

RequestT = TypeVar("RequestT", bound=msgspec.Struct)


def json_response(document: object, status: int = 200) -> web.Response:
    """A struct as JSON."""
    return web.Response(status=status, body=msgspec.json.encode(document), content_type=routes.JSON)


async def change_request(request: web.Request, model: type[RequestT]) -> RequestT:
    """The body of a request that asks for a change, and that has no query.

    Raises:
        OttlaError: as `read_body` and `parse_json`; nothing was applied.
    """
    try:
        Query(request.query.items(), ())
        body = await read_body(request, MAX_ADMIN_BODY_BYTES)
        return parse_json(body, model, request.headers.get("Content-Type"))
    except OttlaError as error:
        raise error.with_outcome(Outcome.NOT_APPLIED) from error


async def list_topics(request: web.Request) -> web.Response:
    """`GET /v1/topics`."""
    Query(request.query.items(), ())
    return json_response(TopicList(context_of(request).topics.list_topics()))


async def create_topic(request: web.Request) -> web.Response:
    """`POST /v1/topics`."""
    wanted = await change_request(request, CreateTopicRequest)
    created = await context_of(request).topics.create(wanted)
    return json_response(created, status=200 if wanted.validate_only else 201)


async def describe_topic(request: web.Request) -> web.Response:
    """`GET /v1/topics/{topic}`."""
    Query(request.query.items(), ())
    return json_response(
        describe(await context_of(request).topics.find(request.match_info["topic"]))
    )


async def add_partitions(request: web.Request) -> web.Response:
    """`PATCH /v1/topics/{topic}`."""
    wanted = await change_request(request, AddPartitionsRequest)
    topics = context_of(request).topics
    return json_response(await topics.add_partitions(request.match_info["topic"], wanted))


async def describe_configs(request: web.Request) -> web.Response:
    """`GET /v1/topics/{topic}/configs`."""
    Query(request.query.items(), ())
    return json_response(await context_of(request).topics.configs(request.match_info["topic"]))


async def alter_configs(request: web.Request) -> web.Response:
    """`PATCH /v1/topics/{topic}/configs`."""
    wanted = await change_request(request, AlterTopicConfigsRequest)
    topics = context_of(request).topics
    return json_response(await topics.alter_configs(request.match_info["topic"], wanted))


async def delete_topic(request: web.Request) -> web.Response:
    """`DELETE /v1/topics/{topic}`."""
    Query(request.query.items(), ())
    await context_of(request).topics.delete(request.match_info["topic"])
    return web.Response(status=204)


async def cluster(request: web.Request) -> web.Response:
    """`GET /v1/cluster`."""
    Query(request.query.items(), ())
    return json_response(context_of(request).topics.cluster())


async def brokers(request: web.Request) -> web.Response:
    """`GET /v1/brokers`."""
    Query(request.query.items(), ())
    return json_response(BrokerList(context_of(request).topics.brokers()))


async def metadata(request: web.Request) -> web.Response:
    """`GET /v1/metadata?topics=a,b`."""
    wanted = Query(request.query.items(), {"topics"}).text("topics")
    names = None if wanted is None else [name for name in wanted.split(",") if name]
    if names is not None and len(names) > MAX_METADATA_TOPICS:
        raise InvalidRequestError(
            f"topics names more than {MAX_METADATA_TOPICS}", parameter="topics"
        )
    return json_response(await context_of(request).topics.metadata(names))
