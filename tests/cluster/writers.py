"""Clients that write all the time, and remember what they were promised.

Every value is written by one request at most once, so in the end: an acknowledged value stands at
its offset, one whose request was answered `not_applied` stands nowhere, and one whose outcome is
unknown stands once or nowhere (reliability: L1 to L5).
"""

import base64
import json
import threading
from collections import Counter

import urllib3

from tests.cluster.awaiting import eventually

PRODUCE_TIMEOUT_MS = 4_000


class Writers:
    """Threads that write to partitions 0..n-1 of a topic through the given brokers.

    Use it as a context manager: leaving stops the threads and waits for their last answers.
    """

    def __init__(self, client, topic, *, partitions=1, threads=3, via=None, acks="all"):
        self.client = client
        self.topic = topic
        self.partitions = partitions
        self.acks = acks
        # (partition, offset) -> value, as told by a 200.
        self.acknowledged = {}
        self.refused = set()
        self.unknown = set()
        self.failures = []
        self._via = via or client.node_ids
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number,), name=f"writer-{number}")
            for number in range(threads)
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in self._threads), "a writer hangs"
        assert not self.failures, self.failures

    @property
    def count(self):
        """Acknowledged records so far."""
        return len(self.acknowledged)

    def wait_for_more(self, records=20, timeout_s=15.0):
        """Wait until that many more records are acknowledged: the cluster takes writes."""
        wanted = self.count + records
        eventually(lambda: self.count >= wanted, timeout_s)

    def _run(self, writer):
        number = 0
        while not self._stop.is_set():
            number += 1
            try:
                self._write(writer, number)
            except Exception as error:
                self.failures.append(repr(error))
                return

    def _write(self, writer, number):
        values = [f"{writer}-{number}-{index}" for index in range(1 + number % 3)]
        partition = (writer + number) % self.partitions
        via = self._via[(writer + number) % len(self._via)]
        try:
            answer = self.client.produce(
                self.topic,
                [{"value": value} for value in values],
                partition=partition,
                via=via,
                acks=self.acks,
                timeout_ms=PRODUCE_TIMEOUT_MS,
                timeout_s=PRODUCE_TIMEOUT_MS / 1000 + 2,
            )
        except urllib3.exceptions.NewConnectionError:
            with self._lock:
                self.refused.update(values)
            self._stop.wait(0.01)
            return
        except urllib3.exceptions.HTTPError:
            with self._lock:
                self.unknown.update(values)
            return
        with self._lock:
            if answer.status == 200:
                for value, place in zip(values, answer.document["records"], strict=True):
                    key = (place["partition"], place["offset"])
                    assert self.acknowledged.setdefault(key, value) == value, key
            else:
                assert answer.document["retriable"] is True, answer.body
                outcome = answer.document["outcome"]
                (self.refused if outcome == "not_applied" else self.unknown).update(values)

    def check(self, copies):
        """Compare with what all replicas hold: records by partition, as JSON with base64 values."""
        found = {}
        for partition, records in copies.items():
            assert [record["offset"] for record in records] == list(range(len(records)))
            for record in records:
                found[partition, record["offset"]] = text_of(record)
        for place, value in self.acknowledged.items():
            assert found.get(place) == value, (place, value, found.get(place))
        counts = Counter(found.values())
        assert not [value for value, count in counts.items() if count > 1], "stored twice"
        assert not self.refused & set(counts), "stored although answered not_applied"


def text_of(record):
    """The JSON text value of a record that was read as base64."""
    return json.loads(base64.b64decode(record["value_b64"]))
