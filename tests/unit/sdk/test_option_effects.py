"""Each option of the producer, by what it changes for the brokers or the caller."""

import asyncio
import contextlib
import threading
from time import monotonic

import msgspec
import pytest

from ottla import Producer
from ottla._errors import BufferExhaustedError, ClusterUnreachableError, DeliveryTimeoutError
from ottla.testing import FakeCluster, FakeTransport
from ottla_protocol import routes
from ottla_protocol.errors import (
    InsufficientStorageError,
    MessageTooLargeError,
    NotEnoughReplicasError,
    Outcome,
    UnknownTopicOrPartitionError,
)
from ottla_protocol.models import BinaryProduceRequest
from ottla_protocol.record_batch import Compression, read_header
from tests.cluster.awaiting import eventually
from tests.unit.sdk.admin_server import AnsweringServer

WAIT_S = 10


@pytest.fixture
def cluster():
    """One broker, so that it leads everything."""
    made = FakeCluster(brokers=1)
    made.create_topic("flights", partitions=2)
    return made


def produced(cluster):
    """The produce requests that the brokers got."""
    return [
        msgspec.msgpack.decode(request.body, type=BinaryProduceRequest)
        for request in cluster.requests
        if request.path == routes.PRODUCE
    ]


def headers(cluster):
    return [read_header(batch.batch) for request in produced(cluster) for batch in request.batches]


def send_ten(cluster, **options):
    with cluster.producer(**options) as producer:
        for number in range(10):
            producer.send("flights", b"%d" % number * 50, partition=0)
    assert len(cluster.records("flights")) == 10
    return headers(cluster)


def know_topic(producer):
    """Have it know the topic's leaders, which may take longer than its `max_block_ms`."""

    def known():
        with contextlib.suppress(ClusterUnreachableError):
            return producer.partitions_for("flights")

    eventually(known)


class WatchingTransport(FakeTransport):
    """Notes what it is asked, and holds produce requests back while it is told to."""

    def __init__(self, cluster):
        super().__init__(cluster)
        self.timeouts = {}
        self.held = 0
        self.holds = threading.Event()

    async def request(self, method, url, path, body, *, timeout_ms):
        route = path.partition("?")[0]
        self.timeouts.setdefault(route, set()).add(timeout_ms)
        if route == routes.PRODUCE and self.holds.is_set():
            self.held += 1
            while self.holds.is_set():  # noqa: ASYNC110  the test's thread holds it
                await asyncio.sleep(0.002)
            self.held -= 1
        return await super().request(method, url, path, body, timeout_ms=timeout_ms)


@pytest.mark.parametrize(("acks", "wire"), [("all", -1), (1, 1), (0, 0)])
def test_acks(cluster, acks, wire):
    send_ten(cluster, acks=acks)
    assert {request.acks for request in produced(cluster)} == {wire}


@pytest.mark.parametrize("is_on", [True, False])
def test_enable_idempotence(cluster, is_on):
    assert {header.has_producer for header in send_ten(cluster, enable_idempotence=is_on)} == {
        is_on
    }


@pytest.mark.parametrize("codec", Compression)
def test_compression(cluster, codec):
    found = send_ten(cluster, compression=codec.name.lower())
    assert {header.compression for header in found} == {codec}


def test_batch_size(cluster):
    assert len(send_ten(cluster, batch_size=1, linger_ms=20)) == 10
    assert sum(header.record_count for header in headers(cluster)) == 10


def test_linger_ms(cluster):
    with cluster.producer(linger_ms=100) as producer:
        started = monotonic()
        producer.send("flights", b"v", partition=0).get(timeout=WAIT_S)
        assert (monotonic() - started) * 1000 >= 95
    # Longer than a busy machine takes from one record to another.
    with cluster.producer(linger_ms=60_000) as producer:
        futures = [producer.send("flights", b"v", partition=0) for _ in range(10)]
        producer.flush(WAIT_S)
        assert all(future.done() for future in futures)
    assert [header.record_count for header in headers(cluster)] == [1, 10]


def test_buffer_memory_and_max_block_ms(cluster):
    transport = WatchingTransport(cluster)
    transport.holds.set()
    options = {"buffer_memory": 10_000, "max_block_ms": 50, "batch_size": 1_000}
    with Producer(cluster.bootstrap_servers, transport=transport, **options) as producer:
        know_topic(producer)
        accepted, started = [], monotonic()

        def send_too_many():
            nonlocal started
            for _ in range(100):
                started = monotonic()
                producer.send("flights", bytes(500), partition=0)
                accepted.append(started)

        with pytest.raises(BufferExhaustedError, match="10000"):
            send_too_many()
        assert (monotonic() - started) * 1000 >= 45
        assert 5 <= len(accepted) <= 20
        transport.holds.clear()
    assert len(cluster.records("flights")) == len(accepted)


def test_max_block_ms_while_nobody_answers(cluster):
    cluster.stop_broker(1)
    # Time enough that the broker is asked at least once.
    with cluster.producer(max_block_ms=500, retry_backoff_ms=1) as producer:
        started = monotonic()
        with pytest.raises(ClusterUnreachableError) as caught:
            producer.send("flights", b"v")
        assert 0.495 <= monotonic() - started < WAIT_S
    assert caught.value.reasons == {cluster.bootstrap_servers[0]: "connection refused"}


def test_max_request_size(cluster):
    with cluster.producer(max_request_size=2_000, batch_size=500, linger_ms=20) as producer:
        with pytest.raises(MessageTooLargeError, match="2000"):
            producer.send("flights", bytes(2_000))
        for _ in range(40):
            producer.send("flights", bytes(400), partition=0)
    sizes = [sum(len(batch.batch) for batch in request.batches) for request in produced(cluster)]
    assert len(cluster.records("flights")) == 40
    assert max(sizes) <= 2_000


@pytest.mark.parametrize("most", [1, 2])
def test_max_in_flight(cluster, most):
    transport = WatchingTransport(cluster)
    with Producer(cluster.bootstrap_servers, transport=transport, max_in_flight=most) as producer:
        # Each partition's first batch is settled alone, whatever the limit.
        for partition in range(2):
            producer.send("flights", b"v", partition=partition).get(timeout=WAIT_S)
        transport.holds.set()
        futures = [producer.send("flights", b"v", partition=0)]
        eventually(lambda: transport.held == 1)
        futures.append(producer.send("flights", b"v", partition=1))
        if most == 1:
            with pytest.raises(AssertionError):
                eventually(lambda: transport.held == 2, timeout_s=0.3)
        else:
            eventually(lambda: transport.held == 2)
        transport.holds.clear()
        for future in futures:
            future.get(timeout=WAIT_S)


@pytest.mark.parametrize("retries", [0, 2])
def test_retries(cluster, retries):
    cluster.fail(NotEnoughReplicasError("one is in sync"), times=100)
    with (
        cluster.producer(retries=retries, retry_backoff_ms=1) as producer,
        pytest.raises(NotEnoughReplicasError),
    ):
        producer.send("flights", b"v").get(timeout=WAIT_S)
    assert len(produced(cluster)) == retries + 1


def test_retry_backoff_ms(cluster):
    cluster.fail(NotEnoughReplicasError("one is in sync"), times=1)
    with cluster.producer(retry_backoff_ms=300) as producer:
        started = monotonic()
        producer.send("flights", b"v").get(timeout=WAIT_S)
        assert (monotonic() - started) * 1000 >= 225  # Less the jitter.


def test_retry_backoff_max_ms(cluster):
    cluster.fail(NotEnoughReplicasError("one is in sync"), times=14)
    # Doubled fourteen times without a bound, one millisecond adds up to sixteen seconds.
    with cluster.producer(retry_backoff_ms=1, retry_backoff_max_ms=2) as producer:
        started = monotonic()
        producer.send("flights", b"v").get(timeout=WAIT_S)
        assert monotonic() - started < 8


def test_request_timeout_ms(cluster):
    transport = WatchingTransport(cluster)
    with Producer(
        cluster.bootstrap_servers, transport=transport, request_timeout_ms=1_234
    ) as producer:
        producer.send("flights", b"v").get(timeout=WAIT_S)
    assert {request.timeout_ms for request in produced(cluster)} <= set(range(1, 1_235))
    assert max(max(each) for each in transport.timeouts.values()) < 3_000


def test_delivery_timeout_ms(cluster):
    cluster.fail(NotEnoughReplicasError("one is in sync"), times=1_000_000)
    # Time enough that it is refused at least once, and that the refusal comes in time.
    options = {"request_timeout_ms": 500, "delivery_timeout_ms": 800, "retry_backoff_ms": 1}
    with cluster.producer(**options) as producer:
        started = monotonic()
        with pytest.raises(DeliveryTimeoutError, match="800 ms") as caught:
            producer.send("flights", b"v").get(timeout=WAIT_S)
        assert 0.795 <= monotonic() - started < WAIT_S
    assert isinstance(caught.value.__cause__, NotEnoughReplicasError)


def test_a_full_disk_is_waited_out_within_delivery_timeout_ms(cluster):
    cluster.fail(InsufficientStorageError("no room", outcome=Outcome.NOT_APPLIED), times=3)
    with cluster.producer(retry_backoff_ms=1) as producer:
        assert producer.send("flights", b"v").get(timeout=WAIT_S).offset == 0
    cluster.fail(InsufficientStorageError("no room", outcome=Outcome.NOT_APPLIED), times=1_000_000)
    # Each attempt has ample time for its answer, as one without would leave the outcome open: the
    # waits are doubled, and the last attempt is about 300 ms before the end.
    options = {"request_timeout_ms": 500, "delivery_timeout_ms": 800, "retry_backoff_ms": 1}
    with cluster.producer(**options) as producer, pytest.raises(DeliveryTimeoutError) as caught:
        producer.send("flights", b"v").get(timeout=WAIT_S)
    assert isinstance(caught.value.__cause__, InsufficientStorageError)
    assert caught.value.outcome is Outcome.NOT_APPLIED


def test_metadata_max_age_ms(cluster):
    def asked():
        return sum(request.path.startswith(routes.METADATA) for request in cluster.requests)

    with cluster.producer() as producer:
        producer.send("flights", b"v").get(timeout=WAIT_S)
        producer.send("flights", b"v").get(timeout=WAIT_S)
    assert asked() == 1
    with cluster.producer(metadata_max_age_ms=5) as producer:
        producer.send("flights", b"v").get(timeout=WAIT_S)
        eventually(lambda: asked() >= 4)


def test_interceptors(cluster):
    seen = []

    class First:
        def on_send(self, record):
            record.value += b"1"
            return record

    class Second:
        def on_send(self, record):
            record.value += b"2"

        def on_acknowledgement(self, metadata, error):
            seen.append((metadata.partition, metadata.offset, error))

    with cluster.producer(interceptors=[First(), Second()]) as producer:
        producer.send("flights", b"v", partition=1).get(timeout=WAIT_S)
        producer.send_many("flights", [b"w"], partition=1).get(timeout=WAIT_S)
    assert [record.value for record in cluster.records("flights")] == [b"v12", b"w12"]
    assert seen == [(1, 0, None), (1, 1, None)]


def test_client_id_and_bootstrap_servers():
    problem = UnknownTopicOrPartitionError("there is no topic").problem()
    answer = (404, routes.PROBLEM_JSON, msgspec.json.encode(problem))
    with AnsweringServer(lambda *_: answer) as server:
        with (
            Producer(server.address, client_id="me") as producer,
            pytest.raises(UnknownTopicOrPartitionError),
        ):
            producer.send("flights", b"v")
        assert {seen[3]["User-Agent"].split()[0] for seen in server.seen} == {"me"}
