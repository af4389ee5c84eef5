"""How calls reach a coordinator: those that wait where there is room, those that go wrong."""

import asyncio
import itertools
from types import SimpleNamespace

import msgspec
import pytest

from ottla_broker.drivers.clock import monotonic_ms
from ottla_broker.drivers.group_coordinators import OFFSETS_TOPIC
from ottla_broker.drivers.peer_client import Purpose
from ottla_broker.drivers.peer_messages import CoordinatorCall
from ottla_broker.drivers.purgatory import Purgatory
from ottla_broker.services import coordinator_calls
from ottla_broker.services.coordinator_calls import CALL_TIMEOUT_MS, CoordinatorCalls
from ottla_cluster.controller.features import TRANSACTIONS
from ottla_cluster.controller.image import BrokerState
from ottla_cluster.groups.commands import (
    AssignedTopic,
    CommitTransactionOffsets,
    CommitTransactionOffsetsResponse,
    DescribeGroup,
    FetchOffsets,
    FetchOffsetsResponse,
    Heartbeat,
    HeartbeatResponse,
    Join,
    ListGroups,
    ListGroupsResponse,
    OffsetToCommit,
    decode_command,
)
from ottla_cluster.state_machine.messages import encode_message
from ottla_protocol.errors import (
    CoordinatorNotAvailableError,
    InvalidPartitionsError,
    NotCoordinatorError,
    Outcome,
    UnavailableError,
    UnstableOffsetCommitError,
)
from ottla_protocol.partitioning import partition_for_key

HERE, THERE = 1, 2
PARTITIONS = 8
NO_NEWS = HeartbeatResponse("m", 3, None, 10_000, 3_000)
NEWS = HeartbeatResponse("m", 4, (AssignedTopic("orders", "o", (0,)),), 10_000, 3_000)


class Image:
    """A cluster whose offsets topic is led by one broker."""

    def __init__(self, leader):
        self.topic_ids = {OFFSETS_TOPIC: "o", "orders": "id-1"}
        self.topics = {"id-1": SimpleNamespace(partitions=[None])}
        self.feature_level = TRANSACTIONS.level
        self.leader = leader
        self.brokers = {
            THERE: SimpleNamespace(
                node_id=THERE, url="http://there", broker_epoch=1, state=BrokerState.ACTIVE
            )
        }

    def topic(self, name):
        return SimpleNamespace(topic_id=self.topic_ids[name], partitions=[None] * PARTITIONS)

    def partition_by_id(self, topic_id, partition):
        return SimpleNamespace(topic=OFFSETS_TOPIC, partition=partition, leader=self.leader)


class World:
    """A broker's surroundings, which note what is asked of them."""

    def __init__(self, leader):
        self.image = Image(leader)
        self.purgatory = Purgatory(16)
        self.asked = []
        self.added = []
        self.parking = []
        self.answers = []
        self.rooms = []
        self.refusal = None
        self.calls = CoordinatorCalls(
            node_id=HERE,
            offsets_partitions=PARTITIONS,
            metadata=self,
            controller=self,
            commands=self,
            coordinators=self,
            peers=self,
            purgatory=self.purgatory,
            transaction_offsets=self,
        )

    # The metadata, the controller and the commands.

    def replacement_of(self, node_id, broker_epoch):
        return asyncio.get_running_loop().create_future()

    async def catch_up(self):
        return True

    async def wait_for_change(self, *, timeout_ms):
        await asyncio.sleep(timeout_ms / 1000)

    async def change(self, command, *, repeatable):
        raise self.refusal

    # The peers, the coordinators, and what comes before a transaction's offsets.

    async def have_added(self, partition, command, *, deadline_ms):
        self.added.append(partition)

    def may_park(self, url):
        return self.rooms.pop(0)

    async def post(self, url, path, body, *, timeout_ms, purpose):
        call = msgspec.msgpack.decode(body, type=CoordinatorCall)
        self.asked.append(decode_command(bytes(call.command)))
        self.parking.append(purpose is Purpose.PARKED)
        return encode_message(self.answers.pop(0))

    async def execute(self, partition, command, *, deadline_ms):
        self.asked.append(command)
        answer = self.answers.pop(0)
        return await answer if asyncio.isfuture(answer) else answer


async def test_a_transactions_offsets_are_decided_once_their_partition_is_in_it():
    command = CommitTransactionOffsets("g", "t", 7, 0, (OffsetToCommit("orders", 0, 5),))
    pending = CommitTransactionOffsetsResponse()
    for leader, added in ((HERE, [partition_for_key(b"g", PARTITIONS)]), (THERE, [])):
        world = World(leader)
        world.answers = [pending]
        answer, _ = await world.calls.decide("g", command, repeatable=True)
        assert answer == pending
        assert world.asked == [command]
        assert world.added == added, "that is the coordinator's own business"


async def test_stable_offsets_are_not_asked_of_brokers_that_may_not_know_of_them():
    for level, is_asked in ((TRANSACTIONS.level - 1, False), (TRANSACTIONS.level, True)):
        world = World(THERE)
        world.image.feature_level = level
        world.answers = [FetchOffsetsResponse(())]
        await world.calls.decide("g", FetchOffsets("g", require_stable=True), repeatable=True)
        assert world.asked == [FetchOffsets("g", require_stable=is_asked)]


async def test_offsets_that_are_not_stable_are_not_waited_for():
    world = World(HERE)
    refusal = asyncio.get_running_loop().create_future()
    refusal.set_exception(UnstableOffsetCommitError("pending", outcome=Outcome.NOT_APPLIED))
    world.answers = [refusal]
    with pytest.raises(UnstableOffsetCommitError):
        await world.calls.decide("g", FetchOffsets("g", require_stable=True), repeatable=True)


def heartbeat(max_wait_ms):
    return Heartbeat("g", "m", 3, (), max_wait_ms)


def forwarded(command, partition=None):
    if partition is None:
        partition = partition_for_key(b"g", PARTITIONS)
    return CoordinatorCall(partition, 10_000, msgspec.Raw(encode_message(command)))


async def test_a_heartbeat_waits_at_its_coordinator_where_there_is_room():
    world = World(THERE)
    world.rooms, world.answers = [True], [NO_NEWS]
    answer, node_id = await world.calls.decide("g", heartbeat(5_000), repeatable=True)
    assert (answer, node_id) == (NO_NEWS, THERE)
    assert world.parking == [True]
    assert 4_000 < world.asked[0].max_wait_ms <= 5_000


async def test_a_coordinator_judges_the_wait_that_was_asked_for(monkeypatch):
    """A millisecond that passes on the way makes no allowed wait of one that is too long."""
    world = World(HERE)
    refusal = asyncio.get_running_loop().create_future()
    refusal.set_exception(NotCoordinatorError("moved", outcome=Outcome.NOT_APPLIED))
    world.answers = [refusal, NO_NEWS]
    start_ms = monotonic_ms()
    readings = itertools.count(start_ms)
    monkeypatch.setattr(coordinator_calls, "monotonic_ms", lambda: next(readings))
    await world.calls.decide("g", heartbeat(2_001), repeatable=True)
    first, second = (command.max_wait_ms for command in world.asked)
    assert first == 2_001
    assert second < 2_001, "what passed at the coordinator before is a part of the wait"


async def test_without_room_there_it_is_repeated_until_there_is_news(monkeypatch):
    monkeypatch.setattr(coordinator_calls, "ASK_AGAIN_INTERVAL_MS", 5)
    world = World(THERE)
    world.rooms, world.answers = [False] * 3, [NO_NEWS, NO_NEWS, NEWS]
    answer, _ = await world.calls.decide("g", heartbeat(5_000), repeatable=True)
    assert answer == NEWS
    assert world.parking == [False] * 3
    assert [command.max_wait_ms for command in world.asked] == [0] * 3


async def test_without_room_there_its_wait_ends_all_the_same(monkeypatch):
    monkeypatch.setattr(coordinator_calls, "ASK_AGAIN_INTERVAL_MS", 1)
    world = World(THERE)
    world.rooms, world.answers = [False] * 50, [NO_NEWS] * 50
    start_ms = monotonic_ms()
    # Every answer takes 25 ms; that a busy machine takes longer changes nothing.
    now_ms = lambda: start_ms + 25 * len(world.asked)  # noqa: E731
    monkeypatch.setattr(coordinator_calls, "monotonic_ms", now_ms)
    answer, _ = await world.calls.decide("g", heartbeat(60), repeatable=True)
    assert answer == NO_NEWS
    assert len(world.asked) == 3


async def test_a_refusal_after_a_lost_answer_does_not_say_that_nothing_was_applied(monkeypatch):
    monkeypatch.setattr(coordinator_calls, "CALL_TIMEOUT_MS", 200)
    world = World(HERE)
    lost = CoordinatorNotAvailableError("lost", outcome=Outcome.UNKNOWN)

    async def execute(partition, command, *, deadline_ms):
        world.asked.append(command)
        if len(world.asked) == 1:
            raise lost
        raise NotCoordinatorError("moved", outcome=Outcome.NOT_APPLIED)

    world.execute = execute
    with pytest.raises(NotCoordinatorError) as refused:
        await world.calls.decide("g", Join("g", ("orders",), member_id="m"), repeatable=True)
    assert len(world.asked) > 1
    assert refused.value.outcome is Outcome.UNKNOWN


async def test_where_too_many_wait_it_is_decided_and_does_not_wait():
    world = World(HERE)
    world.purgatory.parked = world.purgatory.limit
    world.answers = [NO_NEWS, NO_NEWS]
    await world.calls.decide("g", heartbeat(5_000), repeatable=True)
    await world.calls.decide_here(forwarded(heartbeat(5_000)))
    assert [command.max_wait_ms for command in world.asked] == [0, 0]


async def test_a_broker_that_stops_lets_go_of_its_clients():
    world = World(HERE)
    world.answers = [asyncio.get_running_loop().create_future()]
    waiting = asyncio.ensure_future(world.calls.decide("g", heartbeat(5_000), repeatable=True))
    await asyncio.sleep(0)
    assert world.purgatory.parked == 1
    world.purgatory.release()
    with pytest.raises(UnavailableError, match="stopping") as caught:
        await waiting
    assert caught.value.outcome is Outcome.UNKNOWN
    assert world.purgatory.parked == 0


async def test_a_call_for_another_partition_than_the_groups_is_refused():
    world = World(HERE)
    wrong = (partition_for_key(b"g", PARTITIONS) + 1) % PARTITIONS
    for partition in (wrong, -1, PARTITIONS + 1):
        with pytest.raises(NotCoordinatorError) as caught:
            await world.calls.decide_here(forwarded(heartbeat(0), partition))
        assert caught.value.outcome is Outcome.NOT_APPLIED
    assert world.asked == []


async def test_what_hinders_the_offsets_topic_is_not_the_callers_fault():
    world = World(HERE)
    world.image.topic_ids = {}
    world.refusal = InvalidPartitionsError("too many in the cluster")
    with pytest.raises(CoordinatorNotAvailableError, match="too many") as caught:
        await world.calls.decide("g", Join("g", ("orders",)), repeatable=True)
    assert caught.value.status == 503


async def test_one_coordinator_that_is_not_there_hides_no_others():
    world = World(HERE)
    world.answers = [ListGroupsResponse(())] * PARTITIONS
    led = world.image.partition_by_id

    def partition_by_id(topic_id, partition):
        world.image.leader = None if partition == 3 else HERE
        return led(topic_id, partition)

    world.image.partition_by_id = partition_by_id
    started_ms = monotonic_ms()
    answers = await world.calls.ask_each(ListGroups(), timeout_ms=100)
    assert monotonic_ms() - started_ms < CALL_TIMEOUT_MS / 2
    assert list(answers) == list(range(PARTITIONS))
    assert isinstance(answers.pop(3), CoordinatorNotAvailableError)
    assert all(answer == ListGroupsResponse(()) for answer in answers.values())
    world.image.partition_by_id, world.image.leader = led, None
    with pytest.raises(CoordinatorNotAvailableError):
        await world.calls.decide("g", DescribeGroup("g"), repeatable=True, timeout_ms=100)
    assert monotonic_ms() - started_ms < CALL_TIMEOUT_MS / 2


async def test_a_question_before_there_is_a_group_is_answered_here():
    world = World(THERE)
    world.image.topic_ids = {}
    answer = await world.calls.decide("g", FetchOffsets("g"), repeatable=True)
    assert answer == (FetchOffsetsResponse(()), HERE)
