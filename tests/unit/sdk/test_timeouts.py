"""The `timeout` of calls: whichever call it is, what is no number of seconds is refused by name."""

import threading
from decimal import Decimal
from fractions import Fraction

import pytest

from ottla import InvalidRequestError, TopicPartition
from ottla._timeouts import seconds_in
from ottla.testing import FakeCluster

T0 = TopicPartition("t", 0)
WRONG = ["1", b"1", [1], {}, True, float("nan"), 1j, Decimal(1)]


@pytest.fixture
def cluster():
    cluster = FakeCluster()
    cluster.create_topic("t", partitions=1)
    return cluster


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_number_is_refused(wrong):
    with pytest.raises(InvalidRequestError, match="timeout must be a number of seconds") as caught:
        seconds_in(wrong)
    assert caught.value.members == {"field": "timeout"}


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (None, None),
        (0, 0.0),
        (2, 2.0),
        (0.5, 0.5),
        (-1, -1.0),
        (Fraction(1, 4), 0.25),
        (float("inf"), threading.TIMEOUT_MAX),
        (10**400, threading.TIMEOUT_MAX),
    ],
)
def test_every_number_is_taken(given, seconds):
    assert seconds_in(given) == seconds


CONSUMER_CALLS = {
    "poll": lambda consumer, timeout: consumer.poll(timeout),
    "commit": lambda consumer, timeout: consumer.commit({T0: 0}, timeout),
    "committed": lambda consumer, timeout: consumer.committed(T0, timeout=timeout),
    "position": lambda consumer, timeout: consumer.position(T0, timeout),
    "beginning_offsets": lambda consumer, timeout: consumer.beginning_offsets([T0], timeout),
    "end_offsets": lambda consumer, timeout: consumer.end_offsets([T0], timeout),
    "offsets_for_times": lambda consumer, timeout: consumer.offsets_for_times({T0: 0}, timeout),
    "partitions_for": lambda consumer, timeout: consumer.partitions_for("t", timeout),
    "close": lambda consumer, timeout: consumer.close(timeout),
}


@pytest.mark.parametrize("call", CONSUMER_CALLS.values(), ids=CONSUMER_CALLS)
async def test_a_consumer_says_so_and_goes_on(cluster, call):
    with cluster.consumer(group_id="g", enable_auto_commit=False) as consumer:
        consumer.assign([T0])
        with pytest.raises(InvalidRequestError, match="timeout must be a number of seconds"):
            call(consumer, "1")
        assert consumer.poll(0) == {}
    async with cluster.async_consumer(group_id="g", enable_auto_commit=False) as consumer:
        consumer.assign([T0])
        with pytest.raises(InvalidRequestError, match="timeout must be a number of seconds"):
            await call(consumer, "1")
        assert await consumer.poll(0) == {}


@pytest.mark.parametrize("max_records", ["5", 0, -1, 1.5, True, [1]])
async def test_polls_hand_out_a_whole_number_of_records(cluster, max_records):
    told = "max_records must be a whole number from 1 on"
    with cluster.consumer() as consumer:
        consumer.assign([T0])
        with pytest.raises(InvalidRequestError, match=told) as caught:
            consumer.poll(0, max_records)
        assert caught.value.members == {"field": "max_records"}
    async with cluster.async_consumer() as consumer:
        consumer.assign([T0])
        with pytest.raises(InvalidRequestError, match=told):
            await consumer.poll(0, max_records)


@pytest.mark.parametrize("method", ["flush", "close"])
async def test_a_producer_says_so_and_goes_on(cluster, method):
    with cluster.producer() as producer:
        with pytest.raises(InvalidRequestError, match="timeout must be a number of seconds"):
            getattr(producer, method)("1")
        assert producer.send("t", b"x").get(5).offset == 0
    async with cluster.async_producer() as producer:
        with pytest.raises(InvalidRequestError, match="timeout must be a number of seconds"):
            await getattr(producer, method)("1")
        assert (await (await producer.send("t", b"x"))).offset == 1


@pytest.mark.parametrize("method", ["get", "exception", "outcomes"])
def test_results_say_so_whether_they_are_there_or_not(cluster, method):
    with cluster.producer() as producer:
        results = [producer.send_many("t", [b"x"])]
        if method != "outcomes":
            results.append(producer.send("t", b"x"))
        for _ in range(2):
            for result in results:
                with pytest.raises(InvalidRequestError, match="timeout must be a number"):
                    getattr(result, method)("1")
            producer.flush()


async def test_a_transaction_is_left_as_it_is(cluster):
    told = "timeout must be a number of seconds"
    with cluster.producer(transactional_id="a") as producer:
        with pytest.raises(InvalidRequestError, match=told):
            producer.init_transactions("1")
        producer.init_transactions()
        with pytest.raises(InvalidRequestError, match=told), producer.transaction("1"):
            pytest.fail("a transaction with a wrong timeout has begun")
        producer.begin_transaction()
        sent = producer.send("t", b"x")
        for call in (producer.commit_transaction, producer.abort_transaction):
            with pytest.raises(InvalidRequestError, match=told):
                call("1")
        producer.commit_transaction()
        assert sent.get().offset == 0
    async with cluster.async_producer(transactional_id="b") as producer:
        with pytest.raises(InvalidRequestError, match=told):
            await producer.init_transactions("1")
        await producer.init_transactions()
        with pytest.raises(InvalidRequestError, match=told):
            async with producer.transaction("1"):
                pytest.fail("a transaction with a wrong timeout has begun")
        producer.begin_transaction()
        for call in (producer.commit_transaction, producer.abort_transaction):
            with pytest.raises(InvalidRequestError, match=told):
                await call("1")
        await producer.commit_transaction()
