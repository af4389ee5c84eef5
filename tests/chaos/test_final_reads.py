"""What is read in the end: of whom, and what becomes of a read that fails."""

import base64
import json
import sqlite3
from collections import Counter
from types import SimpleNamespace

from ottla_protocol.record_codec import RecordData, encode_batch
from tests.chaos import final_reads
from tests.chaos.checker import check
from tests.chaos.final_reads import FinalReads, key_and_value, read_files


class Brokers:
    """A client of five brokers; three of them hold each of two partitions of three records."""

    node_ids = (1, 2, 3, 4, 5)
    cluster = None

    def __init__(self):
        self.replicas = {0: [1, 2, 3], 1: [3, 4, 5]}
        self.asked = []
        self.failing = set()
        self.ends = {}

    def describe(self, _topic):
        return {
            "partitions": [
                {"partition": partition, "replicas": replicas}
                for partition, replicas in self.replicas.items()
            ]
        }

    def read(self, _topic, partition, *, via, offset, **query):
        self.asked.append((partition, via, query.get("replica")))
        if (via, partition) in self.failing:
            raise OSError("no")
        end = self.ends.get((via, partition), 3)
        document = {
            "records": [record(number) for number in range(end)],
            "next_offset": end,
            "high_watermark": end,
            "log_start_offset": 0,
        }
        return SimpleNamespace(expect=lambda _status: SimpleNamespace(document=document))


def record(offset):
    value = base64.b64encode(json.dumps(f"v{offset}").encode()).decode()
    return {"offset": offset, "value_b64": value, "timestamp": 1000 + offset}


def read_finally(brokers, monkeypatch):
    monkeypatch.setattr(final_reads, "AGREE_TIMEOUT_S", 0.1)
    monkeypatch.setattr(final_reads, "stored_batches", lambda *_: [])
    reads = FinalReads(brokers, "orders", 3)
    reads.read()
    return reads


def unread(reads):
    reasons = check(reads.evidence(), faults=Counter(), wanted=(), ok_min=0).trivial
    return [reason for reason in reasons if "was not read" in reason]


def test_each_replica_tells_its_own_copy_and_every_other_broker_the_leaders(monkeypatch):
    brokers = Brokers()
    reads = read_finally(brokers, monkeypatch)
    assert brokers.asked == [
        *[(0, broker, "local" if broker <= 3 else None) for broker in (1, 2, 3, 4, 5)],
        *[(1, broker, "local" if broker >= 3 else None) for broker in (1, 2, 3, 4, 5)],
    ]
    evidence = reads.evidence()
    assert reads.problems == unread(reads) == []
    assert len(evidence.copies) == 10
    assert evidence.copies[0].records == ((0, "v0", 1000), (1, "v1", 1001), (2, "v2", 1002))


def test_a_broker_that_cannot_be_read_leaves_a_problem_and_the_rest(monkeypatch):
    brokers = Brokers()
    brokers.failing = {(2, 0), (4, 0)}
    reads = read_finally(brokers, monkeypatch)
    assert len(reads.evidence().copies) == 8
    assert len(reads.problems) == 3
    assert "replicas of orders-0 do not agree" in reads.problems[0]
    assert unread(reads) == [
        "partition 0 was not read from broker 2, which holds it",
        "partition 0 was not read through broker 2",
        "partition 0 was not read through broker 4",
    ]


def test_brokers_that_do_not_agree_are_read_as_they_are(monkeypatch):
    brokers = Brokers()
    brokers.ends[5, 1] = 2
    reads = read_finally(brokers, monkeypatch)
    assert len(reads.problems) == 1
    assert "it ends at {1: 3, 2: 3, 3: 3, 4: 3, 5: 2}" in reads.problems[0]
    assert len(reads.evidence().copies) == 10


def test_a_partition_with_too_few_replicas_is_a_problem(monkeypatch):
    brokers = Brokers()
    brokers.replicas[1] = [3, 4]
    assert read_finally(brokers, monkeypatch).problems == ["orders-1 has the replicas [3, 4]"]


def test_files_that_cannot_be_read_are_a_problem(monkeypatch):
    reads = read_finally(Brokers(), monkeypatch)

    def damaged(*_):
        raise sqlite3.DatabaseError("malformed")

    monkeypatch.setattr(final_reads, "stored_batches", damaged)
    assert reads.evidence().batches == []
    assert "files of orders-0 on broker 1 cannot be read" in reads.problems[0]


def test_files_tell_the_records_of_their_batches(monkeypatch):
    data = encode_batch(
        [RecordData(1000, b"a", b'"x"'), RecordData(1001, b"b", None)], base_offset=4
    )
    cut = bytes(data[:-1])
    stored = [(4, 5, 7, bytes(data)), (6, 6, 7, cut)]
    monkeypatch.setattr(final_reads, "stored_batches", lambda *_: stored)
    good, damaged = read_files(None, 1, "orders", 0)
    assert (good.base_offset, good.last_offset, good.leader_epoch) == (4, 5, 7)
    assert good.records == ((4, "x", 1000), (5, None, 1001))
    assert damaged.records == ()
    pairs = read_files(None, 1, "__consumer_offsets", 0, key_and_value)[0].records
    assert pairs == ((4, (b"a", b'"x"'), 1000), (5, (b"b", None), 1001))
