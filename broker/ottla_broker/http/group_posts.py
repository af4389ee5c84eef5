"""The calls that members of consumer groups make again and again: heartbeat and commit."""

from typing import TypeVar

import msgspec

from ottla_broker.http.context import BrokerContext
from ottla_broker.http.json_bodies import decode_json
from ottla_broker.http.post import Answer, Post
from ottla_broker.http.query import Query
from ottla_protocol import routes
from ottla_protocol.errors import OttlaError, Outcome
from ottla_protocol.models_groups import CommitOffsetsRequest, GroupHeartbeatRequest

RequestT = TypeVar("RequestT", bound=msgspec.Struct)

_encoder = msgspec.json.Encoder()
_heartbeat_decoder = msgspec.json.Decoder(GroupHeartbeatRequest)
_commit_decoder = msgspec.json.Decoder(CommitOffsetsRequest)


def _parsed(post: Post, decoder: msgspec.json.Decoder[RequestT]) -> RequestT:
    """The body as its model.

    Raises:
        OttlaError: as `decode_json`, or there is a query.
    """
    Query(post.query, ())
    return decode_json(post.body, decoder, post.headers.get("content-type"))


async def heartbeat(context: BrokerContext, post: Post) -> Answer:
    """`POST /v1/groups/{group}/members/{member}/heartbeat`."""
    try:
        told = _parsed(post, _heartbeat_decoder)
        answer = await context.groups.heartbeat(post.values["group"], post.values["member"], told)
    except OttlaError as error:
        # What comes after the append of the coordinator's records says so itself.
        raise error.with_outcome(Outcome.NOT_APPLIED) from error
    return Answer(200, routes.JSON, (_encoder.encode(answer),))


async def commit(context: BrokerContext, post: Post) -> Answer:
    """`POST /v1/groups/{group}/offsets`."""
    try:
        wanted = _parsed(post, _commit_decoder)
        answer = await context.groups.commit(post.values["group"], wanted)
    except OttlaError as error:
        # As above.
        raise error.with_outcome(Outcome.NOT_APPLIED) from error
    return Answer(200, routes.JSON, (_encoder.encode(answer),))
