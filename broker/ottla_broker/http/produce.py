"""`POST …/records`: produce to a topic, to one partition, or to many topics."""

from collections.abc import Mapping

import msgspec

from ottla_broker.http.context import BrokerContext
from ottla_broker.http.post import Answer, Post
from ottla_broker.http.produce_bodies import (
    PRODUCE_PARAMETERS,
    BodyKind,
    body_kind,
    parameters,
    read_records,
)
from ottla_broker.http.query import Query, partition_number
from ottla_broker.services.heavy_work import on_worker
from ottla_broker.services.produce_options import ProduceOptions
from ottla_protocol import routes
from ottla_protocol.errors import (
    InvalidRequestError,
    OttlaError,
    Outcome,
    UnsupportedMediaTypeError,
)
from ottla_protocol.json_records import parse_topic_records
from ottla_protocol.models import ManyTopicsProduceResponse, ProduceResponse
from ottla_protocol.transaction_tokens import TransactionToken, decode_transaction

MAX_IDEMPOTENCY_KEY_CHARACTERS = 255
BODY_BYTES_PARSED_INLINE = 256 << 10
"""Larger bodies are parsed on a thread, so that heartbeats go on meanwhile."""

_IDEMPOTENCY_KEY = routes.HEADER_IDEMPOTENCY_KEY.lower()
_TRANSACTION = routes.HEADER_TRANSACTION.lower()
_encoder = msgspec.json.Encoder()


async def produce(context: BrokerContext, post: Post) -> Answer:
    """`POST /v1/topics/{topic}/records` and `…/partitions/{partition}/records`."""
    try:
        kind = body_kind(post)
        query = Query(post.query, parameters(kind))
        options = ProduceOptions.of_records(
            query.acks(), query.timeout_ms(), transaction_of(post.headers)
        )
        partition = post.values.get("partition")
        number = None if partition is None else partition_number(partition)
        key = idempotency_key(post.headers.get(_IDEMPOTENCY_KEY))
        body = bytes(post.body)
        if len(body) > BODY_BYTES_PARSED_INLINE:
            records = await on_worker(read_records, kind, post, body, query)
        else:
            records = read_records(kind, post, body, query)
        response = await context.record_produce.produce(
            post.values["topic"],
            records,
            options,
            partition=number,
            idempotency_key=key,
            # What makes the record is in part outside of the body: a retry repeats all of it.
            body=body if kind is BodyKind.JSON else msgspec.msgpack.encode(records),
        )
    except OttlaError as error:
        # Everything that is known to come after an append says so itself.
        raise error.with_outcome(Outcome.NOT_APPLIED) from error
    return _answer(response)


async def produce_to_many(context: BrokerContext, post: Post) -> Answer:
    """`POST /v1/records`: each record names its topic."""
    try:
        query = Query(post.query, PRODUCE_PARAMETERS)
        options = ProduceOptions.of_records(
            query.acks(), query.timeout_ms(), transaction_of(post.headers)
        )
        key = idempotency_key(post.headers.get(_IDEMPOTENCY_KEY))
        if body_kind(post) is not BodyKind.JSON:
            raise UnsupportedMediaTypeError(
                f"Content-Type '{post.media_type}' is none of {routes.JSON}, {routes.NDJSON}: "
                "each record of this call names its topic",
                accepted=[routes.JSON, routes.NDJSON],
            )
        body = bytes(post.body)
        if len(body) > BODY_BYTES_PARSED_INLINE:
            records = await on_worker(parse_topic_records, body)
        else:
            records = parse_topic_records(body)
        response = await context.many_topics_produce.produce(
            records, options, idempotency_key=key, body=body
        )
    except OttlaError as error:
        raise error.with_outcome(Outcome.NOT_APPLIED) from error
    return _answer(response)


def _answer(response: ProduceResponse | ManyTopicsProduceResponse) -> Answer:
    mixed = any(result.error is not None for result in response.results)
    return Answer(207 if mixed else 200, routes.JSON, (_encoder.encode(response),))


def idempotency_key(key: str | None) -> str | None:
    """The Idempotency-Key header, checked; None where there is none.

    Raises:
        InvalidRequestError: it is empty, too long, or no UTF-8.
    """
    if key is None:
        return None
    if not 0 < len(key) <= MAX_IDEMPOTENCY_KEY_CHARACTERS:
        raise InvalidRequestError(
            f"{routes.HEADER_IDEMPOTENCY_KEY} must have 1 to "
            f"{MAX_IDEMPOTENCY_KEY_CHARACTERS} characters",
            field=routes.HEADER_IDEMPOTENCY_KEY,
        )
    if any("\ud800" <= character <= "\udfff" for character in key):
        raise InvalidRequestError(
            f"{routes.HEADER_IDEMPOTENCY_KEY} must be UTF-8", field=routes.HEADER_IDEMPOTENCY_KEY
        )
    return key


def transaction_of(headers: Mapping[str, str]) -> TransactionToken | None:
    """The transaction that a request's records belong to; None where it names none.

    Raises:
        InvalidRequestError: what it names is no transaction's token, or the header is nearly the
            right one: its records would be stored outside of the transaction.
    """
    token = headers.get(_TRANSACTION)
    if token is not None:
        return decode_transaction(token, field=routes.HEADER_TRANSACTION)
    for name in headers:
        if name.lower().startswith(_TRANSACTION):
            raise InvalidRequestError(
                f"{name} is no header that there is: records name their transaction by "
                f"{routes.HEADER_TRANSACTION}",
                field=name,
            )
    return None
