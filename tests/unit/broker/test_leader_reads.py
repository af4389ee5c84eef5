"""Reading many partitions at their leaders: who is waited for, and how much is asked at once."""

import asyncio
from dataclasses import dataclass, field
from random import Random

import msgspec
import pytest

from ottla_broker.drivers.peer_client import Purpose
from ottla_broker.drivers.purgatory import Purgatory
from ottla_broker.services import leader_reads
from ottla_broker.services.leader_reads import LeaderReads
from ottla_cluster.controller.features import LATEST_FEATURE_LEVEL
from ottla_protocol.errors import (
    LeaderNotAvailableError,
    OverloadedError,
    UnknownTopicOrPartitionError,
)
from ottla_protocol.models import BinaryFetchRequest, BinaryFetchResponse, FetchedPartition

LOCAL, NEAR, FAR = 1, 2, 3
SOON_S = 5.0


@dataclass
class Broker:
    url: str
    broker_epoch: int = 1


@dataclass
class State:
    leader: int | None


class Metadata:
    """Topics are named by their leader: `led-by-2`."""

    brokers = {node_id: Broker(f"http://{node_id}") for node_id in (LOCAL, NEAR, FAR)}  # noqa: RUF012

    def __init__(self, feature_level):
        self.image = self
        self.feature_level = feature_level

    def partition(self, topic, number):
        if not topic.startswith("led-by-"):
            raise UnknownTopicOrPartitionError(topic)
        leader = int(topic.removeprefix("led-by-"))
        return State(leader or None)

    def replacement_of(self, node_id, broker_epoch):
        return asyncio.get_running_loop().create_future()


@dataclass
class Leaders:
    """Answers fetches of every broker; `empty` ones wait as long as they may, `stuck` for ever."""

    empty: set = field(default_factory=set)
    stuck: set = field(default_factory=set)
    failing: set = field(default_factory=set)
    full: bool = False
    topic_ids: dict = field(default_factory=dict)
    asked: list = field(default_factory=list)
    cancelled: list = field(default_factory=list)

    def may_park(self, url):
        return not self.full

    async def fetch(self, request):
        return await self._answer(LOCAL, request)

    async def post(self, url, path, body, *, timeout_ms, purpose):
        request = msgspec.msgpack.decode(body, type=BinaryFetchRequest)
        assert (purpose is Purpose.PARKED) == (request.max_wait_ms > 0)
        assert timeout_ms > request.max_wait_ms
        found = await self._answer(int(url[-1]), request)
        return msgspec.msgpack.encode(BinaryFetchResponse(found))

    async def _answer(self, node_id, request):
        self.asked.append((node_id, request))
        try:
            if node_id in self.failing:
                raise OverloadedError("full")
            if node_id in self.stuck:
                await asyncio.Event().wait()
            if node_id in self.empty and request.max_wait_ms:
                await asyncio.sleep(request.max_wait_ms / 1000)
        except asyncio.CancelledError:
            self.cancelled.append(node_id)
            raise
        batches = [] if node_id in self.empty else [memoryview(b"batch")]
        return [
            FetchedPartition(
                p.topic,
                p.partition,
                batches,
                9,
                0,
                topic_id=self.topic_ids.get(node_id),
                leader_epoch=4,
            )
            for p in request.partitions
        ]


def reads(leaders, feature_level=LATEST_FEATURE_LEVEL):
    return LeaderReads(
        node_id=LOCAL,
        metadata=Metadata(feature_level),
        peers=leaders,
        batch_fetch=leaders,
        purgatory=Purgatory(10),
        random=Random(1),
    )


ALL = {(f"led-by-{node_id}", 0): 5 for node_id in (LOCAL, NEAR, FAR)}
MEANT = {f"led-by-{node_id}": "meant" for node_id in (0, LOCAL, NEAR, FAR)}


def readable(results):
    return {
        int(topic[-1])
        for (topic, _), found in results.items()
        if isinstance(found, FetchedPartition) and found.batches
    }


async def read(leaders, positions=ALL, max_wait_ms=0):
    async with asyncio.timeout(SOON_S):
        return await reads(leaders).read(positions, max_wait_ms=max_wait_ms, topic_ids=MEANT)


async def test_a_look_takes_what_every_leader_has():
    leaders = Leaders()
    assert readable(await read(leaders)) == {LOCAL, NEAR, FAR}
    assert {node_id for node_id, _ in leaders.asked} == {LOCAL, NEAR, FAR}
    assert all(each.partitions[0].offset == 5 for _, each in leaders.asked)


async def test_a_wait_ends_with_the_first_who_has_something_and_frees_the_others():
    leaders = Leaders(empty={LOCAL, NEAR})
    assert readable(await read(leaders, max_wait_ms=60_000)) == {FAR}
    assert sorted(leaders.cancelled) == [LOCAL, NEAR]


async def test_the_partitions_of_a_leader_share_what_it_may_answer():
    leaders = Leaders()
    positions = {("led-by-2", number): 1 for number in range(4)} | {("led-by-3", 0): 1}
    async with asyncio.timeout(SOON_S):
        await reads(leaders).read(positions, max_wait_ms=0, topic_ids=MEANT, max_bytes=1_000)
    asked = {
        node_id: (each.max_bytes, {partition.max_bytes for partition in each.partitions})
        for node_id, each in leaders.asked
    }
    assert asked == {NEAR: (1_000, {250}), FAR: (1_000, {1_000})}


async def test_no_leader_answers_more_than_a_reader_can_hold():
    leaders = Leaders()
    async with asyncio.timeout(SOON_S):
        await reads(leaders).read(ALL, max_wait_ms=0, topic_ids=MEANT, max_bytes=1 << 40)
    assert {each.max_bytes for _, each in leaders.asked} == {leader_reads.READ_BYTES}


async def test_records_do_not_wait_for_a_leader_that_stands_still():
    leaders = Leaders(stuck={FAR})
    assert readable(await read(leaders)) == {LOCAL, NEAR}
    assert leaders.cancelled == [FAR]


async def test_a_leaders_failure_is_that_of_its_partitions_alone():
    results = await read(Leaders(failing={NEAR}))
    assert readable(results) == {LOCAL, FAR}
    assert isinstance(results["led-by-2", 0], OverloadedError)


async def test_records_of_a_later_topic_of_that_name_are_not_those_that_are_meant():
    """NEAR knows already that the name was given to another; LOCAL tells no id."""
    leaders = Leaders(topic_ids={NEAR: "later", FAR: "meant"})
    async with asyncio.timeout(SOON_S):
        results = await reads(leaders).read(ALL, max_wait_ms=0, topic_ids=MEANT)
    assert readable(results) == {LOCAL, FAR}
    assert isinstance(results["led-by-2", 0], UnknownTopicOrPartitionError)


async def test_what_has_no_leader_is_told_and_keeps_nobody_waiting():
    positions = {("led-by-0", 0): 1, ("gone", 0): 1, ("led-by-1", 0): 1}
    results = await read(Leaders(empty={LOCAL}), positions, max_wait_ms=60_000)
    assert isinstance(results["led-by-0", 0], LeaderNotAvailableError)
    assert isinstance(results["gone", 0], UnknownTopicOrPartitionError)


async def test_where_nobody_may_wait_any_more_the_leader_is_asked_again_later(monkeypatch):
    monkeypatch.setattr(leader_reads, "ASK_AGAIN_INTERVAL_MS", 30)
    leaders = Leaders(empty={NEAR}, full=True)
    started_s = asyncio.get_running_loop().time()
    assert readable(await read(leaders, {("led-by-2", 0): 1}, max_wait_ms=60_000)) == set()
    assert asyncio.get_running_loop().time() - started_s >= 0.03
    assert leaders.asked[0][1].max_wait_ms == 0


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (1_000, [1_000]), (2_001, [1, 1000, 1000])])
async def test_a_request_has_a_bounded_number_of_partitions(count, sizes):
    leaders = Leaders()
    positions = {("led-by-2", number): 1 for number in range(count)}
    results = await read(leaders, positions)
    assert results.keys() == positions.keys()
    assert sorted(len(request.partitions) for _, request in leaders.asked) == sizes


@pytest.mark.parametrize(("feature_level", "epoch", "told"), [(3, 3, 4), (2, None, None)])
async def test_epochs_are_asked_for_once_every_broker_takes_them(feature_level, epoch, told):
    """An older one refuses the field, and the cursors that would come of the answers."""
    leaders = Leaders()
    epochs = {("led-by-2", 0): 3, ("led-by-3", 0): -1}
    found = await reads(leaders, feature_level).read(
        ALL, max_wait_ms=0, topic_ids=MEANT, epochs=epochs
    )
    asked = {node_id: request.partitions[0] for node_id, request in leaders.asked}
    assert asked[NEAR].last_fetched_epoch == epoch
    assert asked[FAR].last_fetched_epoch is asked[LOCAL].last_fetched_epoch is None
    assert {each.leader_epoch for each in found.values()} == {told}
    sent = msgspec.msgpack.decode(msgspec.msgpack.encode(asked[FAR]))
    assert "last_fetched_epoch" not in sent
