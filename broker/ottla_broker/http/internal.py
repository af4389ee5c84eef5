"""`/internal/`: what brokers of one cluster say to one another.

Every call must name the same cluster, and carry the cluster secret where one is set.
"""

import hmac

import msgspec
from aiohttp import web

from ottla_broker.drivers.peer_messages import (
    CommitVersion,
    IdempotencyLookup,
    ReplicaFetchRequest,
    UnreachableBroker,
)
from ottla_broker.http.binary import decode, msgpack_response, produce_response
from ottla_broker.http.bodies import read_body
from ottla_broker.http.context import context_of
from ottla_broker.http.problems import Handler
from ottla_broker.services.produce_options import ProduceOptions
from ottla_cluster.controller.commands import decode_command, encode_message
from ottla_cluster.raft.messages import decode_messages
from ottla_protocol import routes
from ottla_protocol.errors import (
    ClusterAuthorizationFailedError,
    InconsistentClusterIdError,
    OttlaError,
    Outcome,
)
from ottla_protocol.models import BinaryProduceRequest

MAX_RAFT_BODY_BYTES = 64 << 20
MAX_COMMAND_BYTES = 4 << 20
MAX_FETCH_REQUEST_BYTES = 16 << 20

_produce_decoder = msgspec.msgpack.Decoder(BinaryProduceRequest)
_fetch_decoder = msgspec.msgpack.Decoder(ReplicaFetchRequest)
_unreachable_decoder = msgspec.msgpack.Decoder(UnreachableBroker)
_lookup_decoder = msgspec.msgpack.Decoder(IdempotencyLookup)


def of_same_cluster(handler: Handler) -> Handler:
    """A handler that refuses calls from other clusters and from whoever lacks the secret."""

    async def checked(request: web.Request) -> web.StreamResponse:
        settings = context_of(request).settings
        theirs = request.headers.get(routes.HEADER_CLUSTER_ID)
        if theirs != settings.cluster_id:
            raise InconsistentClusterIdError(
                f"this broker belongs to cluster '{settings.cluster_id}', "
                f"the caller to '{theirs or 'none'}'"
            )
        if settings.cluster_secret is not None and not hmac.compare_digest(
            request.headers.get(routes.HEADER_CLUSTER_SECRET, "").encode(),
            settings.cluster_secret.get_secret_value().encode(),
        ):
            raise ClusterAuthorizationFailedError("the cluster secret is missing or wrong")
        return await handler(request)

    return checked


async def raft(request: web.Request) -> web.Response:
    """Messages from another voter."""
    body = await read_body(request, MAX_RAFT_BODY_BYTES)
    context_of(request).raft.receive(decode_messages(bytes(body)))
    return web.Response(status=204)


async def controller(request: web.Request) -> web.Response:
    """A command for the active controller."""
    command = decode_command(bytes(await read_body(request, MAX_COMMAND_BYTES)))
    response = await context_of(request).controller.execute(command)
    return web.Response(body=encode_message(response), content_type=routes.MSGPACK)


async def commit_version(request: web.Request) -> web.Response:
    """What the active controller knows to be committed."""
    version = await context_of(request).controller.commit_version()
    return msgpack_response(CommitVersion(version))


async def unreachable_broker(request: web.Request) -> web.Response:
    """A peer was refused a connection to some broker."""
    report = decode(_unreachable_decoder, await read_body(request, MAX_COMMAND_BYTES))
    context_of(request).controller.report_unreachable(report.node_id, report.broker_epoch)
    return web.Response(status=204)


async def fetch(request: web.Request) -> web.Response:
    """A follower's fetch."""
    wanted = decode(_fetch_decoder, await read_body(request, MAX_FETCH_REQUEST_BYTES))
    return msgpack_response(await context_of(request).replication.fetch(wanted))


async def produce(request: web.Request) -> web.Response:
    """Batches that another broker forwards; errors stand in the results."""
    context = context_of(request)
    limit = context.settings.max_binary_body_bytes
    try:
        wanted = decode(_produce_decoder, await read_body(request, limit))
        results = await context.produce.append_here(
            wanted.batches, ProduceOptions.checked(wanted.acks, wanted.timeout_ms)
        )
    except OttlaError as error:
        raise error.with_outcome(Outcome.NOT_APPLIED) from error
    return produce_response(context, wanted, results, one_status=False)


async def idempotency(request: web.Request) -> web.Response:
    """Whether partitions led here hold an Idempotency-Key."""
    lookup = decode(_lookup_decoder, await read_body(request, MAX_COMMAND_BYTES))
    return msgpack_response(context_of(request).idempotency.look_up_here(lookup))
