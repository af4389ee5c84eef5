"""What operators change about placement and leadership, where a part of it is refused or lost."""

from dataclasses import replace

import pytest

from ottla_broker.services.reassignments import ReassignmentService
from ottla_cluster.controller.commands import (
    AlterReassignments,
    AlterReplicationThrottle,
    ElectUnclean,
)
from ottla_protocol.errors import (
    ControllerNotAvailableError,
    InvalidRequestError,
    Outcome,
)
from ottla_protocol.models import (
    ElectionRequest,
    PartitionName,
    PartitionReassignment,
    ReassignmentRequest,
)
from tests.unit.controller.metadata_under_test import MetadataUnderTest

FORMER, WANTED = 5_000_000, 20_000_000


class World:
    """A broker, the controller that decides for it, and what happens in between."""

    def __init__(self, **config):
        self.metadata = MetadataUnderTest(broker_count=4, **config)
        self.metadata.create(replication_factor=1, unclean_leader_election_enable=True)
        self.metadata.apply(AlterReplicationThrottle(FORMER))
        self.commands = []
        self.failures = {}
        self.shown = None
        self.service = ReassignmentService(
            node_id=1, metadata=self, commands=self, copies=None, peers=None
        )

    @property
    def image(self):
        return self.shown or self.metadata.image

    @property
    def rate(self):
        return self.metadata.image.replication_throttle_bytes_per_second

    async def change(self, command, *, repeatable):
        self.commands.append(type(command))
        failure = self.failures.get(type(command))
        if failure is not None:
            raise failure
        answer = self.metadata.apply(command)
        self.shown = None
        return answer

    async def catch_up(self, **_):
        self.shown = None

    async def reassign(self, *replicas, rate=WANTED, topic="orders"):
        move = PartitionReassignment(topic, 0, list(replicas))
        return await self.service.reassign(ReassignmentRequest([move], rate))


def others(world):
    replicas = world.metadata.partition().replicas
    return [node_id for node_id in (1, 2, 3, 4) if node_id not in replicas]


async def test_a_throttle_holds_before_what_it_is_for_begins():
    world = World()
    answer = await world.reassign(others(world)[0])
    assert (answer.results[0].error, world.rate) == (None, WANTED)
    assert world.commands == [AlterReplicationThrottle, AlterReassignments]


async def test_what_nobody_begins_leaves_the_throttle_as_it_was():
    world = World()
    answer = await world.reassign(22)
    assert answer.results[0].error["code"] == "INVALID_REPLICA_ASSIGNMENT"
    assert (world.rate, world.commands) == (FORMER, [AlterReassignments])


@pytest.mark.parametrize("count", [2, 1_001])
async def test_a_command_that_is_wrong_as_a_whole_leaves_the_throttle_as_it_was(count):
    world = World()
    moves = [PartitionReassignment("orders", 0, others(world)[:1])] * count
    with pytest.raises(InvalidRequestError):
        await world.service.reassign(ReassignmentRequest(moves, WANTED))
    assert (world.rate, world.commands) == (FORMER, [])


async def test_a_rate_that_is_wrong_begins_nothing():
    world = World()
    with pytest.raises(InvalidRequestError):
        await world.reassign(others(world)[0], rate=1)
    assert world.commands == []


async def test_what_the_controller_refuses_after_all_gives_the_former_rate_back():
    world = World()
    target = others(world)[0]
    world.shown = world.metadata.image
    world.metadata.fence(target)
    before = world.shown
    failed = await world.reassign(target)
    assert failed.results[0].error is not None
    assert target in before.brokers
    assert world.commands == [
        AlterReplicationThrottle,
        AlterReassignments,
        AlterReplicationThrottle,
    ]
    assert world.rate == FORMER


async def test_what_the_controller_takes_after_all_gets_the_rate():
    world = World()
    world.shown = replace(world.metadata.image, topic_ids={})
    answer = await world.reassign(others(world)[0])
    assert (answer.results[0].error, world.rate) == (None, WANTED)


@pytest.mark.parametrize("outcome", [Outcome.NOT_APPLIED, Outcome.UNKNOWN])
async def test_a_rate_without_its_moves_is_not_told_as_nothing(outcome):
    world = World()
    lost = ControllerNotAvailableError("none", outcome=outcome)
    world.failures[AlterReassignments] = lost
    with pytest.raises(ControllerNotAvailableError) as caught:
        await world.reassign(others(world)[0])
    assert caught.value.outcome is Outcome.UNKNOWN
    assert world.rate == WANTED


async def test_where_not_even_the_rate_is_set_nothing_is_applied():
    world = World()
    lost = ControllerNotAvailableError("none", outcome=Outcome.NOT_APPLIED)
    world.failures[AlterReplicationThrottle] = lost
    with pytest.raises(ControllerNotAvailableError) as caught:
        await world.reassign(others(world)[0])
    assert caught.value.outcome is Outcome.NOT_APPLIED
    assert AlterReassignments not in world.commands


# --- unclean elections --------------------------------------------------------------------------


class LostAnswer(World):
    """An unclean election is carried out, its answer is lost, and it is sent again."""

    async def change(self, command, *, repeatable):
        assert repeatable
        if isinstance(command, ElectUnclean):
            self.metadata.apply(command)
        return await super().change(command, repeatable=repeatable)


def without_its_isr(world):
    """One replica is in sync and gone, the other one is there."""
    world.metadata.create("two", replication_factor=2, unclean_leader_election_enable=True)
    partition = world.metadata.partition("two")
    world.metadata.set_isr([partition.leader], name="two")
    world.metadata.fence(partition.leader)
    assert world.metadata.partition("two").leader is None
    return next(node_id for node_id in partition.replicas if node_id != partition.leader)


async def elect(world, topic="two", partition=0):
    named = None if topic is None else [PartitionName(topic, partition)]
    (result,) = (await world.service.elect(ElectionRequest("unclean", named))).results
    return result


@pytest.mark.parametrize("topic", ["two", None])
@pytest.mark.parametrize("kind", [World, LostAnswer])
async def test_who_was_elected_is_told_as_elected_though_the_answer_was_lost(kind, topic):
    world = kind()
    other = without_its_isr(world)
    result = await elect(world, topic)
    assert (result.leader, result.elected, result.error) == (other, True, None)
    result = await elect(world)
    assert (result.leader, result.elected) == (other, False)


async def test_a_member_of_the_isr_that_came_back_was_not_elected_uncleanly():
    world = World()
    without_its_isr(world)
    world.shown = world.metadata.image
    (member,) = world.metadata.partition("two").isr
    world.metadata.restart(member, "second")
    world.metadata.heartbeat(member)
    result = await elect(world)
    assert (result.leader, result.elected) == (member, False)


async def test_a_partition_that_nobody_knows_is_refused():
    world = World()
    assert (await elect(world, "nothing")).error["code"] == "UNKNOWN_TOPIC_OR_PARTITION"
    assert (await elect(world, "orders", 7)).error["code"] == "UNKNOWN_TOPIC_OR_PARTITION"
    world.metadata.create("later", replication_factor=1)
    world.shown = replace(world.metadata.image, topic_ids={})
    assert not (await elect(world, "later")).elected
