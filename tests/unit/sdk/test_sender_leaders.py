"""Whose leader an answer tells: each partition of a request has its own, under its own epoch."""

import pytest

from ottla._accumulator import Accumulator, record_size_bytes
from ottla._config import ProducerConfig
from ottla._metadata import Metadata
from ottla._record import NO_HEADERS
from ottla._sender import Sender
from ottla._transport import BrokerUnreachableError
from ottla_protocol.errors import NotLeaderOrFollowerError, Outcome
from ottla_protocol.models import (
    AppendedBatch,
    BrokerDescription,
    MetadataResponse,
    PartitionDescription,
    TopicDescription,
)

TOPIC = "flights"
URLS = {1: "http://b:1", 2: "http://b:2", 3: "http://b:3"}


class Producing:
    """A sender with one batch for each partition; `leaders` are (node, epoch) by partition."""

    def __init__(self, *leaders):
        config = ProducerConfig(bootstrap_servers="http://b:1", enable_idempotence=False)
        self.accumulator = Accumulator(
            batch_size=1_000,
            buffer_memory=1_000_000,
            max_request_size=100_000,
            linger_ms=0,
            delivery_timeout_ms=120_000,
        )
        self.metadata = Metadata(("http://b:1",), max_age_ms=300_000, retry_backoff_ms=100)
        self.metadata.watch(TOPIC)
        self.sender = Sender(config, self.accumulator, self.metadata)
        self.learn(*leaders)
        for partition in range(len(leaders)):
            queue = self.accumulator.queue(TOPIC, partition)
            size_bytes = record_size_bytes(None, b"value", NO_HEADERS)
            batch = self.accumulator.open_batch(queue, size_bytes, 0)
            batch.append(0, 0, None, b"value", NO_HEADERS)
            batch.count = 1

    def learn(self, *leaders):
        fetch = self.metadata.next_fetch(0)
        partitions = [
            PartitionDescription(index, leader, epoch, [1, 2, 3], [1, 2, 3])
            for index, (leader, epoch) in enumerate(leaders)
        ]
        brokers = [BrokerDescription(each, url, "", "active", 1) for each, url in URLS.items()]
        answer = MetadataResponse(
            "cluster", 1, 0, brokers, [TopicDescription(TOPIC, "id", partitions, {})]
        )
        self.metadata.on_answer(fetch, answer, 0)

    def leader(self, partition):
        found = self.metadata.leader(TOPIC, partition)
        return found.node_id, found.leader_epoch


def not_leader(leader, leader_epoch):
    return NotLeaderOrFollowerError(
        "broker 1 does not lead it",
        outcome=Outcome.NOT_APPLIED,
        leader=leader,
        leader_epoch=leader_epoch,
        leader_url=URLS[leader],
    )


def test_an_error_of_several_partitions_names_the_leader_of_none():
    producing = Producing((1, 5), (1, 1))
    [call] = producing.sender.poll(0).calls
    producing.sender.on_answer(call, [not_leader(2, 6)] * 2, 0)
    # Were it taken for both, partition 1 would be at an epoch that no metadata ever reaches.
    assert producing.leader(1) == (1, 1)
    producing.learn((2, 6), (3, 2))
    assert [producing.leader(each) for each in (0, 1)] == [(2, 6), (3, 2)]


def test_each_partition_s_own_error_names_its_leader():
    producing = Producing((1, 5), (1, 1))
    [call] = producing.sender.poll(0).calls
    results = [
        AppendedBatch(TOPIC, partition, -1, 0, -1, error=error.problem())
        for partition, error in enumerate((not_leader(2, 6), not_leader(3, 2)))
    ]
    producing.sender.on_answer(call, results, 0)
    assert [producing.leader(each) for each in (0, 1)] == [(2, 6), (3, 2)]


def test_an_error_of_a_whole_request_is_that_of_its_only_partition():
    producing = Producing((1, 5))
    [call] = producing.sender.poll(0).calls
    producing.sender.on_answer(call, [not_leader(2, 6)], 0)
    assert producing.leader(0) == (2, 6)


@pytest.mark.parametrize("epochs", [(5, 1), (1, 5)])
def test_a_leader_that_does_not_answer_is_suspect_under_each_partition_s_own_epoch(epochs):
    producing = Producing(*((1, epoch) for epoch in epochs))
    [call] = producing.sender.poll(0).calls
    failure = BrokerUnreachableError("connection refused", outcome=Outcome.NOT_APPLIED)
    producing.sender.on_answer(call, [failure] * 2, 0)
    # News of one leaves the other one in doubt.
    producing.learn((2, epochs[0] + 1), (1, epochs[1]))
    assert producing.metadata.next_fetch_ms(0) == 100
    producing.metadata.next_fetch(100)
    assert producing.metadata.next_fetch_ms(0) is None
    queue = producing.accumulator.queue(TOPIC, 1)
    assert queue.retry_at_ms > 0
