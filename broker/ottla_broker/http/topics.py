"""`/v1/topics`, `/v1/cluster`, `/v1/brokers` and `/v1/metadata`."""

from typing import TypeVar

import msgspec
from aiohttp import web

from ottla_broker.http.bodies import read_body
from ottla_broker.http.context import context_of
from ottla_broker.http.query import Query
from ottla_broker.services.topics import describe
from ottla_protocol import routes
from ottla_protocol.errors import InvalidRequestError, MalformedBodyError, OttlaError, Outcome
from ottla_protocol.models import BrokerList, CreateTopicRequest, TopicList

MAX_ADMIN_BODY_BYTES = 1 << 20
MAX_METADATA_TOPICS = 1_000

RequestT = TypeVar("RequestT")


def json_response(document: object, status: int = 200) -> web.Response:
    """A struct as JSON."""
    return web.Response(status=status, body=msgspec.json.encode(document), content_type=routes.JSON)


def parse_json(body: bytes | bytearray, model: type[RequestT]) -> RequestT:
    """A request body as its model.

    Raises:
        MalformedBodyError: no JSON; the detail gives the position.
        InvalidRequestError: a field is missing, unknown or of the wrong type; the detail names it.
    """
    try:
        return msgspec.json.decode(body, type=model)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(str(error)) from error
    except msgspec.DecodeError as error:
        raise MalformedBodyError(str(error)) from error


async def list_topics(request: web.Request) -> web.Response:
    """`GET /v1/topics`."""
    Query(request.query.items(), ())
    return json_response(TopicList(context_of(request).topics.list_topics()))


async def create_topic(request: web.Request) -> web.Response:
    """`POST /v1/topics`."""
    try:
        Query(request.query.items(), ())
        body = await read_body(request, MAX_ADMIN_BODY_BYTES)
        wanted = parse_json(body, CreateTopicRequest)
    except OttlaError as error:
        raise error.with_outcome(Outcome.NOT_APPLIED) from error
    created = await context_of(request).topics.create(wanted)
    return json_response(created, status=200 if wanted.validate_only else 201)


async def describe_topic(request: web.Request) -> web.Response:
    """`GET /v1/topics/{topic}`."""
    Query(request.query.items(), ())
    return json_response(
        describe(await context_of(request).topics.find(request.match_info["topic"]))
    )


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
        raise InvalidRequestError(f"topics names more than {MAX_METADATA_TOPICS}")
    return json_response(await context_of(request).topics.metadata(names))
