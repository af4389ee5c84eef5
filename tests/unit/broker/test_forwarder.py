"""What travels together, what travels alone, and what is told when it cannot travel."""

import asyncio
from types import SimpleNamespace

import msgspec
import pytest

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.peer_client import PeerUnavailableError, Purpose
from ottla_broker.services import forwarder as forwarders
from ottla_broker.services.forwarder import ProduceForwarder
from ottla_broker.services.produce_options import ProduceOptions
from ottla_cluster.controller.image import BrokerState
from ottla_protocol.errors import Outcome, OverloadedError
from ottla_protocol.models import (
    ACKS_ALL,
    AppendedBatch,
    BatchToAppend,
    BinaryProduceRequest,
    BinaryProduceResponse,
)

LEADER = 2
LONG_MS = 60_000


class Leader:
    """A peer that answers when the test says so."""

    def __init__(self):
        self.requests = []
        self.answers = []
        self.transactional_ids = []
        self.url = "http://leader"
        self.broker_epoch = 5
        self.state = BrokerState.ACTIVE

    async def call(self, url, path, body, *, timeout_ms, answer, purpose):
        assert purpose is Purpose.PRODUCE
        request = msgspec.msgpack.decode(body, type=BinaryProduceRequest)
        self.transactional_ids.append(request.transactional_id)
        self.requests.append([batch.partition for batch in request.batches])
        waiting = asyncio.get_running_loop().create_future()
        self.answers.append((waiting, request))
        return await waiting

    def answer(self, index=-1):
        waiting, request = self.answers.pop(index)
        waiting.set_result(
            BinaryProduceResponse(
                [AppendedBatch(batch.topic, batch.partition, 7, 1, 0) for batch in request.batches]
            )
        )


@pytest.fixture
def leader():
    return Leader()


@pytest.fixture
def forward(leader, monkeypatch):
    monkeypatch.setattr(forwarders, "GATHER_MS", LONG_MS)
    metadata = SimpleNamespace(
        image=SimpleNamespace(brokers={LEADER: leader}),
        replacement_of=lambda *_: asyncio.get_running_loop().create_future(),
    )
    forwarder = ProduceForwarder(metadata=metadata, peers=leader)

    def start(*partitions, timeout_ms=LONG_MS, size_bytes=10, transactional_id=None):
        options = ProduceOptions(ACKS_ALL, monotonic_ms() + timeout_ms, transactional_id)
        batches = [
            BatchToAppend("t", partition, memoryview(bytes(size_bytes))) for partition in partitions
        ]
        return asyncio.create_task(forwarder.forward(LEADER, batches, options))

    return start


async def turn():
    for _ in range(10):
        await asyncio.sleep(0.001)


async def test_a_client_that_is_alone_is_forwarded_at_once(leader, forward):
    task = forward(1)
    await turn()
    assert leader.requests == [[1]]
    leader.answer()
    (result,) = await task
    assert result.partition == 1


async def test_what_comes_meanwhile_gathers_and_goes_when_the_way_is_free(leader, forward):
    first = forward(1)
    await turn()
    others = [forward(2), forward(3, 4)]
    await turn()
    assert leader.requests == [[1]]
    leader.answer()
    await first
    await turn()
    assert leader.requests == [[1], [2, 3, 4]]
    leader.answer()
    assert [[result.partition for result in await task] for task in others] == [[2], [3, 4]]


async def test_each_transactional_id_travels_for_itself(leader, forward):
    tasks = [
        forward(1),
        forward(2, transactional_id="transfers"),
        forward(3, transactional_id="transfers"),
        forward(4, transactional_id="others"),
    ]
    await turn()
    assert leader.requests == [[1], [2, 3], [4]]
    assert leader.transactional_ids == [None, "transfers", "others"]
    while leader.answers:
        leader.answer()
    assert [[result.partition for result in await task] for task in tasks] == [[1], [2], [3], [4]]


async def test_it_does_not_gather_for_long(leader, forward, monkeypatch):
    forward(1)
    await turn()
    monkeypatch.setattr(forwarders, "GATHER_MS", 1)
    forward(2)
    await turn()
    assert leader.requests == [[1], [2]]
    leader.answer()
    leader.answer()
    await turn()


async def test_a_group_has_bounded_bytes(leader, forward, monkeypatch):
    monkeypatch.setattr(forwarders, "MAX_BYTES_PER_FORWARD", 100)
    forward(1)
    await turn()
    tasks = [forward(2, size_bytes=60), forward(3, size_bytes=60), forward(4, size_bytes=500)]
    leader.answer()
    await turn()
    assert leader.requests == [[1], [2], [3], [4]]
    while leader.answers:
        leader.answer()
    await asyncio.gather(*tasks)


async def test_what_has_no_time_left_is_not_sent(leader, forward):
    first = forward(1)
    await turn()
    late = forward(2, timeout_ms=1)
    await asyncio.sleep(0.005)
    leader.answer()
    (error,) = await late
    assert error.outcome is Outcome.NOT_APPLIED
    await first
    assert leader.requests == [[1]]


async def test_a_failure_is_each_batchs_own(leader, forward):
    task = forward(1, 2)
    await turn()
    waiting, _ = leader.answers.pop()
    waiting.set_exception(OverloadedError("full", outcome=Outcome.NOT_APPLIED))
    one, other = await task
    assert one is not other
    assert (one.code, one.outcome) == (other.code, other.outcome)
    assert one.outcome is Outcome.NOT_APPLIED


async def test_a_broken_forward_is_unknown(leader, forward):
    task = forward(1)
    await turn()
    waiting, _ = leader.answers.pop()
    waiting.set_exception(PeerUnavailableError("gone", refused=False, outcome=Outcome.UNKNOWN))
    (error,) = await task
    assert error.outcome is Outcome.UNKNOWN


def test_the_more_are_under_way_the_longer_a_forward_gathers():
    waits_ms = [forwarders.gather_ms(under_way) for under_way in range(200)]
    assert waits_ms == sorted(waits_ms)
    assert waits_ms[0] == 0
    assert set(waits_ms[1:8]) == {forwarders.GATHER_MS}
    assert waits_ms[-1] == forwarders.GATHER_MS_MAX
    # The places that a broker with 1,024 descriptors has at a leader last for two seconds.
    assert sum(waits_ms[:25]) > 2_000
