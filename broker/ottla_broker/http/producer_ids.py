"""`/v1/producer-ids`."""

from aiohttp import web

from ottla_broker.http.context import context_of
from ottla_broker.http.topics import change_request, json_response
from ottla_protocol.models import AllocateProducerIdRequest, ProducerIdentity

FIRST_PRODUCER_EPOCH = 0


async def allocate_producer_id(request: web.Request) -> web.Response:
    """`POST /v1/producer-ids`: an id of one's own, which nobody else ever gets."""
    await change_request(request, AllocateProducerIdRequest)
    producer_id = await context_of(request).producer_ids.next_id()
    return json_response(ProducerIdentity(producer_id, FIRST_PRODUCER_EPOCH))
