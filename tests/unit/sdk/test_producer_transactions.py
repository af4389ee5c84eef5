"""Transactions as an application makes them, against the cluster in memory."""

import asyncio
import threading

import pytest

from ottla import (
    ClusterUnreachableError,
    ConsumerGroupMetadata,
    InvalidRecordError,
    InvalidRequestError,
    InvalidTransactionTimeoutError,
    MessageTooLargeError,
    OffsetAndMetadata,
    Outcome,
    ProducerFencedError,
    SerializationError,
    TopicPartition,
    TransactionAbortableError,
    TransactionAbortedError,
    TransactionStateError,
    UnknownTopicOrPartitionError,
    WaitTimedOutError,
)
from ottla._transaction_state import Phase
from ottla._transport import BrokerUnreachableError
from ottla.testing import FakeCluster
from ottla_protocol import routes
from ottla_protocol.errors import (
    ConcurrentTransactionsError,
    CoordinatorNotAvailableError,
    FencedMemberEpochError,
    NotEnoughReplicasError,
)

GROUP = ConsumerGroupMetadata("reports")
T0, T1 = TopicPartition("t", 0), TopicPartition("t", 1)
ANSWERED_S = 0.5
"""For calls that fail at their end: time enough for an answer before, on a busy machine too."""


@pytest.fixture
def cluster():
    cluster = FakeCluster()
    cluster.create_topic("t", partitions=2)
    return cluster


@pytest.fixture
def make(cluster):
    made = []

    def make(transactional_id="transfers", **options):
        producer = cluster.producer(
            transactional_id=transactional_id, **{"retry_backoff_ms": 1, **options}
        )
        made.append(producer)
        return producer

    yield make
    for producer in made:
        producer.close(timeout=1)


@pytest.fixture
def producer(make):
    made = make()
    made.init_transactions()
    return made


def committed(cluster):
    return [record.value for record in cluster.records("t", isolation_level="read_committed")]


def stored(cluster):
    return [record.value for record in cluster.records("t")]


def commit_path(transactional_id="transfers"):
    return routes.TRANSACTION_COMMIT.format(transactional_id=transactional_id)


def abort_path(transactional_id="transfers"):
    return routes.TRANSACTION_ABORT.format(transactional_id=transactional_id)


def test_records_appear_with_the_commit_and_together(cluster, producer):
    producer.begin_transaction()
    first = producer.send("t", b"a", partition=0)
    producer.send("t", b"b", partition=1)
    first.get(timeout=10)
    assert committed(cluster) == []
    producer.commit_transaction()
    assert sorted(committed(cluster)) == [b"a", b"b"]


def test_a_commit_sends_what_was_not_sent_yet(cluster, make):
    producer = make(linger_ms=60_000, batch_size=1 << 20)
    producer.init_transactions()
    producer.begin_transaction()
    future = producer.send("t", b"a")
    assert not future.done()
    producer.commit_transaction()
    assert future.done()
    assert committed(cluster) == [b"a"]


def test_of_an_aborted_transaction_nothing_is_read(cluster, producer):
    producer.begin_transaction()
    producer.send("t", b"a", partition=0).get(timeout=10)
    producer.abort_transaction()
    with producer.transaction():
        producer.send("t", b"b", partition=0)
    assert committed(cluster) == [b"b"]
    assert stored(cluster) == [b"a", b"b"]


def test_many_transactions_number_their_records_from_zero_each(cluster, producer):
    for number in range(20):
        with producer.transaction():
            producer.send_many("t", [b"%d-%d" % (number, each) for each in range(5)], partition=0)
    assert committed(cluster) == [
        b"%d-%d" % (number, each) for number in range(20) for each in range(5)
    ]


def test_the_context_manager_aborts_what_raises(cluster, producer):
    def fail():
        with producer.transaction():
            producer.send("t", b"a").get(timeout=10)
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        fail()
    with producer.transaction():
        producer.send("t", b"b")
    assert committed(cluster) == [b"b"]


def test_what_waits_to_be_sent_fails_with_the_abort(cluster, make):
    producer = make(linger_ms=60_000)
    producer.init_transactions()
    producer.begin_transaction()
    future = producer.send("t", b"a")
    producer.abort_transaction()
    error = future.exception(timeout=10)
    assert isinstance(error, TransactionAbortedError)
    assert error.outcome is Outcome.NOT_APPLIED
    assert stored(cluster) == []
    # Nothing reached a broker, so nobody was asked.
    assert not any(request.path == abort_path() for request in cluster.requests)


def test_what_is_on_its_way_is_not_waited_for(cluster, make):
    producer = make()
    producer.init_transactions()
    producer.begin_transaction()
    producer.send("t", b"0", partition=0).get(timeout=10)
    cluster.delay_ms = 3_000
    late = producer.send("t", b"late", partition=0)
    wait_for_requests(cluster, producer)
    cluster.delay_ms = 0
    producer.abort_transaction()
    assert isinstance(late.exception(timeout=0), TransactionAbortedError)
    with producer.transaction():
        producer.send("t", b"next", partition=0)
    # The late one arrives at last, and is refused by its epoch.
    with producer.transaction():
        producer.send("t", b"last", partition=0)
    assert committed(cluster) == [b"next", b"last"]


def wait_for_requests(cluster, producer):
    """Until the producer has a request out."""
    event = threading.Event()
    while not producer.metrics()["requests_in_flight"]:
        assert not event.wait(0.001)


class TestOutside:
    def test_a_record_is_an_error(self, cluster, producer):
        with pytest.raises(TransactionStateError, match="outside of a transaction"):
            producer.send("t", b"a")
        with pytest.raises(TransactionStateError):
            producer.send_many("t", [b"a"])
        with producer.transaction():
            producer.send("t", b"b")
        with pytest.raises(TransactionStateError):
            producer.send("t", b"c")
        assert stored(cluster) == [b"b"]

    def test_before_init_nothing_goes(self, make):
        producer = make()
        with pytest.raises(TransactionStateError, match="not initialised"):
            producer.begin_transaction()
        with pytest.raises(TransactionStateError):
            producer.send("t", b"a")

    def test_init_goes_once(self, producer):
        with pytest.raises(TransactionStateError, match="called once"):
            producer.init_transactions()

    @pytest.mark.parametrize(
        "call", ["init_transactions", "begin_transaction", "commit_transaction"]
    )
    def test_without_an_id_there_are_none(self, cluster, call):
        with cluster.producer() as producer:
            with pytest.raises(TransactionStateError, match="no transactions") as caught:
                getattr(producer, call)()
            assert "transactional_id" in caught.value.hint
            producer.send("t", b"a").get(timeout=10)

    def test_a_transaction_of_nothing_asks_nobody(self, cluster, producer):
        asked = len(cluster.requests)
        for _ in range(3):
            with producer.transaction():
                pass
        producer.begin_transaction()
        producer.abort_transaction()
        assert len(cluster.requests) == asked
        with producer.transaction():
            producer.send("t", b"a")
        assert committed(cluster) == [b"a"]


class TestFenced:
    def test_by_a_second_producer(self, cluster, make, producer):
        producer.begin_transaction()
        producer.send("t", b"old", partition=0).get(timeout=10)
        successor = make()
        successor.init_transactions()
        with pytest.raises(ProducerFencedError):
            producer.commit_transaction()
        for call in (
            producer.begin_transaction,
            producer.abort_transaction,
            lambda: producer.send("t", b"x"),
        ):
            with pytest.raises(ProducerFencedError):
                call()
        with successor.transaction():
            successor.send("t", b"new", partition=0)
        assert committed(cluster) == [b"new"]

    def test_a_record_finds_it_out(self, make, producer):
        make().init_transactions()
        with pytest.raises(ProducerFencedError), producer.transaction():
            producer.send("t", b"a").get(timeout=10)
        with pytest.raises(ProducerFencedError):
            producer.begin_transaction()


class TestFailures:
    def test_a_record_that_fails_makes_the_commit_fail(self, cluster, producer):
        cluster.fail(MessageTooLargeError("too large"))
        producer.begin_transaction()
        lost = producer.send("t", b"lost", partition=0)
        with pytest.raises(TransactionAbortableError, match="too large") as caught:
            producer.commit_transaction()
        assert isinstance(caught.value.__cause__, MessageTooLargeError)
        assert isinstance(lost.exception(), MessageTooLargeError)
        with pytest.raises(TransactionAbortableError):
            producer.send("t", b"more")
        with pytest.raises(TransactionAbortableError):
            producer.commit_transaction()
        producer.abort_transaction()
        with producer.transaction():
            producer.send("t", b"b", partition=0)
        assert committed(cluster) == [b"b"]

    @pytest.mark.parametrize(
        "send",
        [
            pytest.param(lambda it: it.send("t", b"x" * 2_000), id="too large"),
            pytest.param(lambda it: it.send_many("t", [b"x" * 2_000]), id="one of many"),
            pytest.param(lambda it: it.send("nowhere", b"lost"), id="no topic"),
            pytest.param(lambda it: it.send_many("nowhere", [b"lost"]), id="no topic for many"),
        ],
    )
    def test_a_record_that_is_not_taken_makes_the_commit_fail(self, cluster, make, send):
        producer = make(max_request_size=1_000)
        producer.init_transactions()
        producer.begin_transaction()
        producer.send("t", b"half", partition=0).get(timeout=10)
        with pytest.raises((MessageTooLargeError, UnknownTopicOrPartitionError)) as refused:
            send(producer)
        with pytest.raises(TransactionAbortableError) as caught:
            producer.commit_transaction()
        assert type(caught.value.__cause__) is refused.type
        producer.abort_transaction()
        with producer.transaction():
            producer.send("t", b"whole")
        assert committed(cluster) == [b"whole"]

    def test_a_program_may_send_something_else_than_what_makes_no_record(self, cluster, producer):
        with producer.transaction():
            with pytest.raises(SerializationError):
                producer.send("t", 5)
            with pytest.raises(InvalidRecordError):
                producer.send("t", b"a", partition=77)
            producer.send("t", b"instead")
        assert committed(cluster) == [b"instead"]

    def test_the_others_of_its_transaction_fail_with_it(self, cluster, make):
        producer = make(linger_ms=60_000)
        producer.init_transactions()
        producer.begin_transaction()
        cluster.fail(MessageTooLargeError("too large"))
        waiting = producer.send("t", b"waiting", partition=1)
        lost = producer.send("t", b"x" * 20_000, partition=0)
        assert isinstance(lost.exception(timeout=10), MessageTooLargeError)
        error = waiting.exception(timeout=10)
        assert isinstance(error, TransactionAbortedError)
        assert isinstance(error.__cause__, MessageTooLargeError)
        producer.abort_transaction()
        assert stored(cluster) == []

    def test_the_context_manager_aborts_and_raises(self, cluster, producer):
        cluster.fail(MessageTooLargeError("too large"))
        with pytest.raises(TransactionAbortableError, match="too large"), producer.transaction():
            producer.send("t", b"lost")
        with producer.transaction():
            producer.send("t", b"b")
        assert committed(cluster) == [b"b"]

    @pytest.mark.parametrize("after_append", [False, True])
    def test_lost_answers_are_asked_for_again(self, cluster, producer, after_append):
        for path in (commit_path(), routes.PRODUCE):
            cluster.fail(path=path, times=3, after_append=after_append)
        with producer.transaction():
            producer.send("t", b"a", partition=0)
        cluster.fail(path=abort_path(), times=3, after_append=after_append)
        producer.begin_transaction()
        producer.send("t", b"b", partition=0).get(timeout=10)
        producer.abort_transaction()
        with producer.transaction():
            producer.send("t", b"c", partition=0)
        assert committed(cluster) == [b"a", b"c"]

    @pytest.mark.parametrize("after_append", [False, True])
    def test_init_is_asked_again(self, cluster, make, after_append):
        cluster.fail(path=routes.TRANSACTIONS, times=2, after_append=after_append)
        producer = make()
        producer.init_transactions()
        with producer.transaction():
            producer.send("t", b"a")
        assert committed(cluster) == [b"a"]

    def test_what_passes_is_waited_for(self, cluster, producer):
        too_few = NotEnoughReplicasError("too few", outcome=Outcome.NOT_APPLIED)
        markers = ConcurrentTransactionsError("markers", outcome=Outcome.NOT_APPLIED)
        cluster.fail(too_few, times=2)
        cluster.fail(markers, times=2)
        cluster.fail(CoordinatorNotAvailableError("moving"), path=commit_path(), times=2)
        with producer.transaction():
            producer.send("t", b"a")
        assert committed(cluster) == [b"a"]

    def test_a_commit_that_is_not_answered_may_be_called_again(self, cluster, producer):
        cluster.fail(CoordinatorNotAvailableError("moving"), path=commit_path(), times=1_000_000)
        producer.begin_transaction()
        producer.send("t", b"a").get(timeout=10)
        with pytest.raises((WaitTimedOutError, ClusterUnreachableError)) as caught:
            producer.commit_transaction(timeout=ANSWERED_S)
        assert caught.value.outcome is Outcome.UNKNOWN
        with pytest.raises(TransactionStateError, match="may be committed"):
            producer.abort_transaction()
        cluster._brokers.faults.clear()
        producer.commit_transaction()
        assert committed(cluster) == [b"a"]

    def test_an_unreachable_cluster_is_named(self, cluster, make):
        producer = make()
        cluster.fail(
            BrokerUnreachableError("refused", outcome=Outcome.NOT_APPLIED),
            path="",
            times=1_000_000,
        )
        with pytest.raises(ClusterUnreachableError, match="fake-broker-1"):
            producer.init_transactions(timeout=ANSWERED_S)
        cluster._brokers.faults.clear()
        producer.init_transactions()

    def test_init_whose_answer_was_lost_takes_the_id_over_once(self, cluster, make):
        cluster.fail(path=routes.TRANSACTIONS, times=1_000_000, after_append=True)
        producer = make()
        for _ in range(2):
            with pytest.raises(ClusterUnreachableError):
                producer.init_transactions(timeout=ANSWERED_S)
        cluster._brokers.faults.clear()
        producer.init_transactions()
        assert producer._transactions._state.granted.producer_epoch == 0
        other = make()
        other.init_transactions()
        assert other._transactions._state.granted.producer_epoch == 1

    def test_init_that_was_decided_before_another_producer_s_is_fenced(self, cluster, make):
        cluster.fail(path=routes.TRANSACTIONS, times=1_000_000, after_append=True)
        producer = make()
        with pytest.raises(ClusterUnreachableError):
            producer.init_transactions(timeout=ANSWERED_S)
        cluster._brokers.faults.clear()
        make().init_transactions()
        with pytest.raises(ProducerFencedError):
            producer.init_transactions()

    def test_records_that_are_not_acknowledged_in_time_are_not_committed(self, cluster, producer):
        cluster.fail(
            NotEnoughReplicasError("too few", outcome=Outcome.NOT_APPLIED), times=1_000_000
        )
        producer.begin_transaction()
        producer.send("t", b"a")
        with pytest.raises(WaitTimedOutError, match="nothing is committed"):
            producer.commit_transaction(timeout=0.05)
        producer.abort_transaction()
        cluster._brokers.faults.clear()
        with producer.transaction():
            producer.send("t", b"b")
        assert committed(cluster) == [b"b"]

    def test_a_timeout_that_the_cluster_does_not_allow(self, make):
        producer = make(transaction_timeout_ms=900_001)
        with pytest.raises(InvalidTransactionTimeoutError):
            producer.init_transactions()

    def test_a_transaction_that_the_coordinator_aborted(self, cluster, producer):
        producer.begin_transaction()
        producer.send("t", b"a", partition=0).get(timeout=10)
        cluster.abort_transaction("transfers")
        with pytest.raises(TransactionAbortableError, match="aborted"):
            producer.commit_transaction()
        producer.abort_transaction()
        with producer.transaction():
            producer.send("t", b"b", partition=0)
        assert committed(cluster) == [b"b"]

    def test_a_record_into_a_transaction_that_was_aborted(self, cluster, producer):
        producer.begin_transaction()
        producer.send("t", b"a", partition=0).get(timeout=10)
        cluster.abort_transaction("transfers")
        with pytest.raises(TransactionAbortableError):
            producer.send("t", b"b", partition=1).get(timeout=10)
        producer.abort_transaction()
        with producer.transaction():
            producer.send("t", b"c", partition=0)
        assert committed(cluster) == [b"c"]

    def test_what_is_open_for_too_long_is_aborted(self, cluster, make):
        producer = make(transaction_timeout_ms=1)
        producer.init_transactions()
        producer.begin_transaction()
        producer.send("t", b"a", partition=0).get(timeout=10)
        assert not threading.Event().wait(0.002)
        with pytest.raises(TransactionAbortableError):
            producer.commit_transaction()
        producer.abort_transaction()
        assert committed(cluster) == []


def counters(producer):
    names = ("begun", "committed", "aborted", "fenced")
    return tuple(producer.metrics()[f"transactions_{name}"] for name in names)


class TestCounters:
    def test_what_became_of_transactions(self, cluster, producer, make):
        for number in range(3):
            with producer.transaction():
                producer.send("t", b"%d" % number)
        producer.begin_transaction()
        producer.abort_transaction()
        assert counters(producer) == (4, 3, 1, 0)
        producer.begin_transaction()
        producer.send("t", b"lost").get(timeout=10)
        make().init_transactions()
        with pytest.raises(ProducerFencedError):
            producer.commit_transaction()
        assert counters(producer) == (5, 3, 1, 1)

    def test_a_producer_without_transactions_has_none(self, cluster):
        with cluster.producer() as producer:
            producer.send("t", b"a").get(timeout=10)
            assert counters(producer) == (0, 0, 0, 0)

    async def test_with_asyncio(self, cluster):
        async with cluster.async_producer(transactional_id="transfers") as producer:
            await producer.init_transactions()
            async with producer.transaction():
                await producer.send("t", b"a")
            assert counters(producer) == (1, 1, 0, 0)


class TestOffsets:
    def test_they_appear_with_the_commit(self, cluster, producer):
        producer.begin_transaction()
        producer.send("t", b"a")
        producer.send_offsets_to_transaction({T0: 5, T1: OffsetAndMetadata(7, "m")}, GROUP)
        assert cluster.committed("reports") == {}
        producer.commit_transaction()
        assert cluster.committed("reports") == {
            T0: OffsetAndMetadata(5),
            T1: OffsetAndMetadata(7, "m"),
        }

    def test_they_vanish_with_the_abort(self, cluster, producer):
        producer.begin_transaction()
        producer.send_offsets_to_transaction({T0: 5}, GROUP)
        producer.abort_transaction()
        with producer.transaction():
            producer.send_offsets_to_transaction({T1: 1}, GROUP)
        assert cluster.committed("reports") == {T1: OffsetAndMetadata(1)}

    def test_what_is_committed_later_without_a_transaction_stays(self, cluster, producer):
        producer.begin_transaction()
        producer.send_offsets_to_transaction({T0: 5, T1: 7}, GROUP)
        consumer = cluster.consumer(group_id="reports", enable_auto_commit=False)
        with consumer:
            consumer.assign([T0])
            consumer.commit({T0: 3})
        producer.commit_transaction()
        assert cluster.committed("reports") == {T0: OffsetAndMetadata(3), T1: OffsetAndMetadata(7)}

    def test_within_a_transaction_they_only_go_forward(self, cluster, producer):
        producer.begin_transaction()
        producer.send_offsets_to_transaction({T0: 5, T1: 7}, GROUP)
        producer.send_offsets_to_transaction({T0: 3, T1: OffsetAndMetadata(9, "m")}, GROUP)
        producer.commit_transaction()
        assert cluster.committed("reports") == {
            T0: OffsetAndMetadata(5),
            T1: OffsetAndMetadata(9, "m"),
        }

    def test_what_is_sent_again_is_as_old_as_it_was(self, cluster, producer):
        producer.begin_transaction()
        producer.send_offsets_to_transaction({T0: 5, T1: 5}, GROUP)
        with cluster.consumer(group_id="reports", enable_auto_commit=False) as consumer:
            consumer.assign([T0, T1])
            consumer.commit({T0: 3, T1: 3})
        producer.send_offsets_to_transaction({T0: 5, T1: 6}, GROUP)
        producer.commit_transaction()
        assert cluster.committed("reports") == {T0: OffsetAndMetadata(3), T1: OffsetAndMetadata(6)}

    def test_a_member_that_was_given_up_commits_nothing(self, cluster, producer):
        cluster.fail(
            FencedMemberEpochError("not yours"),
            path=routes.TRANSACTION_OFFSETS.format(transactional_id="transfers"),
        )
        producer.begin_transaction()
        producer.send("t", b"a").get(timeout=10)
        with pytest.raises(FencedMemberEpochError):
            producer.send_offsets_to_transaction({T0: 5}, GROUP)
        with pytest.raises(TransactionAbortableError, match="not yours"):
            producer.commit_transaction()
        producer.abort_transaction()
        assert (committed(cluster), cluster.committed("reports")) == ([], {})

    def test_offsets_that_may_not_be_in_make_the_commit_fail(self, cluster, producer):
        cluster.fail(
            path=routes.TRANSACTION_OFFSETS.format(transactional_id="transfers"), times=1_000_000
        )
        producer.begin_transaction()
        with pytest.raises(ClusterUnreachableError):
            producer.send_offsets_to_transaction({T0: 5}, GROUP, timeout=ANSWERED_S)
        with pytest.raises(TransactionAbortableError):
            producer.commit_transaction()
        producer.abort_transaction()

    @pytest.mark.parametrize("offsets", [[(T0, 1)], {T0: -1}, {("t", "0"): 1}, {T0: "1"}])
    def test_wrong_ones_are_refused(self, producer, offsets):
        producer.begin_transaction()
        with pytest.raises(InvalidRequestError):
            producer.send_offsets_to_transaction(offsets, GROUP)
        producer.send_offsets_to_transaction({T0: 1}, GROUP)

    def test_the_group_is_what_the_consumer_says(self, producer):
        producer.begin_transaction()
        with pytest.raises(InvalidRequestError, match="consumer_group_metadata"):
            producer.send_offsets_to_transaction({T0: 1}, "reports")
        producer.send_offsets_to_transaction({T0: 1}, GROUP)

    def test_more_than_one_request_takes(self, cluster, producer):
        cluster.create_topic("wide", partitions=1_500)
        with producer.transaction():
            producer.send_offsets_to_transaction(
                {TopicPartition("wide", each): each for each in range(1_500)}, GROUP
            )
        assert len(cluster.committed("reports")) == 1_500


class TestClose:
    def test_it_aborts_what_is_open(self, cluster, make):
        producer = make(linger_ms=60_000)
        producer.init_transactions()
        producer.begin_transaction()
        producer.send("t", b"a", partition=0)
        producer.flush()
        late = producer.send("t", b"b", partition=1)
        producer.close()
        assert isinstance(late.exception(), TransactionAbortedError)
        with cluster.producer() as other:
            other.send("t", b"c", partition=0)
        assert committed(cluster) == [b"c"]

    def test_it_does_so_within_its_time(self, cluster, producer):
        producer.begin_transaction()
        producer.send("t", b"a").get(timeout=10)
        cluster.fail(path=abort_path(), times=1_000_000)
        producer.close(timeout=0.05)

    def test_with_a_with_block_too(self, cluster):
        def fail():
            with cluster.producer(transactional_id="x") as producer:
                producer.init_transactions()
                producer.begin_transaction()
                producer.send("t", b"a").get(timeout=10)
                _ = 1 / 0

        with pytest.raises(ZeroDivisionError):
            fail()
        assert (stored(cluster), committed(cluster)) == ([b"a"], [])


class TestThreads:
    def test_a_record_that_waits_for_room_never_enters_the_next_transaction(self, cluster, make):
        producer = make(buffer_memory=2_000, batch_size=1_000, linger_ms=60_000)
        producer.init_transactions()
        producer.begin_transaction()
        cluster.fail(
            NotEnoughReplicasError("too few", outcome=Outcome.NOT_APPLIED), times=1_000_000
        )
        producer.send("t", b"x" * 1_500, partition=0)
        raised = []

        def send_more():
            try:
                producer.send("t", b"y" * 1_500, partition=1)
            except TransactionStateError as error:
                raised.append(error)

        thread = threading.Thread(target=send_more)
        thread.start()
        event = threading.Event()
        while not producer.metrics()["waiting_callers"]:
            assert not event.wait(0.001)
        producer.abort_transaction()
        producer.begin_transaction()
        cluster._brokers.faults.clear()
        thread.join(timeout=10)
        assert len(raised) == 1
        producer.commit_transaction()
        assert committed(cluster) == []

    def test_while_one_commits_no_other_one_sends(self, cluster, producer):
        cluster.fail(
            NotEnoughReplicasError("too few", outcome=Outcome.NOT_APPLIED), times=1_000_000
        )
        producer.begin_transaction()
        producer.send("t", b"a", partition=0)
        event = threading.Event()
        while not producer.metrics()["batches_retried"]:
            assert not event.wait(0.001)
        producer.send("t", b"b", partition=0)  # Behind the first, in a batch that is open.
        thread = threading.Thread(target=producer.commit_transaction)
        thread.start()
        while producer._io.transactions._state.phase is not Phase.COMMITTING:
            assert not event.wait(0.001)
        try:
            with pytest.raises(TransactionStateError, match="committing"):
                producer.send("t", b"late", partition=0)
        finally:
            cluster._brokers.faults.clear()
            thread.join(timeout=10)
        assert committed(cluster) == [b"a", b"b"]


class TestAsyncio:
    async def test_commit_abort_and_offsets(self, cluster):
        async with cluster.async_producer(transactional_id="x") as producer:
            await producer.init_transactions()
            async with producer.transaction():
                await producer.send("t", b"a", partition=0)
                await producer.send_offsets_to_transaction({T0: 1}, GROUP)

            async def fail():
                async with producer.transaction():
                    await (await producer.send("t", b"b", partition=0))
                    _ = 1 / 0

            with pytest.raises(ZeroDivisionError):
                await fail()
            producer.begin_transaction()
            await producer.send("t", b"c", partition=0)
            await producer.commit_transaction()
        assert committed(cluster) == [b"a", b"c"]
        assert cluster.committed("reports") == {T0: OffsetAndMetadata(1)}

    async def test_fenced(self, cluster):
        async with (
            cluster.async_producer(transactional_id="x") as first,
            cluster.async_producer(transactional_id="x") as second,
        ):
            await first.init_transactions()
            first.begin_transaction()
            await first.send("t", b"a")
            await second.init_transactions()
            with pytest.raises(ProducerFencedError):
                await first.commit_transaction()

    async def test_close_aborts_offsets_too(self, cluster):
        async with cluster.async_producer(transactional_id="x") as producer:
            await producer.init_transactions()
            producer.begin_transaction()
            await producer.send_offsets_to_transaction({T0: 1}, GROUP)
        assert any(request.path == abort_path("x") for request in cluster.requests)

    @pytest.mark.parametrize("call", ["send", "send_many"])
    async def test_a_record_that_is_not_taken_makes_the_commit_fail(self, cluster, call):
        async with cluster.async_producer(transactional_id="transfers") as producer:
            await producer.init_transactions()
            producer.begin_transaction()
            with pytest.raises(UnknownTopicOrPartitionError):
                await getattr(producer, call)("nowhere", [b"lost"])
            with pytest.raises(TransactionAbortableError):
                await producer.commit_transaction()
            await producer.abort_transaction()

    async def test_cancelled_offsets_make_the_commit_fail(self, cluster):
        async with cluster.async_producer(transactional_id="x") as producer:
            await producer.init_transactions()
            producer.begin_transaction()
            cluster.delay_ms = 10_000
            task = asyncio.create_task(producer.send_offsets_to_transaction({T0: 1}, GROUP))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            cluster.delay_ms = 0
            with pytest.raises(TransactionAbortableError, match="cancelled"):
                await producer.commit_transaction()
            await producer.abort_transaction()
