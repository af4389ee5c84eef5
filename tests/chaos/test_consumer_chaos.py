"""Six consumers while they and their coordinator die and stand still: nothing is left out.

Flights stream into twelve partitions; consumers process and then commit. The run is bounded in time
by OTTLA_SOAK_SECONDS (a few seconds in `make test`, minutes in `make soak`), and told in one line
at its end. The order of faults comes from a seed that a failure prints.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from itertools import cycle

import pytest

from loadtests.flights import SEQUENCE_HEADER, read_flights
from ottla import Producer
from ottla_ops.local_cluster import LocalCluster
from tests.chaos.group_lag import group_lag
from tests.chaos.journals import gaps, overlaps, read_journals
from tests.cluster.awaiting import eventually
from tests.cluster.cluster_client import ClusterClient
from tests.cluster.http_client import HttpClient

pytestmark = pytest.mark.cluster

SECONDS = float(os.environ.get("OTTLA_SOAK_SECONDS", "10"))
TOPIC = "flights"
GROUP = "boards"
PARTITIONS = 12
CONSUMERS = 6
FLIGHTS = 2_000
RECORDS_PER_S = 500
BURST_RECORDS = 25
FAULTS = (
    "kill consumer",
    "pause consumer for long",
    "kill coordinator",
    "pause coordinator",
    "pause consumer",
)
FAULT_INTERVAL_S = (0.3, 1.0)
SHORT_PAUSE_S = (0.2, 1.0)
LONG_PAUSE_S = (4.0, 6.0)
"""Over the consumers' session timeout: what a paused one held goes to others meanwhile."""

BROKER_PAUSE_S = (0.5, 4.0)
CATCH_UP_TIMEOUT_S = 60.0
JOIN_TIMEOUT_S = 120.0
"""Six interpreters start at once, on a machine that may have little time for them."""
STOP_TIMEOUT_S = 15.0


class Stream(threading.Thread):
    """Flights into the topic; `acknowledged` are the sequence numbers that are safe."""

    def __init__(self, bootstrap, until_s):
        super().__init__(name="flight-stream")
        self.failure = None
        self.acknowledged = []
        self._servers = bootstrap
        self._until_s = until_s
        self._stopped = threading.Event()

    def stop(self):
        self._stopped.set()

    def run(self):
        flights = cycle(read_flights(limit=FLIGHTS))
        try:
            with Producer(bootstrap_servers=self._servers, key_serializer="string") as producer:
                sent = []
                while not self._stopped.is_set() and time.monotonic() < self._until_s:
                    for _ in range(BURST_RECORDS):
                        flight = next(flights)
                        headers = {SEQUENCE_HEADER: str(len(sent)).encode()}
                        sent.append(
                            producer.send(
                                TOPIC, bytes(flight.value), key=flight.key, headers=headers
                            )
                        )
                    self._stopped.wait(BURST_RECORDS / RECORDS_PER_S)
                producer.flush(CATCH_UP_TIMEOUT_S)
                self.acknowledged = [
                    sequence for sequence, future in enumerate(sent) if future.exception(0) is None
                ]
        except Exception as error:
            self.failure = error


class Consumers:
    """The processes, and their journals; a killed one is replaced by a new one."""

    def __init__(self, cluster, directory):
        self._cluster = cluster
        self._directory = directory
        self._number = 0
        self.running = {}
        self.journals = []
        self.resumed_ns = defaultdict(list)

    def start(self):
        self._number += 1
        name = f"consumer-{self._number}"
        journal = self._directory / f"{name}.journal"
        self.journals.append(journal)
        log = (self._directory / f"{name}.log").open("w")
        with log:
            self.running[name] = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.chaos.consuming_process",
                    self._cluster.bootstrap,
                    GROUP,
                    TOPIC,
                    str(journal),
                ],
                stdout=log,
                stderr=log,
            )
        return name

    def replace(self, name):
        process = self.running.pop(name)
        process.kill()
        process.wait()
        self.start()

    def pause(self, name, seconds):
        process = self.running[name]
        process.send_signal(signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            self.resumed_ns[name].append(time.monotonic_ns())
            process.send_signal(signal.SIGCONT)

    def check_running(self):
        for name, process in self.running.items():
            log = self._directory / f"{name}.log"
            assert process.poll() is None, f"{name} ended: {log.read_text()[-2_000:]}"

    def stop(self):
        """Have all of them leave in order; returns the exit codes."""
        processes, self.running = self.running, {}
        for process in processes.values():
            process.send_signal(signal.SIGCONT)
            process.terminate()
        try:
            return [process.wait(STOP_TIMEOUT_S) for process in processes.values()]
        finally:
            for process in processes.values():
                process.kill()
                process.wait()


@pytest.fixture
def client(tmp_path):
    http = HttpClient()
    with LocalCluster(tmp_path / "cluster") as cluster:
        yield ClusterClient(cluster, http)
    http.close()


@pytest.fixture
def consumers(client, tmp_path):
    made = Consumers(client.cluster, tmp_path)
    yield made
    made.stop()


def coordinator(client):
    group = client.http.get(f"{client.any_url()}/v1/groups/{GROUP}")
    return client.cluster.broker(group.expect(200).document["coordinator"])


def make_trouble(client, consumers, faults, until_s):
    """One fault at a time, each kind at least once, then at random until the time is up."""
    told = Counter()
    first = list(FAULTS)
    while first or time.monotonic() < until_s:
        fault = first.pop(0) if first else faults.choice(FAULTS)
        told[fault] += 1
        name = faults.choice(sorted(consumers.running))
        if fault == "kill consumer":
            consumers.replace(name)
        elif fault.startswith("pause consumer"):
            span = LONG_PAUSE_S if fault.endswith("long") else SHORT_PAUSE_S
            consumers.pause(name, faults.uniform(*span))
        else:
            broker = eventually(lambda: coordinator(client), JOIN_TIMEOUT_S)
            if fault == "kill coordinator":
                broker.restart()
            else:
                broker.pause()
                time.sleep(faults.uniform(*BROKER_PAUSE_S))
                broker.resume()
            broker.wait_ready()
        consumers.check_running()
        time.sleep(faults.uniform(*FAULT_INTERVAL_S))
    return told


@pytest.mark.timeout(SECONDS + JOIN_TIMEOUT_S + 3 * CATCH_UP_TIMEOUT_S)
def test_every_record_is_processed_and_no_partition_has_two_owners(client, consumers):
    seed = random.SystemRandom().getrandbits(32)
    client.create_topic(TOPIC, partitions=PARTITIONS, replication_factor=3)
    client.wait_led(TOPIC, partitions=PARTITIONS)
    for _ in range(CONSUMERS):
        consumers.start()
    eventually(lambda: coordinator(client), JOIN_TIMEOUT_S)
    stream = Stream(client.cluster.bootstrap, time.monotonic() + SECONDS + CATCH_UP_TIMEOUT_S)
    stream.start()
    try:
        until_s = time.monotonic() + SECONDS
        told = make_trouble(client, consumers, random.Random(seed), until_s)
    finally:
        stream.stop()
        stream.join(CATCH_UP_TIMEOUT_S)
    assert stream.failure is None, f"seed {seed}"
    acknowledged = set(stream.acknowledged)
    assert len(acknowledged) > RECORDS_PER_S, f"seed {seed}: hardly anything was sent"

    def all_processed():
        missing = acknowledged - set(read_journals(consumers.journals).done)
        assert not missing, f"seed {seed}: {len(missing)} records were not processed"
        lag = group_lag(client, GROUP, PARTITIONS)
        assert lag == 0, f"seed {seed}: the group's lag is {lag}"

    eventually(all_processed, CATCH_UP_TIMEOUT_S)
    consumers.check_running()
    assert consumers.stop() == [0] * CONSUMERS, f"seed {seed}"
    left = client.http.get(f"{client.any_url()}/v1/groups/{GROUP}").expect(200).document
    assert left["members"] == [], f"seed {seed}: somebody did not leave"

    journals = read_journals(consumers.journals)
    assert overlaps(journals, consumers.resumed_ns) == [], f"seed {seed}"
    assert gaps(journals) == [], f"seed {seed}"
    processed = sum(journals.done.values())
    tenures = sum(map(len, journals.tenures.values()))
    print(
        f"seed {seed}: {dict(told)}, {len(acknowledged)} acknowledged, {processed} processed "
        f"({processed - len(journals.done)} again), {tenures} assignments of a partition, "
        f"{journals.refused} commits refused"
    )
