"""`…/restore`: topics that are filled from a backup."""

import msgspec
from aiohttp import web

from ottla_broker.http.binary import decode, with_leader
from ottla_broker.http.bodies import read_body
from ottla_broker.http.context import context_of
from ottla_broker.http.query import Query, partition_number
from ottla_broker.http.topics import change_request, json_response
from ottla_protocol import routes
from ottla_protocol.errors import OttlaError, Outcome
from ottla_protocol.models_restores import (
    MAX_RESTORE_REQUEST_BYTES,
    BeginRestoreRequest,
    FinishRestoreRequest,
    RestoreRecordsRequest,
)

_records_decoder = msgspec.msgpack.Decoder(RestoreRecordsRequest)


async def begin_restore(request: web.Request) -> web.Response:
    """`POST /v1/topics/{topic}/restore`."""
    wanted = await change_request(request, BeginRestoreRequest)
    begun = await context_of(request).restores.begin(request.match_info["topic"], wanted)
    return json_response(begun, status=201)


async def finish_restore(request: web.Request) -> web.Response:
    """`POST /v1/topics/{topic}/restore/finish`."""
    wanted = await change_request(request, FinishRestoreRequest)
    restores = context_of(request).restores
    return json_response(await restores.finish(request.match_info["topic"], wanted.restore_id))


async def restore_records(request: web.Request) -> web.Response:
    """`POST /v1/topics/{topic}/partitions/{partition}/restore`."""
    context = context_of(request)
    try:
        Query(request.query.items(), ())
        topic = request.match_info["topic"]
        partition = partition_number(request.match_info["partition"])
        # They are records, and count as those that are produced.
        with context.inflight.hold() as held:
            body = await read_body(request, MAX_RESTORE_REQUEST_BYTES, held.grow)
            wanted = decode(_records_decoder, body)
            await context.topics.look_for([topic])
            position = await context.restores.append(topic, partition, wanted)
    except OttlaError as error:
        raise with_leader(context, error.with_outcome(Outcome.NOT_APPLIED)) from error
    return web.Response(body=msgspec.msgpack.encode(position), content_type=routes.MSGPACK)
