"""`POST /topics/{topic}` and `POST /topics/{topic}/partitions/{partition}`."""

from aiohttp import web

from ottla_broker.http.bodies import read_body
from ottla_broker.http.context import BrokerContext, context_of
from ottla_broker.http.negotiation import accept_of
from ottla_broker.http.produce import transaction_of
from ottla_broker.http.query import parse_integer
from ottla_broker.http.rest_v2.errors import (
    PartitionNotFoundError,
    PayloadError,
    TopicNotFoundError,
    proxy_response,
)
from ottla_broker.http.rest_v2.media_types import answer_type, embedded_format
from ottla_broker.http.rest_v2.produce_bodies import entry_of, parse_body
from ottla_broker.services.heavy_work import on_worker
from ottla_broker.services.produce_options import ProduceOptions
from ottla_cluster.controller.topic_names import refuse_internal
from ottla_protocol.errors import (
    InvalidTopicError,
    OttlaError,
    Outcome,
    UnknownTopicOrPartitionError,
)
from ottla_protocol.json_records import ParsedRecord
from ottla_protocol.models import ACKS_ALL, DEFAULT_PRODUCE_TIMEOUT_MS
from ottla_protocol.models_rest_v2 import Produced

BODY_BYTES_PARSED_INLINE = 256 << 10
"""Larger bodies are parsed on a thread, so that heartbeats go on meanwhile."""


async def produce(request: web.Request) -> web.StreamResponse:
    """Store records; answers 200 with an entry for each, those that failed too.

    Raises:
        TopicNotFoundError, PartitionNotFoundError: what the path names does not exist.
        OttlaError, ProxyError: the request is refused as a whole; nothing was applied.
    """
    context = context_of(request)
    answers_as = answer_type(accept_of(request.headers.getall("Accept", ())))
    transaction = transaction_of(request.headers)
    body_format = embedded_format(request.headers.get("Content-Type", ""))
    try:
        with context.inflight.hold() as held:
            limit_bytes = context.settings.max_json_body_bytes
            body = bytes(await read_body(request, limit_bytes, held.grow))
            if len(body) > BODY_BYTES_PARSED_INLINE:
                records = await on_worker(parse_body, body, body_format)
            else:
                records = parse_body(body, body_format)
            options = ProduceOptions.of_records(ACKS_ALL, DEFAULT_PRODUCE_TIMEOUT_MS, transaction)
            result = await _produce(
                context,
                request.match_info["topic"],
                request.match_info.get("partition"),
                records,
                options,
            )
    except OttlaError as error:
        raise error.with_outcome(Outcome.NOT_APPLIED) from error
    return proxy_response(result, media_type=answers_as)


async def _produce(
    context: BrokerContext,
    topic_name: str,
    partition: str | None,
    records: list[ParsedRecord],
    options: ProduceOptions,
) -> Produced:
    count = await _partition_count(context, topic_name)
    if partition is not None:
        number = parse_integer(partition)
        if number is None or not 0 <= number < count:
            raise PartitionNotFoundError(f"Partition {partition} of {topic_name} not found.")
        if any(record.partition is not None for record in records):
            raise PayloadError("Payload error. The path names the partition, records may not.")
        records = [ParsedRecord(each.key, each.value, partition=number) for each in records]
    fates = await context.record_appends.append(topic_name, records, options)
    return Produced([entry_of(fate) for fate in fates])


async def _partition_count(context: BrokerContext, topic_name: str) -> int:
    try:
        refuse_internal(topic_name)
        return len((await context.topics.find(topic_name)).partitions)
    except (UnknownTopicOrPartitionError, InvalidTopicError) as error:
        raise TopicNotFoundError(f"Topic {topic_name} not found.") from error
