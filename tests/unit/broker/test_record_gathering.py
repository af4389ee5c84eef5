"""Which requests share a record batch, when it leaves, and what each of them is told."""

import asyncio
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.purgatory import Purgatory
from ottla_broker.request_id import REQUEST_ID
from ottla_broker.services import record_gathering
from ottla_broker.services.produce import NO_OFFSET
from ottla_broker.services.produce_options import ProduceOptions
from ottla_broker.services.record_gathering import (
    BATCH_BYTES_MAX,
    DEADLINE_SPREAD_MS,
    REQUEST_BYTES_MAX,
    REQUEST_RECORDS_MAX,
    RecordGathering,
)
from ottla_broker.services.record_produce import RecordProduceService
from ottla_broker.telemetry import METRICS
from ottla_cluster.controller.topic_configs import MAX_MESSAGE_BYTES
from ottla_protocol.errors import (
    LeaderNotAvailableError,
    MessageTooLargeError,
    Outcome,
    RequestTimedOutError,
)
from ottla_protocol.json_records import ParsedRecord, parse_records
from ottla_protocol.models import ACKS_ALL, AppendedBatch
from ottla_protocol.record_batch import validate_batch
from ottla_protocol.record_codec import decode_validated_batch
from ottla_protocol.transaction_tokens import TransactionToken
from tests.unit.awaiting import until

HERE, ELSEWHERE = 1, 2
TIMESTAMP = 77
LONG_MS = 60_000
FAR_MS = monotonic_ms() + LONG_MS


class Log:
    """Delivers by appending to lists, at once or when the test says so."""

    def __init__(self):
        self.partitions = {}
        self.batches = []
        self.options = []
        self.request_ids = []
        self.errors = []
        self.purgatory = Purgatory(limit=100)
        self.gate = asyncio.Event()
        self.gate.set()

    async def deliver(self, batches, options):
        [batch] = batches
        header = validate_batch(batch.batch, on_append=True)
        records = list(decode_validated_batch(batch.batch, header, max_inflated_bytes=1 << 20))
        self.batches.append((batch.partition, [record.value for record in records]))
        self.options.append(options)
        self.request_ids.append(REQUEST_ID.get())
        await self.gate.wait()
        if self.errors:
            return [self.errors.pop()]
        stored = self.partitions.setdefault(batch.partition, [])
        base_offset = len(stored)
        stored += [(record.key, record.value, record.headers) for record in records]
        if options.acks == 0:
            base_offset = NO_OFFSET
        return [AppendedBatch("t", batch.partition, base_offset, len(records), TIMESTAMP)]

    def hold(self):
        self.gate.clear()

    def release(self):
        self.gate.set()


class World:
    """A broker that leads all partitions below 10; of the others, another one."""

    def __init__(self):
        self.log = Log()
        self.configs = {}
        self.forward_gather_ms = 0
        self.gathering = RecordGathering(
            node_id=HERE,
            produce=self.log,
            forwarder=SimpleNamespace(gather_ms_towards=lambda *_: self.forward_gather_ms),
            purgatory=self.log.purgatory,
        )

    def post(self, *values, partition=0, acks=ACKS_ALL, deadline_ms=FAR_MS, **changes):
        changes = {"key": None, "timestamp": None, "transaction": None} | changes
        topic = SimpleNamespace(
            name="t",
            topic_id="a" * 32,
            configs=self.configs,
            partitions=[SimpleNamespace(leader=HERE)] * 10 + [SimpleNamespace(leader=ELSEWHERE)],
        )
        transaction = changes.pop("transaction")
        options = ProduceOptions(acks, deadline_ms, transaction=transaction)
        records = [ParsedRecord(value=value, **changes) for value in values]
        return asyncio.create_task(self.gathering.deliver(topic, partition, records, options))

    async def busy(self, partition=0):
        """One request is on its way, and others would wait for ever."""
        self.log.hold()
        first = self.post(b"first", partition=partition)
        await turn()
        assert self.log.batches == [(partition, [b"first"])]
        return first


async def turn():
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
async def world():
    return World()


@pytest.fixture
def patient(monkeypatch):
    monkeypatch.setattr(record_gathering, "GATHER_MS", LONG_MS)


async def test_what_one_turn_brings_shares_a_batch_and_each_has_its_own_offsets(world):
    tasks = [world.post(b"a"), world.post(b"b", b"c"), world.post(b"d")]
    results = await asyncio.gather(*tasks)
    assert world.log.batches == [(0, [b"a", b"b", b"c", b"d"])]
    assert [(each.base_offset, each.count) for each in results] == [(0, 1), (1, 2), (3, 1)]
    assert {each.timestamp for each in results} == {TIMESTAMP}


@pytest.mark.parametrize("partition", [0, 10])
async def test_a_client_that_is_alone_waits_for_nobody(world, patient, partition):
    for number in range(3):
        posted = world.post(b"a", partition=partition)
        await turn()
        assert posted.done()
        assert posted.result().base_offset == number


async def test_what_comes_meanwhile_waits_and_leaves_when_the_way_is_free(world, patient):
    first = await world.busy()
    others = [world.post(b"a"), world.post(b"b", partition=1)]
    await turn()
    others.append(world.post(b"c"))
    await turn()
    assert len(world.log.batches) == 1
    world.log.release()
    await first
    results = await asyncio.gather(*others)
    # One turn's gathered what another's had begun; both partitions left at once.
    assert world.log.batches[1:] == [(0, [b"a", b"c"]), (1, [b"b"])]
    assert [each.base_offset for each in results] == [1, 0, 2]


async def test_it_waits_for_no_longer_than_a_moment(world):
    first = await world.busy()
    second = world.post(b"a")
    await until(lambda: len(world.log.batches) == 2)
    assert not first.done()
    world.log.release()
    await asyncio.gather(first, second)


async def test_for_another_broker_it_waits_as_long_as_a_forward_does(world):
    first = await world.busy(partition=10)
    world.forward_gather_ms = LONG_MS
    second = world.post(b"a", partition=10)
    here = world.post(b"b")
    await turn()
    assert world.log.batches[1:] == [(0, [b"b"])]
    world.log.release()
    await asyncio.gather(first, second, here)
    assert all(options.is_gathered for options in world.log.options)


async def test_what_asks_for_other_things_has_a_batch_of_its_own(world):
    tasks = [
        world.post(b"a"),
        world.post(b"b", partition=1),
        world.post(b"c", acks=1),
        world.post(b"d", deadline_ms=FAR_MS + DEADLINE_SPREAD_MS + 1),
        world.post(b"e", deadline_ms=FAR_MS - 1),
    ]
    await asyncio.gather(*tasks)
    assert sorted(values for _, values in world.log.batches) == [
        [b"a"], [b"b"], [b"c"], [b"d"], [b"e"]
    ]  # fmt: skip


async def test_nobody_waits_past_his_deadline_for_another(world):
    """The batch has the earliest of its requests' deadlines."""
    await asyncio.gather(
        world.post(b"a"), world.post(b"b", deadline_ms=FAR_MS + DEADLINE_SPREAD_MS)
    )
    assert [options.deadline_ms for options in world.log.options] == [FAR_MS]


@pytest.mark.parametrize(
    "alone",
    [
        {"timestamp": 5},
        {"transaction": TransactionToken("id", 1, 0)},
        {"headers": (("name", bytes(REQUEST_BYTES_MAX)),)},
        {"key": bytes(REQUEST_BYTES_MAX + 1)},
    ],
)
async def test_what_concerns_one_request_alone_keeps_it_out(world, alone):
    assert await world.post(b"a", **alone) is None
    assert not world.log.batches


@pytest.mark.parametrize("size_bytes", [REQUEST_BYTES_MAX, REQUEST_BYTES_MAX + 1])
async def test_a_large_request_goes_alone(world, size_bytes):
    assert (await world.post(bytes(size_bytes)) is None) == (size_bytes > REQUEST_BYTES_MAX)


@pytest.mark.parametrize("count", [REQUEST_RECORDS_MAX, REQUEST_RECORDS_MAX + 1])
async def test_a_request_of_many_records_goes_alone(world, count):
    assert (await world.post(*[b""] * count) is None) == (count > REQUEST_RECORDS_MAX)


async def test_a_batch_stays_small(world):
    size_bytes = REQUEST_BYTES_MAX
    count = BATCH_BYTES_MAX // size_bytes + 1
    await asyncio.gather(*(world.post(bytes(size_bytes)) for _ in range(count)))
    assert [len(values) for _, values in world.log.batches] == [count - 1, 1]


async def test_a_batch_stays_below_what_its_topic_takes(world):
    world.configs = {MAX_MESSAGE_BYTES: 2_000}
    await asyncio.gather(*(world.post(bytes(500)) for _ in range(4)))
    assert [len(values) for _, values in world.log.batches] == [2, 2]


async def test_what_is_refused_for_its_content_goes_again_alone(world):
    world.log.errors = [MessageTooLargeError("too large", outcome=Outcome.NOT_APPLIED)]
    assert await asyncio.gather(world.post(b"a"), world.post(b"b")) == [None, None]
    # Alone there is nobody else to blame.
    world.log.errors = [MessageTooLargeError("too large", outcome=Outcome.NOT_APPLIED)]
    assert isinstance(await world.post(b"a"), MessageTooLargeError)


@pytest.mark.parametrize(
    "error",
    [
        LeaderNotAvailableError("no leader", outcome=Outcome.NOT_APPLIED),
        RequestTimedOutError("late", outcome=Outcome.UNKNOWN),
        MessageTooLargeError("never heard of", outcome=Outcome.UNKNOWN),
    ],
)
async def test_what_else_fails_is_told_to_each(world, error):
    world.log.errors = [error]
    results = await asyncio.gather(world.post(b"a"), world.post(b"b"))
    assert [type(each) for each in results] == [type(error)] * 2
    assert [each.outcome for each in results] == [error.outcome] * 2
    assert results[0] is not results[1]


async def test_nobody_fails_for_what_another_sent(world, monkeypatch):
    def encode_batch(records):
        raise ValueError("one of them")

    monkeypatch.setattr(record_gathering, "encode_batch", encode_batch)
    assert await asyncio.gather(world.post(b"a"), world.post(b"b")) == [None, None]
    assert not world.log.batches
    assert not world.gathering._gathering


async def test_a_defect_is_not_kept_from_anybody(world):
    async def fail(batches, options):
        raise RuntimeError("defect")

    world.log.deliver = fail
    results = await asyncio.gather(world.post(b"a"), world.post(b"b"), return_exceptions=True)
    assert [str(each) for each in results] == ["defect", "defect"]
    assert world.log.purgatory.parked == 0


async def test_without_acks_no_offset_is_told(world):
    results = await asyncio.gather(world.post(b"a", acks=0), world.post(b"b", acks=0))
    assert [(each.base_offset, each.count) for each in results] == [(NO_OFFSET, 1)] * 2


async def test_a_client_that_goes_away_leaves_the_others_alone(world):
    world.log.hold()
    gone, stays = world.post(b"a"), world.post(b"b")
    await turn()
    gone.cancel()
    await turn()
    assert gone.cancelled()
    world.log.release()
    assert (await stays).base_offset == 1


async def test_each_request_that_waits_here_takes_a_place(world, patient):
    world.log.purgatory.limit = 3
    first = await world.busy()
    others = [world.post(b"a"), world.post(b"b")]
    await turn()
    assert (world.log.purgatory.parked, world.log.purgatory.parked_acks) == (3, 3)
    # No place: it is for the ordinary way to say so, or to wait for one.
    assert await world.post(b"c") is None
    # It waits elsewhere.
    elsewhere = world.post(b"d", partition=10)
    await turn()
    assert world.log.batches[1:] == [(10, [b"d"])]
    world.log.release()
    await asyncio.gather(first, elsewhere, *others)
    assert world.log.purgatory.parked == 0


async def test_each_request_is_measured_once_where_its_leader_is(world):
    def measured():
        [*_, (_, all_of_them)] = METRICS.produce_seconds.labels("all").cumulative()
        return all_of_them

    before = measured()
    await asyncio.gather(world.post(b"a"), world.post(b"b"))
    assert measured() == before + 2
    world.log.errors = [RequestTimedOutError("late", outcome=Outcome.UNKNOWN)]
    await asyncio.gather(world.post(b"a"), world.post(b"b"))
    assert measured() == before + 4
    # The leader measures it, and so does the ordinary way.
    await world.post(b"a", partition=10)
    world.log.errors = [MessageTooLargeError("too large", outcome=Outcome.NOT_APPLIED)]
    assert await asyncio.gather(world.post(b"a"), world.post(b"b")) == [None, None]
    assert measured() == before + 4


async def test_a_batch_goes_under_the_ids_of_all_its_requests(world):
    async def post(request_id):
        REQUEST_ID.set(request_id)
        return await world.post(b"a")

    await asyncio.gather(*(asyncio.create_task(post(each)) for each in ("one", "two")))
    assert world.log.request_ids == ["one,two"]
    assert REQUEST_ID.get() is None


class Broker:
    """The way of a POST from its parsed body on: topic, split, gathering, ordinary way."""

    def __init__(self):
        self.world = World()
        self.topic = SimpleNamespace(
            name="t",
            topic_id="a" * 32,
            configs={},
            former_partition_counts=(),
            partitions=[SimpleNamespace(leader=HERE)] * 2,
        )
        self.alone = []

        async def find(name):
            return self.topic

        async def look_up(*_, **__):
            return []

        self.service = RecordProduceService(
            topics=SimpleNamespace(find=find),
            produce=SimpleNamespace(deliver=self.deliver),
            idempotency=SimpleNamespace(look_up=look_up, counted=lambda count: count),
            gathering=self.world.gathering,
        )

    async def deliver(self, batches, options):
        self.alone.append([batch.partition for batch in batches])
        return [AppendedBatch("t", batch.partition, 5, 1, TIMESTAMP) for batch in batches]

    async def post(self, *records, **options):
        parsed = parse_records(msgspec.json.encode({"records": records}))
        return await self.service.produce("t", parsed, ProduceOptions(ACKS_ALL, FAR_MS), **options)


async def test_a_post_is_answered_for_its_own_records():
    broker = Broker()
    records = [{"value": number, "partition": 1} for number in range(3)]
    first, second = await asyncio.gather(broker.post(records[0]), broker.post(*records[1:]))
    assert [each.offset for each in first.records] == [0]
    assert [each.offset for each in second.records] == [1, 2]
    assert [(each.partition, each.base_offset, each.count) for each in second.results] == [
        (1, 1, 2)
    ]
    assert not broker.alone


@pytest.mark.parametrize(
    ("records", "options", "alone"),
    [
        ([{"value": 1, "partition": 0}], {"idempotency_key": "k", "body": b"b"}, [0]),
        ([{"value": 1, "partition": 0}, {"value": 2, "partition": 1}], {}, [0, 1]),
        ([{"value": 1, "partition": 1, "timestamp": 5}], {}, [1]),
    ],
)
async def test_other_posts_have_batches_of_their_own(records, options, alone):
    broker = Broker()
    response = await broker.post(*records, **options)
    assert broker.alone == [alone]
    assert {each.base_offset for each in response.results} == {5}
    assert not broker.world.log.batches


async def test_a_post_whose_company_is_refused_goes_again_alone():
    broker = Broker()
    broker.world.log.errors = [MessageTooLargeError("large", outcome=Outcome.NOT_APPLIED)]
    record = {"value": 1, "partition": 1}
    responses = await asyncio.gather(broker.post(record), broker.post(record))
    assert broker.alone == [[1], [1]]
    assert [each.records[0].offset for each in responses] == [5, 5]


async def test_a_post_fails_with_what_became_of_its_batch():
    broker = Broker()
    broker.world.log.errors = [RequestTimedOutError("late", outcome=Outcome.UNKNOWN)]
    with pytest.raises(RequestTimedOutError) as raised:
        await broker.post({"value": 1, "partition": 1})
    assert raised.value.outcome is Outcome.UNKNOWN
    assert not broker.alone


REQUESTS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from([0, 1, 10]),
        st.lists(st.binary(max_size=600), min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=40,
)


@given(REQUESTS)
def test_every_record_is_stored_once_where_its_request_is_told(requests):
    async def run():
        world = World()
        posted = []
        for turns, partition, values in requests:
            for _ in range(turns):
                await asyncio.sleep(0)
            posted.append((partition, values, world.post(*values, partition=partition)))
        for partition, values, task in posted:
            appended = await task
            assert appended.count == len(values)
            end = appended.base_offset + appended.count
            stored = world.log.partitions[partition][appended.base_offset : end]
            assert [value for _, value, _ in stored] == values
        told = sum(len(values) for _, values, _ in posted)
        assert sum(map(len, world.log.partitions.values())) == told
        assert not world.gathering._gathering
        assert not world.gathering._under_way
        assert not world.gathering._departures

    asyncio.run(run())
