"""Twenty producers while leaders die, stand still and lose answers: every record exactly once.

The run is bounded in time by OTTLA_SOAK_SECONDS (a few seconds in `make test`, minutes in
`make soak`), and told in one line at its end. The order of faults comes from a seed that a failure
prints.
"""

import os
import random
import threading
import time
from collections import Counter, defaultdict

import pytest

from ottla import Producer
from ottla_ops.local_cluster import LocalCluster
from ottla_protocol.errors import OttlaError, Outcome
from tests.chaos.cutting_proxy import CuttingProxy
from tests.cluster.cluster_client import ClusterClient
from tests.cluster.http_client import HttpClient
from tests.cluster.writers import text_of

pytestmark = pytest.mark.cluster

SECONDS = float(os.environ.get("OTTLA_SOAK_SECONDS", "8"))
TOPIC = "orders"
PARTITIONS = 6
PRODUCERS = 20
KEYS_PER_PRODUCER = 5
RECORDS_PER_BURST = 40
PAUSE_BETWEEN_BURSTS_S = 0.1
DELIVERY_TIMEOUT_MS = 60_000
END_TIMEOUT_S = 90.0
FAULT_INTERVAL_S = (0.4, 1.2)
PAUSE_S = (0.5, 5.0)


@pytest.fixture
def http():
    client = HttpClient()
    yield client
    client.close()


@pytest.fixture
def proxies():
    made = [CuttingProxy() for _ in range(3)]
    yield made
    for proxy in made:
        proxy.close()


@pytest.fixture
def client(tmp_path, http, proxies):
    """Three brokers whose clients and peers all come through the proxies."""
    cluster = LocalCluster(
        tmp_path / "cluster",
        broker_settings={
            number: {"OTTLA_ADVERTISED_URL": proxy.url} for number, proxy in enumerate(proxies, 1)
        },
    )
    for broker, proxy in zip(cluster.brokers, proxies, strict=True):
        host, port = broker.listen.split(":")
        proxy.target = (host, int(port))
    with cluster:
        yield ClusterClient(cluster, http)


class Writer(threading.Thread):
    """One producer in one thread; remembers what became of each of its records."""

    def __init__(self, number, bootstrap, stop):
        super().__init__(name=f"producer-{number}")
        self.number = number
        self.failure = None
        self.sent = []
        self._servers = bootstrap
        self._ended = stop

    def run(self):
        try:
            with Producer(
                bootstrap_servers=self._servers,
                value_serializer="json",
                key_serializer="string",
                delivery_timeout_ms=DELIVERY_TIMEOUT_MS,
                request_timeout_ms=5_000,
                linger_ms=2,
            ) as producer:
                while not self._ended.is_set():
                    for _ in range(RECORDS_PER_BURST):
                        position = len(self.sent)
                        key = f"{self.number}-{position % KEYS_PER_PRODUCER}"
                        value = f"{self.number}-{position}"
                        self.sent.append((key, value, producer.send(TOPIC, value, key=key)))
                    self._ended.wait(PAUSE_BETWEEN_BURSTS_S)
                producer.flush(END_TIMEOUT_S)
        except Exception as error:
            self.failure = error

    def outcomes(self):
        """(key, value, (partition, offset) or the error) of every record, in the order of sends."""
        for key, value, future in self.sent:
            try:
                metadata = future.get(0)
                yield key, value, (metadata.partition, metadata.offset)
            except OttlaError as error:
                yield key, value, error


def make_trouble(cluster, proxies, faults, until_s):
    """Kill, pause and cut, one at a time, so that a majority is always there.

    Each of them at least once, however slow the machine; then at random until the time is up.
    """
    told = Counter()
    first = ["cut", "kill", "pause"]
    while first or time.monotonic() < until_s:
        broker = faults.choice(cluster.brokers)
        fault = first.pop(0) if first else faults.choice(("kill", "pause", "cut", "cut"))
        told[fault] += 1
        if fault == "cut":
            for proxy in proxies:
                proxy.cut_next()
        elif fault == "pause":
            broker.pause()
            time.sleep(faults.uniform(*PAUSE_S))
            broker.resume()
            broker.wait_ready()
        else:
            broker.restart()
            broker.wait_ready()
        time.sleep(faults.uniform(*FAULT_INTERVAL_S))
    return told


@pytest.mark.timeout(SECONDS + 2 * END_TIMEOUT_S)
def test_every_acknowledged_record_is_there_exactly_once_and_in_order(client, proxies):
    seed = random.SystemRandom().getrandbits(32)
    client.create_topic(TOPIC, partitions=PARTITIONS, replication_factor=3)
    client.wait_led(TOPIC, partitions=PARTITIONS)
    stop = threading.Event()
    writers = [Writer(number, client.cluster.bootstrap, stop) for number in range(PRODUCERS)]
    for writer in writers:
        writer.start()
    try:
        until_s = time.monotonic() + SECONDS
        told = make_trouble(client.cluster, proxies, random.Random(seed), until_s)
    finally:
        stop.set()
        for writer in writers:
            writer.join(END_TIMEOUT_S)
    assert not [writer for writer in writers if writer.is_alive()], f"seed {seed}: a flush hangs"
    assert [writer.failure for writer in writers] == [None] * PRODUCERS, f"seed {seed}"

    copies = client.wait_replicas_equal(TOPIC, partitions=PARTITIONS, timeout_s=30)
    summary = check(copies, writers, seed)
    cuts = sum(proxy.cuts for proxy in proxies)
    assert cuts > 0, f"seed {seed}: no answer was cut"
    print(f"seed {seed}: {dict(told)}, {cuts} answers cut, {summary}")


def check(copies, writers, seed):
    stored = {}
    order_of_key = defaultdict(list)
    for partition, records in copies.items():
        for record in records:
            value = text_of(record)
            stored.setdefault(value, []).append((partition, record["offset"]))
            number, position = value.split("-")
            order_of_key[number, int(position) % KEYS_PER_PRODUCER].append(
                (partition, int(position))
            )
    acknowledged = refused = unknown = 0
    for writer in writers:
        for _, value, result in writer.outcomes():
            places = stored.get(value, [])
            if isinstance(result, tuple):
                acknowledged += 1
                assert places == [result], f"seed {seed}: {value} is at {places}, not at {result}"
            elif result.outcome is Outcome.NOT_APPLIED:
                refused += 1
                assert places == [], f"seed {seed}: {value} was refused ({result}), and is stored"
            else:
                unknown += 1
                assert len(places) <= 1, f"seed {seed}: {value} is stored at {places}"
    for key, records in order_of_key.items():
        assert len({partition for partition, _ in records}) == 1, f"seed {seed}: {key} moved"
        positions = [position for _, position in records]
        assert positions == sorted(positions), f"seed {seed}: {key} is out of order"
    assert acknowledged > PRODUCERS * RECORDS_PER_BURST, f"seed {seed}: hardly anything was sent"
    return f"{acknowledged} acknowledged, {refused} refused, {unknown} unknown"
