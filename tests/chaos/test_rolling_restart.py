"""All brokers are restarted one after the other under load, and nobody loses anything by it.

Plain HTTP clients go to one broker after the other; what a broker did not apply they send once
more to the next. Nothing acknowledged is lost, no request needs a second retry, and the SDK's
producer and its consumer in a group see no error. The rounds go on until OTTLA_SOAK_SECONDS are
over, one at least; failures and the longest gaps are told in one line at the end.
"""

import itertools
import os
import threading
import time
from collections import Counter

import pytest
import urllib3

from ottla import Consumer, Producer
from ottla_ops.local_cluster import LocalCluster
from tests.cluster.awaiting import eventually
from tests.cluster.cluster_client import ClusterClient
from tests.cluster.http_client import HttpClient
from tests.cluster.writers import text_of

pytestmark = pytest.mark.cluster

SECONDS = float(os.environ.get("OTTLA_SOAK_SECONDS", "1"))
RAW, SENT = "raw", "sent"
PARTITIONS = 3
PAUSE_S = 0.01
END_TIMEOUT_S = 60.0
GAP_MAX_S = 15.0
"""No client may stand still for longer; on loaded cores a broker takes seconds to start."""


@pytest.fixture
def client(tmp_path, launch):
    http = HttpClient()
    with LocalCluster(tmp_path / "cluster", launch=launch) as cluster:
        yield ClusterClient(cluster, http)
    http.close()


class Client(threading.Thread):
    """Does one thing again and again until it is told to end; remembers gaps and failures."""

    def __init__(self, name, stop):
        super().__init__(name=name)
        self.counts = Counter()
        self.longest_gap_s = 0.0
        self.failure = None
        self._ended = stop
        self._last_success_s = None

    def run(self):
        try:
            self.work()
        except Exception as error:
            self.failure = error

    def succeeded(self):
        now_s = time.monotonic()
        if self._last_success_s is not None:
            self.longest_gap_s = max(self.longest_gap_s, now_s - self._last_success_s)
        self._last_success_s = now_s
        self.counts["done"] += 1


class HttpWorker(Client):
    """Plain HTTP: each request goes to the next broker, and after a failure to the one behind."""

    def __init__(self, name, stop, client):
        super().__init__(name, stop)
        self.client = client
        self.http = HttpClient()
        self.brokers = itertools.cycle(client.node_ids)

    def work(self):
        for number in itertools.count():
            if self._ended.is_set():
                break
            self.request(number)
            self._ended.wait(PAUSE_S)
        self.http.close()

    def request(self, number):
        for attempt in range(len(self.client.node_ids) + 1):
            outcome = self.attempt(number, self.client.url(next(self.brokers)))
            if outcome is None:
                self.succeeded()
                self.counts["second retries"] += attempt > 1
                return
            self.counts[outcome] += 1
            if outcome == "unknown":
                return
        self.counts["gave up"] += 1


class HttpProducer(HttpWorker):
    def __init__(self, name, stop, client):
        super().__init__(name, stop, client)
        self.acknowledged = {}

    def attempt(self, number, url):
        value = f"{self.name}-{number}"
        try:
            answer = self.http.post(
                f"{url}/v1/topics/{RAW}/partitions/{number % PARTITIONS}/records",
                {"records": [{"value": value}]},
            )
        except urllib3.exceptions.NewConnectionError:
            return "refused"
        except urllib3.exceptions.HTTPError as error:
            self.counts[type(error).__name__] += 1
            return "unknown"
        if answer.status == 200:
            (place,) = answer.document["records"]
            self.acknowledged[place["partition"], place["offset"]] = value
            return None
        self.counts[answer.document["detail"]] += 1
        return answer.document["outcome"]


class HttpConsumer(HttpWorker):
    def __init__(self, name, stop, client):
        super().__init__(name, stop, client)
        self.next_offsets = dict.fromkeys(range(PARTITIONS), 0)

    def attempt(self, number, url):
        partition = number % PARTITIONS
        try:
            answer = self.http.get(
                f"{url}/v1/topics/{RAW}/partitions/{partition}/records",
                offset=self.next_offsets[partition],
                max_wait_ms=200,
            )
        except urllib3.exceptions.NewConnectionError:
            return "refused"
        except urllib3.exceptions.HTTPError as error:
            self.counts[type(error).__name__] += 1
            return "cut"
        if answer.status != 200:
            self.counts[answer.document["detail"]] += 1
            return "failed"
        self.next_offsets[partition] = answer.document["next_offset"]
        return None


class SdkProducer(Client):
    def __init__(self, name, stop, client):
        super().__init__(name, stop)
        self.client = client
        self.futures = []

    def work(self):
        with Producer(
            bootstrap_servers=self.client.cluster.bootstrap, value_serializer="json"
        ) as producer:
            while not self._ended.is_set():
                number = len(self.futures)
                future = producer.send(SENT, number, partition=number % PARTITIONS)
                future.add_done_callback(lambda _: self.succeeded())
                self.futures.append(future)
                self._ended.wait(PAUSE_S)
            producer.flush(END_TIMEOUT_S)


class SdkConsumer(Client):
    def __init__(self, name, stop, client):
        super().__init__(name, stop)
        self.client = client
        self.seen = Counter()

    def work(self):
        with Consumer(
            SENT,
            bootstrap_servers=self.client.cluster.bootstrap,
            group_id="readers",
            auto_offset_reset="earliest",
            value_deserializer="json",
        ) as consumer:
            while not self._ended.is_set():
                found = consumer.poll(0.2).values()
                self.seen.update(record.value for records in found for record in records)
                if found:
                    self.succeeded()


def restart_all(client, until_s):
    """One round at least."""
    rounds = 0
    while rounds == 0 or time.monotonic() < until_s:
        rounds += 1
        for broker in client.cluster.brokers:
            assert broker.terminate() == 0
            broker.start()
            broker.wait_ready()
            # As an operator would wait, with `ottla cluster health --wait`.
            for topic in (RAW, SENT, "__consumer_offsets"):
                client.wait_isr(topic, 3, timeout_s=30)
    return rounds


@pytest.mark.timeout(SECONDS + 4 * END_TIMEOUT_S)
def test_no_client_notices_more_than_one_retry(client):
    for topic in (RAW, SENT):
        client.create_topic(topic, partitions=PARTITIONS, replication_factor=3)
        client.wait_led(topic, partitions=PARTITIONS)
    stop, stop_reading = threading.Event(), threading.Event()
    producers = [HttpProducer(f"http-{number}", stop, client) for number in range(3)]
    reader = HttpConsumer("reader", stop, client)
    sender = SdkProducer("sender", stop, client)
    consumer = SdkConsumer("consumer", stop_reading, client)
    workers = [*producers, reader, sender, consumer]
    for worker in workers:
        worker.start()
    try:
        for worker in workers:
            eventually(lambda w=worker: w.counts["done"] > 0 or w.failure is not None, 60)
        rounds = restart_all(client, time.monotonic() + SECONDS)
        stop.set()
        for worker in (*producers, reader, sender):
            worker.join(END_TIMEOUT_S)
        eventually(lambda: len(consumer.seen) >= len(sender.futures), END_TIMEOUT_S)
    finally:
        stop.set()
        stop_reading.set()
        for worker in workers:
            worker.join(END_TIMEOUT_S)
        told = {w.name: (dict(w.counts), round(w.longest_gap_s, 2)) for w in workers}
        print(f"counts and longest gaps in s: {told}")
    print(f"{rounds} rounds")
    assert [worker.failure for worker in workers] == [None] * len(workers)
    assert not any(worker.is_alive() for worker in workers)

    copies = client.wait_replicas_equal(RAW, partitions=PARTITIONS, timeout_s=30)
    stored = {
        (partition, record["offset"]): text_of(record)
        for partition, records in copies.items()
        for record in records
    }
    for producer in producers:
        for place, value in producer.acknowledged.items():
            assert stored.get(place) == value
        assert producer.counts["gave up"] == producer.counts["second retries"] == 0
    # Where a machine is too busy to hand over in time, one may be told that nobody knows.
    assert sum(producer.counts["unknown"] for producer in producers) <= rounds
    assert len(set(stored.values())) == len(stored), "stored twice"
    assert reader.counts["second retries"] == reader.counts["gave up"] == 0
    for number, future in enumerate(sender.futures):
        assert future.get(0) is not None
        assert consumer.seen[number] >= 1
    assert max(worker.longest_gap_s for worker in workers) < GAP_MAX_S
