"""`POST /v1/produce` and `POST /v1/fetch`: the SDK's calls, MessagePack with batches as bin.

They are served by the leader alone. Another broker answers 421 with the current leader and its URL,
so that the caller learns the way instead of paying for a detour on every call.
"""

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.http.context import BrokerContext
from ottla_broker.http.post import Answer, Post, msgpack_answer
from ottla_broker.http.query import Query
from ottla_broker.services.produce import NO_OFFSET
from ottla_broker.services.produce_options import ProduceOptions
from ottla_broker.services.shared_failure import shared_failure
from ottla_broker.telemetry import METRICS
from ottla_protocol.broken_rules import broken_rule
from ottla_protocol.errors import (
    InvalidRequestError,
    MalformedBodyError,
    OttlaError,
    Outcome,
    UnknownTopicOrPartitionError,
)
from ottla_protocol.models import (
    MAX_PRODUCE_TIMEOUT_MS,
    AppendedBatch,
    BinaryFetchRequest,
    BinaryFetchResponse,
    BinaryProduceRequest,
    BinaryProduceResponse,
    FetchedPartition,
)

MAX_FETCH_REQUEST_BYTES = 1 << 20
MAX_BATCHES_PER_REQUEST = 10_000

_produce_decoder = msgspec.msgpack.Decoder(BinaryProduceRequest)
_fetch_decoder = msgspec.msgpack.Decoder(BinaryFetchRequest)

MessageT = TypeVar("MessageT")


def decode(decoder: "msgspec.msgpack.Decoder[MessageT]", body: bytes | bytearray) -> MessageT:
    """A MessagePack body as its model.

    Raises:
        MalformedBodyError: no MessagePack, or cut off.
        InvalidRequestError: a field is missing, unknown or of the wrong type.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        broken = broken_rule(error)
        raise InvalidRequestError(str(broken), field=broken.field) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedBodyError(f"the body is no MessagePack: {error}") from error


async def produce(context: BrokerContext, post: Post) -> Answer:
    """`POST /v1/produce`."""
    try:
        Query(post.query, ())
        wanted = decode(_produce_decoder, post.body)
        _check(wanted)
        await context.topics.look_for(batch.topic for batch in wanted.batches)
        results = await context.produce.append_here(
            wanted.batches,
            ProduceOptions.checked(wanted.acks, wanted.timeout_ms, wanted.transactional_id),
        )
    except OttlaError as error:
        raise error.with_outcome(Outcome.NOT_APPLIED) from error
    return produce_answer(context, wanted, results, one_status=True)


def _check(wanted: BinaryProduceRequest) -> None:
    if not 1 <= len(wanted.batches) <= MAX_BATCHES_PER_REQUEST:
        raise InvalidRequestError(
            f"batches must have 1 to {MAX_BATCHES_PER_REQUEST} entries", field="batches"
        )
    if not 1 <= wanted.timeout_ms <= MAX_PRODUCE_TIMEOUT_MS:
        raise InvalidRequestError(
            f"timeout_ms must be from 1 to {MAX_PRODUCE_TIMEOUT_MS}", field="timeout_ms"
        )
    if any(batch.idempotency is not None for batch in wanted.batches):
        raise InvalidRequestError(
            "idempotency is for brokers; clients send a producer id", field="batches[].idempotency"
        )
    if any(batch.partition_count is not None for batch in wanted.batches):
        raise InvalidRequestError(
            "partition_count is for brokers", field="batches[].partition_count"
        )


def produce_answer(
    context: BrokerContext,
    wanted: BinaryProduceRequest,
    results: Sequence[AppendedBatch | OttlaError],
    *,
    one_status: bool,
) -> Answer:
    """Results in request order; with `one_status` the status tells of them (207 when mixed).

    Raises:
        OttlaError: every batch failed alike and `one_status` is set: the first one's error.
    """
    errors = [with_leader(context, item) for item in results if isinstance(item, OttlaError)]
    failure = shared_failure(results) if one_status else None
    if failure is not None:
        raise failure
    answers = [
        AppendedBatch(batch.topic, batch.partition, NO_OFFSET, 0, NO_OFFSET, error=result.problem())
        if isinstance(result, OttlaError)
        else result
        for batch, result in zip(wanted.batches, results, strict=True)
    ]
    status = 207 if one_status and errors else 200
    return msgpack_answer(BinaryProduceResponse(answers), status)


async def fetch(context: BrokerContext, post: Post) -> Answer:
    """`POST /v1/fetch`."""
    Query(post.query, ())
    started_ms = monotonic_ms()
    wanted = decode(_fetch_decoder, post.body)
    if not wanted.partitions:
        raise InvalidRequestError("partitions must not be empty", field="partitions")
    await context.topics.look_for(asked.topic for asked in wanted.partitions)
    results = await context.batch_fetch.fetch(wanted)
    errors = [with_leader(context, item) for item in results if isinstance(item, OttlaError)]
    failure = shared_failure(results)
    if failure is not None:
        raise failure
    answers = [
        FetchedPartition(
            asked.topic, asked.partition, [], NO_OFFSET, NO_OFFSET, error=result.problem()
        )
        if isinstance(result, OttlaError)
        else result
        for asked, result in zip(wanted.partitions, results, strict=True)
    ]
    METRICS.fetch_seconds.labels("binary").observe((monotonic_ms() - started_ms) / 1000)
    METRICS.fetched_bytes.labels("binary").inc(
        sum(len(batch) for answer in answers for batch in answer.batches)
    )
    return msgpack_answer(BinaryFetchResponse(answers), 207 if errors else 200)


def with_leader(context: BrokerContext, error: OttlaError) -> OttlaError:
    """Add the leader's URL where the error names a leader."""
    leader = error.members.get("leader")
    registration = context.metadata.image.brokers.get(leader) if leader is not None else None
    if registration is not None and not isinstance(error, UnknownTopicOrPartitionError):
        error.members["leader_url"] = registration.url
    return error
