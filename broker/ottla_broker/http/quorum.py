"""`/v1/cluster/quorum`."""

from aiohttp import web

from ottla_broker.http.context import context_of
from ottla_broker.http.query import Query
from ottla_broker.http.topics import change_request, json_response
from ottla_protocol.errors import InvalidRequestError
from ottla_protocol.models_quorum import AddVoterRequest, TransferRequest

ACCEPTED = 202


async def describe(request: web.Request) -> web.Response:
    """`GET /v1/cluster/quorum`."""
    Query(request.query.items(), ())
    return json_response(await context_of(request).quorum.describe())


async def add_voter(request: web.Request) -> web.Response:
    """`POST /v1/cluster/quorum/voters`: 202, since the node has to catch up first."""
    wanted = await change_request(request, AddVoterRequest)
    return json_response(await context_of(request).quorum.add_voter(wanted), status=ACCEPTED)


async def remove_voter(request: web.Request) -> web.Response:
    """`DELETE /v1/cluster/quorum/voters/{voter}`."""
    query = Query(request.query.items(), ("force",))
    force = query.choice("force", "false", ("true", "false")) == "true"
    quorum = context_of(request).quorum
    return json_response(await quorum.remove_voter(_voter_of(request), force=force))


async def transfer(request: web.Request) -> web.Response:
    """`POST /v1/cluster/quorum/transfer`."""
    wanted = await change_request(request, TransferRequest)
    return json_response(await context_of(request).quorum.transfer(wanted))


def _voter_of(request: web.Request) -> int:
    text = request.match_info["voter"]
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 2**31:
        raise InvalidRequestError(f"voter must be a node id, not '{text}'", parameter="voter")
    return int(text)
