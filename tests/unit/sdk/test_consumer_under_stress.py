"""Consumers that come, go, and lose their membership while leaders move and calls fail."""

import contextlib
import random
import threading
import time
from collections import defaultdict

import pytest

from ottla import CommitFailedError, OttlaError, RebalanceListener, TopicPartition
from ottla.testing import FakeCluster
from ottla_protocol import routes

PARTITIONS = 6
CONSUMERS = 3
TROUBLE_S = 3.0
WAIT_S = 30


class Reader(RebalanceListener):
    """Checks that each partition is read without a gap as long as it is held (L7)."""

    def __init__(self, run):
        self.run = run
        self.due = {}

    def forget(self, partitions):
        for each in partitions:
            self.due.pop(each, None)

    on_partitions_assigned = on_partitions_revoked = on_partitions_lost = forget

    def see(self, record):
        name = TopicPartition(record.topic, record.partition)
        assert record.offset == self.due.get(name, record.offset), name
        self.due[name] = record.offset + 1
        self.run.processed[name.partition].add(record.offset)


class Run:
    """One cluster, one writer, some consumers of one group, and trouble."""

    def __init__(self, seed):
        self.chance = random.Random(seed)
        self.cluster = FakeCluster()
        self.cluster.create_topic("t", partitions=PARTITIONS)
        self.is_over = threading.Event()
        self.stop_writing = threading.Event()
        self.ends = defaultdict(int)
        self.processed = defaultdict(set)
        self.failures = []

    def guarded(self, work, *arguments):
        def run():
            try:
                work(*arguments)
            except BaseException as error:
                self.failures.append(error)
                self.is_over.set()

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def write(self):
        chance = random.Random(1)
        with self.cluster.producer(linger_ms=2) as producer:
            futures = []
            while not self.stop_writing.wait(0.001):
                futures += [
                    producer.send("t", b"v", partition=chance.randrange(PARTITIONS))
                    for _ in range(20)
                ]
            for future in futures:
                metadata = future.get(WAIT_S)
                self.ends[metadata.partition] += 1

    def consume(self, number):
        chance = random.Random(number)
        while not self.is_over.is_set():
            reader = Reader(self)
            is_auto = chance.random() < 0.5
            with self.cluster.consumer(
                group_id="g", auto_offset_reset="earliest", consumer_timeout_ms=50,
                max_poll_records=chance.choice([1, 7, 500]), retry_backoff_ms=5,
                enable_auto_commit=is_auto, auto_commit_interval_ms=chance.choice([5, 50]),
            ) as consumer:  # fmt: skip
                consumer.subscribe("t", listener=reader)
                until_s = time.monotonic() + chance.uniform(0.5, 2)
                while time.monotonic() < until_s and not self.is_over.is_set():
                    self.read_some(consumer, reader, chance, is_auto=is_auto)

    def read_some(self, consumer, reader, chance, *, is_auto):
        try:
            if chance.random() < 0.5:
                for records in consumer.poll(0.05).values():
                    for record in records:
                        reader.see(record)
                if not is_auto:
                    consumer.commit()
                return
            most = chance.randrange(1, 200)
            for count, record in enumerate(consumer):
                reader.see(record)
                if not is_auto and count % 10 == 0:
                    consumer.commit(record)
                if count == most:
                    break
        except CommitFailedError:
            pass  # Somebody else reads on from what was committed before.

    def trouble(self):
        cluster, chance = self.cluster, self.chance
        kind = chance.choice(["expire", "move", "fail", "nothing"])
        members = sorted(cluster.assignment("g"))
        if kind == "expire" and members:
            with contextlib.suppress(OttlaError):  # It may just have left.
                cluster.expire_member("g", chance.choice(members))
        elif kind == "move":
            cluster.move_leader("t", chance.randrange(PARTITIONS), chance.randint(1, 3))
        elif kind == "fail":
            cluster.fail(path=chance.choice([routes.FETCH, routes.GROUPS]), times=2)

    def all_processed(self):
        return all(len(self.processed[number]) >= self.ends[number] for number in range(PARTITIONS))


@pytest.mark.parametrize("seed", [1, 2])
def test_every_record_is_processed_and_none_is_left_out_in_between(seed):
    run = Run(seed)
    writing = run.guarded(run.write)
    reading = [run.guarded(run.consume, number) for number in range(CONSUMERS)]
    until_s = time.monotonic() + TROUBLE_S
    while time.monotonic() < until_s and not run.is_over.wait(run.chance.uniform(0.05, 0.3)):
        run.trouble()
    run.stop_writing.set()
    writing.join()
    until_s = time.monotonic() + WAIT_S
    while not run.all_processed() and time.monotonic() < until_s:
        if run.is_over.wait(0.02):
            break
    run.is_over.set()
    for thread in reading:
        thread.join()
    if run.failures:
        raise run.failures[0]
    assert run.all_processed(), {
        number: run.ends[number] - len(run.processed[number]) for number in range(PARTITIONS)
    }
    assert sum(run.ends.values()) > 100
