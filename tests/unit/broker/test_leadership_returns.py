"""Leaders give leaderships back by themselves, when all others have what they have."""

from types import SimpleNamespace

import pytest

from ottla_broker.drivers.leadership_returns import LeadershipReturns
from ottla_cluster.controller.commands import ElectPreferred, TopicPartition
from ottla_protocol.errors import ControllerNotAvailableError
from tests.unit.controller.metadata_under_test import MetadataUnderTest


class Replicas:
    """What broker `node_id` leads; remembers what was handed over."""

    def __init__(self, metadata, node_id):
        self._metadata = metadata
        self._node_id = node_id
        self.handed_over = []
        self.followers = {1, 2, 3}

    def leaders(self):
        for _, partition in self._metadata.image.all_partitions():
            if partition.leader == self._node_id:
                yield SimpleNamespace(
                    state=partition, is_followed_by=lambda node_id: node_id in self.followers
                )

    async def hand_over(self, partitions, refuse_appends_ms, *, timeout_ms):
        assert timeout_ms < refuse_appends_ms
        self.handed_over += [each.state.partition for each in partitions]


class Controller:
    """Decides at once, after the leaders have handed over."""

    def __init__(self, metadata, replicas):
        self._metadata = metadata
        self._replicas = replicas
        self.is_there = True
        self.asked = []

    async def execute(self, command, *, timeout_ms):
        assert self._replicas.handed_over
        self.asked.append(command)
        if not self.is_there:
            raise ControllerNotAvailableError("none is elected")
        return self._metadata.apply(command)


@pytest.fixture
def metadata():
    """`orders-0`, whose preferred leader was away, and is in sync again."""
    made = MetadataUnderTest()
    made.create()
    preferred = made.partition().leader
    made.restart(preferred, "second")
    made.set_isr(made.partition().replicas)
    return made


def returns(metadata, node_id):
    replicas = Replicas(metadata, node_id)
    controller = Controller(metadata, replicas)
    task = LeadershipReturns(
        metadata=metadata,
        replicas=replicas,
        controller=controller,
        on_failure=lambda error: pytest.fail(str(error)),
    )
    return task, replicas, controller


async def test_a_leadership_goes_back_once_it_is_handed_over(metadata):
    partition = metadata.partition()
    task, replicas, controller = returns(metadata, partition.leader)
    await task.give_back()
    assert replicas.handed_over == [0]
    assert controller.asked == [ElectPreferred((TopicPartition("orders", 0),))]
    assert metadata.partition().leader == partition.replicas[0] != partition.leader
    # And then there is nothing more to do, for either.
    for node_id in (partition.leader, partition.replicas[0]):
        task, replicas, controller = returns(metadata, node_id)
        await task.give_back()
        assert replicas.handed_over == controller.asked == []


async def test_who_is_not_in_sync_or_has_no_room_gets_nothing(metadata):
    leader, preferred = metadata.partition().leader, metadata.partition().replicas[0]
    metadata.heartbeat(preferred, is_full=True)
    task, replicas, _ = returns(metadata, leader)
    await task.give_back()
    metadata.heartbeat(preferred)
    metadata.set_isr([n for n in metadata.partition().replicas if n != preferred])
    await task.give_back()
    assert replicas.handed_over == []


async def test_who_does_not_fetch_gets_nothing(metadata):
    """It may be a former leader whose log is being cut: that stays in the ISR."""
    leader, preferred = metadata.partition().leader, metadata.partition().replicas[0]
    task, replicas, controller = returns(metadata, leader)
    replicas.followers.remove(preferred)
    await task.give_back()
    assert replicas.handed_over == controller.asked == []
    replicas.followers.add(preferred)
    await task.give_back()
    assert metadata.partition().leader == preferred


async def test_without_a_controller_it_stays(metadata):
    leader = metadata.partition().leader
    task, _, controller = returns(metadata, leader)
    controller.is_there = False
    await task.give_back()
    assert metadata.partition().leader == leader
