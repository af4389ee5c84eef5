"""`/consumers`: consumer instances, what they read, where they are, and what they commit.

Records that were read are told of in `consumer_records`.
"""

from collections.abc import Iterable
from http import HTTPStatus
from typing import TypeVar
from uuid import uuid4

import msgspec
from aiohttp import web

from ottla_broker.http.bodies import read_body
from ottla_broker.http.client_url import base_url_of
from ottla_broker.http.context import context_of
from ottla_broker.http.negotiation import accept_of
from ottla_broker.http.rest_v2.consumer_bodies import (
    instance_settings,
    instance_uri,
    next_offsets,
    parse_document,
)
from ottla_broker.http.rest_v2.errors import ConsumerExistsError, PayloadError, UnsupportedError
from ottla_broker.http.rest_v2.media_types import answer_type, check_document_type
from ottla_broker.http.rest_v2.topics import answered
from ottla_broker.http.topics import MAX_ADMIN_BODY_BYTES
from ottla_protocol import models_rest_v2 as models
from ottla_protocol.errors import ConflictError, OttlaError, Outcome, UnsupportedFeatureLevelError

DocumentT = TypeVar("DocumentT", bound=msgspec.Struct)

MAX_TIMES = 100
"""Different timestamps in one seek: the leaders are asked for one after the other."""


def instance_of(request: web.Request) -> tuple[str, str]:
    """The group and the instance that the path names."""
    return request.match_info["group"], request.match_info["instance"]


async def _document(request: web.Request, model: type[DocumentT]) -> DocumentT:
    """The body as its model.

    Raises:
        OttlaError, ProxyError: it cannot be read, or is none; nothing was applied.
    """
    body = await _body(request)
    return parse_document(body, model)


async def _body(request: web.Request) -> bytes:
    answer_type(accept_of(request.headers.getall("Accept", ())))
    check_document_type(request.headers.get("Content-Type", ""))
    try:
        return bytes(await read_body(request, MAX_ADMIN_BODY_BYTES))
    except OttlaError as error:
        raise error.with_outcome(Outcome.NOT_APPLIED) from error


def _no_content() -> web.Response:
    return web.Response(status=HTTPStatus.NO_CONTENT)


async def create(request: web.Request) -> web.Response:
    """`POST /consumers/{group}`."""
    context = context_of(request)
    body = await _body(request)
    wanted = parse_document(body, models.CreateConsumer) if body else models.CreateConsumer()
    settings = instance_settings(wanted, context.rest_consumers.idle_timeout_ms)
    group = request.match_info["group"]
    name = f"rest-consumer-{uuid4()}" if wanted.name is None else wanted.name
    try:
        await context.rest_consumers.create(group, name, settings)
    except UnsupportedFeatureLevelError as error:
        raise UnsupportedError(error.detail) from error
    except ConflictError as error:
        raise ConsumerExistsError(
            "Consumer with specified consumer ID already exists in the specified consumer group."
        ) from error
    uri = instance_uri(base_url_of(request), group, name)
    return answered(request, models.ConsumerCreated(name, uri))


async def remove(request: web.Request) -> web.Response:
    """`DELETE /consumers/{group}/instances/{instance}`."""
    await context_of(request).rest_consumers.remove(*instance_of(request))
    return _no_content()


# --- what an instance reads -----------------------------------------------------------------


async def subscribe(request: web.Request) -> web.Response:
    """`POST …/subscription`."""
    wanted = await _document(request, models.Subscription)
    if (wanted.topics is None) == (wanted.topic_pattern is None):
        raise PayloadError("Payload error. Exactly one of topics and topic_pattern is needed.")
    await context_of(request).rest_consumers.subscribe(
        *instance_of(request),
        # As in Kafka, an empty list means to read nothing.
        topics=wanted.topics or None,
        pattern=wanted.topic_pattern,
    )
    return _no_content()


async def subscription(request: web.Request) -> web.Response:
    """`GET …/subscription`."""
    state = await context_of(request).rest_consumers.describe(*instance_of(request))
    return answered(request, models.SubscribedTopics(list(state.subscription)))


async def unsubscribe(request: web.Request) -> web.Response:
    """`DELETE …/subscription`."""
    consumers = context_of(request).rest_consumers
    await consumers.subscribe(*instance_of(request), topics=None, pattern=None)
    return _no_content()


async def assign(request: web.Request) -> web.Response:
    """`POST …/assignments`."""
    wanted = await _document(request, models.Partitions)
    await context_of(request).rest_consumers.assign(
        *instance_of(request), [(each.topic, each.partition) for each in wanted.partitions]
    )
    return _no_content()


async def assignments(request: web.Request) -> web.Response:
    """`GET …/assignments`: what the client chose, or what the group has given the instance."""
    state = await context_of(request).rest_consumers.describe(*instance_of(request))
    return answered(
        request,
        models.AssignedPartitions(
            [models.AssignedPartition(each.topic, each.partition) for each in state.partitions]
        ),
    )


# --- positions ------------------------------------------------------------------------------


async def seek(request: web.Request) -> web.Response:
    """`POST …/positions`."""
    wanted = await _document(request, models.Positions)
    consumers = context_of(request).rest_consumers
    offsets = {(each.topic, each.partition): each.offset for each in wanted.offsets}
    by_time: dict[int, list[tuple[str, int]]] = {}
    for each in wanted.timestamps:
        by_time.setdefault(each.timestamp, []).append((each.topic, each.partition))
    if len(by_time) > MAX_TIMES:
        raise PayloadError(f"Payload error. At most {MAX_TIMES} different timestamps are taken.")
    for timestamp, partitions in by_time.items():
        offsets.update(await consumers.offsets_at(partitions, timestamp))
    await consumers.seek(*instance_of(request), offsets)
    return _no_content()


async def seek_to_beginning(request: web.Request) -> web.Response:
    """`POST …/positions/beginning`."""
    return await _seek_to_bound(request, is_end=False)


async def seek_to_end(request: web.Request) -> web.Response:
    """`POST …/positions/end`."""
    return await _seek_to_bound(request, is_end=True)


async def _seek_to_bound(request: web.Request, *, is_end: bool) -> web.Response:
    wanted = await _document(request, models.Partitions)
    consumers = context_of(request).rest_consumers
    bounds = await consumers.ends_of((each.topic, each.partition) for each in wanted.partitions)
    await consumers.seek(
        *instance_of(request),
        {
            key: known.high_watermark if is_end else known.log_start_offset
            for key, known in bounds.items()
        },
    )
    return _no_content()


# --- committed offsets ----------------------------------------------------------------------


async def commit(request: web.Request) -> web.Response:
    """`POST …/offsets`: durable when it is answered, with a body or without one."""
    body = await _body(request)
    wanted = parse_document(body, models.OffsetsToCommit) if body.strip() else None
    offsets = None if wanted is None or wanted.offsets is None else next_offsets(wanted.offsets)
    await context_of(request).rest_consumers.commit(*instance_of(request), offsets)
    return answered(request, [])


async def committed(request: web.Request) -> web.Response:
    """`GET …/offsets`, which has a body."""
    wanted = await _document(request, models.Partitions)
    found = await context_of(request).rest_consumers.committed(
        *instance_of(request), _keys(wanted.partitions)
    )
    return answered(
        request,
        models.CommittedOffsets(
            [
                models.CommittedOffset(each.topic, each.partition, each.offset, each.metadata)
                for each in found
                if each.offset is not None
            ]
        ),
    )


def _keys(partitions: Iterable[models.TopicPartition]) -> list[tuple[str, int]]:
    return [(each.topic, each.partition) for each in partitions]
