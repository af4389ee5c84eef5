"""Every option of the producer has its effect, and what a caller is told is true."""

import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
import warnings

import pytest

from ottla import (
    BufferExhaustedError,
    ClusterUnreachableError,
    DeliveryTimeoutError,
    ForkedProcessError,
    InvalidRecordError,
    MessageTooLargeError,
    NotEnoughReplicasError,
    Outcome,
    Producer,
    ProducerClosedError,
    SerializationError,
    UnknownTopicOrPartitionError,
    WaitTimedOutError,
)
from ottla._transport import BrokerUnreachableError
from ottla.testing import FakeCluster
from ottla_protocol import routes
from ottla_protocol.errors import NotFoundError
from ottla_protocol.record_batch import NO_PRODUCER_ID, Compression
from tests.cluster.awaiting import eventually
from tests.unit.sdk.recording_transport import RecordingTransport

LOST = BrokerUnreachableError("cut", outcome=Outcome.UNKNOWN)
TOO_FEW = NotEnoughReplicasError("too few", outcome=Outcome.NOT_APPLIED)


@pytest.fixture
def cluster():
    cluster = FakeCluster()
    cluster.create_topic("t", partitions=1)
    cluster.create_topic("wide", partitions=6)
    return cluster


@pytest.fixture
def transport(cluster):
    return RecordingTransport(cluster)


@pytest.fixture
def make(cluster, transport):
    made = []

    def make(**options):
        producer = Producer(cluster.bootstrap_servers, transport=transport, **options)
        made.append(producer)
        return producer

    yield make
    for producer in made:
        producer.close(timeout=0)


def values(cluster, topic="t", partition=None):
    return [record.value for record in cluster.records(topic, partition)]


# --- records ------------------------------------------------------------------------------------


def test_a_record_arrives_whole(cluster, make):
    metadata = make().send("t", b"v", key=b"k", headers=[("h", "text"), ("h", None)], timestamp=7)
    assert metadata.get(5) == ("t", 0, 0, 7)
    [record] = cluster.records("t")
    assert (record.key, record.value, record.timestamp) == (b"k", b"v", 7)
    assert record.headers == (("h", b"text"), ("h", None))


def test_kafkas_spelling_makes_the_same_producer(cluster, transport):
    options = {"bootstrap.servers": ",".join(cluster.bootstrap_servers), "linger.ms": "0"}
    with Producer.from_config(options, transport=transport) as producer:
        assert producer.send("t", b"v").get(5).offset == 0


def test_serializers_turn_keys_and_values_to_bytes(cluster, make):
    producer = make(key_serializer="int", value_serializer="json")
    producer.send("t", {"a": [1]}, key=5).get(5)
    producer.send("t", None, key=None).get(5)
    producer.send_many("t", [{"b": 2}], [6]).get(5)
    first, second, third = cluster.records("t")
    assert (first.key, first.value) == ((5).to_bytes(8, "big"), b'{"a":[1]}')
    assert (second.key, second.value) == (None, None)
    assert (third.key, third.value) == ((6).to_bytes(8, "big"), b'{"b":2}')
    with pytest.raises(SerializationError, match="str"):
        producer.send("t", {}, key="five")


def test_the_partition_is_the_callers_the_partitioners_or_the_keys(cluster, make):
    def always_last(topic, key, key_bytes, value, value_bytes, cluster):
        if key is None:
            raise InvalidRecordError("no key")
        return len(cluster.partitions_for_topic(topic)) - 1

    chosen = make(partitioner=always_last)
    assert chosen.send("wide", b"v", key=b"k").get(5).partition == 5
    assert chosen.send("wide", b"v", partition=2).get(5).partition == 2
    assert chosen.send_many("wide", [b"v"] * 3, [b"k"] * 3).get(5)[1].partition == 5
    with pytest.raises(InvalidRecordError, match="no key"):
        chosen.send("wide", b"v")
    default = make()
    # murmur2 of the key, as Kafka's Java client has it.
    assert (
        default.send("wide", b"v", key=b"foobar").get(5).partition == (-790332482 & 2**31 - 1) % 6
    )
    with pytest.raises(InvalidRecordError, match="0 to 5"):
        default.send("wide", b"v", partition=6)


def test_records_without_a_key_stick_together(cluster, make):
    producer = make(linger_ms=60_000)
    futures = [producer.send("wide", b"v") for _ in range(50)]
    producer.flush(5)
    assert len({future.get(5).partition for future in futures}) == 1


def test_full_batches_without_keys_go_to_other_partitions(make):
    producer = make(batch_size=500, linger_ms=5_000)
    futures = [producer.send("wide", b"v" * 100) for _ in range(200)]
    many = producer.send_many("wide", [b"v" * 100] * 200)
    producer.flush(5)
    assert len({future.get(5).partition for future in futures}) > 1
    assert len({metadata.partition for metadata in many.get(5)}) > 1


@pytest.mark.parametrize(
    "wrong",
    [{"timestamp": -1}, {"timestamp": 1.5}, {"headers": [(b"name", b"v")]}, {"headers": {"a": 1}}],
)
def test_a_record_that_breaks_a_rule_is_refused(make, wrong):
    with pytest.raises(InvalidRecordError):
        make().send("t", b"v", **wrong)


def test_many_tells_where_each_record_is(cluster, make):
    producer = make(batch_size=300)
    told = []
    payload = [b"%d" % number for number in range(1_000)]
    keys = [b"%d" % (number % 13) for number in range(1_000)]
    future = producer.send_many(
        "wide", payload, keys, on_delivery=lambda error, metadata: told.append(metadata)
    )
    report = future.get(10)
    stored = {(each.partition, each.offset): each.value for each in cluster.records("wide")}
    assert [stored[each.partition, each.offset] for each in report] == payload
    assert [report[index] for index in (0, 500, -1)] == [
        list(report)[index] for index in (0, 500, -1)
    ]
    assert list(report.offsets) == [each.offset for each in report]
    producer.flush(5)
    assert sorted(told) == sorted(report)
    assert future.outcomes() == list(report)


def test_many_wants_as_many_keys_as_values(make):
    with pytest.raises(InvalidRecordError, match="3 values and 2 keys"):
        make().send_many("t", [b"a"] * 3, [b"k"] * 2)


# --- options ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("acks", "on_the_wire"), [(0, 0), (1, 1), ("all", -1)])
def test_acks_are_asked_for(make, transport, acks, on_the_wire):
    make(acks=acks).send("t", b"v").get(5)
    assert [request.acks for request in transport.produces] == [on_the_wire]


def test_without_acks_nobody_waits_for_an_offset(cluster, make):
    cluster.fail(LOST, path=routes.PRODUCE)
    assert make(acks=0).send("t", b"v").get(5).offset == -1


@pytest.mark.parametrize("name", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_batches_are_compressed(cluster, make, transport, name):
    make(compression=name).send("t", b"v" * 500).get(5)
    assert [header.compression for header in transport.headers] == [Compression[name.upper()]]
    assert values(cluster) == [b"v" * 500]


def test_batches_end_at_batch_size(make, transport):
    producer = make(batch_size=500, linger_ms=60_000)
    for _ in range(20):
        producer.send("t", b"v" * 100)
    producer.flush(5)
    assert {header.record_count for header in transport.headers} <= {3, 4}
    assert all(header.size_bytes <= 500 for header in transport.headers)


def test_a_batch_lingers(make):
    producer = make(linger_ms=200)
    started = time.monotonic()
    assert producer.send("t", b"v").get(5).offset == 0
    assert time.monotonic() - started >= 0.15


def test_records_that_come_while_a_batch_lingers_go_with_it(make, transport):
    producer = make(linger_ms=60_000)
    futures = [producer.send("t", b"v") for _ in range(10)]
    producer.flush(5)
    assert [future.get(5).offset for future in futures] == list(range(10))
    assert [header.record_count for header in transport.headers] == [10]


def test_flush_does_not_linger(make):
    producer = make(linger_ms=60_000)
    future = producer.send("t", b"v")
    producer.flush(5)
    assert future.done()


def test_a_full_buffer_blocks_and_then_fails(cluster, make):
    cluster.fail(TOO_FEW, path=routes.PRODUCE, times=1_000)
    producer = make(buffer_memory=10_000, batch_size=1_000, max_block_ms=200)
    started = time.monotonic()
    with pytest.raises(BufferExhaustedError, match="buffer_memory"):
        producer.send_many("t", [b"v" * 500] * 30)
    # Far less than the default, on a busy machine too.
    assert 0.15 <= time.monotonic() - started < 30
    metrics = producer.metrics()
    assert metrics["buffer_available_bytes"] < 1_000
    assert metrics["buffer_total_bytes"] == 10_000


def test_a_blocked_caller_goes_on_when_there_is_room(cluster, make):
    cluster.fail(TOO_FEW, path=routes.PRODUCE, times=3)
    producer = make(buffer_memory=10_000, batch_size=1_000, retry_backoff_ms=50)
    futures = [producer.send("t", b"%03d" % number + b"v" * 500) for number in range(100)]
    assert [future.get(10).offset for future in futures] == list(range(100))
    producer.send_many("t", [b"v" * 500] * 100).get(10)


def test_a_record_over_max_request_size_is_refused(make):
    producer = make(max_request_size=1_000)
    for send in (
        lambda: producer.send("t", b"v" * 1_000),
        lambda: producer.send_many("t", [b"v", b"v" * 1_000]),
    ):
        with pytest.raises(MessageTooLargeError, match="max_request_size"):
            send()


def test_requests_stay_below_max_request_size(make, transport):
    producer = make(max_request_size=3_000, batch_size=1_000, linger_ms=60_000)
    for number in range(60):
        producer.send("wide", b"v" * 200, partition=number % 6)
    producer.flush(5)
    sizes = [sum(len(batch.batch) for batch in request.batches) for request in transport.produces]
    assert max(sizes) <= 3_000
    assert any(len(request.batches) > 1 for request in transport.produces)


@pytest.mark.parametrize("most", [1, 2])
def test_requests_in_flight_are_bounded(most):
    cluster = FakeCluster(brokers=1)
    cluster.create_topic("wide", partitions=6)
    slow = RecordingTransport(cluster)
    with Producer(cluster.bootstrap_servers, transport=slow, max_in_flight=most) as producer:
        producer.send("wide", b"v").get(5)
        slow.holds.set()
        futures = []
        for partition in range(6):
            futures.append(producer.send("wide", b"v", partition=partition))
            eventually(lambda sent=partition + 1: slow.at_once == min(sent, most))
        slow.holds.clear()
        for future in futures:
            future.get(5)
    assert slow.most_at_once == most


def test_retries_are_counted(cluster, make, transport):
    cluster.fail(TOO_FEW, path=routes.PRODUCE, times=1_000)
    with pytest.raises(NotEnoughReplicasError) as caught:
        make(retries=2, retry_backoff_ms=1).send("t", b"v").get(5)
    assert caught.value.outcome is Outcome.NOT_APPLIED
    assert len(transport.produces) == 3
    assert values(cluster) == []


def test_retries_back_off(cluster, make, transport):
    cluster.fail(TOO_FEW, path=routes.PRODUCE, times=2)
    make(retry_backoff_ms=100, retry_backoff_max_ms=100).send("t", b"v").get(5)
    first, second, third = [
        each.at_s for each in transport.to(routes.PRODUCE) if each.body != b"{}"
    ]
    assert second - first >= 0.09
    assert third - second >= 0.09


def test_delivery_ends_with_its_timeout(cluster, make):
    cluster.fail(TOO_FEW, path=routes.PRODUCE, times=10_000)
    # The attempts are over in the first half of it: one under way at the end is of unknown outcome.
    producer = make(delivery_timeout_ms=900, request_timeout_ms=500, retry_backoff_ms=10)
    started = time.monotonic()
    with pytest.raises(DeliveryTimeoutError) as caught:
        producer.send("t", b"v").get(30)
    assert 0.85 <= time.monotonic() - started < 30
    assert caught.value.outcome is Outcome.NOT_APPLIED
    assert isinstance(caught.value.__cause__, NotEnoughReplicasError)


def test_what_perhaps_was_appended_is_never_denied(cluster, make):
    cluster.fail(LOST, path=routes.PRODUCE, times=10_000, after_append=True)
    # Time enough for a first attempt, without which the outcome would be known.
    producer = make(delivery_timeout_ms=1_000, request_timeout_ms=200, retry_backoff_ms=10)
    with pytest.raises(DeliveryTimeoutError) as caught:
        producer.send("t", b"v").get(30)
    assert caught.value.outcome is Outcome.UNKNOWN
    assert values(cluster) == [b"v"]


def test_a_request_is_given_its_timeout(make, transport):
    make(request_timeout_ms=1_234).send("t", b"v").get(5)
    assert {each.timeout_ms for each in transport.to(routes.PRODUCE) if each.body != b"{}"} == {
        1_234
    }
    assert transport.produces[0].timeout_ms == 1_234


def test_retries_store_a_record_once_with_idempotence_and_twice_without(cluster, make, transport):
    for is_on, copies in ((True, 1), (False, 2)):
        cluster.fail(LOST, path=routes.PRODUCE, after_append=True)
        producer = make(enable_idempotence=is_on, retry_backoff_ms=1)
        value = b"%d" % is_on
        producer.send("t", value).get(5)
        assert values(cluster).count(value) == copies
    assert transport.headers[0].producer_id != NO_PRODUCER_ID
    assert transport.headers[-1].producer_id == NO_PRODUCER_ID


def test_metadata_is_asked_for_again_when_it_is_old(make, transport):
    producer = make(metadata_max_age_ms=50)
    producer.send("t", b"v").get(5)
    deadline_s = time.monotonic() + 5
    while len(transport.to(routes.METADATA)) < 3 and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert len(transport.to(routes.METADATA)) >= 3


def test_interceptors_see_and_change_records(cluster, make):
    acknowledged = []

    class Tracing:
        def on_send(self, record):
            record.headers = {"trace": record.value}

        def on_acknowledgement(self, metadata, error):
            acknowledged.append((metadata, error))

    producer = make(interceptors=[Tracing()])
    first = producer.send("t", b"a").get(5)
    many = producer.send_many("t", [b"b", b"c"]).get(5)
    producer.flush(5)
    assert [record.headers for record in cluster.records("t")] == [
        (("trace", value),) for value in (b"a", b"b", b"c")
    ]
    assert sorted(acknowledged) == sorted((each, None) for each in (first, *many))


# --- failures -----------------------------------------------------------------------------------


def test_a_leader_that_moves_costs_nothing(cluster, make):
    producer = make()
    assert producer.send("t", b"a").get(5).offset == 0
    leader = producer.partitions_for("t")[0].leader
    cluster.move_leader("t", 0, leader % 3 + 1)
    assert producer.send("t", b"b").get(5).offset == 1
    assert producer.metrics()["batches_retried"] == 1


def test_an_unknown_topic_is_an_error_at_once(make):
    with pytest.raises(UnknownTopicOrPartitionError):
        make().send("nowhere", b"v")
    with pytest.raises(UnknownTopicOrPartitionError):
        make().partitions_for("nowhere")


def test_a_topic_that_is_deleted_is_noticed(cluster, make):
    producer = make()
    producer.send("t", b"v").get(5)
    with cluster.admin() as admin:
        admin.delete_topic("t")
    with pytest.raises(UnknownTopicOrPartitionError):
        producer.send("t", b"v").get(5)
    deadline_s = time.monotonic() + 5
    while "t" in producer._routes and time.monotonic() < deadline_s:
        time.sleep(0.01)
    with pytest.raises(UnknownTopicOrPartitionError):
        producer.send("t", b"v")
    cluster.create_topic("t", partitions=1)
    assert producer.send("t", b"w").get(5).offset == 0


def test_nobody_there_is_told_with_every_reason(cluster, make):
    cluster.fail(
        BrokerUnreachableError("connection refused", outcome=Outcome.NOT_APPLIED),
        path=routes.METADATA,
        times=10_000,
    )
    with pytest.raises(ClusterUnreachableError) as caught:
        # Time enough to ask each of them.
        make(max_block_ms=1_000).send("t", b"v")
    assert set(caught.value.reasons) == set(cluster.bootstrap_servers)


def test_brokers_without_producer_ids_fail_the_records(cluster, make):
    cluster.fail(NotFoundError("no such path"), path=routes.PRODUCER_IDS, times=1)
    with pytest.raises(NotFoundError):
        make().send("t", b"v").get(5)


def test_on_delivery_is_told_of_failures_and_its_own_do_no_harm(cluster, make, caplog):
    told = []

    def broken(error, metadata):
        told.append((error, metadata))
        raise ValueError("in the callback")

    cluster.fail(TOO_FEW, path=routes.PRODUCE, times=1)
    producer = make(retries=0, enable_idempotence=False)
    future = producer.send("t", b"v", on_delivery=broken)
    assert isinstance(future.exception(5), NotEnoughReplicasError)
    producer.send("t", b"w").get(5)
    producer.flush(5)
    assert told == [(future.exception(), None)]
    assert any("callback" in record.message for record in caplog.records)
    assert {record.name.split(".")[0] for record in caplog.records} == {"ottla"}


def test_a_defect_of_the_transport_leaves_nobody_waiting(cluster):
    class Broken:
        async def get(self, *_, **__):
            raise ZeroDivisionError

        async def close(self):
            pass

    producer = Producer(cluster.bootstrap_servers, transport=Broken())
    for _ in range(2):
        with pytest.raises(Exception, match="ZeroDivisionError"):
            producer.send("t", b"v")
    producer.close()


# --- waiting and ending -------------------------------------------------------------------------


def test_waiting_ends_with_its_timeout_and_may_be_repeated(make, transport):
    producer = make()
    producer.partitions_for("t")
    transport.holds.set()
    future = producer.send("t", b"v")
    assert not future.done()
    with pytest.raises(WaitTimedOutError):
        future.get(timeout=0.01)
    with pytest.raises(TimeoutError):
        producer.flush(timeout=0.01)
    called = threading.Event()
    future.add_done_callback(lambda each: called.set() if each is future else None)
    transport.holds.clear()
    assert future.get(5).offset == 0
    assert called.wait(5)
    assert future.exception() is None


def test_close_sends_what_is_there(cluster, transport):
    with Producer(cluster.bootstrap_servers, transport=transport, linger_ms=60_000) as producer:
        future = producer.send("t", b"v")
    assert future.get(0).offset == 0
    assert not transport.is_closed, "it is the caller's"
    producer.close()
    for call in (
        lambda: producer.send("t", b"v"),
        lambda: producer.send_many("t", [b"v"]),
        producer.flush,
        lambda: producer.partitions_for("wide"),
    ):
        with pytest.raises(ProducerClosedError):
            call()


def test_close_fails_what_it_has_no_time_for(cluster, make):
    cluster.fail(TOO_FEW, path=routes.PRODUCE, times=10_000)
    # The refusal is here and the next attempt far: one under way would be of unknown outcome.
    producer = make(retry_backoff_ms=60_000, retry_backoff_max_ms=60_000)
    future = producer.send("t", b"v")
    eventually(lambda: producer.metrics()["batches_retried"] == 1)
    producer.close(timeout=0.05)
    with pytest.raises(ProducerClosedError) as caught:
        future.get(5)
    assert caught.value.outcome is Outcome.NOT_APPLIED


def test_close_from_a_callback_does_not_hang(cluster, make):
    producer = make()
    producer.send("t", b"v", on_delivery=lambda *_: producer.close())
    deadline_s = time.monotonic() + 5
    while time.monotonic() < deadline_s and not producer._background._ended.is_set():
        time.sleep(0.01)
    assert producer._background._ended.is_set()


def test_waiting_in_a_callback_is_refused_and_sending_is_not(cluster, make):
    producer = make()
    told = []

    def callback(error, metadata):
        later = producer.send("t", b"second")
        for wait in (later.get, producer.flush, lambda: producer.partitions_for("wide")):
            try:
                wait()
            except WaitTimedOutError as refused:
                told.append(refused)
        later.add_done_callback(told.append)

    producer.send("t", b"first", on_delivery=callback).get(5)
    deadline_s = time.monotonic() + 5
    while len(told) < 4 and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert [type(each).__name__ for each in told] == ["WaitTimedOutError"] * 3 + ["RecordFuture"]
    assert values(cluster) == [b"first", b"second"]


def test_many_threads_share_a_producer(cluster, make):
    producer = make(batch_size=500, buffer_memory=20_000)
    futures = []

    def work(number):
        futures.extend(producer.send("wide", b"%d:%d" % (number, index)) for index in range(300))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    places = {future.get(10) for future in futures}
    assert len({(each.partition, each.offset) for each in places}) == 2_400
    assert len(set(values(cluster, "wide"))) == 2_400
    metrics = producer.metrics()
    assert metrics["records_sent"] == metrics["records_acknowledged"] == 2_400
    assert metrics["buffer_available_bytes"] == 20_000


def test_a_dropped_producer_warns_and_ends_its_thread(cluster, transport):
    producer = Producer(cluster.bootstrap_servers, transport=transport)
    future = producer.send("t", b"v")
    background = producer._background
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del producer
        gc.collect()
    # The collector may come upon what other tests have left, too.
    told = [each for each in caught if "roducer" in str(each.message)]
    assert [each.category for each in told] == [ResourceWarning]
    assert future.get(5).offset == 0
    assert background._ended.wait(5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_is_told_so(cluster, make):
    producer = make()
    producer.send("t", b"v").get(5)
    waiting = producer.send("t", b"w")
    child = os.fork()
    if child == 0:
        told = []
        for call in (
            lambda: producer.send("t", b"v"),
            lambda: producer.send_many("t", [b"v"]),
            producer.flush,
        ):
            try:
                call()
            except ForkedProcessError:
                told.append(True)
        producer.close()
        os._exit(0 if len(told) == 3 else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert waiting.get(5).offset == 1
    assert producer.send("t", b"x").get(5).offset == 2


def test_records_of_a_producer_that_nobody_closed_are_sent_at_the_exit():
    program = """
        import atexit
        from ottla.testing import FakeCluster
        cluster = FakeCluster()
        cluster.create_topic("t", partitions=1)
        atexit.register(lambda: print(len(cluster.records("t"))))
        producer = cluster.producer(linger_ms=60_000)
        producer.send("t", b"v")
        """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert run.stdout == "1\n"
    assert run.stderr == ""
