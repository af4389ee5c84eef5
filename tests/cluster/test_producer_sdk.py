"""The SDK's producers against real brokers, which are killed and paused under them."""

import asyncio
import base64
import json
import subprocess
import sys
import textwrap
import threading
import time
from itertools import count

import pytest

from ottla import (
    BufferExhaustedError,
    ClusterUnreachableError,
    DeliveryTimeoutError,
    MessageTooLargeError,
    Outcome,
    Producer,
    UnknownTopicOrPartitionError,
    aio,
)
from ottla._transport import AiohttpTransport, BrokerUnreachableError
from ottla_ops.local_cluster import free_ports
from tests.cluster.awaiting import eventually

pytestmark = pytest.mark.cluster


def urls(client):
    return [client.url(node_id) for node_id in client.node_ids]


def stored_values(client, topic, partition=0):
    """Every value of the partition by offset, as text."""
    _, records = client.local_records(client.leader(topic, partition), topic, partition)
    documents = [json.loads(record) for record in records]
    offsets = [document["offset"] for document in documents]
    return dict(zip(offsets, values_of(documents), strict=True))


def values_of(records):
    return [base64.b64decode(record["value_b64"]).decode() for record in records]


def test_a_record_is_where_its_future_says(shared, topic):
    told = []
    with Producer(urls(shared), value_serializer="json", key_serializer="string") as producer:
        future = producer.send(
            topic,
            {"id": 1},
            key="user-1",
            headers={"trace": b"abc"},
            timestamp=1_700_000_000_000,
            on_delivery=lambda error, metadata: told.append((error, metadata)),
        )
        metadata = future.get(timeout=10)
    assert (metadata.topic, metadata.partition, metadata.offset) == (topic, 0, 0)
    assert metadata.timestamp == 1_700_000_000_000
    assert told == [(None, metadata)]
    [record] = shared.read(topic, offset=0).expect(200).document["records"]
    assert record["value"] == {"id": 1}
    assert record["key"] == "user-1"
    assert record["timestamp"] == 1_700_000_000_000
    assert record["headers"], record


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
@pytest.mark.parametrize("acks", [0, 1, "all"])
def test_every_acks_and_compression_stores_every_record(shared, topic, acks, compression):
    wanted = [f"value-{index:05}" for index in range(500)]
    with Producer(urls(shared), acks=acks, compression=compression, linger_ms=5) as producer:
        futures = [producer.send(topic, value.encode()) for value in wanted]
        offsets = [future.get(timeout=20).offset for future in futures]
    assert offsets == ([-1] * 500 if acks == 0 else list(range(500)))
    eventually(lambda: len(stored_values(shared, topic)) == 500)
    assert list(stored_values(shared, topic).values()) == wanted


def test_many_records_at_once_keep_their_order_in_each_partition(shared, topic):
    name = f"{topic}-many"
    shared.create_topic(name, partitions=3, replication_factor=3)
    keys = [b"key-%d" % (index % 50) for index in range(5_000)]
    values = [b"%06d" % index for index in range(5_000)]
    with Producer(urls(shared)) as producer:
        report = producer.send_many(name, values, keys).get(timeout=30)
    stored = {
        (partition, offset): value
        for partition in range(3)
        for offset, value in stored_values(shared, name, partition).items()
    }
    assert len(stored) == 5_000
    for metadata, value in zip(report, values, strict=True):
        assert int(stored[metadata.partition, metadata.offset]) == int(value)
    for partition in range(3):
        offsets = [each.offset for each in report if each.partition == partition]
        assert offsets == sorted(offsets)


async def test_the_asyncio_producer_does_the_same(shared, topic):
    threads = set(threading.enumerate())
    async with aio.Producer(urls(shared)) as producer:
        futures = [await producer.send(topic, b"%d" % index) for index in range(300)]
        metadata = await asyncio.gather(*futures)
        many = await (await producer.send_many(topic, [b"x"] * 300))
        # Only the resolver of names may have made one; addresses need none.
        # One of an earlier test may end meanwhile.
        assert set(threading.enumerate()) <= threads
        with pytest.raises(UnknownTopicOrPartitionError):
            await producer.send("no-such-topic", b"x")
    assert [each.offset for each in metadata] == list(range(300))
    assert [each.offset for each in many] == list(range(300, 600))


def test_a_topic_that_does_not_exist_is_an_error_at_once(shared):
    with Producer(urls(shared)) as producer:
        started = time.monotonic()
        with pytest.raises(UnknownTopicOrPartitionError, match="no-such-topic"):
            producer.send("no-such-topic", b"x")
        assert time.monotonic() - started < 5


def test_a_batch_over_the_topics_limit_fails_and_the_next_one_does_not(shared, topic):
    shared.create_topic(f"{topic}-small", partitions=1, configs={"max.message.bytes": 2_000})
    with Producer(urls(shared)) as producer:
        small = producer.send(f"{topic}-small", b"a")
        small.get(timeout=10)
        too_large = producer.send(f"{topic}-small", b"x" * 4_000)
        with pytest.raises(MessageTooLargeError) as caught:
            too_large.get(timeout=10)
        assert caught.value.outcome is Outcome.NOT_APPLIED
        assert producer.send(f"{topic}-small", b"b").get(timeout=10).offset == 1


def test_nobody_there_names_every_url():
    down = [f"http://127.0.0.1:{port}" for port in free_ports(2)]
    with Producer(down, max_block_ms=500) as producer:
        started = time.monotonic()
        with pytest.raises(ClusterUnreachableError) as caught:
            producer.send("flights", b"x")
        assert 0.4 < time.monotonic() - started < 5
    for url in down:
        assert url in str(caught.value)
        assert "refused" in caught.value.reasons[url]


class Load:
    """Keyed records without end, from one thread, until `stop`."""

    def __init__(self, producer, topic, name="load", keys=7):
        self.producer = producer
        self.topic = topic
        self.name = name
        self.keys = keys
        self.futures = []
        self.error = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "send() hangs"

    @property
    def acknowledged(self):
        return sum(1 for future in list(self.futures) if future.done())

    def wait_for_more(self, records=500, timeout_s=30.0):
        wanted = self.acknowledged + records
        eventually(lambda: self.acknowledged >= wanted, timeout_s)

    def value(self, number):
        return f"{self.name}:{number % self.keys}:{number}"

    def _run(self):
        number = 0
        try:
            while not self._stop.is_set():
                key = b"%d" % (number % self.keys)
                future = self.producer.send(self.topic, self.value(number).encode(), key=key)
                self.futures.append(future)
                number += 1
                if number % 50 == 0:
                    self._stop.wait(0.005)
        except Exception as error:
            self.error = error


def check_all(loads, copies):
    """Every record exactly once where its future says, in order per producer and key."""
    found = {
        (partition, record["offset"]): value
        for partition, records in copies.items()
        for record, value in zip(records, values_of(records), strict=True)
    }
    assert len(set(found.values())) == len(found), "stored twice"
    for load in loads:
        assert load.error is None, load.error
        for number, future in enumerate(load.futures):
            metadata = future.get(timeout=60)
            assert found[metadata.partition, metadata.offset] == load.value(number)
    assert len(found) == sum(len(load.futures) for load in loads)
    last = {}
    for _, value in sorted(found.items()):
        # A key has one partition, so the order over all of them is that within it.
        writer, key, number = value.split(":")
        assert int(number) > last.get((writer, key), -1), "out of order"
        last[writer, key] = int(number)


class AnswersGetLost:
    """The real network, save that every so often an answer does not arrive."""

    def __init__(self, every):
        self._network = AiohttpTransport(client_id="chaos", connections_per_broker=8)
        self._turns = count(1)
        self._every = every
        self.lost = 0

    async def post(self, url, path, body, **options):
        answer = await self._network.post(url, path, body, **options)
        if next(self._turns) % self._every == 0:
            self.lost += 1
            raise BrokerUnreachableError(f"{url}: cut", outcome=Outcome.UNKNOWN)
        return answer

    async def get(self, url, path, **options):
        return await self._network.get(url, path, **options)

    async def close(self):
        await self._network.close()


def test_lost_answers_and_killed_leaders_together_cost_nothing(start_cluster):
    client = start_cluster()
    client.create_topic("flights", partitions=4, replication_factor=3)
    client.wait_led("flights", partitions=4)
    networks = [AnswersGetLost(every) for every in (2, 3, 5, 7)]
    producers = [
        Producer(urls(client), transport=network, retry_backoff_ms=20) for network in networks
    ]
    loads = [
        Load(producer, "flights", name=f"load-{number}")
        for number, producer in enumerate(producers)
    ]
    try:
        for load in loads:
            load.__enter__()
        for load in loads:
            load.wait_for_more(200, timeout_s=60)
        victim = client.cluster.broker(client.leader("flights"))
        victim.kill()
        for load in loads:
            load.wait_for_more(200, timeout_s=60)
        victim.start()
        victim.wait_ready()
        client.wait_isr("flights", 3, timeout_s=30)
    finally:
        for load in loads:
            load.stop()
    for producer in producers:
        producer.flush(timeout=60)
    assert all(network.lost for network in networks)
    check_all(loads, client.wait_replicas_equal("flights", partitions=4, timeout_s=30))
    for producer in producers:
        # Its connections belong to the loop of the producer's thread.
        producer._background._owns_transport = True
        producer.close()


def test_leaders_that_are_killed_cost_no_record_and_no_order(start_cluster):
    client = start_cluster()
    client.create_topic("flights", partitions=3, replication_factor=3)
    client.wait_led("flights", partitions=3)
    with Producer(urls(client), linger_ms=1) as producer:
        with Load(producer, "flights") as load:
            load.wait_for_more()
            for partition in (0, 1):
                victim = client.cluster.broker(client.leader("flights", partition))
                victim.kill()
                load.wait_for_more()
                victim.start()
                victim.wait_ready()
                client.wait_isr("flights", 3)
            load.wait_for_more()
            load.stop()
        producer.flush(timeout=60)
        assert producer.metrics()["batches_retried"] > 0
        check_all([load], client.wait_replicas_equal("flights", partitions=3))


def test_a_leader_that_stands_still_costs_no_record_and_no_order(start_cluster):
    client = start_cluster()
    client.create_topic("flights", partitions=2, replication_factor=3)
    client.wait_led("flights", partitions=2)
    with Producer(urls(client), request_timeout_ms=2_000) as producer:
        with Load(producer, "flights") as load:
            load.wait_for_more()
            paused = client.cluster.broker(client.leader("flights"))
            paused.pause()
            load.wait_for_more(timeout_s=60)
            paused.resume()
            client.wait_isr("flights", 3)
            load.wait_for_more()
            load.stop()
        producer.flush(timeout=60)
        check_all([load], client.wait_replicas_equal("flights", partitions=2))


def test_what_cannot_be_delivered_fails_with_the_cause(start_cluster):
    client = start_cluster()
    client.create_topic("flights", partitions=1, replication_factor=3)
    client.wait_led("flights")
    producer = Producer(
        urls(client),
        request_timeout_ms=1_000,
        delivery_timeout_ms=6_000,
        buffer_memory=40_000,
        max_block_ms=2_000,
    )
    with producer:
        producer.send("flights", b"first").get(timeout=10)
        client.cluster.kill()
        future = producer.send("flights", b"second")
        with pytest.raises(BufferExhaustedError):
            producer.send_many("flights", [b"x" * 1_000] * 1_000)
        with pytest.raises(DeliveryTimeoutError) as caught:
            future.get(timeout=30)
        assert "refused" in str(caught.value)
        assert caught.value.__cause__ is not None


GEVENT_PROGRAM = """
    from gevent import monkey
    monkey.patch_all()
    import gevent, sys
    from ottla import Producer
    url, topic = sys.argv[1:]
    ticks = []
    def tick():
        while True:
            ticks.append(1)
            gevent.sleep(0.001)
    ticking = gevent.spawn(tick)
    with Producer(url) as one, Producer(url.replace("127.0.0.1", "localhost")) as two:
        def work(producer):
            for index in range(50):
                producer.send(topic, b"%d" % index).get(timeout=20)
        greenlets = [gevent.spawn(work, producer) for producer in (one, two, one)]
        gevent.joinall(greenlets, raise_error=True)
        one.flush(timeout=10)
    assert len(ticks) > 20, len(ticks)
    print("sent")
"""


def test_it_works_in_a_program_patched_by_gevent(shared, topic):
    pytest.importorskip("gevent")
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(GEVENT_PROGRAM), shared.any_url(), topic],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "sent" in run.stdout
    assert len(stored_values(shared, topic)) == 150
