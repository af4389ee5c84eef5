"""What producers ask for each of their transactions: begin, offsets, commit, abort."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from ottla_broker.http.context import BrokerContext
from ottla_broker.http.json_bodies import decode_json
from ottla_broker.http.post import Answer, Post
from ottla_broker.http.query import Query
from ottla_protocol import routes
from ottla_protocol.errors import OttlaError, Outcome
from ottla_protocol.models_transactions import (
    AbortTransactionRequest,
    CommitTransactionOffsetsRequest,
    CommitTransactionRequest,
    InitialiseProducerRequest,
)

RequestT = TypeVar("RequestT", bound=msgspec.Struct)

_encoder = msgspec.json.Encoder()
_initialise_decoder = msgspec.json.Decoder(InitialiseProducerRequest)
_offsets_decoder = msgspec.json.Decoder(CommitTransactionOffsetsRequest)
_commit_decoder = msgspec.json.Decoder(CommitTransactionRequest)
_abort_decoder = msgspec.json.Decoder(AbortTransactionRequest)


def _parsed(post: Post, decoder: msgspec.json.Decoder[RequestT]) -> RequestT:
    """The body as its model.

    Raises:
        OttlaError: as `decode_json`, or there is a query.
    """
    Query(post.query, ())
    return decode_json(post.body, decoder, post.headers.get("content-type"))


async def _answer(change: Callable[[], Awaitable[object]]) -> Answer:
    """What a change answers. What fails without saying what became of it was not applied."""
    try:
        return Answer(200, routes.JSON, (_encoder.encode(await change()),))
    except OttlaError as error:
        # What comes after the append of the coordinator's records says so itself.
        raise error.with_outcome(Outcome.NOT_APPLIED) from error


async def initialise(context: BrokerContext, post: Post) -> Answer:
    """`POST /v1/transactions`."""
    return await _answer(
        lambda: context.transactions.initialise(_parsed(post, _initialise_decoder))
    )


async def commit_offsets(context: BrokerContext, post: Post) -> Answer:
    """`POST /v1/transactions/{transactional_id}/offsets`."""
    return await _answer(
        lambda: context.transactions.commit_offsets(
            post.values["transactional_id"], _parsed(post, _offsets_decoder)
        )
    )


async def commit(context: BrokerContext, post: Post) -> Answer:
    """`POST /v1/transactions/{transactional_id}/commit`."""
    return await _answer(
        lambda: context.transactions.commit(
            post.values["transactional_id"], _parsed(post, _commit_decoder)
        )
    )


async def abort(context: BrokerContext, post: Post) -> Answer:
    """`POST /v1/transactions/{transactional_id}/abort`, an operator's perhaps without a body."""
    return await _answer(
        lambda: context.transactions.abort(
            post.values["transactional_id"],
            _parsed(post if post.body else post._replace(body=b"{}"), _abort_decoder),
        )
    )
