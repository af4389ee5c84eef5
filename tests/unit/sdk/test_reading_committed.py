"""What a consumer with `isolation_level=read_committed` is given, and where it says that it is."""

import time

import pytest

from ottla import (
    ClusterUnreachableError,
    CommitFailedError,
    ConsumerGroupMetadata,
    OffsetAndMetadata,
    SubscriptionError,
    TopicPartition,
)
from ottla_protocol import routes
from ottla_protocol.errors import UnstableOffsetCommitError
from tests.unit.sdk.consumer_under_test import fetched

T0 = TopicPartition("t", 0)
COMMITTED = {"isolation_level": "read_committed"}


@pytest.fixture
def transfers(cluster):
    """A transactional producer."""
    with cluster.producer(transactional_id="transfers", retry_backoff_ms=1) as producer:
        producer.init_transactions()
        yield producer


def aborted(producer, *values):
    producer.begin_transaction()
    for value in values:
        producer.send("t", value, partition=0)
    producer.flush()
    producer.abort_transaction()


def values_of(consumer, *, until):
    """What is polled until the position is there."""
    values = []
    while consumer.position(T0) < until:
        for records in consumer.poll(timeout=1).values():
            values += [record.value for record in records]
    return values


def test_aborted_records_are_left_out_and_passed_over(cluster, consume, transfers):
    with transfers.transaction():
        transfers.send("t", b"a", partition=0)
    aborted(transfers, b"b", b"c")
    with transfers.transaction():
        transfers.send("t", b"d", partition=0)
    aborted(transfers, b"e")
    consumer = consume(**COMMITTED)
    consumer.assign([T0])
    # Five records and four markers; the last two of them hold nothing that is read.
    assert values_of(consumer, until=9) == [b"a", b"d"]
    assert consumer.current_lag(T0) == 0


def test_otherwise_everything_is_read_but_the_markers(cluster, consume, transfers):
    aborted(transfers, b"a")
    with transfers.transaction():
        transfers.send("t", b"b", partition=0)
    consumer = consume()
    consumer.assign([T0])
    assert values_of(consumer, until=4) == [b"a", b"b"]


def test_an_open_transaction_holds_the_reader_back(cluster, consume, transfers):
    transfers.begin_transaction()
    transfers.send("t", b"open", partition=0).get(timeout=10)
    with cluster.producer() as other:
        other.send("t", b"behind", partition=0).get(timeout=10)
    consumer, reads_all = consume(**COMMITTED), consume()
    for each in (consumer, reads_all):
        each.assign([T0])
    assert values_of(reads_all, until=2) == [b"open", b"behind"]
    while consumer.current_lag(T0) is None:
        assert consumer.poll(timeout=0.05) == {}
    assert consumer.position(T0) == 0
    assert (consumer.end_offsets([T0]), reads_all.end_offsets([T0])) == ({T0: 0}, {T0: 2})
    assert consumer.current_lag(T0) == 0
    transfers.commit_transaction()
    assert values_of(consumer, until=3) == [b"open", b"behind"]


def test_latest_is_before_what_is_open(cluster, consume, transfers):
    transfers.begin_transaction()
    transfers.send("t", b"open", partition=0).get(timeout=10)
    consumer = consume(auto_offset_reset="latest", **COMMITTED)
    consumer.assign([T0])
    assert consumer.position(T0, timeout=10) == 0
    transfers.commit_transaction()
    assert values_of(consumer, until=2) == [b"open"]


def test_iterating_passes_over_them_too(cluster, consume, transfers):
    for number in range(5):
        aborted(transfers, b"no")
        with transfers.transaction():
            transfers.send("t", b"%d" % number, partition=0)
    consumer = consume(consumer_timeout_ms=200, **COMMITTED)
    consumer.assign([T0])
    values = [record.value for record in fetched(consumer)]
    assert values == [b"%d" % number for number in range(5)]


async def test_with_asyncio(cluster, aio_consume, transfers):
    aborted(transfers, b"no")
    with transfers.transaction():
        transfers.send("t", b"yes", partition=0)
    consumer = aio_consume(group_id="g", **COMMITTED)
    consumer.assign([T0])
    values = []
    while not values:
        for records in (await consumer.poll(timeout=1)).values():
            values += [record.value for record in records]
    assert values == [b"yes"]
    assert consumer.consumer_group_metadata() == ConsumerGroupMetadata("g")


class TestOffsets:
    def test_pending_ones_are_waited_for(self, cluster, consume, transfers):
        """KIP-447: whoever takes the partitions over must not begin before what is decided."""
        with cluster.producer() as other:
            other.send_many("t", [b"%d" % each for each in range(3)], partition=0).get(timeout=10)
        transfers.begin_transaction()
        transfers.send_offsets_to_transaction({T0: 2}, ConsumerGroupMetadata("g"))
        consumer = consume(group_id="g", retry_backoff_ms=1, retry_backoff_max_ms=1, **COMMITTED)
        consumer.assign([T0])
        assert consumer.poll(timeout=0.05) == {}
        # On a busy machine not even the refusal may come in time.
        with pytest.raises((UnstableOffsetCommitError, ClusterUnreachableError)):
            consumer.committed(T0, timeout=0.05)
        transfers.commit_transaction()
        assert values_of(consumer, until=3) == [b"2"]
        assert consumer.committed(T0) == {T0: OffsetAndMetadata(2)}

    def test_a_reader_of_everything_does_not_wait(self, cluster, consume, transfers):
        transfers.begin_transaction()
        transfers.send_offsets_to_transaction({T0: 2}, ConsumerGroupMetadata("g"))
        consumer = consume(group_id="g")
        assert consumer.committed(T0, timeout=10) == {T0: None}


class TestGroupMetadata:
    def test_a_member_names_itself(self, cluster, consume, transfers):
        with cluster.producer() as other:
            other.send("t", b"a", partition=0).get(timeout=10)
        consumer = consume("t", group_id="g", enable_auto_commit=False, **COMMITTED)
        while not consumer.poll(timeout=1):
            pass
        found = consumer.consumer_group_metadata()
        [member] = cluster.assignment("g")
        assert (found.group_id, found.member_id) == ("g", member)
        with transfers.transaction():
            transfers.send_offsets_to_transaction({T0: 1}, found)
        assert cluster.committed("g") == {T0: OffsetAndMetadata(1)}
        # One that the group has given up commits nothing.
        cluster.expire_member("g", member)
        transfers.begin_transaction()
        with pytest.raises(Exception, match="no member") as caught:
            transfers.send_offsets_to_transaction({T0: 2}, found)
        assert caught.value.code == "UNKNOWN_MEMBER_ID"
        transfers.abort_transaction()

    def test_a_member_of_now_does_not_answer_for_records_of_before(self, cluster, consume):
        """Others may have read on where it begins now, until it polls again."""
        with cluster.producer() as other:
            other.send("t", b"a", partition=0).get(timeout=10)
        consumer = consume("t", group_id="g", enable_auto_commit=False, **COMMITTED)
        while not consumer.poll(timeout=1):
            pass
        before = consumer.consumer_group_metadata()
        cluster.expire_member("g", before.member_id)
        deadline_s = time.monotonic() + 20
        while cluster.assignment("g").keys() in ({before.member_id}, set()):
            assert time.monotonic() < deadline_s, "it did not join again"
            time.sleep(0.01)
        assert consumer.consumer_group_metadata() == before
        while not consumer.poll(timeout=1):
            pass
        now = consumer.consumer_group_metadata()
        assert [now.member_id] == [*cluster.assignment("g")] != [before.member_id]

    def test_before_it_has_joined_there_is_none(self, cluster, consume):
        cluster.fail(path=routes.GROUPS, times=1_000_000)
        consumer = consume("t", group_id="g")
        with pytest.raises(CommitFailedError, match="no member"):
            consumer.consumer_group_metadata()
        cluster._brokers.faults.clear()

    def test_without_a_group_there_is_none(self, consume):
        with pytest.raises(SubscriptionError, match="group_id"):
            consume().consumer_group_metadata()
