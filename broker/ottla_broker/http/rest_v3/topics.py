"""`/v3/clusters/{cluster}/topics`: topics and their configs."""

from typing import TypeVar

import msgspec
from aiohttp import web

from ottla_broker.http.bodies import read_body
from ottla_broker.http.context import context_of
from ottla_broker.http.json_bodies import parse_json
from ottla_broker.http.rest_v3 import resources
from ottla_broker.http.rest_v3.requests import begun, rendered
from ottla_broker.http.topics import MAX_ADMIN_BODY_BYTES
from ottla_broker.services.topics import describe
from ottla_cluster.controller.topic_configs import TOPIC_CONFIGS
from ottla_protocol import models_rest_v3 as rest
from ottla_protocol.errors import InvalidRequestError, NotFoundError
from ottla_protocol.models import (
    AddPartitionsRequest,
    AlterTopicConfigsRequest,
    CreateTopicRequest,
)

RequestT = TypeVar("RequestT", bound=msgspec.Struct)

OK = 200
CREATED = 201
NO_CONTENT = 204


async def _body(request: web.Request, model: type[RequestT]) -> RequestT:
    body = await read_body(request, MAX_ADMIN_BODY_BYTES)
    return parse_json(body, model, request.headers.get("Content-Type"))


async def list_topics(request: web.Request) -> web.Response:
    """`GET …/topics`."""
    links, _ = begun(request)
    topics = [resources.topic(links, each) for each in context_of(request).topics.list_topics()]
    return rendered(resources.listed("KafkaTopic", links, ("topics",), topics))


async def describe_topic(request: web.Request) -> web.Response:
    """`GET …/topics/{topic}`."""
    links, _ = begun(request)
    found = await context_of(request).topics.find(request.match_info["topic"])
    return rendered(resources.topic(links, describe(found)))


async def create_topic(request: web.Request) -> web.Response:
    """`POST …/topics`: 201, or 200 where it was only to be validated."""
    links, _ = begun(request)
    wanted = await _body(request, rest.CreateKafkaTopic)
    _refuse_twice([config.name for config in wanted.configs])
    created = await context_of(request).topics.create(
        CreateTopicRequest(
            name=wanted.topic_name,
            partitions=wanted.partitions_count,
            replication_factor=wanted.replication_factor,
            configs={
                config.name: config.value for config in wanted.configs if config.value is not None
            },
            validate_only=wanted.validate_only,
        )
    )
    response = rendered(
        resources.topic(links, created), status=OK if wanted.validate_only else CREATED
    )
    if not wanted.validate_only:
        response.headers["Location"] = links.url("topics", created.name)
    return response


async def add_partitions(request: web.Request) -> web.Response:
    """`PATCH …/topics/{topic}`."""
    links, _ = begun(request)
    wanted = await _body(request, rest.UpdatePartitionsCount)
    changed = await context_of(request).topics.add_partitions(
        request.match_info["topic"], AddPartitionsRequest(wanted.partitions_count)
    )
    return rendered(resources.topic(links, changed))


async def delete_topic(request: web.Request) -> web.Response:
    """`DELETE …/topics/{topic}`."""
    begun(request)
    await context_of(request).topics.delete(request.match_info["topic"])
    return web.Response(status=NO_CONTENT)


# --- configs --------------------------------------------------------------------------------


async def list_configs(request: web.Request) -> web.Response:
    """`GET …/topics/{topic}/configs`."""
    links, _ = begun(request)
    found = await context_of(request).topics.configs(request.match_info["topic"])
    configs = resources.topic_configs(links, found)
    path = ("topics", found.topic, "configs")
    return rendered(resources.listed("KafkaTopicConfig", links, path, configs))


async def describe_config(request: web.Request) -> web.Response:
    """`GET …/topics/{topic}/configs/{name}`."""
    links, _ = begun(request)
    name = _config_name(request)
    found = await context_of(request).topics.configs(request.match_info["topic"])
    [config] = [each for each in resources.topic_configs(links, found) if each.name == name]
    return rendered(config)


async def update_config(request: web.Request) -> web.Response:
    """`PUT …/topics/{topic}/configs/{name}`."""
    begun(request)
    name = _config_name(request)
    wanted = await _body(request, rest.UpdateConfig)
    return await _alter(request, {name: wanted.value})


async def reset_config(request: web.Request) -> web.Response:
    """`DELETE …/topics/{topic}/configs/{name}`: the default again."""
    begun(request)
    return await _alter(request, {_config_name(request): None})


async def alter_configs(request: web.Request) -> web.Response:
    """`POST …/topics/{topic}/configs:alter`: all, or none."""
    begun(request)
    wanted = await _body(request, rest.AlterConfigs)
    _refuse_twice([change.name for change in wanted.data])
    return await _alter(
        request,
        {
            change.name: None if change.operation == "DELETE" else change.value
            for change in wanted.data
        },
    )


async def _alter(request: web.Request, configs: dict[str, str | None]) -> web.Response:
    topics = context_of(request).topics
    topic = await topics.find(request.match_info["topic"])
    await topics.alter_configs(topic.name, AlterTopicConfigsRequest({**configs}))
    return web.Response(status=NO_CONTENT)


def _config_name(request: web.Request) -> str:
    name = request.match_info["config"]
    if name not in TOPIC_CONFIGS:
        raise NotFoundError(f"there is no topic config {name!r}")
    return name


def _refuse_twice(names: list[str]) -> None:
    if len(set(names)) < len(names):
        raise InvalidRequestError("a config is named twice")
