"""A thread that only sends lets the sender's thread have the interpreter now and then."""

import pytest

from ottla import _producer
from ottla._send_many import MANY_CHUNK_RECORDS
from ottla.testing import FakeCluster

WAIT_S = 30


@pytest.fixture
def cluster():
    cluster = FakeCluster()
    cluster.create_topic("orders", partitions=1)
    return cluster


@pytest.fixture
def slept(monkeypatch):
    slept = []
    monkeypatch.setattr(_producer.time, "sleep", slept.append)
    monkeypatch.setattr(_producer, "GIVE_WAY_INTERVAL_S", 0.0)
    return slept


def background(producer):
    return producer._background


def test_only_while_requests_are_out(cluster, slept, monkeypatch):
    with cluster.producer() as producer:
        background(producer).give_way()
        assert slept == []
        monkeypatch.setattr(type(background(producer).io.sender), "requests_in_flight", 1)
        background(producer).give_way()
        assert slept == [_producer.GIVE_WAY_S]


def test_not_more_often_than_its_interval(cluster, slept, monkeypatch):
    monkeypatch.setattr(_producer, "GIVE_WAY_INTERVAL_S", 3_600.0)
    with cluster.producer() as producer:
        monkeypatch.setattr(type(background(producer).io.sender), "requests_in_flight", 1)
        background(producer).give_way()
        background(producer).give_way()
        assert len(slept) <= 1


def test_batches_that_begin_give_way(cluster, monkeypatch):
    turns = []
    with cluster.producer(batch_size=1, linger_ms=0) as producer:
        producer.send("orders", b"first").get(timeout=WAIT_S)
        monkeypatch.setattr(producer._intake, "_give_way", lambda: turns.append(1))
        for _ in range(5):
            producer.send("orders", b"x")
        one_by_one = len(turns)
        producer.send_many("orders", [b"y"] * 3 * MANY_CHUNK_RECORDS)
        producer.flush(WAIT_S)
    assert one_by_one >= 5
    assert len(turns) - one_by_one >= 3
