"""Clients that poll badly, on brokers that die: no record is passed over, none is owned twice."""

import random
import threading
import time

import pytest
import urllib3

from ottla_protocol import routes
from tests.cluster.awaiting import eventually
from tests.cluster.http_client import HttpClient
from tests.cluster.polling_client import PollingClient

pytestmark = pytest.mark.cluster

PARTITIONS = 6
CLIENTS = 5
ROUNDS = 3
RECORDS_PER_ROUND = 120
SESSION_MS = 1_500
PROGRESS_LIMIT_S = 40.0
STOP_LIMIT_S = 20.0
"""Far less than the poll would wait; how quickly brokers stop is for test_shutdown to say."""

LONG_BROKER_SESSION_MS = 15_000
READ_LIMIT_S = 10.0
"""Less than that: the broker that stands still counts as alive."""


class Poller:
    """A client in a thread that forgets answers, gives up waiting, dawdles and starts anew."""

    def __init__(self, client, seed, seen):
        self.random = random.Random(seed)
        self.seen = seen
        self.failures = []
        self._client = client
        self._stop = threading.Event()
        self._begin()
        self._thread = threading.Thread(target=self._run, name=f"poller-{seed}")
        self._thread.start()

    def _begin(self):
        self.consumer = PollingClient(
            self._client, "g", ["t"], max_records=20, session_timeout_ms=SESSION_MS
        )

    def _run(self):
        while not self._stop.is_set():
            try:
                self._turn()
            except urllib3.exceptions.HTTPError:
                continue
            except Exception as error:
                self.failures.append(repr(error))
                raise

    def _turn(self):
        consumer, choice = self.consumer, self.random.random()
        via = self.random.choice(self._client.live_node_ids)
        if choice < 0.05:
            self._give_up(via)
            return
        answer = consumer.try_poll(via=via, max_wait_ms=self.random.choice((0, 100, 400)))
        if answer.status == 409 and answer.code == "FENCED":
            consumer.ack = None
            return
        if answer.status != 200:
            if answer.document["retriable"] is not True:
                self.failures.append(answer.document)
            return
        document = answer.document
        if choice < 0.15 and consumer.member_id is not None:
            return  # The answer is lost on its way: the same request comes again.
        consumer.member_id, consumer.ack = document["member_id"], document["ack"]
        self.seen.update((each["partition"], each["offset"]) for each in document["records"])
        if choice < 0.18:
            self._begin()  # Starts anew, without a word.
        elif choice < 0.22:
            time.sleep(SESSION_MS / 1000 * 1.2)  # Works for longer than its session.

    def _give_up(self, via):
        """A poll whose client waits for less time than the poll takes."""
        request = {"topics": ["t"], "max_wait_ms": 10_000, "session_timeout_ms": SESSION_MS}
        if self.consumer.member_id is not None:
            request["member_id"] = self.consumer.member_id
        http = HttpClient()
        try:
            url = self._client.url(via) + routes.GROUP_POLL.format(group="g")
            http.post(url, request, timeout_s=0.05)
        finally:
            http.close()

    def finish(self):
        self._stop.set()
        self._thread.join()


class Seen:
    """Every position that was given out in an answer that arrived."""

    def __init__(self):
        self._lock = threading.Lock()
        self._positions = set()

    def update(self, positions):
        with self._lock:
            self._positions.update(positions)

    def __len__(self):
        with self._lock:
            return len(self._positions)

    def missing(self, counts):
        with self._lock:
            return {
                (partition, offset)
                for partition, count in counts.items()
                for offset in range(count)
            } - self._positions


def committed(client):
    url = client.any_url() + routes.GROUP_OFFSETS.format(group="g")
    document = client.http.get(url).expect(200).document
    return {each["partition"]: each["offset"] for each in document["offsets"]}


def store(client, value, partition, **arguments):
    """Append once, however often leadership moves: a broker that is back takes its own."""
    key = {"Idempotency-Key": value}
    eventually(
        lambda: client.append("t", value, partition=partition, headers=key, **arguments) >= 0, 20.0
    )


def test_whatever_clients_and_brokers_do_every_record_is_given_out(start_cluster):
    client = start_cluster()
    client.create_topic("t", partitions=PARTITIONS)
    client.wait_led("t", partitions=PARTITIONS)
    seen = Seen()
    pollers = [Poller(client, seed, seen) for seed in range(CLIENTS)]
    counts = dict.fromkeys(range(PARTITIONS), 0)
    try:
        for round_number in range(ROUNDS):
            for number in range(RECORDS_PER_ROUND):
                store(client, f"{round_number}-{number}", number % PARTITIONS)
                counts[number % PARTITIONS] += 1
            url = client.any_url() + routes.GROUP.format(group="g")
            coordinator = client.http.get(url).expect(200).document["coordinator"]
            client.cluster.broker(coordinator).kill()
            wanted = sum(counts.values())
            eventually(lambda wanted=wanted: len(seen) == wanted, PROGRESS_LIMIT_S)
            client.cluster.broker(coordinator).start()
            client.cluster.wait_ready()
            client.wait_isr("__consumer_offsets", 3)
            client.wait_isr("t", 3)
            assert not any(poller.failures for poller in pollers), round_number
        eventually(lambda: committed(client) == counts, PROGRESS_LIMIT_S)
    finally:
        for poller in pollers:
            poller.finish()
    assert [poller.failures for poller in pollers] == [[]] * CLIENTS
    assert seen.missing(counts) == set()


def test_a_broker_that_stops_answers_its_polls(start_cluster):
    client = start_cluster()
    client.create_topic("t", partitions=3)
    client.wait_led("t", partitions=3)
    consumer = PollingClient(client, "g", ["t"], via=2)
    consumer.poll()
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(consumer.try_poll(max_wait_ms=50_000)))
    waiting.start()
    client.wait_parked(2)
    started_s = time.monotonic()
    assert client.cluster.broker(2).terminate(STOP_LIMIT_S) == 0
    waiting.join(10)
    assert time.monotonic() - started_s < STOP_LIMIT_S
    [answer] = answers
    assert answer.expect(200).document["records"] == []
    # It is a member still, and goes on elsewhere.
    client.append("t", 7)
    assert consumer.poll(via=1, max_wait_ms=10_000) == [7]


def test_a_leader_that_stands_still_holds_nobody_up_who_reads_from_others(start_cluster):
    client = start_cluster(settings={"OTTLA_SESSION_TIMEOUT_MS": str(LONG_BROKER_SESSION_MS)})
    client.create_topic("t", partitions=3)
    client.wait_led("t", partitions=3)
    client.append("t", "x")
    url = client.any_url() + routes.GROUP.format(group="g")
    PollingClient(client, "g", ["t"]).try_poll(member_id="m").expect(200)
    coordinator = client.http.get(url).expect(200).document["coordinator"]
    still, asked = client.others(coordinator)
    on_others = [n for n in range(3) if client.leader("t", n) != still]
    assert on_others, "the leaders are spread"
    for partition in on_others:
        client.append("t", f"on-{partition}", partition=partition)
    client.cluster.broker(still).pause()
    started_s = time.monotonic()
    answer = PollingClient(client, "g", ["t"], via=asked).try_poll(member_id="m")
    took_s = time.monotonic() - started_s
    client.cluster.broker(still).resume()
    assert {each["partition"] for each in answer.expect(200).document["records"]} >= set(on_others)
    assert took_s < READ_LIMIT_S


def test_a_broker_that_slept_over_its_members_session_gives_nothing_out_of_the_past(start_cluster):
    client = start_cluster(settings={"OTTLA_SESSION_TIMEOUT_MS": "1000"})
    client.create_topic("t", partitions=3)
    client.wait_led("t", partitions=3)
    first = PollingClient(client, "g", ["t"], session_timeout_ms=SESSION_MS)
    first.try_poll(member_id="m").expect(200)
    url = client.any_url() + routes.GROUP.format(group="g")
    coordinator = client.http.get(url).expect(200).document["coordinator"]
    sleeper, awake = client.others(coordinator)
    sleeping = PollingClient(client, "g", ["t"], via=sleeper, session_timeout_ms=SESSION_MS)
    answers = []
    waiting = threading.Thread(
        target=lambda: answers.append(sleeping.try_poll(member_id="m", max_wait_ms=8_000))
    )
    waiting.start()
    client.wait_parked(sleeper)
    client.cluster.broker(sleeper).pause()
    other = PollingClient(client, "g", ["t"], via=awake)
    eventually(lambda: client.offset("t", 0, via=awake).status == 200)
    for partition in range(3):
        store(client, f"{partition}", partition, via=awake)

    def others_have_it_all():
        other.poll(max_wait_ms=500)
        return len(other.values) == 3 and committed(client) == dict.fromkeys(range(3), 1)

    eventually(others_have_it_all, 20.0)
    client.cluster.broker(sleeper).resume()
    waiting.join(40)
    [answer] = answers
    # It asked the coordinator again before it gave out anything.
    assert answer.status == 200 or answer.document["retriable"] is True
    assert answer.document.get("records", []) == []
