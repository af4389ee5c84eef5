"""`…/trim`: have a partition begin further up."""

from aiohttp import web

from ottla_broker.http.binary import with_leader
from ottla_broker.http.context import context_of
from ottla_broker.http.query import partition_number
from ottla_broker.http.topics import change_request, json_response
from ottla_protocol.errors import OttlaError
from ottla_protocol.models_trims import TrimPartitionRequest


async def trim_partition(request: web.Request) -> web.Response:
    """`POST /v1/topics/{topic}/partitions/{partition}/trim`."""
    context = context_of(request)
    wanted = await change_request(request, TrimPartitionRequest)
    partition = partition_number(request.match_info["partition"])
    try:
        trimmed = await context.trims.trim(request.match_info["topic"], partition, wanted)
    except OttlaError as error:
        raise with_leader(context, error) from error
    return json_response(trimmed)
