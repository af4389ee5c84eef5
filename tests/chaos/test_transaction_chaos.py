"""Twenty clients with transactions while they and the brokers die and stand still: T1 to T8.

Twelve move money between accounts in six partitions, eight turn orders into invoices, with their
positions in the transaction. The run is bounded in time by OTTLA_SOAK_SECONDS (a few seconds in
`make test`, minutes in `make soak`), and told in one line at its end. The order of faults comes
from a seed that a failure prints.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest

from ottla import Consumer, Producer, TopicPartition
from ottla_ops.local_cluster import LocalCluster
from ottla_protocol.errors import OttlaError
from tests.chaos.group_lag import group_lag
from tests.chaos.transacting_process import (
    ACCOUNTS_TOPIC,
    FENCED,
    GROUP,
    INVOICES_TOPIC,
    ORDERS_TOPIC,
    PARTITIONS,
    TRANSACTION_TIMEOUT_MS,
)
from tests.chaos.transaction_checks import (
    Fate,
    Leg,
    count_words,
    lines_of,
    read_fates,
    wrong_outputs,
    wrong_reads,
    wrong_transfers,
)
from tests.cluster.awaiting import eventually
from tests.cluster.cluster_client import ClusterClient
from tests.cluster.http_client import HttpClient

pytestmark = pytest.mark.cluster

SECONDS = float(os.environ.get("OTTLA_SOAK_SECONDS", "12"))
PROCESSES = {
    "transfer-1": ("transfer", 4),
    "transfer-2": ("transfer", 4),
    "transfer-3": ("transfer", 4),
    "transform-1": ("transform", 4),
    "transform-2": ("transform", 4),
}
"""By name: the role, and how many clients it has."""

FAULTS = ("kill client", "zombie client", "pause client", "kill broker", "pause broker")
FAULT_INTERVAL_S = (0.5, 1.5)
SHORT_PAUSE_S = (0.2, 1.0)
LONG_PAUSE_S = (5.5, 7.0)
"""Over the time-out of a transaction: it is aborted under the client meanwhile."""
BROKER_PAUSE_S = (0.5, 4.0)
ORDERS_PER_S = 100
ORDERS_PER_BURST = 10
START_TIMEOUT_S = 120.0
"""Five interpreters start at once, on a machine that may have little time for them."""
CATCH_UP_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 90.0
HANGING_TIMEOUT_S = TRANSACTION_TIMEOUT_MS / 1_000 + 30.0
READ_POLL_S = 0.5
ZOMBIE_S = (0.5, 2.0)
TRANSFERS_MIN = 20
TURNS_MIN = 5


class Clients:
    """The processes of clients, and their journals; a killed one is replaced by a new one."""

    def __init__(self, cluster, directory, seed):
        self._cluster = cluster
        self._directory = directory
        self._seed = seed
        self._lives = Counter()
        self.running = {}
        self.journals = []

    def start(self, name):
        """A new life of that name: it takes the transactional ids of the former one over."""
        role, count = PROCESSES[name]
        self._lives[name] += 1
        life = f"{name}.{self._lives[name]}"
        journal = self._directory / f"{life}.journal"
        self.journals.append(journal)
        ids = [f"{name}-{number}" for number in range(count)]
        seed = [str(self._seed)] if role == "transfer" else []
        command = [sys.executable, "-m", "tests.chaos.transacting_process"]
        with (self._directory / f"{life}.log").open("w") as log:
            self.running[name] = subprocess.Popen(
                [*command, role, self._cluster.bootstrap, life, *seed, str(journal), *ids],
                stdout=log,
                stderr=log,
            )

    def kill(self, name):
        process = self.running.pop(name)
        process.kill()
        process.wait()
        self.start(name)

    def haunt(self, name, seconds):
        """Have a new one take over while the former stands still; then that goes on, too.

        Whoever takes an id over last has it: the former one must have done so before.
        """
        eventually(lambda: self._holds_all(name), START_TIMEOUT_S)
        zombie = self.running.pop(name)
        zombie.send_signal(signal.SIGSTOP)
        try:
            self.start(name)
            time.sleep(seconds)
        finally:
            zombie.send_signal(signal.SIGCONT)
        return zombie

    def _holds_all(self, name):
        journal = self._directory / f"{name}.{self._lives[name]}.journal"
        held = {line.split()[1] for line in lines_of(journal) if line.startswith("holds ")}
        return len(held) == PROCESSES[name][1]

    def pause(self, name, seconds):
        process = self.running[name]
        process.send_signal(signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            process.send_signal(signal.SIGCONT)

    def check_running(self):
        for name, process in self.running.items():
            assert process.poll() is None, f"{name} ended: {self.logs()}"

    def stop(self):
        """Have all of them end; returns the exit codes."""
        processes, self.running = self.running, {}
        for process in processes.values():
            process.terminate()
        try:
            return [process.wait(STOP_TIMEOUT_S) for process in processes.values()]
        finally:
            for process in processes.values():
                process.kill()
                process.wait()

    def logs(self):
        return {
            path.name: path.read_text()[-1_000:]
            for path in sorted(self._directory.glob("*.log"))
            if path.stat().st_size
        }


class Orders(threading.Thread):
    """Orders into their topic, without a transaction."""

    def __init__(self, bootstrap):
        super().__init__(name="orders")
        self.failure = None
        self._servers = bootstrap
        self._stopped = threading.Event()

    def stop(self):
        self._stopped.set()

    def run(self):
        number = 0
        try:
            with Producer(bootstrap_servers=self._servers, value_serializer="json") as producer:
                while not self._stopped.is_set():
                    for _ in range(ORDERS_PER_BURST):
                        producer.send(ORDERS_TOPIC, number, partition=number % PARTITIONS)
                        number += 1
                    self._stopped.wait(ORDERS_PER_BURST / ORDERS_PER_S)
                producer.flush(CATCH_UP_TIMEOUT_S)
        except Exception as error:
            self.failure = error


class Reader(threading.Thread):
    """Reads the committed legs while all goes on; `legs` in the order in which they came."""

    def __init__(self, bootstrap):
        super().__init__(name="reader")
        self.failure = None
        self.legs = []
        self._servers = bootstrap
        self._stopped = threading.Event()

    def stop(self):
        self._stopped.set()

    def run(self):
        try:
            with Consumer(
                bootstrap_servers=self._servers,
                auto_offset_reset="earliest",
                isolation_level="read_committed",
            ) as consumer:
                consumer.assign([TopicPartition(ACCOUNTS_TOPIC, n) for n in range(PARTITIONS)])
                while not self._stopped.is_set():
                    self._poll(consumer)
        except Exception as error:
            self.failure = error

    def _poll(self, consumer):
        try:
            polled = consumer.poll(READ_POLL_S)
        except OttlaError as error:
            if not error.retriable:
                raise
            return
        for records in polled.values():
            self.legs += map(leg_of, records)


def leg_of(record):
    value = json.loads(record.value)
    place = (record.partition, record.offset)
    return Leg(value["transfer"], value["leg"], value["legs"], value["change"], place)


@pytest.fixture
def client(tmp_path):
    http = HttpClient()
    with LocalCluster(tmp_path / "cluster") as cluster:
        yield ClusterClient(cluster, http)
    http.close()


@pytest.fixture
def seed():
    return random.SystemRandom().getrandbits(32)


@pytest.fixture
def clients(client, tmp_path, seed):
    made = Clients(client.cluster, tmp_path, seed)
    yield made
    made.stop()


def make_trouble(client, clients, faults, until_s):
    """One fault at a time, each kind at least once, then at random until the time is up."""
    told, zombies = Counter(), []
    first = list(FAULTS)
    while first or time.monotonic() < until_s:
        fault = first.pop(0) if first else faults.choice(FAULTS)
        told[fault] += 1
        name = faults.choice(sorted(clients.running))
        if fault == "kill client":
            clients.kill(name)
        elif fault == "zombie client":
            zombies.append((name, clients.haunt(name, faults.uniform(*ZOMBIE_S))))
        elif fault == "pause client":
            span = faults.choice((SHORT_PAUSE_S, LONG_PAUSE_S))
            clients.pause(name, faults.uniform(*span))
        else:
            broker = faults.choice(client.cluster.brokers)
            if fault == "kill broker":
                broker.restart()
            else:
                broker.pause()
                time.sleep(faults.uniform(*BROKER_PAUSE_S))
                broker.resume()
            broker.wait_ready()
        clients.check_running()
        time.sleep(faults.uniform(*FAULT_INTERVAL_S))
    return told, zombies


def lay_to_rest(zombies, clients, seed):
    """T5: whoever was succeeded learns so. One without a partition may have had no occasion."""
    for name, process in zombies:
        role, _ = PROCESSES[name]
        if role == "transform":
            process.terminate()
        code = process.wait(STOP_TIMEOUT_S)
        expected = {FENCED} if role == "transfer" else {FENCED, 0}
        assert code in expected, f"seed {seed}: a former {name} ended with {code}: {clients.logs()}"


def read_committed(client, topic):
    """Every record of a topic that a reader of committed records sees, to its end."""
    with Consumer(
        bootstrap_servers=client.cluster.bootstrap,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    ) as consumer:
        partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        consumer.assign(partitions)
        ends = consumer.end_offsets(partitions)
        records = []

        def all_read():
            for found in consumer.poll(READ_POLL_S).values():
                records.extend(found)
            return all(consumer.position(each) >= ends[each] for each in partitions)

        eventually(all_read, CATCH_UP_TIMEOUT_S)
    return records


def wait_nothing_open(client, seed):
    """T4: no transaction stays open, and none without its markers."""

    def at_rest():
        found = client.http.get(f"{client.any_url()}/v1/transactions").expect(200).document
        states = Counter(each["state"] for each in found["transactions"])
        assert set(states) <= {"Empty", "CompleteCommit", "CompleteAbort"}, f"seed {seed}: {states}"
        return sum(states.values()) == sum(count for _, count in PROCESSES.values())

    eventually(at_rest, HANGING_TIMEOUT_S)
    for topic in (ACCOUNTS_TOPIC, INVOICES_TOPIC):
        for partition in range(PARTITIONS):
            path = f"/v1/topics/{topic}/partitions/{partition}/transactions"
            found = client.http.get(client.any_url() + path).expect(200).document
            assert found["transactions"] == [], f"seed {seed}: open in {topic}-{partition}: {found}"


@pytest.mark.timeout(SECONDS + START_TIMEOUT_S + 5 * CATCH_UP_TIMEOUT_S)
def test_transactions_are_whole_and_their_outputs_exactly_once(client, clients, seed):
    for topic in (ACCOUNTS_TOPIC, ORDERS_TOPIC, INVOICES_TOPIC):
        client.create_topic(topic, partitions=PARTITIONS, replication_factor=3)
        client.wait_led(topic, partitions=PARTITIONS)
    for name in PROCESSES:
        clients.start(name)
    orders, reader = Orders(client.cluster.bootstrap), Reader(client.cluster.bootstrap)
    orders.start()
    reader.start()

    def all_at_work():
        clients.check_running()
        words = count_words(clients.journals)
        return words[Fate.COMMITTED] >= TRANSFERS_MIN and words["turned"] >= TURNS_MIN

    try:
        eventually(all_at_work, START_TIMEOUT_S)
        until_s = time.monotonic() + SECONDS
        told, zombies = make_trouble(client, clients, random.Random(seed), until_s)
        orders.stop()
        orders.join(CATCH_UP_TIMEOUT_S)

        def all_turned():
            clients.check_running()
            lag = group_lag(client, GROUP, PARTITIONS)
            assert lag == 0, f"seed {seed}: the transformers' lag is {lag}"

        eventually(all_turned, CATCH_UP_TIMEOUT_S)
        lay_to_rest(zombies, clients, seed)
        codes = clients.stop()
        assert codes == [0] * len(PROCESSES), f"seed {seed}: {codes}, {clients.logs()}"
        wait_nothing_open(client, seed)
    finally:
        orders.stop()
        reader.stop()
        for thread in (orders, reader):
            thread.join(CATCH_UP_TIMEOUT_S)
    assert (orders.failure, reader.failure) == (None, None), f"seed {seed}"

    fates = read_fates(clients.journals)
    legs = [leg_of(record) for record in read_committed(client, ACCOUNTS_TOPIC)]
    inputs = {
        f"{record.partition}@{record.offset}" for record in read_committed(client, ORDERS_TOPIC)
    }
    invoices = read_committed(client, INVOICES_TOPIC)
    outputs = [
        (value["order"], (value["by"], record.partition, record.offset))
        for record in invoices
        for value in [json.loads(record.value)]
    ]
    assert wrong_transfers(fates, legs) == [], f"seed {seed}"
    assert wrong_reads(reader.legs, legs) == [], f"seed {seed}"
    problems = wrong_outputs(inputs, outputs)
    assert not problems, f"seed {seed}: {len(problems)}: {problems[:10]}"
    counts, words = Counter(fates.values()), count_words(clients.journals)
    assert counts[Fate.ABORTED] > 0, f"seed {seed}: nothing was aborted"
    print(
        f"seed {seed}: {dict(told)}, transfers: {counts[Fate.COMMITTED]} committed, "
        f"{counts[Fate.ABORTED]} aborted, {counts[Fate.UNKNOWN]} unknown, {len(legs)} legs, "
        f"{len(reader.legs)} seen on the way; {len(inputs)} orders, each with one invoice, in "
        f"{words['turned']} transactions; {words['retried']} retried, {words['fenced']} fenced; "
        "torn 0, aborted and visible 0, repeated 0, hanging 0"
    )
