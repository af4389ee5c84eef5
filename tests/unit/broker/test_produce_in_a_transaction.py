"""Plain records of a transaction become batches of its producer, each under its own key."""

import asyncio
from types import SimpleNamespace

import pytest

from ottla_broker.http.post import Post
from ottla_broker.http.produce import produce, produce_to_many, transaction_of
from ottla_broker.services.many_topics_produce import ManyTopicsProduceService
from ottla_broker.services.produce_options import ProduceOptions
from ottla_broker.services.record_produce import RecordProduceService
from ottla_broker.services.stream_produce import ProduceStream, StreamLine, StreamProduceService
from ottla_protocol import routes
from ottla_protocol.errors import InvalidRequestError
from ottla_protocol.json_records import ParsedRecord
from ottla_protocol.models import ACKS_ALL, AppendedBatch
from ottla_protocol.record_batch import NO_PRODUCER_ID, NO_SEQUENCE, read_header
from ottla_protocol.transaction_tokens import TransactionToken

HEADER = routes.HEADER_TRANSACTION.lower()
RECORDS = b'{"records":[{"value":1},{"value":2}]}'


class Leader:
    """Takes everything, and keeps what it was sent."""

    def __init__(self):
        self.sent = []

    async def deliver(self, batches, options):
        self.sent.extend((batch, options) for batch in batches)
        return [AppendedBatch(each.topic, each.partition, 0, 2, 5) for each in batches]


class World:
    """The services behind the produce routes, with one topic of one partition."""

    def __init__(self):
        self.leader = Leader()
        topics = SimpleNamespace(find=self._find)
        idempotency = SimpleNamespace(look_up=self._look_up, counted=lambda count: count)
        self.records = RecordProduceService(
            topics=topics, produce=self.leader, idempotency=idempotency
        )
        self.streams = StreamProduceService(
            metadata=None, topics=topics, record_produce=self.records, idempotency=idempotency
        )
        self.context = SimpleNamespace(
            record_produce=self.records, many_topics_produce=ManyTopicsProduceService(self.records)
        )

    async def _find(self, name):
        return SimpleNamespace(
            name=name, topic_id="a" * 32, partitions=(None,), former_partition_counts=()
        )

    async def _look_up(self, *_):
        return []

    async def post(self, body=RECORDS, handler=produce, **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        await handler(self.context, Post({"topic": "t"}, (), headers, body))
        return self.leader.sent.pop()


@pytest.mark.parametrize(
    ("handler", "body", "content_type"),
    [
        (produce, RECORDS, routes.JSON),
        (produce, b"raw", routes.OCTET_STREAM),
        (
            produce,
            b'{"specversion":"1.0","id":"1","source":"/s","type":"t"}',
            "application/cloudevents+json",
        ),
        (produce_to_many, b'{"records":[{"topic":"t","value":1}]}', routes.JSON),
    ],
)
async def test_the_batches_are_the_transaction_s(handler, body, content_type):
    headers = {HEADER: "7001.3.pay%2Fout", "content-type": content_type}
    batch, options = await World().post(body, handler, **headers)
    header = read_header(batch.batch)
    assert header.is_transactional
    assert (header.producer_id, header.producer_epoch) == (7001, 3)
    assert header.base_sequence == NO_SEQUENCE
    assert options.transactional_id == "pay/out"


async def test_without_a_transaction_there_is_no_producer():
    batch, options = await World().post()
    header = read_header(batch.batch)
    assert not header.is_transactional
    assert header.producer_id == NO_PRODUCER_ID
    assert options.transactional_id is None


async def test_a_key_of_an_aborted_transaction_does_not_swallow_the_next_one_s_record():
    world = World()
    digests = [
        (await world.post(idempotency_key="k", **({HEADER: token} if token else {})))[0].idempotency
        for token in (None, "7001.3.a", "7001.4.a", "7001.4.a")
    ]
    assert digests[2] == digests[3]
    assert len(set(digests)) == 3


def test_the_lines_of_a_stream_are_the_transaction_s():
    world = World()
    token = TransactionToken("a", 7001, 3)

    async def store(transaction):
        stream = ProduceStream("k", None, transaction)
        options = ProduceOptions.of_records(ACKS_ALL, 1000, transaction)
        line = StreamLine(0, "t", ParsedRecord(None, b"1"))
        await world.streams.append(stream, [line], options)
        return world.leader.sent.pop()[0]

    batch = asyncio.run(store(token))
    assert read_header(batch.batch).is_transactional
    assert batch.idempotency != asyncio.run(store(None)).idempotency


@pytest.mark.parametrize("token", ["", "orders", "7001.3.", "7001.3.a b"])
async def test_what_is_no_token_is_refused(token):
    with pytest.raises(InvalidRequestError) as refused:
        await World().post(**{HEADER: token})
    assert refused.value.members["field"] == routes.HEADER_TRANSACTION
    assert refused.value.outcome is not None


def test_no_header_is_no_transaction():
    assert transaction_of({}) is None


@pytest.mark.parametrize(
    "name", ["ottla-transactions", "Ottla-Transaction-Id", "ottla-transactional-id"]
)
async def test_a_header_that_is_nearly_the_right_one_is_refused(name):
    """Its records would be stored outside of the transaction, with an answer that says nothing."""
    world = World()
    with pytest.raises(InvalidRequestError, match=routes.HEADER_TRANSACTION) as refused:
        await world.post(**{name: "7001.3.a"})
    assert refused.value.members["field"] == name
    assert refused.value.outcome is not None
    assert not world.leader.sent
