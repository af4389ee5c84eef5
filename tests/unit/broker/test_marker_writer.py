"""Markers on their way to the leaders: here, at other brokers, and where there is nobody."""

import asyncio
from types import SimpleNamespace

import msgspec
import pytest

from ottla_broker.drivers.marker_writer import MarkerWriter
from ottla_broker.drivers.peer_client import PeerUnavailableError, Purpose
from ottla_broker.drivers.peer_messages import MarkersWritten, WriteMarkers
from ottla_cluster.controller.image import BrokerState
from ottla_cluster.transactions.marker_planner import CoordinatorEpoch
from ottla_cluster.transactions.marker_work import MarkersToWrite
from ottla_cluster.transactions.records import ProducerIdentity, TransactionPartition
from ottla_protocol.errors import Outcome, UnknownTopicIdError
from tests.unit.awaiting import until

HERE, THERE = 1, 2
COORDINATOR = CoordinatorEpoch(3, 7)
IDENTITY = ProducerIdentity(5, 1)
TOPIC_ID = "o" * 32


class World:
    """The surroundings of a writer; partition 0 is led here, 1 there."""

    def __init__(self):
        self.image = self
        self.topics = {TOPIC_ID: None}
        self.brokers = {
            THERE: SimpleNamespace(url="http://there", broker_epoch=1, state=BrokerState.ACTIVE)
        }
        self.leaders = {0: HERE, 1: THERE}
        self.calls = []
        self.purposes = set()
        self.codes = []
        self.lost = 0
        self.can_catch_up = True
        self.in_their_logs = []
        self.writer = MarkerWriter(
            node_id=HERE,
            metadata=self,
            peers=self,
            write_here=self.write_here,
            catch_up=self.catch_up,
            written=self.written,
            on_failure=lambda error: pytest.fail(str(error)),
        )

    def written(self, written):
        self.in_their_logs += [
            (partition.partition, marker.transactional_id)
            for partition, markers in written.items()
            for marker in markers
        ]

    def partition_by_id(self, topic_id, partition):
        if topic_id not in self.topics:
            raise UnknownTopicIdError(topic_id)
        return SimpleNamespace(leader=self.leaders[partition], leader_epoch=4)

    def replacement_of(self, node_id, broker_epoch):
        return asyncio.get_running_loop().create_future()

    async def catch_up(self):
        return self.can_catch_up

    def take(self, node_id, call):
        self.calls.append((node_id, call))
        code = self.codes.pop(0) if self.codes else None
        return MarkersWritten(tuple(tuple(code for _ in each.markers) for each in call.partitions))

    async def write_here(self, call):
        return self.take(HERE, call)

    async def call(self, url, path, body, *, timeout_ms, answer, purpose):
        self.purposes.add(purpose)
        if self.lost:
            self.lost -= 1
            raise PeerUnavailableError("lost", refused=False, outcome=Outcome.UNKNOWN)
        return self.take(THERE, msgspec.msgpack.decode(body, type=WriteMarkers))

    def decide(self, name, *numbers):
        partitions = frozenset(TransactionPartition("orders", TOPIC_ID, each) for each in numbers)
        self.writer.decided(COORDINATOR, [MarkersToWrite(name, IDENTITY, True, partitions)])


@pytest.fixture
async def world():
    world = World()
    world.writer.start()
    yield world
    await world.writer.stop()


async def test_markers_go_to_the_leaders_here_and_there(world):
    world.decide("t", 0, 1)
    await until(lambda: len(world.in_their_logs) == 2)
    assert sorted(world.in_their_logs) == [(0, "t"), (1, "t")]
    assert {node_id for node_id, _ in world.calls} == {HERE, THERE}
    assert world.purposes == {Purpose.CLUSTER}
    _, call = world.calls[0]
    (marker,) = call.partitions[0].markers
    assert marker.coordinator_epoch == COORDINATOR.leader_epoch
    assert (marker.producer_id, marker.producer_epoch, marker.is_commit) == (5, 1, True)
    assert world.writer.missing == 0


async def test_what_is_lost_or_refused_is_sent_again(world):
    world.lost = 2
    world.codes = ["NOT_ENOUGH_REPLICAS", "NOT_LEADER_OR_FOLLOWER"]
    world.decide("t", 0, 1)
    await until(lambda: world.writer.missing == 0)
    assert sorted(world.in_their_logs) == [(0, "t"), (1, "t")]


async def test_a_fenced_leader_is_not_asked_until_another_leads(world):
    world.brokers[THERE].state = BrokerState.FENCED
    world.decide("t", 1)
    await asyncio.sleep(0.1)
    assert not world.calls
    world.leaders[1] = HERE
    await until(lambda: world.writer.missing == 0)
    assert [node_id for node_id, _ in world.calls] == [HERE]


async def test_markers_of_a_deleted_topic_count_as_written_once_that_is_certain(world):
    del world.topics[TOPIC_ID]
    world.can_catch_up = False
    world.decide("t", 0)
    await asyncio.sleep(0.1)
    assert world.writer.missing == 1
    world.can_catch_up = True
    await until(lambda: world.writer.missing == 0)
    assert world.in_their_logs == [(0, "t")]
    assert not world.calls


async def test_a_topic_that_is_only_not_known_yet_gets_its_markers(world):
    del world.topics[TOPIC_ID]

    async def catch_up():
        world.topics[TOPIC_ID] = None
        return True

    world.writer._catch_up = catch_up
    world.decide("t", 0)
    await until(lambda: world.writer.missing == 0)
    assert [node_id for node_id, _ in world.calls] == [HERE]


async def test_an_answer_to_another_call_proves_nothing(world):
    take, odd = world.take, [MarkersWritten(()), MarkersWritten(((None, None),))]
    world.take = lambda node_id, call: odd.pop() if odd else take(node_id, call)
    world.decide("t", 0)
    await until(lambda: world.writer.missing == 0)
    assert not odd
    assert len(world.calls) == 1
